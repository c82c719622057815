package gateway

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// pendingSubscribe is a subscribe whose subscription is not known to be live.
type pendingSubscribe struct {
	in       *interest
	id       int64
	topic    string
	after    wire.Position
	hasAfter bool
	last     int
	presence string
	data     []byte
	cursors  bool
}

// subscribe begins a subscription. Those of one array share one round trip to
// the server: settle ends them.
func (c *connection) subscribe(f *wire.Frame) *wire.Error {
	if err := c.mayAttend(f); err != nil {
		return err
	}
	if err := c.mayWatchCursors(f); err != nil {
		return err
	}
	for _, p := range c.pending {
		if p.topic == f.Topic {
			c.settle()
			break
		}
	}
	if f.HasAfter && wire.IsPattern(f.Topic) {
		return wire.InvalidField("after", "not together with a wildcard")
	}
	if f.Last > 0 && wire.IsPattern(f.Topic) {
		return wire.InvalidField("last", "not together with a wildcard")
	}
	if m := c.topics.of(f.Topic); m != nil {
		id, refused := f.ID, c.refused(f)
		showCursors, err := c.replaceCursors(f)
		if err != nil {
			return err
		}
		err = c.replacePresence(f, func(err *wire.Error) {
			showCursors(err == nil, func() {
				if err != nil {
					refused(err)
				} else {
					c.ok(id, m.again())
				}
			})
		})
		if err != nil {
			showCursors(false, func() {})
		}
		return err
	}
	if limit := c.g.cfg.Limits.TopicsPerConnection; len(c.topics)+len(c.pending) >= limit {
		c.g.metrics.limited.Add(1)
		return (&wire.Error{Code: wire.ResourceExhausted, Message: "too many subscriptions on this connection", RetryAfter: wire.Never}).With("limit", limit)
	}
	if !c.g.link.up() {
		return unavailable("NATS is away: nothing can be subscribed")
	}
	subject, err := c.g.cfg.Namespace.Topic(f.Topic)
	if err != nil {
		return wire.AsError(err)
	}
	if err := c.settlePublished(); err != nil {
		return err
	}
	k := kindTopic
	if wire.IsPattern(f.Topic) {
		k = kindPattern
	}
	in, err := c.g.fanout.acquire(k, subject, f.Topic)
	if err != nil {
		c.g.log.Warn("subscribe", "err", err)
		return unavailable("NATS did not take the subscription")
	}
	c.g.govern(in)
	c.pending = append(c.pending, pendingSubscribe{
		in: in, id: f.ID, topic: f.Topic,
		after: wire.Position{Seq: f.After, Ts: f.Ts}, hasAfter: f.HasAfter, last: int(f.Last),
		presence: f.Presence, data: f.Data, cursors: f.Cursors,
	})
	return nil
}

// settlePublished waits until the server has what the connection published:
// that goes another way than a subscription, which must not overtake it.
func (c *connection) settlePublished() *wire.Error {
	if !c.unsettled {
		return nil
	}
	ctx, cancel := deadline()
	defer cancel()
	if err := c.g.sent.wait(ctx); err != nil {
		return unavailable("NATS did not confirm what was published before, in time")
	}
	c.unsettled = false
	return nil
}

// again is the answer to a subscribe of a topic that is subscribed already: the
// position that has been reached.
func (m *member) again() []byte {
	m.in.mu.Lock()
	defer m.in.mu.Unlock()
	r := resumption{}
	if t := m.in.trail; t != nil {
		r.from, r.known = t.at, t.known
	}
	if m.catch != nil {
		r.from, r.known = m.catch.at, true
	}
	return r.subscribed(m.in.topic)
}

// settle waits until the pending subscriptions are live on the server, answers
// them, and lets their messages in: the answer precedes every message, and no
// message published after it is missed.
func (c *connection) settle() {
	if len(c.pending) == 0 {
		return
	}
	pending := c.pending
	c.pending = nil
	interests := make([]*interest, len(pending))
	for i, p := range pending {
		interests[i] = p.in
	}
	ctx, cancel := deadline()
	defer cancel()
	if err := c.g.fanout.waitLive(ctx, interests...); err != nil {
		for _, p := range pending {
			c.g.fanout.release(p.in)
			c.fail(p.id, unavailable("NATS did not confirm the subscription in time").With("op", "subscribe").With("topic", p.topic))
		}
		return
	}
	pending = c.joinAll(pending)
	looking, stop := context.WithTimeout(context.Background(), resumeWait)
	defer stop()
	for len(pending) > 0 { // a few at a time: each may hold a page of the past
		some := pending[:min(len(pending), prepareAtOnce)]
		pending = pending[len(some):]
		for i, r := range c.prepareAll(looking, some) {
			c.topics = append(c.topics, c.attach(&some[i], r))
			c.observe(&some[i])
			if some[i].cursors {
				c.watchCursors(some[i].topic)
			}
		}
	}
}

// resumeWait bounds how long subscriptions wait for the past that they begin
// with, while many others do.
const resumeWait = 10 * time.Second

// prepareAtOnce bounds how many topics of one array are looked up at a time.
const prepareAtOnce = 16

// prepareAll finds out how each of several subscriptions begins.
func (c *connection) prepareAll(ctx context.Context, pending []pendingSubscribe) []*resumption {
	out := make([]*resumption, len(pending))
	if len(pending) == 1 {
		out[0] = c.g.prepare(ctx, pending[0].in, &pending[0])
		return out
	}
	var group errgroup.Group
	group.SetLimit(prepareAtOnce)
	for i := range pending {
		if !pending[i].in.logged() {
			out[i] = c.g.prepare(ctx, pending[i].in, &pending[i])
			continue
		}
		group.Go(func() error {
			out[i] = c.g.prepare(ctx, pending[i].in, &pending[i])
			return nil
		})
	}
	_ = group.Wait() // none of them fails: what can't be had is in their answers
	return out
}

// logged reports whether an interest follows a replayed topic.
func (in *interest) logged() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.trail != nil
}

// unsubscribe ends a subscription; one that is not there is no error.
func (c *connection) unsubscribe(f *wire.Frame) *wire.Error {
	c.drop(f.Topic)
	c.ok(f.ID, nil)
	return nil
}

func (c *connection) drop(topic string) {
	c.unattend(topic)
	c.g.cursors.leave(c, topic)
	if m := c.topics.remove(topic); m != nil {
		m.in.leave(m)
		c.g.fanout.release(m.in)
	}
}

// govern gives an interest the rule of its topic: whether messages show their
// publisher, and what becomes of them on a slow connection. It looks again
// where the rules changed meanwhile: whoever stores last must not store the
// old ones.
func (g *Service) govern(in *interest) {
	for set := (*rules.Set)(nil); set != g.rules.Current(); {
		set = g.rules.Current()
		g.governBy(in, set)
	}
}

func (g *Service) governBy(in *interest, set *rules.Set) {
	var rule *rules.Topic
	switch in.kind {
	case kindTopic:
		rule = set.Topic(in.topic)
	case kindPattern:
		governing, covered := set.Overlapping(in.topic)
		if covered {
			rule = governing[len(governing)-1]
		}
		if err := g.followWildcard(in, governing, covered); err != nil {
			g.log.Warn("subscribe", "err", err)
		}
	}
	in.rule.Store(rule)
	if in.kind == kindTopic {
		g.follow(in, rule)
	}
	policy := outbox.Disconnect
	if rule != nil {
		switch rule.Slow {
		case rules.DropOldest:
			policy = outbox.DropOldest
		case rules.Conflate:
			policy = outbox.Conflate
		}
	}
	switch src := in.source.Load(); {
	case policy == outbox.Disconnect:
		in.source.Store(nil) // what no source means, without one per topic
	case src == nil || src.Policy != policy || (src.Skip != nil) != in.replays.Load():
		// On a replayed topic what a slow connection loses leaves its position.
		next := &outbox.Source{Policy: policy}
		if in.replays.Load() {
			next.Skip = func(dst []byte, from, to outbox.Mark) []byte {
				return wire.AppendSkip(dst, in.topic, to.Seq, from.Prev, to.Ts)
			}
		}
		in.source.CompareAndSwap(src, next)
	}
}
