package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A wildcard may match replayed topics and others. It listens to the topics
// themselves for the others, and to the logs of the replayed ones, and takes
// each topic's messages where the topic's rule puts them.

// followWildcard makes a wildcard's interest listen wherever the rules put
// messages of its topics. New subjects are subscribed before old ones are left;
// whoever listened meanwhile is told that something may be missing.
func (g *Service) followWildcard(in *interest, governing []*rules.Topic, covered bool) error {
	in.flip.Lock()
	defer in.flip.Unlock()
	if in.ended() {
		return nil
	}
	plain := !covered || slices.ContainsFunc(governing, func(r *rules.Topic) bool { return r.Replay == nil })
	logs := slices.ContainsFunc(governing, func(r *rules.Topic) bool { return r.Replay != nil })
	again := in.sub.Load() != nil || in.log.Load() != nil
	added, changed := g.retrack(in, governing)

	if logs && in.log.Load() == nil {
		alias, err := g.cfg.Namespace.Seq(in.topic)
		if err != nil {
			return err
		}
		g.fanout.hub.listen(in, alias)
		if err := g.fanout.subscribe(in, alias, &in.log); err != nil {
			return err
		}
		changed = true
	}
	if plain && in.sub.Load() == nil {
		if err := g.fanout.subscribe(in, in.subject, &in.sub); err != nil {
			return err
		}
		changed = true
	}
	var old []*subscription
	if !plain {
		old = append(old, in.sub.Swap(nil))
	}
	if !logs {
		old = append(old, in.log.Swap(nil))
	}
	for _, t := range added {
		g.mender.spawn(func(ctx context.Context) { g.startStream(ctx, in, t) })
	}
	if !again || !changed && !slices.ContainsFunc(old, func(s *subscription) bool { return s != nil }) {
		return nil
	}
	g.mender.spawn(func(ctx context.Context) {
		waiting, cancel := context.WithTimeout(ctx, flushWait)
		defer cancel()
		if err := g.fanout.waitLive(waiting, in); err != nil {
			g.log.Warn("subscription is not confirmed after a change of rules", "err", err)
		}
		for _, sub := range old {
			if err := g.fanout.end(sub); err != nil {
				g.log.Warn("unsubscribe", "err", err)
			}
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		g.truncateAll(in, in.topic, 1)
	})
	return nil
}

// retrack gives an interest one trail for each stream of its rules. changed
// reports whether there was another before.
func (g *Service) retrack(in *interest, governing []*rules.Topic) (added []*streamTrail, changed bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	var kept []*streamTrail
	for _, rule := range governing {
		filter := wire.IntersectPatterns(rule.Glob(), in.topic)
		if rule.Replay == nil || filter == "" {
			continue
		}
		t := in.track(rule.Name)
		if t == nil || t.filter != filter {
			t = newStreamTrail(rule.Name, rule.Stream(g.cfg.Namespace), filter)
			added = append(added, t)
		}
		kept = append(kept, t)
	}
	for _, t := range in.tracks {
		if !slices.Contains(kept, t) {
			t.release()
			t.finish()
			changed = true
		}
	}
	in.tracks = kept
	return added, changed || len(added) > 0
}

// track returns the trail of a rule's stream, or nil; in.mu is held.
func (in *interest) track(rule string) *streamTrail {
	for _, t := range in.tracks {
		if t.rule == rule {
			return t
		}
	}
	return nil
}

// startStream looks where a stream ends, once the subscription is live, and
// again a moment later (see [Service.start]).
func (g *Service) startStream(ctx context.Context, in *interest, t *streamTrail) {
	waiting, cancel := context.WithTimeout(ctx, flushWait)
	defer cancel()
	if g.fanout.waitLive(waiting, in) == nil || ctx.Err() == nil {
		g.mendStream(ctx, in, t)
	}
	g.checks.add(in, time.Now().Add(followUp))
}

// deliverLogged hands on a message of a replayed topic to those who listen by a
// wildcard. It runs on the shard's goroutine.
func (g *Service) deliverLogged(in *interest, msg *nats.Msg) {
	m, ok := g.logged(msg)
	if !ok {
		return
	}
	at, prev, stored := streams.Stored(msg.Header)
	hint := wire.HeaderValue(msg.Header, wire.HeaderHead)
	in.mu.Lock()
	defer in.mu.Unlock()
	t := in.track(m.rule.Name)
	switch {
	case t == nil:
	case !stored || prev < 0:
		if seq, valid := headOf(hint); valid {
			if t.known && !t.mending && t.owes(seq) {
				g.mendWildcard(in, t)
			}
			return
		}
		g.metrics.malformed.Add(1)
	case t.mending:
		t.hold(held{msg, at, prev})
	default:
		switch t.judge(at, prev) {
		case stepNext:
			m.Position, m.Prev = at, prev
			g.pass(in, t, &m)
		case stepUnproven:
			t.hold(held{msg, at, prev})
			g.mendWildcard(in, t)
		}
	}
}

// loggedMessage is a message of a replayed topic for a wildcard.
type loggedMessage struct {
	wire.ReplayMessage
	topic  string
	rule   *rules.Topic
	marker bool // the topic was cleared
}

// logged reads a message that came from a stream, all but its position; ok is
// false where the topic's rule does not have it replayed.
func (g *Service) logged(msg *nats.Msg) (m loggedMessage, ok bool) {
	topic, ok := g.cfg.Namespace.ParseTopic(msg.Subject)
	if !ok || wire.CheckTopic(topic) != nil {
		g.metrics.malformed.Add(1)
		return m, false
	}
	rule := g.rules.Current().Topic(topic)
	if rule == nil || rule.Replay == nil {
		return m, false
	}
	meta := wire.ParseMeta(msg.Header)
	m = loggedMessage{topic: topic, rule: rule, marker: streams.Marker(msg.Header)}
	m.Event, m.Payload, m.User, m.Exclude = meta.Event, msg.Data, meta.User, meta.Exclude
	return m, true
}

// pass hands a message to the members; in.mu is held.
func (g *Service) pass(in *interest, t *streamTrail, m *loggedMessage) {
	t.pass(m.Position)
	g.metrics.messages.Add(1)
	if m.marker {
		g.truncateAll(in, m.topic, 1)
		return
	}
	frame := frameOf(m.topic, &m.ReplayMessage, m.rule)
	source := in.source.Load()
	n := 0
	for _, to := range in.members {
		if m.Exclude == "" || m.Exclude != to.conn.id {
			to.conn.out.Deliver(frame, source)
			n++
		}
	}
	g.metrics.deliveries.Add(int64(n))
}

// truncateAll tells every member that messages of a topic, or of a wildcard,
// are gone; in.mu is held.
func (g *Service) truncateAll(in *interest, topic string, from int64) {
	if len(in.members) == 0 {
		return
	}
	g.metrics.truncations.Add(1)
	frame := wire.AppendTruncated(nil, topic, from)
	for _, to := range in.members {
		to.conn.out.Send(frame)
	}
}
