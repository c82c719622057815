package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// shareEvery is how often a gateway shares what is published on it, unless
	// the configuration says otherwise.
	shareEvery = 5 * time.Second
	// mergePause is between two sums over all gateways.
	mergePause = 50 * time.Millisecond
	// stopWait is how long the endpoints may take to end.
	stopWait   = time.Second
	defaultTop = 20
)

// top knows what clients publish to which topics: on this gateway by counting,
// on all of them by what they share with each other.
type top struct {
	g      *Service
	counts *topicCounts
	every  time.Duration
	wake   chan struct{} // has an element when the table changed

	merged atomic.Pointer[clusterRates]

	mu    sync.Mutex
	table *rateTable
	own   []wire.TopicRate // as it was shared last

	shared, received  atomic.Int64
	echoes, malformed atomic.Int64
	ignored           atomic.Int64 // of gateways for which there was no room

	saying sync.Mutex // around what is published
	left   bool       // the last of it was; guarded by saying
}

func newTop(g *Service) *top {
	every, life := g.cfg.RatesEvery, g.cfg.RatesLife
	if every == 0 {
		every = shareEvery
	}
	if life == 0 {
		life = sliceLife
	}
	t := &top{g: g, counts: newTopicCounts(time.Now()), every: every, wake: make(chan struct{}, 1), table: newRateTable(g.id, life)}
	t.merged.Store(&clusterRates{})
	return t
}

// rates returns what is known of all gateways.
func (t *top) rates() *clusterRates { return t.merged.Load() }

// subscribe hears what other gateways share.
func (t *top) subscribe(nc *nats.Conn) error {
	sub, err := nc.Subscribe(t.g.cfg.Namespace.TopicRates(), func(msg *nats.Msg) { t.hear(msg.Data, time.Now()) })
	if err != nil {
		return fmt.Errorf("subscribe to topic rates: %w", err)
	}
	// What waits is of no use for longer than the next one takes to come.
	return sub.SetPendingLimits(2*slicesMost, 16<<20)
}

// hear takes what a gateway shares.
func (t *top) hear(data []byte, now time.Time) {
	var r wire.TopicRates
	if json.Unmarshal(data, &r) != nil || !checkRates(&r) {
		t.malformed.Add(1)
		return
	}
	if r.Gateway == t.g.id {
		t.echoes.Add(1)
		return
	}
	t.received.Add(1)
	t.mu.Lock()
	if r.Leaving {
		t.table.drop(r.Gateway)
	} else if !t.table.put(r.Gateway, r.Topics, now) {
		t.ignored.Add(1)
	}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// run shares what is published here, and sums up what all share, until ctx is
// done.
func (t *top) run(ctx context.Context) {
	share := time.NewTicker(t.every)
	defer share.Stop()
	look := time.NewTicker(min(t.every, time.Second))
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-share.C:
			t.share(now)
			t.merge()
		case now := <-look.C:
			t.mu.Lock()
			gone := t.table.expire(now)
			t.mu.Unlock()
			if gone {
				t.merge()
			}
		case <-t.wake:
			t.merge()
			_ = clock.Sleep(ctx, mergePause) // ends with ctx
		}
	}
}

func (t *top) merge() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.merged.Store(t.table.merge())
}

// share says to all gateways, this one too, what is published here.
func (t *top) share(now time.Time) {
	topics := t.slice(now)
	t.mu.Lock()
	t.own = topics
	t.table.put(t.g.id, topics, now)
	t.mu.Unlock()
	t.publish(wire.TopicRates{Gateway: t.g.id, At: now.UnixMilli(), Topics: topics})
}

// stop ends the endpoints, and says that this gateway has nothing to share any
// more.
func (t *top) stop(served *bus.Served) {
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	if err := served.Drain(ctx); err != nil { // NATS is slow or gone: whoever asked asks another gateway
		t.g.log.Debug("endpoints not drained", "err", err)
	}
	t.publish(wire.TopicRates{Gateway: t.g.id, At: time.Now().UnixMilli(), Topics: []wire.TopicRate{}, Leaving: true})
}

func (t *top) publish(r wire.TopicRates) {
	data, err := json.Marshal(r)
	if err != nil {
		return
	}
	t.saying.Lock()
	defer t.saying.Unlock()
	if t.left {
		return
	}
	t.left = r.Leaving
	if err := t.g.requests.Publish(t.g.cfg.Namespace.TopicRates(), data); err == nil {
		t.shared.Add(1)
	}
}

// slice is what this gateway has to say: of the topics that are at the top here,
// by messages or by subscribers, and of those that are at the top of all.
func (t *top) slice(now time.Time) []wire.TopicRate {
	wanted := map[string]*wire.TopicRate{}
	for _, r := range t.rates().top(topMost) {
		wanted[r.Topic] = &wire.TopicRate{Topic: r.Topic}
	}
	most := best{n: sliceTopics, order: byRate}
	t.counts.sample(now, func(r wire.TopicRate) {
		if w := wanted[r.Topic]; w != nil {
			*w = r
		}
		most.add(r)
	})
	for _, r := range most.kept {
		wanted[r.Topic] = &r
	}
	crowd := best{n: sliceTopics, order: bySubscribers}
	t.g.fanout.hub.all(func(in *interest) {
		if in.kind != kindTopic {
			return
		}
		n := int64(in.count())
		if w := wanted[in.topic]; w != nil {
			w.Subscribers = n
		} else if n > 0 {
			crowd.add(wire.TopicRate{Topic: in.topic, Subscribers: n})
		}
	})
	topics := crowd.kept
	for _, r := range wanted {
		if r.Messages > 0 || r.Subscribers > 0 {
			topics = append(topics, *r)
		}
	}
	return topics
}

// now returns the n topics that this gateway's clients publish to most at the
// moment.
func (t *top) now(n int, now time.Time) []wire.TopicRate {
	most := best{n: n, order: byRate}
	if t.counts.look(now, most.add) < t.every/5 { // too short to say: as it was shared
		most.kept = nil
		t.mu.Lock()
		for _, r := range t.own {
			if r.Messages > 0 {
				most.add(r)
			}
		}
		t.mu.Unlock()
	}
	if most.kept == nil {
		return []wire.TopicRate{}
	}
	return most.kept
}

// size returns how many gateways are summed up.
func (t *top) size() int { return t.rates().gateways }

// endpoints are what the gateways answer to whoever asks any of them.
func (t *top) endpoints() []bus.Endpoint {
	at := func(name string) string { return t.g.cfg.Namespace.Svc("gateway", name) }
	return []bus.Endpoint{
		bus.Handle("top", at("top"), t.Top),
		bus.Handle("rate", at("rate"), t.Rate),
		bus.Handle("subscribers", at("subscribers"), t.Subscribers),
	}
}

// serve answers requests on nc; the caller drains it.
func (t *top) serve(nc *nats.Conn) (*bus.Served, error) {
	return bus.Serve(nc, bus.Service{
		Name: "fairlead-gateway", Version: t.g.deps.Version, Description: "What is published by the clients of all gateways",
		Metadata: map[string]string{"gateway": t.g.id},
	}, bus.ServeConfig{Guard: &t.g.guard, Log: t.g.deps.Log}, t.endpoints()...)
}

// Top returns the topics that clients publish to most.
func (t *top) Top(_ context.Context, req wire.TopRequest) (wire.Top, error) {
	switch {
	case req.Limit < 0 || req.Limit > topMost:
		return wire.Top{}, wire.InvalidField("limit", fmt.Sprintf("an integer from 1 to %d", topMost))
	case req.Limit == 0:
		req.Limit = defaultTop
	}
	r := t.rates()
	top := r.top(req.Limit)
	if top == nil {
		top = []wire.TopicRate{}
	}
	return wire.Top{Topics: top, Gateways: r.gateways}, nil
}

// Rate returns how much clients publish to a topic: zeros where it is not among
// those that gateways share.
func (t *top) Rate(_ context.Context, req wire.TopicRequest) (wire.TopicRate, error) {
	if err := wire.CheckTopic(req.Topic); err != nil {
		return wire.TopicRate{}, err
	}
	return t.rates().of(req.Topic), nil
}

// Subscribers returns how many connections are subscribed to a topic: 0 where it
// is not among those that gateways share.
func (t *top) Subscribers(_ context.Context, req wire.TopicRequest) (wire.TopicSubscribers, error) {
	if err := wire.CheckTopic(req.Topic); err != nil {
		return wire.TopicSubscribers{}, err
	}
	return wire.TopicSubscribers{Topic: req.Topic, Subscribers: t.rates().of(req.Topic).Subscribers}, nil
}
