package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/internal/telemetry"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/replay/archive"
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

// Service is one replica.
type Service struct {
	cfg   Config
	deps  Deps
	slog  *slog.Logger
	guard bus.Guard

	metrics   metrics
	ledgers   ledgerCounts
	archiving archiving
	serving   atomic.Bool  // the endpoints are on the server
	settled   atomic.Int64 // unix ns of the last time all streams were as their rules say

	requests *nats.Conn // endpoints and publishes
	store    streams.Store
	now      func() time.Time

	mu   sync.Mutex
	logs map[string]*opened // by stream; guarded by mu
}

// opened is a log with what keeps it.
type opened struct {
	log     *stream
	answers Log             // log, or that with its archive
	copier  *archive.Copier // nil where nothing is archived
	rule    *rules.Topic
	stop    context.CancelFunc
	done    chan struct{}
}

type metrics struct {
	reads, messages, truncations         atomic.Int64
	publishes, duplicates, publishErrors atomic.Int64
	purges                               atomic.Int64
}

const (
	// keepStreams is how often the streams are compared with the rules besides
	// at every change of them.
	keepStreams = 30 * time.Second
	// retireAfter is how long a stream whose rule is gone still takes messages:
	// gateways and workers need a moment to follow.
	retireAfter = time.Minute
	drainWait   = 10 * time.Second
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
		cfg: cfg, deps: deps, slog: deps.Log.With("service", "replay"),
		guard: bus.Guard{Prefixes: deps.NATS.ReplyPrefixes},
		logs:  map[string]*opened{}, now: time.Now,
	}
	deps.Checks.Add("replay", func(context.Context) error {
		if err := s.Ready(); err != nil {
			return err
		}
		return s.degraded()
	})
	return s, nil
}

// Ready returns nil when the endpoints are on the server and every rule with
// replay has its stream.
func (s *Service) Ready() error {
	switch {
	case !s.serving.Load():
		return errors.New("the endpoints are not on the server yet")
	case s.settled.Load() == 0:
		return errors.New("the streams of the rules are not there yet")
	case !s.requests.IsConnected():
		return errors.New("NATS is away")
	}
	return nil
}

// Run serves until ctx is done, then answers what is under way. It returns nil
// after a clean stop. NATS may be away when it begins.
func (s *Service) Run(ctx context.Context) (err error) {
	connect := func(name string) (*nats.Conn, error) {
		cfg := s.deps.NATS
		cfg.Name = "fairlead-replay-" + name
		return bus.Connect(ctx, cfg, bus.Hooks{})
	}
	if s.requests, err = connect("requests"); err != nil {
		return err
	}
	defer s.requests.Close()
	reads, err := connect("reads")
	if err != nil {
		return err
	}
	defer reads.Close()
	feeds, err := connect("index")
	if err != nil {
		return err
	}
	defer feeds.Close()
	reader, err := newReader(reads)
	if err != nil {
		return err
	}
	admin, err := jetstream.New(s.requests)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	feeder, err := jetstream.New(feeds)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	if s.cfg.PostgresURL != "" {
		copies, err := connect("archive")
		if err != nil {
			return err
		}
		defer copies.Close()
		if s.archiving.js, err = jetstream.New(copies); err != nil {
			return fmt.Errorf("jetstream: %w", err)
		}
		a, err := archive.Open(context.WithoutCancel(ctx), s.cfg.PostgresURL)
		if err != nil {
			return err
		}
		defer a.Close()
		s.archiving.archive = newPostgres(a, s.postgresChanged)
	}
	s.store = streams.Store{JetStream: admin, Namespace: s.cfg.Namespace, Replicas: s.cfg.Replicas}
	if err := s.observe(); err != nil {
		return err
	}

	served, err := bus.Serve(s.requests, bus.Service{
		Name: "fairlead-replay", Version: s.deps.Version, Description: "The past of replayed topics",
	}, bus.ServeConfig{Guard: &s.guard, Log: s.deps.Log, Tracer: s.deps.Tracer, Meter: s.deps.Meter, Timeout: 10 * time.Second}, s.endpoints()...)
	if err != nil {
		return err
	}
	// work goes on while requests are answered.
	work, halt := context.WithCancel(context.WithoutCancel(ctx))
	defer halt()
	group, work := errgroup.WithContext(work)
	group.Go(func() error { s.keep(work, reader, feeder); return nil })
	group.Go(func() error { s.confirm(work, served); return nil })
	group.Go(func() error { s.janitor(work); return nil })
	group.Go(func() error { s.cleanArchives(work); return nil })
	group.Go(func() error { s.watchArchives(work); return nil })
	if p := s.archiving.archive; p != nil {
		group.Go(func() error { p.watch(work); return nil })
	}

	select {
	case <-ctx.Done():
	case <-work.Done():
	}
	s.serving.Store(false)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWait)
	defer cancel()
	err = served.Drain(bounded)
	halt()
	err = errors.Join(err, group.Wait())
	s.closeAll()
	return err
}

// confirm waits until the server has the endpoints.
func (s *Service) confirm(ctx context.Context, served *bus.Served) {
	for ctx.Err() == nil {
		if served.Ready(ctx) == nil {
			s.serving.Store(true)
			return
		}
		if clock.Sleep(ctx, retryPause) != nil {
			return
		}
	}
}

// keep makes the streams what the rules say, and opens their logs.
func (s *Service) keep(ctx context.Context, reader *reader, feeder jetstream.JetStream) {
	said := ""
	missing := map[string]time.Time{} // streams whose rule is gone, since when
	for ctx.Err() == nil {
		changed := s.deps.Rules.Changed()
		wait := keepStreams
		if !s.deps.Rules.Ready() {
			// The bucket may hold other rules than the built-in ones.
			select {
			case <-s.deps.Rules.Loaded():
				continue
			case <-ctx.Done():
				return
			}
		}
		err := s.settle(ctx, reader, feeder, missing)
		if err != nil {
			wait = time.Second
			if err.Error() != said && ctx.Err() == nil {
				s.slog.Warn("streams are not as the rules say", "err", err)
			}
			said = err.Error()
		} else {
			said = ""
			s.settled.Store(s.now().UnixNano())
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// settle goes once through the rules. A stream that drifted is reported and
// keeps what it has; it does not stop the others.
func (s *Service) settle(ctx context.Context, reader *reader, feeder jetstream.JetStream, missing map[string]time.Time) error {
	set := s.deps.Rules.Current()
	var errs []error
	s.unarchived(set)
	used := map[string]bool{}
	for _, rule := range set.Topics {
		if rule.Replay == nil {
			continue
		}
		name := rule.Stream(s.cfg.Namespace)
		used[name] = true
		changed, err := s.store.Update(ctx, rule)
		var drift *streams.Drift
		if errors.As(err, &drift) {
			// Another rule's stream may hold its subjects still.
			if retireErr := s.retire(ctx, set, missing, true); retireErr == nil {
				changed, err = s.store.Update(ctx, rule)
			}
		}
		if err != nil {
			errs = append(errs, err)
			if !errors.As(err, &drift) || drift.Missing {
				continue
			}
		}
		if changed {
			s.slog.Info("stream set up", "stream", name, "rule", rule.Name)
		}
		s.openLog(name, rule, reader, feeder)
	}
	s.mu.Lock()
	gone := map[string]*opened{}
	for name, o := range s.logs {
		if !used[name] {
			gone[name] = o
			delete(s.logs, name)
		}
	}
	s.mu.Unlock()
	for _, o := range gone {
		o.close()
	}
	return errors.Join(append(errs, s.retire(ctx, set, missing, false))...)
}

// retire frees the subjects of streams whose rule has been gone for a while; at
// once where another rule needs them.
func (s *Service) retire(ctx context.Context, set *rules.Set, missing map[string]time.Time, now bool) error {
	key := set.Digest()
	since, ok := missing[key]
	if !ok {
		clear(missing)
		missing[key] = s.now()
		since = missing[key]
	}
	if !now && s.now().Sub(since) < retireAfter {
		return nil
	}
	names, err := s.store.Retire(ctx, set)
	if len(names) > 0 {
		s.slog.Info("streams without a rule take no more messages", "streams", strings.Join(names, " "))
	}
	return err
}

// openLog opens the log of a rule, or changes what is promised of it.
func (s *Service) openLog(name string, rule *rules.Topic, reader *reader, feeder jetstream.JetStream) {
	s.mu.Lock()
	old := s.logs[name]
	s.mu.Unlock()
	if old != nil && *old.rule.Replay == *rule.Replay && old.rule.Glob() == rule.Glob() {
		return
	}
	log := newStream(name, s.cfg.Namespace, rule.Replay, s.requests, reader, s.cfg.IndexBytes, s.now)
	log.fill = s.newFiller(name, rule, feeder)
	ctx, stop := context.WithCancel(context.Background())
	o := &opened{log: log, answers: log, rule: rule, stop: stop, done: make(chan struct{})}
	if rule.Replay.Archive && s.archiving.archive != nil {
		o.copier, o.answers = s.copier(log)
	}
	f := &feed{s: log, js: feeder, log: s.slog, every: feedLook}
	go func() {
		defer close(o.done)
		var copying sync.WaitGroup
		if o.copier != nil {
			copying.Go(func() { _ = o.copier.Run(ctx) }) // it ends with ctx only
		}
		copying.Go(func() { log.fill.run(ctx) })
		f.run(ctx)
		log.wait()
		copying.Wait()
	}()
	s.mu.Lock()
	s.logs[name] = o
	s.mu.Unlock()
	if old != nil {
		old.close() // the new one answers already
	}
}

func (o *opened) close() {
	o.stop()
	<-o.done
}

func (s *Service) closeAll() {
	s.mu.Lock()
	logs := s.logs
	s.logs = map[string]*opened{}
	s.mu.Unlock()
	for _, o := range logs {
		o.stop() // all at once: each may have something to finish
	}
	for _, o := range logs {
		o.close()
	}
}

// open returns the log of a stream, nil where there is none.
func (s *Service) open(name string) Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.logs[name]; o != nil {
		return o.answers
	}
	return nil
}

// all returns the open logs by the names of their streams.
func (s *Service) all() map[string]Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]Log, len(s.logs))
	for name, o := range s.logs {
		out[name] = o.answers
	}
	return out
}

// streams returns the open streams.
func (s *Service) streams() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*stream, 0, len(s.logs))
	for _, name := range slices.Sorted(maps.Keys(s.logs)) {
		out = append(out, s.logs[name].log)
	}
	return out
}

// tellCleared says that a stream was purged as a whole, so that gateways look
// again where they are.
func (s *Service) tellCleared(stream string) {
	subject, err := s.cfg.Namespace.Event("replay.cleared", stream)
	if err == nil {
		err = s.requests.Publish(subject, fmt.Appendf(nil, `{"at":%d,"stream":%q}`, s.now().UnixMilli(), stream))
	}
	if err != nil {
		s.slog.Warn("gateways were not told of a clear", "stream", stream, "err", err)
	}
}

func sortSummaries(topics []wire.ReplaySummary) {
	slices.SortFunc(topics, func(a, b wire.ReplaySummary) int { return strings.Compare(a.Topic, b.Topic) })
}
