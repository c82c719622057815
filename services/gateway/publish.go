package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
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

// publish hands a message to NATS and answers when it is there; on a replayed
// topic, when it is stored.
func (c *connection) publish(f *wire.Frame) *wire.Error {
	op, topic, id := f.Op.String(), f.Topic, f.ID
	set := c.g.rules.Current()
	m, err := c.prepare(set, f.Topic, f.Event, f.Key, f.Data)
	if err != nil {
		return err
	}
	if f.NoEcho {
		m.exclude = c.id
	}
	if m.rule != nil && m.rule.PublishRate.Limit != "" {
		if err := c.spend(set, m.rule.PublishRate, topic, f.Key); err != nil {
			return err
		}
	}
	stored, err := c.dispatch(context.Background(), &m, func(ack streams.Ack, err *wire.Error) {
		if err != nil {
			c.fail(id, err.With("op", op).With("topic", topic))
			return
		}
		c.ok(id, append(appendStored([]byte{'{'}, ack), '}'))
	})
	if err == nil && !stored {
		c.ok(f.ID, nil)
	}
	return err
}

// appendStored appends the members of an answer that say where a message is.
func appendStored(dst []byte, ack streams.Ack) []byte {
	dst = append(dst, `"seq":`...)
	dst = strconv.AppendInt(dst, ack.Seq, 10)
	if ack.Duplicate {
		dst = append(dst, `,"duplicate":true`...)
	}
	return dst
}

// outgoing is a message of a client that may be published, and the rule of its
// topic.
type outgoing struct {
	publication
	to, key string
	rule    *rules.Topic // nil: none
	count   *topicCount
	refused *wire.Error // of a batch: why it may not be published after all
}

// prepare says why a message may not be published, before it costs anything.
func (c *connection) prepare(set *rules.Set, topic, event, key string, data []byte) (outgoing, *wire.Error) {
	count, refused := c.countPublishTopic(topic)
	if refused != nil {
		return outgoing{}, refused
	}
	subject, err := c.g.cfg.Namespace.Topic(topic)
	if err != nil {
		return outgoing{}, wire.AsError(err)
	}
	rule := set.Topic(topic)
	if err := fits(rule, data); err != nil {
		return outgoing{}, err
	}
	if err := c.g.admit(set, rule, topic, count, len(data)); err != nil {
		return outgoing{}, err
	}
	p := publication{subject: subject, event: event, data: data, user: c.identity.Load().User, conn: c.id}
	return outgoing{publication: p, to: topic, key: key, rule: rule, count: count}, nil
}

// dispatch publishes a message. Where it is to be stored it reports so, and done
// is called once with the outcome; where it is not, or with an error, never.
func (c *connection) dispatch(ctx context.Context, m *outgoing, done func(streams.Ack, *wire.Error)) (stored bool, _ *wire.Error) {
	c.unsettled = true
	c.g.wasPublished(m.count, len(m.data))
	if m.rule != nil && m.rule.Replay != nil {
		return true, c.g.storePublication(ctx, &m.publication, m.to, m.key, done)
	}
	return false, wire.AsErrorOrNil(c.g.publish(context.Background(), &m.publication))
}

// fits refuses data that is larger than what the topic's rule keeps.
func fits(rule *rules.Topic, data []byte) *wire.Error {
	if rule == nil || rule.Replay == nil {
		return nil
	}
	if most := rule.Replay.MaxMessageBytes; most > 0 && int64(len(data)) > most {
		return (&wire.Error{Code: wire.ResourceExhausted, Message: "data: larger than the topic's rule takes", RetryAfter: wire.Never}).
			With("observed", len(data)).With("limit", most).With("outcome", "none")
	}
	return nil
}

// storePublication publishes into the stream of a replayed topic.
func (g *Service) storePublication(ctx context.Context, p *publication, topic, key string, done func(streams.Ack, *wire.Error)) *wire.Error {
	p.data = bytes.Clone(p.data) // it may be sent again, long after the frame is gone
	msg := g.message(ctx, p)
	if key == "" {
		g.put(msg, topic, false, done)
		return nil
	}
	k := &keyed{g: g, msg: msg, topic: topic, user: p.user, key: key, done: done}
	if rule := g.rules.Current().Topic(topic); rule != nil && rule.Replay != nil {
		k.ledger, k.keys = g.ledger(rule), rule.Replay.DedupeKeys
	}
	return k.store(ctx)
}

// maxSalt bounds how often a taken id is salted.
const maxSalt = 3

// own reports whether the message that was stored under an id is of the same
// topic and user. One that is not there any more, or can't be read, counts as
// such: it was acknowledged once.
func (g *Service) own(ctx context.Context, ack streams.Ack, msg *nats.Msg) bool {
	ctx, cancel := context.WithTimeout(ctx, replayWait)
	defer cancel()
	reply, err := g.reads.RequestWithContext(ctx, streams.DirectGet(ack.Stream), fmt.Appendf(nil, `{"seq":%d}`, ack.Seq))
	if err != nil {
		return true
	}
	if _, _, ok := streams.Stored(reply.Header); !ok {
		return true
	}
	return sameSender(reply.Header, msg)
}

// countPublishTopic returns what counts the messages of a topic, and bounds to
// how many topics one connection publishes.
func (c *connection) countPublishTopic(topic string) (*topicCount, *wire.Error) {
	count, known := c.published[topic]
	if known && !count.gone.Load() {
		return count, nil
	}
	if limit := c.g.cfg.Limits.PublishTopics; !known && len(c.published) >= limit {
		c.g.metrics.limited.Add(1)
		return nil, (&wire.Error{Code: wire.ResourceExhausted, Message: "too many different topics published by this connection", RetryAfter: wire.Never}).With("limit", limit)
	}
	if c.published == nil {
		c.published = make(map[string]*topicCount, 1)
	}
	count = c.g.top.counts.of(topic)
	c.published[topic] = count
	return count, nil
}

// batch publishes several messages; each has its own result. Atomic stores all
// or none.
func (c *connection) batch(f *wire.Frame) *wire.Error {
	if f.Atomic {
		return c.batchAtomic(f)
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupsWait)
	defer cancel()
	b := &results{c: c, id: f.ID, parts: make([][]byte, len(f.Messages)), left: len(f.Messages) + 1}
	set := c.g.rules.Current()
	ready := make([]outgoing, len(f.Messages))
	for i, m := range f.Messages {
		err := wire.AsErrorOrNil(c.g.authorizer.AuthorizeMessage(context.Background(), c.identity.Load(), m.Topic))
		if err == nil {
			ready[i], err = c.prepare(set, m.Topic, m.Event, m.Key, m.Data)
		}
		ready[i].refused = err
	}
	c.spendEach(set, ready)
	for i, m := range f.Messages {
		if c.out.Leaving() { // nobody hears the results
			return nil
		}
		refuse := func(err *wire.Error) {
			part := append(wire.AppendError([]byte(`{"error":`), err.With("op", "batch").With("topic", m.Topic)), '}')
			b.set(i, part)
		}
		if err := ready[i].refused; err != nil {
			refuse(err)
			continue
		}
		stored, err := c.dispatch(ctx, &ready[i], func(ack streams.Ack, err *wire.Error) {
			if err != nil {
				refuse(err)
				return
			}
			b.set(i, append(appendStored([]byte{'{'}, ack), '}'))
		})
		switch {
		case err != nil:
			refuse(err)
		case !stored:
			b.set(i, []byte("{}"))
		}
	}
	b.finish()
	return nil
}

// results gathers what became of the messages of a batch, and answers when all
// is known.
type results struct {
	c  *connection
	id int64

	mu    sync.Mutex
	parts [][]byte
	left  int
}

func (b *results) set(i int, part []byte) {
	b.mu.Lock()
	b.parts[i] = part
	b.mu.Unlock()
	b.finish()
}

func (b *results) finish() {
	b.mu.Lock()
	b.left--
	all := b.left == 0
	b.mu.Unlock()
	if !all {
		return
	}
	out := []byte(`{"results":[`)
	for i, part := range b.parts {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, part...)
	}
	b.c.ok(b.id, append(out, ']', '}'))
}

// batchesAtOnce bounds the atomic batches that a gateway has open: a stream
// takes 50 from all.
const batchesAtOnce = 8

// batchAtomic stores all messages of a batch, one behind the other, or none.
func (c *connection) batchAtomic(f *wire.Frame) *wire.Error {
	g := c.g
	if len(f.Messages) == 0 {
		return wire.InvalidField("messages", "at least one")
	}
	var rule *rules.Topic
	set := g.rules.Current()
	cost := &sums{set: set, by: c.taker()}
	msgs, counts := make([]*nats.Msg, len(f.Messages)), make([]*topicCount, len(f.Messages))
	var shed *wire.Error // of the first that is; the others count as offered all the same
	var meter *classMeter
	var passed int64
	for i, m := range f.Messages {
		if err := wire.AsErrorOrNil(g.authorizer.AuthorizeMessage(context.Background(), c.identity.Load(), m.Topic)); err != nil {
			return err.With("topic", m.Topic)
		}
		var refused *wire.Error
		if counts[i], refused = c.countPublishTopic(m.Topic); refused != nil {
			return refused
		}
		r := set.Topic(m.Topic)
		if r == nil || r.Replay == nil || rule != nil && r != rule {
			return wire.Errorf(wire.FailedPrecondition, "atomic: needs one replayed rule for all topics of the batch").With("outcome", "none")
		}
		rule = r
		if err := fits(r, m.Data); err != nil {
			return err
		}
		of, over := g.sheds(set, r, m.Topic, counts[i], len(m.Data))
		if meter = of; over == nil {
			passed++
		} else if shed == nil {
			shed = over.With("topic", m.Topic)
		}
		cost.add(r.PublishRate, m.Topic, m.Key)
		subject, err := g.cfg.Namespace.Topic(m.Topic)
		if err != nil {
			return wire.AsError(err)
		}
		user := c.identity.Load().User
		msgs[i] = g.message(context.Background(), &publication{subject: subject, event: m.Event, data: bytes.Clone(m.Data), user: user, conn: c.id})
		if m.Key != "" {
			msgs[i].Header[wire.HeaderMsgID] = []string{streams.MessageID(m.Topic, user, m.Key, 0)}
		}
	}
	switch {
	case shed != nil:
		g.admission.offered.Add(passed)
		return shed
	case meter != nil:
		meter.accepted.Add(passed)
	}
	if len(cost.asks) > wire.MaxLimitTakes {
		return wire.Errorf(wire.FailedPrecondition, "atomic: takes from more than %d buckets of limits", wire.MaxLimitTakes).With("outcome", "none")
	}
	c.unsettled = true
	return c.ask(f, func(ctx context.Context) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, ackWait)
		defer cancel()
		if err := g.spendAll(ctx, cost); err != nil {
			return nil, err
		}
		for i, msg := range msgs {
			g.wasPublished(counts[i], len(msg.Data))
		}
		found, ack, err := g.commitOnce(ctx, msgs, g.remember(rule, msgs))
		if err != nil {
			return nil, err
		}
		out := []byte(`{"results":[`)
		for i := range msgs {
			if i > 0 {
				out = append(out, ',')
			}
			at := streams.Ack{Seq: ack.Seq - int64(len(msgs)-1-i)}
			if found != nil {
				at = streams.Ack{Seq: found[i].Seq, Duplicate: true}
			}
			out = append(appendStored(append(out, '{'), at), '}')
		}
		return append(out, ']', '}'), nil
	})
}

// commit stores messages as one atomic batch and returns where the last is. With
// again it is sent again after silence: it can't be stored twice.
func (g *Service) commit(ctx context.Context, msgs []*nats.Msg, again bool) (streams.Ack, error) {
	select {
	case g.batches <- struct{}{}:
		defer func() { <-g.batches }()
	case <-ctx.Done():
		return streams.Ack{}, wire.Errorf(wire.ResourceExhausted, "too many atomic batches at once").With("outcome", "none")
	}
	last := msgs[len(msgs)-1]
	outcome := "none"
	for {
		streams.Batch(nuid.Next(), msgs)
		for _, msg := range msgs[:len(msgs)-1] {
			if err := g.send(msg); err != nil {
				return streams.Ack{}, wire.AsError(err).With("outcome", outcome)
			}
		}
		try, cancel := ctx, context.CancelFunc(func() {})
		if again {
			try, cancel = context.WithTimeout(ctx, ackTry)
		}
		reply, err := g.requests.RequestMsgWithContext(try, last)
		cancel()
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return streams.Ack{}, wire.Errorf(wire.Unavailable, "no stream takes the topics").With("outcome", outcome)
		case err != nil && again && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			outcome = "unknown"
			continue
		case err != nil:
			return streams.Ack{}, wire.Errorf(wire.DeadlineExceeded, "JetStream did not acknowledge in time").With("outcome", "unknown")
		}
		ack, retry, err := streams.ParseAck(reply)
		if err == nil {
			g.metrics.stored.Add(int64(len(msgs)))
			return ack, nil
		}
		if !retry || clock.Sleep(ctx, ackTick) != nil {
			if outcome == "unknown" {
				err = wire.AsError(err).With("outcome", outcome)
			}
			return streams.Ack{}, err
		}
	}
}

var jsonNull = []byte("null")

// publish hands a message to NATS: on return it is in the client's buffer, on
// its way. Its error is a *wire.Error with `details.outcome`.
func (g *Service) publish(ctx context.Context, p *publication) error {
	return g.send(g.message(ctx, p))
}

// message is a publication as it goes to NATS.
func (g *Service) message(ctx context.Context, p *publication) *nats.Msg {
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
	return &nats.Msg{Subject: p.subject, Header: h, Data: data}
}

// send publishes a message and says what a failure means for its sender.
func (g *Service) send(msg *nats.Msg) error {
	if g.link.away.Load() { // this connection may not have noticed yet
		return unavailable("NATS is away: nothing was published")
	}
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
