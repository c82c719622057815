package presence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/telemetry"
	"github.com/fairlead-io/fairlead/pkg/wire"
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

// Service is a replica of the presence service.
type Service struct {
	cfg   Config
	deps  Deps
	id    string
	slog  *slog.Logger
	guard bus.Guard
	now   func() time.Time

	metrics metrics
	serving atomic.Bool // the endpoints are on the server
	made    atomic.Bool // the buckets are there

	requests *nats.Conn // endpoints and writes
	leases   *leases
	topics   *sections // who is on which topic
	registry *sections // which connections a user has
	groups   *groups
	sessions *sessions

	asker *asker

	seatQueue queues
	deaths    deaths
}

const (
	drainWait  = 10 * time.Second
	retryPause = 250 * time.Millisecond
	// workers is how many requests of an endpoint one replica works on at a
	// time: they wait for JetStream.
	workers = 1024
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
		cfg: cfg, deps: deps, id: nuid.Next(), slog: deps.Log.With("service", "presence"),
		guard: bus.Guard{Prefixes: deps.NATS.ReplyPrefixes}, now: time.Now,
	}
	deps.Checks.Add("presence", func(context.Context) error { return s.Ready() })
	return s, nil
}

// Ready returns nil when the replica answers and has a view of its buckets.
func (s *Service) Ready() error {
	switch {
	case !s.serving.Load():
		return errors.New("the endpoints are not on the server yet")
	case !s.made.Load():
		return errors.New("the buckets are not there yet")
	case !s.leases.ready() || !s.topics.ready() || !s.registry.ready() || !s.groups.ready():
		return errors.New("the buckets are not read yet")
	case !s.requests.IsConnected() || !s.asker.nc.IsConnected():
		return errors.New("NATS is away")
	}
	return nil
}

// buckets are what a replica keeps its state in.
func (s *Service) buckets() []kv.Config {
	ns, n := s.cfg.Namespace, s.cfg.Replicas
	return []kv.Config{kv.Gateways(n), kv.Presence(ns, n), kv.Connections(n), kv.Groups(ns, n), kv.Sessions(n)}
}

// Run serves until ctx is done, then answers what it has taken. It returns nil
// after a clean stop. NATS may be away when it begins.
func (s *Service) Run(ctx context.Context) (err error) {
	connect := func(name string) (*nats.Conn, error) {
		cfg := s.deps.NATS
		cfg.Name = "fairlead-presence-" + name
		return bus.Connect(ctx, cfg, bus.Hooks{})
	}
	if s.requests, err = connect("requests"); err != nil {
		return err
	}
	defer s.requests.Close()
	feeds, err := connect("feeds")
	if err != nil {
		return err
	}
	defer feeds.Close()
	admin, err := jetstream.New(s.requests)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	open := func(name string) Store {
		return bucket{Bucket: kv.Open(s.requests, s.cfg.Namespace, name), feed: kv.Open(feeds, s.cfg.Namespace, name), log: s.slog}
	}
	s.build(open)
	asks, err := connect("asks")
	if err != nil {
		return err
	}
	defer asks.Close()
	if s.asker, err = newAsker(s, asks); err != nil {
		return err
	}
	if asks.IsConnected() {
		_ = s.asker.ready(ctx) // who finds the endpoints can ask
	}
	if err := s.observe(); err != nil {
		return err
	}
	served, err := bus.Serve(s.requests, bus.Service{
		Name: "fairlead-presence", Version: s.deps.Version, Description: "Who is there: presence, connections, groups, sessions",
	}, bus.ServeConfig{Guard: &s.guard, Log: s.deps.Log, Tracer: s.deps.Tracer, Meter: s.deps.Meter, Workers: workers}, s.endpoints()...)
	if err != nil {
		return err
	}
	// work goes on while requests are answered.
	work, halt := context.WithCancel(context.WithoutCancel(ctx))
	defer halt()
	group, work := errgroup.WithContext(work)
	background := func(fn func(context.Context)) {
		group.Go(func() error { fn(work); return nil })
	}
	background(func(ctx context.Context) { s.make(ctx, admin) })
	background(func(ctx context.Context) { s.confirm(ctx, served) })
	background(s.leases.run)
	background(s.topics.run)
	background(s.registry.run)
	background(s.groups.run)
	background(s.sweep)

	select {
	case <-ctx.Done():
	case <-work.Done():
	}
	s.serving.Store(false)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWait)
	defer cancel()
	var drained errgroup.Group
	drained.Go(func() error { return s.asker.drain(bounded) })
	err = served.Drain(bounded)
	err = errors.Join(err, drained.Wait())
	halt()
	return errors.Join(err, group.Wait())
}

// build makes what the replica works with, on the stores that open returns.
func (s *Service) build(open func(name string) Store) {
	s.leases = newLeases(open("gateways"), s.id, s.now)
	s.topics = newSections(open("presence"))
	s.registry = newSections(open("connections"))
	s.groups = newGroups(open("groups"), s)
	s.sessions = newSessions(open("sessions"), s.now)
}

// bucketsEvery is how often it is looked whether the buckets are still there.
const bucketsEvery = 10 * time.Second

// make makes the buckets, as soon as JetStream lets it, and again should one be
// deleted.
func (s *Service) make(ctx context.Context, js jetstream.JetStream) {
	said := ""
	for ctx.Err() == nil {
		var err error
		for _, cfg := range s.buckets() {
			err = errors.Join(err, kv.Ensure(ctx, js, s.cfg.Namespace, cfg))
		}
		wait := retryPause
		if err == nil {
			s.made.Store(true)
			said, wait = "", bucketsEvery
		} else if err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			s.slog.Warn("a bucket is not there yet", "err", err)
		}
		_ = clock.Sleep(ctx, wait) // ends with ctx
	}
}

// confirm notes that the server has the endpoints.
func (s *Service) confirm(ctx context.Context, served *bus.Served) {
	for served.Ready(ctx) != nil || s.asker.ready(ctx) != nil {
		if clock.Sleep(ctx, retryPause) != nil {
			return
		}
	}
	s.serving.Store(true)
}

// event publishes a lifecycle event: a hint, at most once.
func (s *Service) event(what, rest string, body []byte) {
	subject, err := s.cfg.Namespace.Event(what, rest)
	if err != nil {
		return
	}
	if err := s.requests.Publish(subject, body); err != nil {
		s.metrics.publishErrors.Add(1)
	}
}

// unavailable says what a failed read or write of a bucket means for who asked.
func unavailable(err error) error {
	var coded *wire.Error
	if errors.As(err, &coded) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return wire.Errorf(wire.Cancelled, "cancelled")
	}
	if large := (*kv.TooLargeError)(nil); errors.As(err, &large) {
		final := wire.Errorf(wire.ResourceExhausted, "what would have to be stored is %s", large.Error()).With("outcome", "none")
		if large.Limit > 0 {
			final = final.With("limit", large.Limit)
		}
		return final
	}
	return wire.Errorf(wire.Unavailable, "JetStream is away: try again").With("outcome", "unknown")
}
