package gateway

import (
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// pendingSubscribe is a subscribe whose subscription is not known to be live.
type pendingSubscribe struct {
	in    *interest
	id    int64
	topic string
	ok    []byte
}

// subscribe begins a subscription. Those of one array share one round trip to
// the server: settle ends them.
func (c *connection) subscribe(f *wire.Frame) *wire.Error {
	switch {
	case f.Presence != "":
		return wire.Errorf(wire.Unimplemented, "`presence` is served by the presence service, which this gateway does not have yet")
	case f.Cursors:
		return wire.Errorf(wire.Unimplemented, "`cursors` is served by the presence service, which this gateway does not have yet")
	}
	for _, p := range c.pending {
		if p.topic == f.Topic {
			c.settle()
			break
		}
	}
	ok := wire.AppendString([]byte(`{"topic":`), f.Topic)
	if f.HasAfter || f.Last > 0 {
		ok = append(ok, `,"recovered":false`...)
	}
	ok = append(ok, '}')
	if c.topics.of(f.Topic) != nil {
		c.ok(f.ID, ok)
		return nil
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
	c.pending = append(c.pending, pendingSubscribe{in: in, id: f.ID, topic: f.Topic, ok: ok})
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

// settle waits until the pending subscriptions are live on the server, answers
// them, and lets their messages in: the answer precedes every message, and no
// message published after it is missed.
func (c *connection) settle() {
	if len(c.pending) == 0 {
		return
	}
	interests := make([]*interest, len(c.pending))
	for i, p := range c.pending {
		interests[i] = p.in
	}
	ctx, cancel := deadline()
	err := c.g.fanout.waitLive(ctx, interests...)
	cancel()
	for _, p := range c.pending {
		if err != nil {
			c.g.fanout.release(p.in)
			c.fail(p.id, unavailable("NATS did not confirm the subscription in time").With("op", "subscribe").With("topic", p.topic))
			continue
		}
		c.topics = append(c.topics, p.in.join(c, func() { c.ok(p.id, p.ok) }))
	}
	c.pending = nil
}

// unsubscribe ends a subscription; one that is not there is no error.
func (c *connection) unsubscribe(f *wire.Frame) *wire.Error {
	c.drop(f.Topic)
	c.ok(f.ID, nil)
	return nil
}

func (c *connection) drop(topic string) {
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
		if governing, covered := set.Overlapping(in.topic); covered {
			rule = governing[len(governing)-1]
		}
	}
	in.rule.Store(rule)
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
	case src == nil || src.Policy != policy:
		in.source.CompareAndSwap(src, &outbox.Source{Policy: policy})
	}
}
