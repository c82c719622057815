package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/breaker"
	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// dependencies are the services that the gateway asks, each with its breaker.
// Clients hear when one goes away and when it is back.
type dependencies struct {
	presence, replay, ratelimit *dependency

	telling sync.Mutex      // around what clients are told
	away    map[string]bool // what clients were told is away; guarded by telling
}

func newDependencies(g *Service) *dependencies {
	ds := &dependencies{
		presence:  newDependency(g, "presence", g.probePresence),
		replay:    newDependency(g, "replay", g.probeReplay),
		ratelimit: newDependency(g, "ratelimit", g.probeRatelimit),
		away:      map[string]bool{},
	}
	ds.ratelimit.decides = true
	return ds
}

func (ds *dependencies) each(fn func(*dependency)) {
	for _, d := range [...]*dependency{ds.presence, ds.replay, ds.ratelimit} {
		fn(d)
	}
}

func (ds *dependencies) run(ctx context.Context) {
	var work sync.WaitGroup
	ds.each(func(d *dependency) {
		work.Go(func() { d.breaker.Run(ctx) })
		work.Go(func() { d.watch(ctx) })
	})
	work.Wait()
}

// dependency is a service that the gateway asks.
type dependency struct {
	g       *Service
	what    string
	breaker *breaker.Breaker
	// probe asks something cheap. Any answer will do, so errors that are none come
	// as those of bus.Call; asked is false where there is nothing to ask.
	probe func(context.Context) (asked bool, err error)

	// decides says that a service that answers without a decision is of no use;
	// decided, whether it has decided anything since a time. May be nil.
	decides bool
	decided func(time.Time) bool

	suspect atomic.Bool  // the last question failed
	heard   moment       // when it last answered
	flying  atomic.Int64 // questions without an answer
	broken  moment       // when its breaker last broke
	lost    moment       // when it last did so while it was healthy

	// Of watch only.
	told bool      // clients know that it is away
	well time.Time // since when it is healthy; 0: it is not
}

func newDependency(g *Service, what string, probe func(context.Context) (bool, error)) *dependency {
	d := &dependency{g: g, what: what, probe: probe}
	d.breaker = breaker.New(breaker.Config{Name: what, OnChange: d.changed})
	return d
}

// healthy reports whether what nobody waits for is to be asked.
func (d *dependency) healthy() bool { return d.breaker.State() == breaker.Healthy }

// known reports whether the service has ever answered: a gateway without it does
// not miss it.
func (d *dependency) known() bool { return d.breaker.Answered() }

// answers reports whether the service answered when it was last asked.
func (d *dependency) answers() bool { return d.known() && d.healthy() && !d.suspect.Load() }

// moment is a time that is read and written concurrently.
type moment struct{ at atomic.Pointer[time.Time] }

func (m *moment) Store(t time.Time) { m.at.Store(&t) }

func (m *moment) Load() time.Time {
	if t := m.at.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// query is one question to a service.
type query struct {
	of    *dependency
	pass  breaker.Pass
	began time.Time
}

// ask returns the leave to ask the service something; [query.done] says how that
// went. While the service does not answer there is none, at once.
func (d *dependency) ask() (query, error) {
	pass, err := d.breaker.Allow()
	if err != nil {
		return query{}, err
	}
	d.flying.Add(1)
	return query{d, pass, time.Now()}, nil
}

// done takes the outcome of [bus.Call].
func (q query) done(err error) {
	q.of.flying.Add(-1)
	q.tells(err)
}

// tells takes what the outcome of a question tells about the service.
func (q query) tells(err error) {
	d := q.of
	how := d.judge(q.began, err)
	switch how {
	case breaker.Success:
		d.heard.Store(time.Now())
		d.suspect.Store(false)
	case breaker.Failure:
		d.suspect.Store(true)
	}
	q.pass.Done(how)
}

// judge says what a question tells about the service. Whatever it answered is an
// answer, unless that is all it is there for. Silence to one question is none
// while others are answered: that one may wait for JetStream to elect a leader.
func (d *dependency) judge(began time.Time, err error) breaker.Outcome {
	code, silent := wire.CodeOf(err), bus.Unanswered(err)
	switch failed := code == wire.Unavailable || code == wire.DeadlineExceeded; {
	case err == nil, !silent && !(failed && d.decides):
		return breaker.Success
	case !failed, !d.known(), !d.g.link.up(), time.Now().Before(d.g.link.settled()),
		silent && code == wire.DeadlineExceeded && d.heard.Load().After(began):
		return breaker.Neither
	}
	return breaker.Failure
}

// callService asks an endpoint of a service that the gateway depends on.
func callService[Req, Rep any](ctx context.Context, d *dependency, nc *nats.Conn, endpoint string, req Req) (rep Rep, err error) {
	q, err := d.ask()
	if err != nil {
		return rep, err
	}
	rep, err = bus.Call[Req, Rep](ctx, nc, d.g.cfg.Namespace.Svc(d.what, endpoint), req)
	q.done(err)
	return rep, err
}

// await waits until the service may be asked, unless it has been away for longer
// than resumePatience: a breaker that is about to probe for the first time is worth
// a moment to whoever would lose something.
func (d *dependency) await(ctx context.Context) {
	for until := d.lost.Load().Add(resumePatience); !d.healthy() && time.Now().Before(until); {
		if clock.Sleep(ctx, watchEvery/2) != nil {
			return
		}
	}
}
