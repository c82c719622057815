// Package suite composes services into one process: what they share, in which
// order they end, and when all of them are ready. `fairlead dev` and `fairlead
// run` use it, and the test kit, so that a test sees what a process does. It is
// the one package below cmd that knows more than one service.
package suite

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/telemetry"
	"github.com/fairlead-io/fairlead/services/gateway"
	"github.com/fairlead-io/fairlead/services/presence"
	"github.com/fairlead-io/fairlead/services/ratelimit"
	"github.com/fairlead-io/fairlead/services/replay"
	"github.com/fairlead-io/fairlead/services/tasks"
)

// Config says which services a process has, and what they share.
type Config struct {
	NATS      bus.Config
	Rules     *rules.Live          // run by the process; whoever followed them closes them after Run
	Telemetry *telemetry.Telemetry // providers that are nil measure and trace nothing
	Version   string

	Gateway   *gateway.Config   // nil, like the next four: the process has none
	Replay    *replay.Config    //
	Presence  *presence.Config  //
	Ratelimit *ratelimit.Config //
	Tasks     *tasks.Config     //

	Listener net.Listener         // the gateway's; closed by Run
	Mount    func(*http.ServeMux) // more handlers for it; may be nil
	Ready    func(*slog.Logger)   // called once, when every service is; may be nil
}

// Process is services that begin and end together.
type Process struct {
	cfg     Config
	checks  telemetry.Checks
	gateway *gateway.Service // nil: none
	backs   []func(context.Context) error
}

// New returns a process that does nothing yet. Its error has one line per
// setting that can't be used. The listener stays the caller's then.
func New(cfg Config) (*Process, error) {
	p := &Process{cfg: cfg}
	tel := cfg.Telemetry
	if cfg.Replay != nil {
		r, err := replay.New(*cfg.Replay, replay.Deps{
			NATS: cfg.NATS, Rules: cfg.Rules, Log: tel.Log, Version: cfg.Version, Meter: tel.MeterProvider, Tracer: tel.TracerProvider, Checks: &p.checks,
		})
		if err != nil {
			return nil, err
		}
		p.backs = append(p.backs, r.Run)
	}
	if cfg.Presence != nil {
		s, err := presence.New(*cfg.Presence, presence.Deps{
			NATS: cfg.NATS, Rules: cfg.Rules, Log: tel.Log, Version: cfg.Version, Meter: tel.MeterProvider, Tracer: tel.TracerProvider, Checks: &p.checks,
		})
		if err != nil {
			return nil, err
		}
		p.backs = append(p.backs, s.Run)
	}
	if cfg.Ratelimit != nil {
		s, err := ratelimit.New(*cfg.Ratelimit, ratelimit.Deps{
			NATS: cfg.NATS, Rules: cfg.Rules, Log: tel.Log, Version: cfg.Version, Meter: tel.MeterProvider, Tracer: tel.TracerProvider, Checks: &p.checks,
		})
		if err != nil {
			return nil, err
		}
		p.backs = append(p.backs, s.Run)
	}
	if cfg.Tasks != nil {
		s, err := tasks.New(*cfg.Tasks, tasks.Deps{
			NATS: cfg.NATS, Rules: cfg.Rules, Log: tel.Log, Version: cfg.Version, Meter: tel.MeterProvider, Tracer: tel.TracerProvider, Checks: &p.checks,
		})
		if err != nil {
			return nil, err
		}
		p.backs = append(p.backs, s.Run)
	}
	if cfg.Gateway != nil {
		deps := gateway.Deps{
			NATS: cfg.NATS, Rules: cfg.Rules, Log: tel.Log, Trace: tel.Tracer("fairlead/gateway"),
			Checks: &p.checks, Mount: cfg.Mount, Listener: cfg.Listener, Version: cfg.Version,
		}
		if tel.MeterProvider != nil {
			deps.Meter = tel.MeterProvider.Meter("fairlead/gateway")
		}
		var err error
		if p.gateway, err = gateway.New(*cfg.Gateway, deps); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// GatewayID returns the id of the process's gateway, "" without one.
func (p *Process) GatewayID() string {
	if p.gateway == nil {
		return ""
	}
	return p.gateway.ID()
}

// Checks say whether the process is ready.
func (p *Process) Checks() *telemetry.Checks { return &p.checks }

// Run serves until ctx is done, or a service fails. The gateway ends first: its
// clients may need the others until the last one has left.
func (p *Process) Run(ctx context.Context) error {
	// A gateway that an operator has drain ends the process, as a signal would.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, front := errgroup.WithContext(ctx)
	// behind is for what the gateway needs while it drains.
	behind, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	group.Go(func() error { return p.cfg.Rules.Run(behind) })
	for _, run := range p.backs {
		group.Go(func() error { return run(behind) })
	}
	group.Go(func() error {
		defer release()
		inner, innerCtx := errgroup.WithContext(front)
		if p.gateway != nil {
			inner.Go(func() error {
				defer stop()
				return p.gateway.Run(innerCtx)
			})
		}
		<-innerCtx.Done()
		return inner.Wait()
	})
	group.Go(func() error { p.announce(front); return nil })
	return group.Wait()
}

// announce calls Ready once, when every service of the process is.
func (p *Process) announce(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, ok := p.checks.Run(ctx); ok {
			if p.cfg.Ready != nil {
				p.cfg.Ready(p.cfg.Telemetry.Log)
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
