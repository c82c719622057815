package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

const (
	defaultCallTimeout = 5 * time.Second
	replyQueue         = 64 << 10 // replies of workers that may wait
	maxErrorBody       = 16 << 10 // of which a worker's details are read
)

// call is a client's request to a worker, until its one answer.
type call struct {
	conn *connection
	id   int64
	// token is the last token of the reply subject. A worker that may answer other
	// calls must not guess it, nor the cancel subject.
	token  string
	cancel string // subject on which the worker hears that nobody waits
	timer  *time.Timer
	span   trace.Span // nil without tracing
}

// calls routes the replies of workers: one wildcard subscription for all of
// them, no goroutine and no subscription per call.
type calls struct {
	prefix string // of reply subjects, with its dot
	ch     chan *nats.Msg
	// progress is what is queued of it for all calls: the first to go where a
	// client does not keep up, so that there is room for the answers.
	progress outbox.Source

	mu      sync.Mutex
	pending map[string]*call // by token
}

func newCalls() *calls {
	return &calls{
		ch: make(chan *nats.Msg, replyQueue), pending: map[string]*call{},
		progress: outbox.Source{Policy: outbox.DropOldest},
	}
}

// subscribe makes the reply subject. It is called once, before any call.
func (cs *calls) subscribe(nc *nats.Conn) error {
	inbox := bus.NewInbox(nc)
	cs.prefix = inbox + "."
	_, err := nc.ChanSubscribe(inbox+".*", cs.ch)
	return err
}

func (cs *calls) run(ctx context.Context, g *Service) {
	for {
		select {
		case <-ctx.Done():
			return
		case msg := <-cs.ch:
			g.answer(msg)
		}
	}
}

func (cs *calls) get(token string) *call {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.pending[token]
}

// take ends a call: true for the one caller that may answer it.
func (cs *calls) take(k *call) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.pending[k.token] != k {
		return false
	}
	delete(cs.pending, k.token)
	return true
}

func (cs *calls) size() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.pending)
}

// call sends a request to the workers that serve a method. Its answer comes
// by [Service.answer], the deadline, a cancel, or the end of the connection:
// whichever is first.
func (c *connection) call(f *wire.Frame) *wire.Error {
	g := c.g
	subject, err := g.cfg.Namespace.Call(f.Method)
	if err != nil {
		return wire.AsError(err)
	}
	timeout := f.Timeout
	set := g.rules.Current()
	rule := set.Call(f.Method)
	if timeout == 0 {
		timeout = defaultCallTimeout
		if rule != nil && rule.Timeout > 0 {
			timeout = rule.Timeout
		}
	}
	k := &call{conn: c, id: f.ID, token: rand.Text()}
	if k.cancel, err = g.cfg.Namespace.CallCancel(rand.Text()); err != nil {
		return wire.AsError(err)
	}

	c.mu.Lock()
	limit := g.cfg.Limits.PendingPerConnection
	switch {
	case c.calls[f.ID] != nil:
		c.mu.Unlock()
		return wire.Errorf(wire.AlreadyExists, "id: a call with this id is outstanding")
	case len(c.calls) >= limit:
		c.mu.Unlock()
		g.metrics.limited.Add(1)
		return (&wire.Error{Code: wire.ResourceExhausted, Message: "too many calls outstanding on this connection"}).With("limit", limit)
	}
	if c.calls == nil {
		c.calls = make(map[int64]*call, 1)
	}
	c.calls[f.ID] = k
	c.mu.Unlock()
	if rule != nil && rule.Rate.Limit != "" { // last: what is refused for another reason costs nothing
		if err := c.spend(set, rule.Rate, f.Method, f.Key); err != nil {
			c.forget(k)
			return err
		}
	}

	msg := c.callMessage(k, subject, f, time.Now().Add(timeout))
	g.calls.mu.Lock()
	g.calls.pending[k.token] = k
	k.timer = time.AfterFunc(timeout, func() {
		g.endCall(k, wire.Errorf(wire.DeadlineExceeded, "no answer within %s", timeout).With("outcome", "unknown"))
	})
	g.calls.mu.Unlock()
	g.metrics.calls.Add(1)
	if err := g.send(msg); err != nil {
		if g.calls.take(k) {
			refused := wire.AsError(err)
			k.finish(refused)
			return refused
		}
	}
	return nil
}

func (c *connection) callMessage(k *call, subject string, f *wire.Frame, deadline time.Time) *nats.Msg {
	id := c.identity.Load()
	h := nats.Header{
		wire.HeaderUser:     {id.User},
		wire.HeaderConn:     {c.id},
		wire.HeaderDeadline: {wire.Deadline(deadline.UnixMilli())},
		wire.HeaderCancel:   {k.cancel},
	}
	if attributes := attributesJSON(id); attributes != "" {
		h[wire.HeaderAttributes] = []string{attributes}
	}
	if c.g.tracer.On() {
		ctx, span := c.g.tracer.Start(context.Background(), "call", trace.SpanKindClient)
		k.span = span
		bus.Inject(ctx, h)
	}
	data := f.Data
	if data == nil {
		data = jsonNull
	}
	return &nats.Msg{Subject: subject, Reply: c.g.calls.prefix + k.token, Header: h, Data: data}
}

// attributesJSON returns the attributes as they stand in a header, "" for none.
func attributesJSON(id *auth.Identity) string {
	if len(id.Attributes) == 0 {
		return ""
	}
	b, err := json.Marshal(id.Attributes)
	if err != nil || !wire.ValidHeaderValue(string(b)) {
		return ""
	}
	return string(b)
}

// answer routes what came on the reply subject: progress, the answer, an error,
// or the server's word that nobody serves the method.
func (g *Service) answer(msg *nats.Msg) {
	k := g.calls.get(strings.TrimPrefix(msg.Subject, g.calls.prefix))
	if k == nil {
		g.metrics.lateReplies.Add(1)
		return
	}
	if wire.HeaderValue(msg.Header, wire.HeaderProgress) != "" {
		k.conn.out.Deliver(wire.AppendProgress(make([]byte, 0, len(msg.Data)+40), k.id, msg.Data), &g.calls.progress)
		return
	}
	if len(msg.Data) == 0 && wire.HeaderValue(msg.Header, "Status") == "503" {
		g.endCall(k, wire.Errorf(wire.Unimplemented, "no worker serves this method"))
		return
	}
	if err := workerError(msg); err != nil {
		g.endCall(k, err)
		return
	}
	if g.calls.take(k) {
		k.finish(nil)
		k.conn.out.Send(wire.AppendAnswer(make([]byte, 0, len(msg.Data)+40), k.id, msg.Data))
	}
}

// workerError returns the error that a worker's reply carries, or nil.
func workerError(msg *nats.Msg) *wire.Error {
	err := wire.ParseErrorHeader(msg.Header, msg.Data)
	if err == nil || len(msg.Data) == 0 || len(msg.Data) > maxErrorBody {
		return err
	}
	var body struct {
		Details map[string]json.RawMessage `json:"details"`
	}
	if wire.ValidJSON(msg.Data) && json.Unmarshal(msg.Data, &body) == nil {
		for name, value := range body.Details {
			err = err.With(name, value)
		}
	}
	return err
}

// endCall answers a call with an error, unless it has been answered. The
// worker is told when nobody waits any more.
func (g *Service) endCall(k *call, err *wire.Error) {
	if !g.calls.take(k) {
		return
	}
	k.finish(err)
	if err.Code == wire.DeadlineExceeded || err.Code == wire.Cancelled {
		g.tellCancelled(k)
	}
	k.conn.fail(k.id, err.With("op", "call"))
}

// finish forgets a call that has been taken.
func (k *call) finish(err *wire.Error) {
	k.timer.Stop()
	k.conn.forget(k)
	if k.span != nil {
		if err != nil {
			k.span.SetAttributes(attribute.String("error.type", string(err.Code)))
		}
		k.span.End()
	}
}

func (g *Service) tellCancelled(k *call) {
	if err := g.requests.Publish(k.cancel, nil); err != nil {
		g.metrics.publishErrors.Add(1)
	}
}

func (c *connection) forget(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[k.id] == k {
		delete(c.calls, k.id)
	}
}

// cancel ends one of the connection's calls: it is answered CANCELLED, and the
// worker hears of it. An unknown id is no error: the answer was on its way.
func (c *connection) cancel(f *wire.Frame) *wire.Error {
	c.mu.Lock()
	k := c.calls[f.RefID]
	c.mu.Unlock()
	if k != nil {
		c.g.endCall(k, wire.Errorf(wire.Cancelled, "cancelled by the client"))
	}
	return nil
}

// endCalls cancels what the connection still waits for.
func (c *connection) endCalls() {
	c.mu.Lock()
	outstanding := c.calls
	c.calls, c.closed = nil, true
	c.mu.Unlock()
	for _, k := range outstanding {
		if c.g.calls.take(k) {
			k.finish(nil)
			c.g.tellCancelled(k)
		}
	}
}
