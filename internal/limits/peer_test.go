package limits

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	ns       = wire.Namespace("fl")
	patience = 10 * time.Second
)

// peer answers as replicas of the ratelimit service do, from a map that it shares
// with its neighbours.
type peer struct {
	t  *testing.T
	id string
	nc *nats.Conn
	*shelf
	served *bus.Served

	mu       sync.Mutex
	asked    []wire.LimitRequest      // guarded by mu, like all below
	held     chan struct{}            // answers wait until it is closed; nil: they don't
	stuck    map[string]chan struct{} // those about a key do
	codes    map[string][]wire.Code   // of a batch: what a key is answered in turn, before it is decided about
	newest   bool                     // claim that every answer is the newest
	refuses  bool                     // answer that it cannot count
	decided  chan struct{}            // gets an element for each answer that is held
	stopping bool
	left     bool
}

// shelf is what peers count on.
type shelf struct {
	limits []*rules.Limit

	mu       sync.Mutex
	buckets  map[[2]string]Bucket // guarded by mu, like all below
	revision uint64
}

func newShelf(limits ...*rules.Limit) *shelf {
	return &shelf{limits: limits, buckets: map[[2]string]Bucket{}, revision: 100}
}

func connect(t *testing.T, s *natsdev.Server) *nats.Conn {
	t.Helper()
	nc, err := bus.Connect(t.Context(), bus.Config{URL: s.ClientURL(), Name: t.Name()}, bus.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func newPeer(t *testing.T, s *natsdev.Server, id string, shelf *shelf) *peer {
	t.Helper()
	p := &peer{t: t, id: id, nc: connect(t, s), shelf: shelf, decided: make(chan struct{}, 1000)}
	direct := bus.Handle("direct", ns.LimitConsume(id), p.consume)
	served, err := bus.Serve(p.nc, bus.Service{Name: "peer", Version: "1.0.0"}, bus.ServeConfig{Workers: 1000},
		direct, bus.Handle("consume", ns.Svc("ratelimit", "consume"), p.consume))
	if err != nil {
		t.Fatal(err)
	}
	p.served = served
	if err := served.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}

// stop ends its subscriptions without a word.
func (p *peer) stop() {
	p.mu.Lock()
	again := p.stopping
	p.stopping = true
	p.mu.Unlock()
	if again {
		return
	}
	p.release()
	p.mu.Lock()
	for key, held := range p.stuck {
		close(held)
		delete(p.stuck, key)
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.served.Drain(ctx); err != nil {
		p.t.Errorf("drain %s: %v", p.id, err)
	}
}

// announce says that it is there, or that it goes: after that nothing more.
func (p *peer) announce(leaving bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left || p.stopping {
		return
	}
	p.left = leaving
	p.say(ns.LimitReplicas(), wire.LimitReplica{ID: p.id, Leaving: leaving})
}

func (p *peer) say(subject string, what any) {
	body, err := json.Marshal(what)
	if err == nil {
		err = p.nc.Publish(subject, body)
	}
	if err == nil {
		err = p.nc.Flush()
	}
	if err != nil {
		p.t.Error(err)
	}
}

// reset fills a bucket, and tells.
func (p *peer) reset(limit *rules.Limit, key string) {
	p.shelf.mu.Lock()
	delete(p.buckets, [2]string{limit.Name, key})
	p.revision++
	change := wire.LimitChange{Policy: limit.Name, Key: key, Revision: p.revision}
	p.shelf.mu.Unlock()
	p.say(ns.LimitChanges(), change)
}

// hold keeps every answer back that is decided from now on.
func (p *peer) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = make(chan struct{})
}

func (p *peer) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// holdKey keeps every answer back that is about a key, until the returned function
// is called.
func (p *peer) holdKey(key string) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stuck == nil {
		p.stuck = map[string]chan struct{}{}
	}
	p.stuck[key] = make(chan struct{})
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		close(p.stuck[key])
		delete(p.stuck, key)
	}
}

// mute ends what it says of itself.
func (p *peer) mute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = true
}

// requests are what it was asked so far.
func (p *peer) requests() []wire.LimitRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]wire.LimitRequest(nil), p.asked...)
}

func (p *peer) consume(_ context.Context, req wire.LimitRequest) (wire.LimitReply, error) {
	p.mu.Lock()
	p.asked = append(p.asked, req)
	refuses := p.refuses
	p.mu.Unlock()
	if refuses {
		return wire.LimitReply{}, wire.Errorf(wire.Unavailable, "it cannot count").With("outcome", "none")
	}
	decided := req
	decided.Batch = nil
	coded := map[int]wire.Code{}
	p.mu.Lock()
	for i, t := range req.Batch {
		if codes := p.codes[t.Key]; len(codes) > 0 {
			coded[i], p.codes[t.Key] = codes[0], codes[1:]
		} else {
			decided.Batch = append(decided.Batch, t)
		}
	}
	p.mu.Unlock()
	reply, err := p.decide(decided)
	for i := range req.Batch {
		if code, ok := coded[i]; ok && err == nil {
			reply.Batch = slices.Insert(reply.Batch, i, wire.LimitVerdict{Code: code})
		}
	}
	p.mu.Lock()
	held := p.held
	for _, t := range req.Batch {
		if stuck := p.stuck[t.Key]; stuck != nil {
			held = stuck
		}
	}
	if p.newest {
		for i := range reply.Batch {
			reply.Batch[i].Revision = math.MaxInt64
		}
	}
	p.mu.Unlock()
	if held != nil {
		p.decided <- struct{}{}
		<-held // whether or not somebody waits for it still
	}
	return reply, err
}

func (s *shelf) decide(req wire.LimitRequest) (reply wire.LimitReply, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, list := range [][]wire.LimitTake{req.Takes, req.Batch} {
		for _, t := range list {
			if s.limit(t.Policy) == nil {
				return reply, wire.Errorf(wire.NotFound, "the rules have no such limit")
			}
		}
	}
	for _, t := range req.Batch {
		v := wire.LimitVerdict{}
		for range max(t.N, 1) {
			b, verdict := s.take(t, now)
			if verdict.Allowed {
				verdict.Granted = v.Granted + 1
			} else {
				verdict.Granted = v.Granted
			}
			v = verdict
			s.buckets[[2]string{t.Policy, t.Key}] = b
		}
		v.Revision = s.revision
		reply.Batch = append(reply.Batch, v)
	}
	reply.Allowed = true
	after := map[[2]string]Bucket{}
	for _, t := range req.Takes {
		b, again := after[[2]string{t.Policy, t.Key}]
		if !again {
			b = s.buckets[[2]string{t.Policy, t.Key}]
		}
		b, v := s.takeFrom(b, t, now)
		v.Revision = s.revision
		after[[2]string{t.Policy, t.Key}] = b
		reply.Takes = append(reply.Takes, v)
		reply.Allowed = reply.Allowed && v.Allowed
	}
	for k, b := range after {
		if reply.Allowed {
			s.buckets[k] = b
		}
	}
	return reply, nil
}

func (s *shelf) limit(name string) *rules.Limit {
	for _, l := range s.limits {
		if l.Name == name {
			return l
		}
	}
	return nil
}

func (s *shelf) take(t wire.LimitTake, now time.Time) (Bucket, wire.LimitVerdict) {
	return s.takeFrom(s.buckets[[2]string{t.Policy, t.Key}], t, now)
}

func (s *shelf) takeFrom(b Bucket, t wire.LimitTake, now time.Time) (Bucket, wire.LimitVerdict) {
	limit := s.limit(t.Policy)
	p := PolicyOf(limit)
	b, v := p.Take(b, *t.Cost, now)
	if v.Allowed {
		s.revision++
	}
	verdict := wire.LimitVerdict{
		Allowed: v.Allowed, Banned: v.Banned, Remaining: v.Remaining, Limit: p.Capacity,
		ResetMs: int64(wire.RetryAfterOf(v.Reset)), Version: limit.Version(),
	}
	if !v.Allowed {
		verdict.RetryAfterMs = wire.RetryAfterOf(v.RetryAfter)
	}
	return b, verdict
}

// asker is a client that is running, on a clock of its own for what it remembers.
type asker struct {
	*Client
	nc    *nats.Conn
	mu    sync.Mutex
	ahead time.Duration // guarded by mu
}

func (a *asker) now() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Add(a.ahead)
}

func (a *asker) pass(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ahead += d
}

// newAsker returns a client that knows these replicas.
func newAsker(t *testing.T, s *natsdev.Server, peers ...*peer) *asker {
	t.Helper()
	a := &asker{nc: connect(t, s)}
	a.Client = NewClient(Config{NATS: a.nc, Namespace: ns, Remember: true, Now: a.now})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	eventually(t, "changes to be heard", a.hearing)
	stop := keepAnnouncing(t, peers)
	t.Cleanup(stop)
	eventually(t, "the replicas", func() bool { return a.Counts().Replicas == int64(len(peers)) })
	return a
}

func (a *asker) hearing() bool {
	a.Client.mu.Lock()
	defer a.Client.mu.Unlock()
	return a.hears
}

// keepAnnouncing has replicas say that they are there until they stop.
func keepAnnouncing(t *testing.T, peers []*peer) (stop func()) {
	say := func() {
		for _, p := range peers {
			p.announce(false)
		}
	}
	say()
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				say()
			}
		}
	}()
	return func() { close(done); <-ended }
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// await receives from ch, or fails the test.
func await[T any](t *testing.T, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("waited %s for %s", patience, what)
	}
	return v
}
