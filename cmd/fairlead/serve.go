package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/telemetry"
	"github.com/fairlead-io/fairlead/services/gateway"
	"github.com/fairlead-io/fairlead/services/presence"
	"github.com/fairlead-io/fairlead/services/replay"
)

// process is what `dev` and `run` do differently.
type process struct {
	mode  rules.Mode
	what  string // the command, for the rules' log
	bus   *bus.Config
	mount func(*http.ServeMux)
	ready func(*slog.Logger) // called once, when every service is; may be nil
	http  net.Listener       // nil: the gateway listens by its address

	gateway, replay, presence bool // the services
}

// name is what telemetry calls the process.
func (p process) name() string {
	name, n := "fairlead", 0
	for _, s := range [...]struct {
		runs bool
		name string
	}{{p.gateway, "gateway"}, {p.replay, "replay"}, {p.presence, "presence"}} {
		if s.runs {
			name = "fairlead-" + s.name
			n++
		}
	}
	if n > 1 {
		return "fairlead"
	}
	return name
}

// telemetryWait bounds how long the last spans and metrics may take to leave.
const telemetryWait = 3 * time.Second

// serve runs services and what is around them until ctx is done. The gateway
// ends first: its clients may need the others until the last one has left.
func serve(ctx context.Context, env *Env, cfg *config, p process) error {
	tel, err := telemetry.Start(ctx, telemetry.Config{
		LogLevel: cfg.LogLevel, LogFormat: cfg.LogFormat, ServiceName: p.name(), Version: version(),
	})
	if err != nil {
		return usage(err)
	}
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), telemetryWait)
		defer cancel()
		if err := tel.Shutdown(bounded); err != nil {
			tel.Log.Warn("telemetry shutdown", "err", err)
		}
	}()
	log := tel.Log
	for _, line := range unknownVariables(os.Environ()) {
		log.Warn("unknown variable", "variable", line)
	}
	natsConfig := cfg.NATS.bus()
	if p.bus != nil {
		natsConfig = *p.bus
	}
	if err := natsConfig.Validate(); err != nil {
		return usage(err)
	}

	live, closeRules, err := followRules(ctx, cfg, natsConfig, p, log)
	if err != nil {
		return err
	}
	defer closeRules()

	var checks telemetry.Checks
	group, front := errgroup.WithContext(ctx)
	// behind is for what the gateway needs while it drains.
	behind, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	var fronts []func(context.Context) error
	var backs []func(context.Context) error
	if p.replay {
		r, err := replay.New(cfg.Replay, replay.Deps{
			NATS: natsConfig, Rules: live, Log: log, Version: version(), Meter: tel.MeterProvider, Tracer: tel.TracerProvider, Checks: &checks,
		})
		if err != nil {
			return usage(err)
		}
		backs = append(backs, r.Run)
	}
	if p.presence {
		s, err := presence.New(cfg.Presence, presence.Deps{
			NATS: natsConfig, Rules: live, Log: log, Version: version(), Meter: tel.MeterProvider, Tracer: tel.TracerProvider, Checks: &checks,
		})
		if err != nil {
			return usage(err)
		}
		backs = append(backs, s.Run)
	}
	if p.gateway {
		g, err := newGateway(cfg, natsConfig, p, live, tel, &checks)
		if err != nil {
			return err
		}
		fronts = append(fronts, g.Run)
	}
	admin, err := adminServer(cfg, tel, &checks, log)
	if err != nil {
		return err
	}
	if admin != nil {
		defer admin.Close()
	}

	group.Go(func() error { return live.Run(behind) })
	for _, run := range backs {
		group.Go(func() error { return run(behind) })
	}
	group.Go(func() error {
		defer release()
		inner, innerCtx := errgroup.WithContext(front)
		for _, run := range fronts {
			inner.Go(func() error { return run(innerCtx) })
		}
		<-innerCtx.Done()
		return inner.Wait()
	})
	group.Go(func() error { announce(front, &checks, p.ready, log); return nil })
	return group.Wait()
}

func newGateway(cfg *config, natsConfig bus.Config, p process, live *rules.Live, tel *telemetry.Telemetry, checks *telemetry.Checks) (*gateway.Service, error) {
	listener := p.http
	if listener == nil {
		var err error
		if listener, err = net.Listen("tcp", cfg.Gateway.Addr); err != nil {
			return nil, usage(fmt.Errorf("FAIRLEAD_HTTP_ADDR=%s: %w", cfg.Gateway.Addr, cause(err)))
		}
	}
	g, err := gateway.New(cfg.Gateway, gateway.Deps{
		NATS: natsConfig, Rules: live, Log: tel.Log, Meter: tel.MeterProvider.Meter("fairlead/gateway"),
		Trace: tel.Tracer("fairlead/gateway"), Checks: checks, Mount: p.mount, Listener: listener,
	})
	if err != nil {
		listener.Close()
		return nil, usage(err)
	}
	tel.Log.Info("gateway starts", "http", listener.Addr().String(), "auth", cfg.Gateway.Auth.Mode, "gateway", g.ID(), "version", version())
	return g, nil
}

// announce calls ready once, when every service of the process is.
func announce(ctx context.Context, checks *telemetry.Checks, ready func(*slog.Logger), log *slog.Logger) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, ok := checks.Run(ctx); ok {
			if ready != nil {
				ready(log)
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

// followRules makes the rules that count, on a NATS connection of their own.
func followRules(ctx context.Context, cfg *config, natsConfig bus.Config, p process, log *slog.Logger) (*rules.Live, func(), error) {
	var file []byte
	if cfg.TopicsFile != "" {
		var err error
		if file, err = os.ReadFile(cfg.TopicsFile); err != nil {
			return nil, nil, usage(fmt.Errorf("FAIRLEAD_TOPICS_FILE=%s: must be a readable file: %w", cfg.TopicsFile, cause(err)))
		}
	}
	natsConfig.Name = "fairlead-rules"
	nc, err := bus.Connect(ctx, natsConfig, bus.Hooks{})
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("jetstream: %w", err)
	}
	live, err := rules.Follow(rules.Options{
		Store: rules.Store{JetStream: js, Namespace: cfg.Namespace, Replicas: cfg.NATS.Replicas},
		Mode:  p.mode, File: file, PutBuiltin: p.mode == rules.Dev, By: "fairlead " + p.what + " on " + hostname(), Log: log,
	})
	if err != nil {
		nc.Close()
		var problems rules.Problems
		if errors.As(err, &problems) {
			return nil, nil, usage(problemLines(cfg.TopicsFile, problems))
		}
		return nil, nil, usage(err)
	}
	return live, nc.Close, nil
}

func problemLines(file string, problems rules.Problems) error {
	var lines []error
	for _, problem := range problems {
		lines = append(lines, fmt.Errorf("%s:%w", file, problem))
	}
	return errors.Join(lines...)
}

// adminServer starts the admin listener; nil where it is off, or where nobody
// chose an address and the default one is taken.
func adminServer(cfg *config, tel *telemetry.Telemetry, checks *telemetry.Checks, log *slog.Logger) (*http.Server, error) {
	if cfg.AdminAddr == "off" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", cfg.AdminAddr)
	switch {
	case err != nil && adminIsDefault():
		log.Warn("admin address taken: no admin listener", "addr", cfg.AdminAddr, "err", err)
		cfg.AdminAddr = "off"
		return nil, nil
	case err != nil:
		return nil, usage(fmt.Errorf("FAIRLEAD_ADMIN_ADDR=%s: %w", cfg.AdminAddr, cause(err)))
	}
	server := telemetry.Server(cfg.AdminAddr, telemetry.Admin(tel, checks), log)
	go func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("admin listener", "err", err)
		}
	}()
	return server, nil
}

// cause drops the operation and path that net and os repeat in their errors.
func cause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
