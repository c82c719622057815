package ratelimit

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
	"github.com/fairlead-io/fairlead/internal/limits"
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

// Service is a replica of the ratelimit service.
type Service struct {
	cfg   Config
	deps  Deps
	id    string
	slog  *slog.Logger
	guard bus.Guard

	metrics metrics
	serving atomic.Bool // the endpoints are on the server
	made    atomic.Bool // the bucket is there

	requests *nats.Conn // endpoints, and what has to be heard before their answers
	peers    *nats.Conn // the other replicas
	store    Store
	clock    *serverClock
	keeper   *keeper
	client   *limits.Client
}

const (
	drainWait  = 10 * time.Second
	retryPause = 250 * time.Millisecond
	startWait  = 2 * time.Second
	// bucketEvery is how often it is looked whether the bucket is still there.
	bucketEvery = 10 * time.Second
	// takers is how many requests for tokens one replica works on at a time: they
	// wait for JetStream, many for the same write.
	takers = 8192
	// workers is the same of every other endpoint.
	workers = 256
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
		cfg: cfg, deps: deps, id: nuid.Next(), slog: deps.Log.With("service", "ratelimit"),
		guard: bus.Guard{Prefixes: deps.NATS.ReplyPrefixes},
	}
	deps.Checks.Add("ratelimit", func(context.Context) error { return s.Ready() })
	return s, nil
}

// Ready returns nil when the replica answers and can count.
func (s *Service) Ready() error {
	switch {
	case !s.serving.Load():
		return errors.New("the endpoints are not on the server yet")
	case !s.requests.IsConnected() || !s.peers.IsConnected():
		return errors.New("NATS is away")
	}
	return s.able()
}

// able returns why the replica can't count, nil when it can.
func (s *Service) able() error {
	switch {
	case !s.made.Load():
		return errors.New("the bucket is not there yet")
	case s.clock.lost():
		return errors.New("the bucket can't be written")
	}
	return s.clock.ready()
}

// Run serves until ctx is done, then answers what it has taken. It returns nil
// after a clean stop. NATS may be away when it begins.
func (s *Service) Run(ctx context.Context) (err error) {
	connect := func(name string) (*nats.Conn, error) {
		cfg := s.deps.NATS
		cfg.Name = "fairlead-ratelimit-" + name
		return bus.Connect(ctx, cfg, bus.Hooks{})
	}
	if s.requests, err = connect("requests"); err != nil {
		return err
	}
	defer s.requests.Close()
	if s.peers, err = connect("peers"); err != nil {
		return err
	}
	defer s.peers.Close()
	writes, err := connect("writes")
	if err != nil {
		return err
	}
	defer writes.Close()
	admin, err := jetstream.New(writes)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	s.build(bucket{kv.Open(writes, s.cfg.Namespace, kv.Limits(0).Name)}, elapsedSince())
	changes, err := s.hear()
	if err != nil {
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
	background(func(ctx context.Context) { s.make(ctx, admin) })
	background(s.clock.run)
	background(s.keeper.run)
	background(s.adjustBuckets)
	group.Go(func() error { return s.client.Run(work) })
	s.await(ctx)
	served, err := bus.Serve(s.requests, bus.Service{
		Name: "fairlead-ratelimit", Version: s.deps.Version, Description: "Limits: what keys have left of the rules' token buckets",
	}, bus.ServeConfig{Guard: &s.guard, Log: s.deps.Log, Tracer: s.deps.Tracer, Meter: s.deps.Meter, Workers: workers}, s.endpoints()...)
	if err != nil {
		halt()
		return errors.Join(err, group.Wait())
	}
	background(func(ctx context.Context) { s.confirm(ctx, served) })
	announced := make(chan struct{})
	background(func(work context.Context) { defer close(announced); s.announce(ctx, work) })

	select {
	case <-ctx.Done():
	case <-work.Done():
	}
	s.serving.Store(false)
	<-announced // it says that it goes after all that it is there
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWait)
	defer cancel()
	s.leave(bounded)
	err = served.Drain(bounded)
	halt()
	err = errors.Join(err, group.Wait())
	if unsubscribed := changes.Unsubscribe(); unsubscribed != nil && !errors.Is(unsubscribed, nats.ErrConnectionClosed) {
		err = errors.Join(err, unsubscribed)
	}
	return err
}

// build makes what the replica works with, on a store and a monotonic clock.
func (s *Service) build(store Store, elapsed func() time.Duration) {
	s.store = store
	s.clock = newServerClock(store, s.id, elapsed)
	s.keeper = newKeeper(keeperConfig{Store: store, ID: s.id, Now: s.clock.now, Metrics: &s.metrics, Log: s.slog})
	s.client = limits.NewClient(limits.Config{NATS: s.peers, Namespace: s.cfg.Namespace, Log: s.slog, Self: s.id})
}

// limit returns the limit of the rules with a name, nil where there is none.
func (s *Service) limit(name string) *rules.Limit { return s.deps.Rules.Current().Limit(name) }

// make makes the bucket, as soon as JetStream lets it, and again should it be
// deleted: it is looked for every while, and at once when it can't be written.
func (s *Service) make(ctx context.Context, js jetstream.JetStream) {
	said := ""
	for ctx.Err() == nil {
		wait := time.Duration(0)
		if err := kv.Ensure(ctx, js, s.cfg.Namespace, kv.Limits(s.cfg.Replicas)); err == nil {
			if !s.made.Swap(true) {
				s.clock.look()
			}
			said, wait = "", bucketEvery
		} else if err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			s.slog.Warn("the bucket is not there yet", "err", err)
		}
		for waited := time.Duration(0); ; waited += retryPause {
			if clock.Sleep(ctx, retryPause) != nil || waited >= wait || s.clock.lost() {
				break
			}
		}
	}
}

// await waits until the replica can count, so that none that starts refuses what
// the others would answer. It does not wait for long: without JetStream a refusal
// at once is better than none.
func (s *Service) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for s.able() != nil && clock.Sleep(ctx, 5*time.Millisecond) == nil {
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

// failed says what a failed read or write of the bucket means for who asked. What
// is away is looked for at once.
func (s *Service) failed(err error) error {
	err = failure(err)
	if wire.CodeOf(err) == wire.Unavailable {
		s.clock.look()
	}
	return err
}

func failure(err error) error {
	var coded *wire.Error
	switch {
	case errors.As(err, &coded):
		return coded
	case errors.Is(err, context.Canceled):
		return wire.Errorf(wire.Cancelled, "cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return wire.Errorf(wire.DeadlineExceeded, "JetStream did not answer in time")
	}
	return wire.Errorf(wire.Unavailable, "JetStream is away: try again").With("outcome", "unknown")
}
