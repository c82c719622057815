package tasks

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/breaker"
	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/telemetry"
	"github.com/fairlead-io/fairlead/services/tasks/runner"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// Deps are what a replica needs and does not make.
type Deps struct {
	NATS    bus.Config  // the replica opens, and drains, connections of its own
	Rules   *rules.Live // run by whoever made it
	Log     *slog.Logger
	Version string
	Meter   metric.MeterProvider // nil: nothing is measured
	Tracer  trace.TracerProvider // nil: nothing is traced
	Checks  *telemetry.Checks    // the process's, for /readyz; the replica adds its own
}

// Service is a replica of the tasks service.
type Service struct {
	cfg   Config
	deps  Deps
	id    string
	slog  *slog.Logger
	guard bus.Guard

	serving atomic.Bool // the endpoints are on the server
	was     atomic.Bool // it could keep tasks, or is not to be waited for
	metrics metrics

	requests *nats.Conn // endpoints, and their replies
	dispatch *nats.Conn // attempts, and what their workers say
	peers    *nats.Conn // the other replicas
	buckets  *nats.Conn // what is kept in JetStream
	bridging *nats.Conn // what bridges publish
	postgres *postgres
	pool     *pgxpool.Pool
	store    store.Store // behind postgres
	runner   *runner.Runner
	parts    parts

	leaving context.Context // done when the replica stops: nobody waits here any more
}

const (
	drainWait  = 5 * time.Second // the runner takes as long again at most
	retryPause = 250 * time.Millisecond
	startWait  = 2 * time.Second
)

// New returns a replica that does nothing yet.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Checks == nil {
		deps.Checks = &telemetry.Checks{}
	}
	s := &Service{
		cfg: cfg, deps: deps, id: nuid.Next(), slog: deps.Log.With("service", "tasks"),
		guard: bus.Guard{Prefixes: deps.NATS.ReplyPrefixes},
	}
	s.was.Store(cfg.Late)
	s.postgres = newPostgres(s.postgresChanged)
	deps.Checks.Add("tasks", func(context.Context) error { return s.Ready() })
	return s, nil
}

// Ready returns nil when the replica answers and can keep tasks. One that could
// and can't since Postgres is away is degraded: no other replica of it could
// either, and the rest of its process can do without.
func (s *Service) Ready() error {
	switch {
	case !s.serving.Load():
		return errors.New("the endpoints are not on the server yet")
	case !s.requests.IsConnected() || !s.dispatch.IsConnected() || !s.peers.IsConnected():
		return errors.New("NATS is away")
	}
	err := s.able()
	if err == nil {
		s.was.Store(true)
	} else if s.was.Load() {
		err = telemetry.Degraded(err.Error())
	}
	return err
}

// able returns why tasks can't be kept, nil when they can.
func (s *Service) able() error {
	if !s.postgres.there.Load() {
		return errors.New("the tables in postgres are not migrated yet")
	}
	if s.postgres.breaker.State() != breaker.Healthy {
		return errors.New("postgres does not answer")
	}
	return s.runner.Ready()
}

// Run serves until ctx is done, then answers what it has taken and hands over what
// it runs. It returns nil after a clean stop. NATS and Postgres may be away when
// it begins.
func (s *Service) Run(ctx context.Context) (err error) {
	for _, c := range []struct {
		name string
		to   **nats.Conn
	}{{"requests", &s.requests}, {"dispatch", &s.dispatch}, {"peers", &s.peers}, {"buckets", &s.buckets}, {"bridges", &s.bridging}} {
		cfg := s.deps.NATS
		cfg.Name = "fairlead-tasks-" + c.name
		if *c.to, err = bus.Connect(ctx, cfg, bus.Hooks{}); err != nil {
			return err
		}
		defer (*c.to).Close()
	}
	if s.pool, err = openPool(context.WithoutCancel(ctx), &s.cfg); err != nil {
		return err
	}
	defer s.pool.Close()
	if err := s.build(); err != nil {
		return err
	}
	if err := s.observe(); err != nil {
		return err
	}

	// work goes on while requests are answered.
	work, halt := context.WithCancel(context.WithoutCancel(ctx))
	defer halt()
	group, work := errgroup.WithContext(work)
	background := func(fn func(context.Context)) {
		group.Go(func() error { fn(work); return nil })
	}
	background(func(ctx context.Context) { s.postgres.keepTables(ctx, s.slog, s.prepare) })
	background(func(ctx context.Context) { s.postgres.watch(ctx, s.pool.Ping) })
	background(s.clean)
	background(s.measure)
	for _, run := range s.parts.staying(s.runner) {
		group.Go(func() error { return run(work) })
	}
	// Whoever waits is sent away first, or no request would end.
	leaving, leave := context.WithCancel(work)
	defer leave()
	s.leaving = leaving
	for _, run := range s.parts.leaving(s.runner) {
		group.Go(func() error { return run(leaving) })
	}
	s.await(ctx)
	served, err := bus.Serve(s.requests, bus.Service{
		Name: "fairlead-tasks", Version: s.deps.Version, Description: "Work that must finish: tasks, schedules, jobs, keys and locks",
	}, bus.ServeConfig{Guard: &s.guard, Log: s.deps.Log, Tracer: s.deps.Tracer, Meter: s.deps.Meter, Workers: workers}, s.endpoints()...)
	if err != nil {
		halt()
		return errors.Join(err, group.Wait())
	}
	background(func(ctx context.Context) { s.confirm(ctx, served) })

	select {
	case <-ctx.Done():
	case <-work.Done():
	}
	s.serving.Store(false)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWait)
	defer cancel()
	leave()
	// New requests are the other replicas' from here on. Attempts are handed over when
	// the last request of this one is answered: until then it writes as ever.
	err = served.Drain(bounded)
	halt()
	return errors.Join(err, group.Wait())
}

// await waits until the tables are there, so that a replica that starts refuses
// nothing that the others would answer. It does not wait for long: a refusal at
// once is better than none.
func (s *Service) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for !s.cfg.Late && s.able() != nil && clock.Sleep(ctx, 5*time.Millisecond) == nil {
	}
}

// confirm notes that the server has the endpoints.
func (s *Service) confirm(ctx context.Context, served *bus.Served) {
	for served.Ready(ctx) != nil {
		if clock.Sleep(ctx, retryPause) != nil {
			return
		}
	}
	s.serving.Store(true)
}
