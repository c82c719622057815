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
	case kindCursor:
		g.cursors.hear(in.topic, msg)
	case kindGroup:
		g.deliverGroup(in, msg)
	case kindGroupEntry:
		g.deliverGroupEntry(in, msg)
	default:
		if g.asksOnly(in, msg) {
			return
		}
		if err := g.deliverDirect(in, msg); err != nil {
			g.undeliverable(msg, err)
			return
		}
		g.tellReached(in, msg)
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
	m := wire.Message{Topic: topic}
	if rule != nil && rule.From {
		m.From = meta.User
	}
	if g.tracer.On() {
		defer g.trace("deliver", msg.Header)()
	}
	p, err := g.pack(&m, &meta, msg, in.source.Load())
	if err != nil {
		return // counted: a topic has nobody to tell
	}
	g.metrics.messages.Add(1)
	n := in.eachOf(msg.Sub, p.to)
	g.metrics.deliveries.Add(int64(n * p.size()))
}

// deliverDirect hands a message for a user or a connection to its sockets. The
// error is of one that can't be delivered.
func (g *Service) deliverDirect(in *interest, msg *nats.Msg) *wire.Error {
	meta := wire.ParseMeta(msg.Header)
	m := wire.Message{Topic: meta.Topic, From: meta.User, Direct: true}
	if g.tracer.On() {
		defer g.trace("deliver direct", msg.Header)()
	}
	p, err := g.pack(&m, &meta, msg, nil)
	if err != nil {
		return err
	}
	g.metrics.messages.Add(1)
	n := in.each(p.to)
	g.metrics.deliveries.Add(int64(n * p.size()))
	return nil
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
