package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// scope names the instruments and spans of this package.
const scope = "github.com/fairlead-io/fairlead/internal/bus"

// Service names what is served, as `nats micro ls` shows it.
type Service struct {
	// Name is of [A-Za-z0-9_-], such as fairlead-presence.
	Name string
	// Version is a semantic version; anything else is listed as 0.0.0.
	Version     string
	Description string
	// Metadata is shown by `nats micro info`; may be nil.
	Metadata map[string]string
}

// ServeConfig says how requests are worked on. The zero value is usable.
type ServeConfig struct {
	// Workers bounds the requests worked on at the same time, per endpoint; 64
	// when 0. Beyond it a request is RESOURCE_EXHAUSTED at once: queueing it
	// would answer it after its caller has given up.
	Workers int
	// Queue is the queue group of all replicas; "q" (micro's default) when empty.
	Queue string
	// Timeout is how long one request may take; 5s when 0. A request that
	// carries Fl-Deadline may get less, never more.
	Timeout time.Duration
	// PendingMessages and PendingBytes bound what waits for an endpoint in the
	// client library, where a burst waits for a few µs; 8192 and 64 MiB when 0.
	// What comes beyond is dropped and reported to [Hooks.OnSlowConsumer].
	PendingMessages, PendingBytes int
	// Guard decides about reply subjects; inboxes only when nil.
	Guard *Guard
	// Log receives what callers are not told: causes of INTERNAL, panics.
	// Nothing is logged when nil.
	Log *slog.Logger
	// Tracer and Meter get a span and metrics per request; none when nil.
	Tracer trace.TracerProvider
	Meter  metric.MeterProvider
}

// Served is a service that answers requests until [Served.Drain]. Its methods
// may be called concurrently.
type Served struct {
	nc    *nats.Conn
	guard *Guard
	log   *slog.Logger
	id    micro.ServiceIdentity
	info  micro.Info
	start time.Time

	served  []*served
	subs    []*nats.Subscription
	closing sync.WaitGroup // one for each of subs, done when its last message is dispatched
	working sync.WaitGroup // requests in flight

	base   context.Context // of all requests; ends when a drain runs out of time
	cancel context.CancelFunc
	once   sync.Once // the unsubscribing in Drain
	meters meters
}

var (
	validName    = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	validVersion = regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
)

// Serve starts to answer requests to the endpoints. NATS may be away: the
// endpoints come alive with it ([Served.Ready] waits for that). The connection
// stays the caller's, who calls [Served.Drain] before closing it.
func Serve(nc *nats.Conn, service Service, cfg ServeConfig, endpoints ...Endpoint) (*Served, error) {
	if !validName.MatchString(service.Name) {
		return nil, fmt.Errorf("serve %q: the name must be of [A-Za-z0-9_-]", service.Name)
	}
	cfg = cfg.withDefaults()
	version := strings.TrimPrefix(service.Version, "v")
	if !validVersion.MatchString(version) {
		version = "0.0.0"
	}
	metadata := service.Metadata
	if metadata == nil {
		metadata = map[string]string{} // clients expect an object
	}
	id := micro.ServiceIdentity{Name: service.Name, ID: nuid.Next(), Version: version, Metadata: metadata}
	s := &Served{
		nc: nc, guard: cfg.Guard, id: id, start: time.Now().UTC(),
		log:  cfg.Log.With("service", service.Name),
		info: micro.Info{ServiceIdentity: id, Type: micro.InfoResponseType, Description: service.Description},
	}
	var err error
	if s.meters, err = newMeters(cfg.Meter); err != nil {
		return nil, fmt.Errorf("serve %s: %w", service.Name, err)
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	if err := s.subscribe(cfg, endpoints); err != nil {
		s.unsubscribe(false)
		s.cancel()
		return nil, fmt.Errorf("serve %s: %w", service.Name, err)
	}
	return s, nil
}

func (c ServeConfig) withDefaults() ServeConfig {
	c.Workers = cmp.Or(c.Workers, 64)
	c.Queue = cmp.Or(c.Queue, micro.DefaultQueueGroup)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	c.PendingMessages = cmp.Or(c.PendingMessages, 8192)
	c.PendingBytes = cmp.Or(c.PendingBytes, 64<<20)
	if c.Guard == nil {
		c.Guard = &Guard{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Tracer == nil {
		c.Tracer = tracenoop.NewTracerProvider()
	}
	if c.Meter == nil {
		c.Meter = metricnoop.NewMeterProvider()
	}
	return c
}

// subscribe starts the endpoints, then discovery: what is listed, answers.
func (s *Served) subscribe(cfg ServeConfig, endpoints []Endpoint) error {
	names := map[string]bool{}
	for _, e := range endpoints {
		name := strings.ReplaceAll(e.Name, ".", "-")
		switch {
		case !validName.MatchString(name):
			return fmt.Errorf("endpoint %q: the name must be of [A-Za-z0-9_.-]", e.Name)
		case names[name]:
			return fmt.Errorf("endpoint %q: the name is taken", e.Name)
		case e.work == nil && e.begin == nil:
			return fmt.Errorf("endpoint %q: must be made by Handle or HandleLater", e.Name)
		}
		names[name] = true
		e.Name = name
		e.Workers = cmp.Or(e.Workers, cfg.Workers)
		e.Timeout = cmp.Or(e.Timeout, cfg.Timeout)
		one := newServed(s, e, cfg.Tracer.Tracer(scope))
		queue := cfg.Queue
		if e.Everyone {
			queue = ""
		}
		sub, err := s.add(e.Subject, queue, one.dispatch)
		if err != nil {
			return fmt.Errorf("endpoint %q: %w", e.Name, err)
		}
		if err := sub.SetPendingLimits(cfg.PendingMessages, cfg.PendingBytes); err != nil {
			return fmt.Errorf("endpoint %q: %w", e.Name, err)
		}
		s.served = append(s.served, one)
		s.info.Endpoints = append(s.info.Endpoints, micro.EndpointInfo{
			Name: e.Name, Subject: e.Subject, QueueGroup: queue,
			Metadata: map[string]string{"request": e.request, "reply": e.reply},
		})
	}
	return s.discover()
}

// add subscribes with a queue group, or without when queue is empty.
func (s *Served) add(subject, queue string, dispatch nats.MsgHandler) (*nats.Subscription, error) {
	var sub *nats.Subscription
	var err error
	if queue == "" {
		sub, err = s.nc.Subscribe(subject, dispatch)
	} else {
		sub, err = s.nc.QueueSubscribe(subject, queue, dispatch)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	s.closing.Add(1)
	sub.SetClosedHandler(func(string) { s.closing.Done() })
	s.subs = append(s.subs, sub)
	return sub, nil
}

// ID is the id of this instance in discovery.
func (s *Served) ID() string { return s.id.ID }

// Ready returns nil when the server has all subscriptions of this service, and
// an error when it did not confirm that before ctx (5s without a deadline) ended.
func (s *Served) Ready(ctx context.Context) error {
	ctx, cancel := withDefaultDeadline(ctx, 5*time.Second)
	defer cancel()
	if err := s.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("confirm the subscriptions of %s: %w", s.id.Name, err)
	}
	return nil
}

// Drain stops taking requests, waits until those in flight have been answered
// and their replies handed to the server. New callers get UNAVAILABLE (nobody
// serves it) or another replica. When ctx (30s without a deadline) ends first,
// the contexts of the requests in flight end too, and Drain returns an error a
// moment later. The connection stays open. Drain may be called again.
func (s *Served) Drain(ctx context.Context) error {
	ctx, cancel := withDefaultDeadline(ctx, 30*time.Second)
	defer cancel()
	s.once.Do(func() { s.unsubscribe(s.nc.IsConnected()) })
	done := make(chan struct{})
	go func() { // ends with the last request; nobody is left waiting but itself
		s.closing.Wait()
		s.working.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.cancel()
		const grace = time.Second // for what honours its context
		select {
		case <-done:
		case <-time.After(grace):
		}
		return fmt.Errorf("drain %s: %w", s.id.Name, context.Cause(ctx))
	}
	s.cancel()
	if !s.nc.IsConnected() {
		return nil // nowhere to flush to
	}
	if err := s.nc.FlushWithContext(ctx); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("drain %s: flush: %w", s.id.Name, err)
	}
	return nil
}

// unsubscribe ends all subscriptions. Draining them dispatches what the client
// library holds; it needs the server, without which nobody waits for answers.
func (s *Served) unsubscribe(drain bool) {
	for _, sub := range s.subs {
		end := sub.Unsubscribe
		if drain {
			end = sub.Drain
		}
		if err := end(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
			s.log.Warn("subscription not ended", "subject", sub.Subject, "err", err)
		}
	}
}

func withDefaultDeadline(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}
