package gateway

import (
	"context"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// deliver hands a message from NATS to the connections that listen. It runs on
// a shard's goroutine: it encodes once, queues, and never blocks.
func (g *Service) deliver(in *interest, msg *nats.Msg) {
	switch in.kind {
	case kindTopic, kindPattern:
		if in.kind == kindTopic && in.replays.Load() {
			g.deliverReplayed(in, msg)
			return
		}
		if in.kind == kindPattern && msg.Sub == in.log.Load() {
			g.deliverLogged(in, msg)
			return
		}
		g.deliverTopic(in, msg)
	case kindPresence:
		g.deliverPresence(in, msg)
	case kindGroup:
		g.deliverGroup(in, msg)
	case kindGroupEntry:
		g.deliverGroupEntry(in, msg)
	default:
		if in.kind == kindConn && msg.Reply != "" {
			g.ask(in, msg)
			return
		}
		g.deliverDirect(in, msg)
	}
}

func (g *Service) deliverTopic(in *interest, msg *nats.Msg) {
	topic, rule := in.topic, in.rule.Load()
	if in.kind == kindPattern {
		var ok bool
		if topic, ok = g.cfg.Namespace.ParseTopic(msg.Subject); !ok || wire.CheckTopic(topic) != nil {
			g.metrics.malformed.Add(1)
			return
		}
		if rule = g.rules.Current().Topic(topic); rule != nil && rule.Replay != nil {
			return // it comes from the topic's log
		}
	}
	meta := wire.ParseMeta(msg.Header)
	m := wire.Message{Topic: topic, Event: meta.Event, Payload: msg.Data}
	if rule != nil && rule.From {
		m.From = meta.User
	}
	if g.tracer.On() {
		defer g.trace("deliver", msg.Header)()
	}
	frame := wire.AppendMessage(make([]byte, 0, len(msg.Data)+len(topic)+len(meta.Event)+len(m.From)+64), &m)
	source := in.source.Load()
	g.metrics.messages.Add(1)
	var n int
	if meta.Exclude == "" {
		n = in.eachOf(msg.Sub, func(c *connection) { c.out.Deliver(frame, source) })
	} else {
		n = in.eachOf(msg.Sub, func(c *connection) {
			if c.id != meta.Exclude {
				c.out.Deliver(frame, source)
			}
		})
	}
	g.metrics.deliveries.Add(int64(n))
}

// deliverDirect hands a message for a user or a connection to its sockets.
func (g *Service) deliverDirect(in *interest, msg *nats.Msg) {
	meta := wire.ParseMeta(msg.Header)
	m := wire.Message{Topic: meta.Topic, Event: meta.Event, Payload: msg.Data, From: meta.User, Direct: true}
	if g.tracer.On() {
		defer g.trace("deliver direct", msg.Header)()
	}
	frame := wire.AppendMessage(make([]byte, 0, len(msg.Data)+len(meta.Topic)+len(meta.Event)+80), &m)
	g.metrics.messages.Add(1)
	n := in.each(func(c *connection) {
		if c.id != meta.Exclude {
			c.out.Send(frame)
		}
	})
	g.metrics.deliveries.Add(int64(n))
}

// trace begins a span for a message that came with a trace, as its child; a
// message without one costs nothing.
func (g *Service) trace(name string, h nats.Header) (end func()) {
	if wire.HeaderValue(h, wire.HeaderTrace) == "" {
		return func() {}
	}
	_, span := g.tracer.Start(bus.Extract(context.Background(), h), name, trace.SpanKindConsumer)
	return func() { span.End() }
}
