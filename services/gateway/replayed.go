package gateway

import (
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// skip is the stretch of a topic that was withheld from a connection: from the
// message behind prev up to at.
type skip struct {
	prev int64
	at   wire.Position
}

// deliverReplayed hands a message of a replayed topic on, if it is the next one.
// It runs on the shard's goroutine. What does not continue the trail waits
// until it is mended.
func (g *Service) deliverReplayed(in *interest, msg *nats.Msg) {
	at, prev, ok := streams.Stored(msg.Header)
	if !ok || prev < 0 {
		if head := wire.HeaderValue(msg.Header, wire.HeaderHead); head != "" {
			g.hinted(in, head)
			return
		}
		g.metrics.malformed.Add(1)
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	t := in.trail
	if t == nil {
		return
	}
	if t.mending {
		t.hold(held{msg, at, prev})
		return
	}
	switch t.judge(at, prev) {
	case stepNext:
		g.advance(in, msg, at, prev)
	case stepUnproven:
		t.mending = true
		t.hold(held{msg, at, prev})
		g.mend(in)
	}
}

// advance delivers a message that continues the trail; in.mu is held.
func (g *Service) advance(in *interest, msg *nats.Msg, at wire.Position, prev int64) {
	meta := wire.ParseMeta(msg.Header)
	if g.tracer.On() {
		defer g.trace("deliver", msg.Header)()
	}
	m := wire.ReplayMessage{Position: at, Prev: prev, Event: meta.Event, Payload: msg.Data, User: meta.User, Exclude: meta.Exclude}
	if streams.Marker(msg.Header) {
		g.cleared(in, &m)
		return
	}
	g.step(in, &m)
}

// step delivers a message and moves the trail behind it; in.mu is held.
func (g *Service) step(in *interest, m *wire.ReplayMessage) {
	e := trailed{at: m.Position, prev: m.Prev, frame: frameOf(in.topic, m, in.rule.Load()), exclude: m.Exclude}
	in.trail.push(e)
	source := in.source.Load()
	var mark *outbox.Mark
	if source != nil {
		mark = &outbox.Mark{Seq: e.at.Seq, Prev: e.prev, Ts: e.at.Ts}
	}
	g.metrics.messages.Add(1)
	n := 0
	for _, to := range in.members {
		if to.ahead.Seq >= e.at.Seq {
			continue
		}
		if e.exclude != "" && e.exclude == to.conn.id {
			g.withhold(to, e)
			continue
		}
		g.passOn(to, e, source, mark)
		n++
	}
	g.metrics.deliveries.Add(int64(n))
}

// frameOf encodes a message of a replayed topic.
func frameOf(topic string, m *wire.ReplayMessage, rule *rules.Topic) []byte {
	out := wire.Message{Topic: topic, Event: m.Event, Payload: m.Payload, Seq: m.Seq, Prev: m.Prev, Ts: m.Ts}
	if rule != nil && rule.From {
		out.From = m.User
	}
	return wire.AppendMessage(make([]byte, 0, len(m.Payload)+len(topic)+len(m.Event)+len(out.From)+128), &out)
}

// passOn queues a message for a member, behind what was withheld before it.
func (g *Service) passOn(to *member, e trailed, source *outbox.Source, mark *outbox.Mark) {
	to.sendSkip()
	to.conn.out.DeliverAt(e.frame, source, mark)
}

// withhold notes a message that a member does not get. Its position is sent
// before the next one that it gets, or a moment later.
func (g *Service) withhold(to *member, e trailed) {
	if to.skip == nil {
		to.skip = &skip{prev: e.prev}
		to.in.skipped = append(to.in.skipped, to)
		if len(to.in.skipped) == 1 {
			g.skips.add(to.in)
		}
	}
	to.skip.at = e.at
}

// sendSkip sends what was withheld; in.mu is held.
func (m *member) sendSkip() {
	if m.skip == nil {
		return
	}
	s := m.skip
	m.skip = nil
	frame := wire.AppendSkip(nil, m.in.topic, s.at.Seq, s.prev, s.at.Ts)
	if source := m.in.source.Load(); source != nil { // behind what a slow connection lost before
		m.conn.out.DeliverAt(frame, source, &outbox.Mark{Seq: s.at.Seq, Prev: s.prev, Ts: s.at.Ts})
		return
	}
	m.conn.out.Send(frame)
}

// cleared handles the marker behind which a topic was emptied: positions before
// it are worth nothing any more. in.mu is held.
func (g *Service) cleared(in *interest, m *wire.ReplayMessage) {
	from := in.trail.at.Seq + 1
	in.trail.reset(m.Position)
	g.truncate(in, from, m.Position, m.Position, m.Prev)
}

// truncate tells every member that messages are gone, and moves them on to at;
// those who have had first, the message behind the hole, have heard of it, or
// had what is gone. in.mu is held.
func (g *Service) truncate(in *interest, from int64, first, at wire.Position, prev int64) {
	g.metrics.truncations.Add(1)
	frame := wire.AppendTruncated(nil, in.topic, from)
	var move []byte
	if at.Seq > 0 && at.Ts > 0 {
		move = wire.AppendSkip(nil, in.topic, at.Seq, prev, at.Ts)
	}
	for _, to := range in.members {
		if first.Ts > 0 && to.ahead.Seq >= first.Seq && to.ahead.Ts >= first.Ts {
			continue
		}
		to.skip, to.ahead = nil, wire.Position{}
		to.conn.out.Send(frame)
		if move != nil {
			to.conn.out.Send(move)
		}
	}
}
