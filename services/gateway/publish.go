package gateway

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// publication is a message on its way to NATS. Only what stands here becomes a
// header: nothing a client sends does by itself.
type publication struct {
	subject string
	event   string
	data    []byte // raw JSON; nil: null
	user    string
	conn    string // "": not from a connection
	exclude string // connection that does not get it
	topic   string // Fl-Topic of a direct message
}

// publish hands a message to NATS and answers when it is there.
func (c *connection) publish(f *wire.Frame) *wire.Error {
	if err := c.publishOne(f.Topic, f.Event, f.Data, f.NoEcho); err != nil {
		return err
	}
	c.ok(f.ID, nil)
	return nil
}

func (c *connection) publishOne(topic, event string, data []byte, noEcho bool) *wire.Error {
	if err := c.countPublishTopic(topic); err != nil {
		return err
	}
	subject, err := c.g.cfg.Namespace.Topic(topic)
	if err != nil {
		return wire.AsError(err)
	}
	p := publication{subject: subject, event: event, data: data, user: c.identity.Load().User, conn: c.id}
	if noEcho {
		p.exclude = c.id
	}
	if err := c.g.publish(context.Background(), &p); err != nil {
		return wire.AsError(err)
	}
	c.unsettled = true
	return nil
}

// countPublishTopic bounds to how many topics one connection publishes.
func (c *connection) countPublishTopic(topic string) *wire.Error {
	if _, ok := c.published[topic]; ok {
		return nil
	}
	if limit := c.g.cfg.Limits.PublishTopics; len(c.published) >= limit {
		c.g.metrics.limited.Add(1)
		return (&wire.Error{Code: wire.ResourceExhausted, Message: "too many different topics published by this connection", RetryAfter: wire.Never}).With("limit", limit)
	}
	if c.published == nil {
		c.published = make(map[string]struct{}, 1)
	}
	c.published[topic] = struct{}{}
	return nil
}

// batch publishes several messages; each has its own result.
func (c *connection) batch(f *wire.Frame) *wire.Error {
	if f.Atomic {
		return wire.Errorf(wire.FailedPrecondition, "atomic: needs one replayed rule for all topics of the batch")
	}
	out := append(make([]byte, 0, 16+3*len(f.Messages)), `{"results":[`...)
	for i, m := range f.Messages {
		if i > 0 {
			out = append(out, ',')
		}
		err := wire.AsErrorOrNil(c.g.authorizer.AuthorizeMessage(context.Background(), c.identity.Load(), m.Topic))
		if err == nil {
			err = c.publishOne(m.Topic, m.Event, m.Data, false)
		}
		if err == nil {
			out = append(out, '{', '}')
			continue
		}
		out = append(out, `{"error":`...)
		out = append(wire.AppendError(out, err.With("op", f.Op.String()).With("topic", m.Topic)), '}')
	}
	c.ok(f.ID, append(out, ']', '}'))
	return nil
}

var jsonNull = []byte("null")

// publish hands a message to NATS: on return it is in the client's buffer, on
// its way. Its error is a *wire.Error with `details.outcome`.
func (g *Service) publish(ctx context.Context, p *publication) error {
	// The values share one array: each header is a slice of it.
	values := [...]string{p.event, p.user, p.conn, p.exclude, p.topic}
	h := make(nats.Header, 4)
	for i, name := range [...]string{wire.HeaderEvent, wire.HeaderUser, wire.HeaderConn, wire.HeaderExclude, wire.HeaderTopic} {
		if values[i] != "" && wire.ValidHeaderValue(values[i]) {
			h[name] = values[i : i+1 : i+1]
		}
	}
	if g.tracer.On() {
		var span trace.Span
		ctx, span = g.tracer.Start(ctx, "publish", trace.SpanKindProducer)
		defer span.End()
		bus.Inject(ctx, h)
	}
	data := p.data
	if data == nil {
		data = jsonNull
	}
	g.metrics.published.Add(1)
	return g.send(&nats.Msg{Subject: p.subject, Header: h, Data: data})
}

// send publishes a message and says what a failure means for its sender.
func (g *Service) send(msg *nats.Msg) error {
	err := g.requests.PublishMsg(msg)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		return (&wire.Error{Code: wire.ResourceExhausted, Message: "larger than the NATS server takes", RetryAfter: wire.Never}).
			With("limit", g.requests.MaxPayload()).With("outcome", "none")
	}
	g.metrics.publishErrors.Add(1)
	return unavailable("NATS is away: nothing was published")
}
