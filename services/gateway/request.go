package gateway

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const defaultRequestTimeout = 5 * time.Second

// request is what a backend asked of the client and waits for.
type request struct {
	reply string
	timer *time.Timer
}

// ask passes a request on fl.conn.<conn> to its client. A reply subject that
// Fairlead may not publish to drops the request: answering it would lend the
// gateway's rights to whoever asked.
func (g *Service) ask(in *interest, msg *nats.Msg) {
	if !g.guard.MayReply(msg.Reply) {
		g.metrics.badReplies.Add(1)
		return
	}
	timeout := defaultRequestTimeout
	if ms, err := strconv.ParseInt(wire.HeaderValue(msg.Header, wire.HeaderDeadline), 10, 64); err == nil {
		timeout = min(max(time.Until(time.UnixMilli(ms)), time.Millisecond), time.Minute)
	}
	meta := wire.ParseMeta(msg.Header)
	ref := nuid.Next()
	frame := wire.AppendRequest(make([]byte, 0, len(msg.Data)+128), ref, meta.Event, msg.Data, timeout.Milliseconds())
	in.each(func(c *connection) {
		if err := c.remember(ref, msg.Reply, timeout); err != nil {
			g.respond(msg.Reply, nil, err)
			return
		}
		g.metrics.requests.Add(1)
		c.out.Send(frame)
	})
}

func (c *connection) remember(ref, reply string, timeout time.Duration) *wire.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return wire.Errorf(wire.Unavailable, "the connection closed")
	}
	if len(c.requests) >= c.g.cfg.Limits.PendingPerConnection {
		c.g.metrics.limited.Add(1)
		return wire.Errorf(wire.ResourceExhausted, "too many requests outstanding to this connection")
	}
	if c.requests == nil {
		c.requests = make(map[string]*request, 1)
	}
	c.requests[ref] = &request{reply: reply, timer: time.AfterFunc(timeout, func() {
		if r := c.takeRequest(ref); r != nil {
			c.g.respond(r.reply, nil, wire.Errorf(wire.DeadlineExceeded, "the client did not answer within %s", timeout))
		}
	})}
	return nil
}

// takeRequest ends a request: non-nil for the one caller that may answer it.
func (c *connection) takeRequest(ref string) *request {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.requests[ref]
	delete(c.requests, ref)
	return r
}

// reply passes the client's answer on to whoever asked. A late one, or one for
// a request of another connection, finds nothing.
func (c *connection) reply(f *wire.Frame) *wire.Error {
	r := c.takeRequest(f.Ref)
	if r == nil {
		c.g.metrics.lateReplies.Add(1)
		return wire.Errorf(wire.NotFound, "ref: no request waits for this reply")
	}
	r.timer.Stop()
	c.g.respond(r.reply, f.Data, f.Error)
	c.ok(f.ID, nil)
	return nil
}

// endRequests tells who waits for this client that it is gone: at once, rather
// than by a timeout.
func (c *connection) endRequests() {
	c.mu.Lock()
	outstanding := c.requests
	c.requests, c.closed = nil, true
	c.mu.Unlock()
	for _, r := range outstanding {
		r.timer.Stop()
		c.g.respond(r.reply, nil, wire.Errorf(wire.Unavailable, "the connection closed"))
	}
}

// respond answers a backend's request; its reply subject has passed the guard.
func (g *Service) respond(reply string, data []byte, err *wire.Error) {
	msg := &nats.Msg{Subject: reply, Data: data}
	switch {
	case err != nil:
		msg.Header = nats.Header{}
		wire.ErrorHeader(msg.Header, err)
		msg.Data = wire.AppendErrorBody(nil, err)
	case data == nil:
		msg.Data = jsonNull
	}
	if err := g.requests.PublishMsg(msg); err != nil {
		g.metrics.publishErrors.Add(1)
	}
}
