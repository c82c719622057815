package gateway

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const defaultRequestTimeout = 5 * time.Second

// request is what a backend asked of the client and waits for.
type request struct {
	reply string
	timer *time.Timer
}

// asksOnly handles what comes on the subject of a user or of a connection and is
// no message: a request to a connection, and the question who holds the user.
func (g *Service) asksOnly(in *interest, msg *nats.Msg) bool {
	probe := wire.HeaderValue(msg.Header, wire.HeaderProbe) != ""
	switch {
	case !probe && (in.kind != kindConn || msg.Reply == ""):
		return false
	case !g.mayReply(msg):
	case probe:
		g.answerProbe(in, msg.Reply)
	default:
		g.ask(in, msg)
	}
	return true
}

// mayReply reports whether a message has a reply subject to which the gateway
// may publish: answering any other would lend its rights to whoever asked.
func (g *Service) mayReply(msg *nats.Msg) bool {
	if msg.Reply == "" {
		return false
	}
	if !g.guard.MayReply(msg.Reply) {
		g.metrics.badReplies.Add(1)
		return false
	}
	return true
}

// answerProbe says which connections of a user the gateway holds. Another may
// hold some where this one has none any more, so it says nothing then.
func (g *Service) answerProbe(in *interest, reply string) {
	var user string
	var probed wire.Probed
	in.each(func(c *connection) {
		if !c.ending() {
			user = c.user()
			probed.Connections = append(probed.Connections, wire.ProbedConn{Conn: c.id, Since: c.opened.UnixMilli()})
		}
	})
	if len(probed.Connections) == 0 {
		if in.kind == kindConn {
			g.respondGone(reply)
		}
		return
	}
	stored := g.roster.registered(user)
	for i := range probed.Connections {
		p := &probed.Connections[i]
		if at := slices.IndexFunc(stored, func(s wire.PresenceConn) bool { return s.Conn == p.Conn }); at >= 0 {
			p.Order = stored[at].Order
		}
	}
	data, err := json.Marshal(probed)
	g.respond(reply, data, wire.AsErrorOrNil(err))
}

// tellReached answers a message to a user that came as a request.
func (g *Service) tellReached(in *interest, msg *nats.Msg) {
	if !g.mayReply(msg) {
		return
	}
	exclude := wire.ParseMeta(msg.Header).Exclude
	n := 0
	in.each(func(c *connection) {
		if c.id != exclude && !c.ending() {
			n++
		}
	})
	data, err := json.Marshal(wire.Reached{Reached: n})
	g.respond(msg.Reply, data, wire.AsErrorOrNil(err))
}

// ending reports whether the connection takes no more frames.
func (c *connection) ending() bool {
	code, _, _ := c.out.Closed()
	return code != 0
}

// ask passes a request on fl.conn.<conn> to its client. One that names a user is
// for a connection of that user only: who asks may have been told wrong, or long
// ago, whose the connection is.
func (g *Service) ask(in *interest, msg *nats.Msg) {
	timeout := defaultRequestTimeout
	if ms, err := strconv.ParseInt(wire.HeaderValue(msg.Header, wire.HeaderDeadline), 10, 64); err == nil {
		left := time.Until(time.UnixMilli(ms))
		if left <= 0 { // the client would do what nobody waits for
			g.respond(msg.Reply, nil, wire.Errorf(wire.DeadlineExceeded, "the deadline had passed when the request came"))
			return
		}
		timeout = min(max(left, time.Millisecond), time.Minute)
	}
	meta := wire.ParseMeta(msg.Header)
	ref := rand.Text()
	frame := wire.AppendRequest(make([]byte, 0, len(msg.Data)+128), ref, meta.Event, msg.Data, timeout.Milliseconds())
	target, gone := wire.HeaderValue(msg.Header, wire.HeaderTarget), true
	in.each(func(c *connection) {
		if c.ending() || target != "" && target != c.user() {
			return
		}
		gone = false
		if err := c.remember(ref, msg.Reply, timeout); err != nil {
			g.respond(msg.Reply, nil, err)
			return
		}
		g.metrics.requests.Add(1)
		c.out.Send(frame)
	})
	if gone {
		g.respondGone(msg.Reply)
	}
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
// a request of another connection, finds nothing. What NATS does not take is an
// error for both.
func (c *connection) reply(f *wire.Frame) *wire.Error {
	r := c.takeRequest(f.Ref)
	if r == nil {
		c.g.metrics.lateReplies.Add(1)
		return wire.Errorf(wire.NotFound, "ref: no request waits for this reply")
	}
	r.timer.Stop()
	msg := answerTo(r.reply, f.Data, f.Error)
	if f.Error != nil {
		msg.Header[wire.HeaderClient] = []string{"1"}
	}
	if err := c.g.send(msg); err != nil {
		refused := wire.AsError(err)
		c.g.respond(r.reply, nil, &wire.Error{Code: refused.Code, Message: "the client's answer can't be passed on: " + refused.Message, RetryAfter: refused.RetryAfter})
		return refused
	}
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
		c.g.publishAnswer(answerTo(r.reply, nil, wire.Errorf(wire.Unavailable, "the connection closed")))
	}
}
