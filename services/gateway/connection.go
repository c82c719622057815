package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// connection is one socket: its reader, and what it has open.
//
// Whoever holds turn owns the fields of the first group: the reader while it
// runs ops, or what an operator wants done. Answers, requests and the sweeper
// meet the connection through the fields below it.
type connection struct {
	g       *Service
	id      string
	kin     string // how the ids of all connections of the session begin; "" before hello
	out     *outbox.Conn
	address netip.Addr
	opened  time.Time
	request string // id of the upgrade request, for logs and events

	turn      turn
	over      bool // end has run
	topics    memberships
	direct    []*member          // of the user's and the connection's own subjects
	pending   []pendingSubscribe // of the array being read; settled together
	published map[string]*topicCount
	paging    chan struct{} // an element while a page of the past waits for room
	unsettled bool          // published since a round trip on that NATS connection
	frames    rateWindow
	greeted   bool // hello has been answered, or an op has stood for it
	charged   bool // it took what a new connection takes
	parting   parting

	identity atomic.Pointer[auth.Identity] // nil before hello
	hasty    atomic.Int64                  // ns by which frames came too fast
	hearing  hearing

	mu       sync.Mutex
	closed   bool                   // guarded by mu, with the maps below
	calls    map[int64]*call        // outstanding, by id
	requests map[string]*request    // asked of the client, by ref
	asking   int                    // questions to other services without an answer
	presence map[string]*attendance // by topic
	groups   map[string]*groupSeat  // by group
}

// parting is how an op ends the connection, behind the error that answers it.
type parting struct {
	code   wire.CloseCode
	reason string
}

var framePool = sync.Pool{New: func() any { return new(wire.Frame) }}

// run reads frames until the socket ends. It is the connection's one goroutine;
// whoever stops the gateway waits for it by connections.close.
func (c *connection) run() {
	defer c.end()
	if c.identity.Load() != nil {
		// The upgrade request said who it is: a client that only listens need
		// not say more. Where it fails, the first frame tries again.
		c.turn.Lock()
		err := c.listen()
		if c.parting.code != 0 {
			c.fail(0, err)
			c.out.Close(int(c.parting.code), c.parting.reason)
		}
		c.turn.Unlock()
		c.hear()
	}
	for {
		kind, data, err := c.out.Read()
		var large *outbox.TooLarge
		switch {
		case errors.As(err, &large):
			c.tooLarge(large.Observed)
		case err != nil:
			return
		case kind == outbox.Binary:
			c.fail(0, wire.Errorf(wire.InvalidArgument, "frame: binary messages are not part of fairlead.v1; send JSON text"))
		default:
			c.receive(data)
		}
		c.breathe()
	}
}

const (
	// leastBreath and mostBreath are for how long at a time a client that sends
	// too much is not read: long enough for others to be served, and a moment for
	// whoever is closed.
	leastBreath, mostBreath = time.Millisecond, 50 * time.Millisecond
)

// hurries notes that a frame came d too early.
func (c *connection) hurries(d time.Duration) { c.hasty.Add(int64(max(d, leastBreath))) }

// breathe waits before the next frame is read, where the last ones came faster
// than they may: what a client sends beyond its bound fills its own socket, and
// does not take the time of others.
func (c *connection) breathe() {
	if c.hasty.Load() == 0 {
		return
	}
	d := time.Duration(c.hasty.Swap(0))
	_ = clock.Sleep(c.g.connectContext, min(d, mostBreath)) // ends with the gateway
}

// receive runs the ops of one WebSocket message, in order: none behind the moment
// in which the gateway closes the connection. What an operator wants done comes
// between two of them.
func (c *connection) receive(data []byte) {
	c.turn.Lock()
	defer c.turn.Unlock()
	f := framePool.Get().(*wire.Frame)
	wire.DecodeFrames(data, f, func(err *wire.Error) bool {
		c.g.metrics.framesIn.Add(1)
		if f.Op != wire.OpSubscribe {
			c.settle()
		}
		if len(c.pending) == 0 { // each of many frames may wait for a decision
			c.turn.yield()
		}
		if c.out.Leaving() {
			return false
		}
		if err := c.serve(f, err); err != nil {
			c.fail(f.ID, explain(err, f))
		}
		if c.parting.code != 0 {
			c.out.Close(int(c.parting.code), c.parting.reason)
			return false
		}
		return true
	})
	if !c.out.Leaving() { // else end gives back what is pending
		c.settle()
	}
	*f = wire.Frame{}
	framePool.Put(f)
}

// explain adds what a client needs to know which of its frames was refused.
func explain(err *wire.Error, f *wire.Frame) *wire.Error {
	if f.Op != wire.OpUnknown {
		err = err.With("op", f.Op.String())
	}
	if f.Topic != "" {
		err = err.With("topic", f.Topic)
	}
	return err
}

// fail answers a frame with an error; id 0 stands for a frame without one.
func (c *connection) fail(id int64, err *wire.Error) {
	c.g.metrics.errors.Add(1)
	c.out.Send(wire.AppendErrorReply(nil, id, err))
}

// ok answers a frame; a frame without id is not answered.
func (c *connection) ok(id int64, value []byte) {
	if id != 0 {
		c.out.Send(wire.AppendOK(make([]byte, 0, 32+len(value)), id, value))
	}
}

// tooLarge answers a message over the payload limit, which has been read to
// its end and not kept.
func (c *connection) tooLarge(observed int64) {
	limit := c.g.cfg.Limits.PayloadBytes
	c.g.metrics.oversized.Add(1)
	c.g.event("limit.exceeded", "", eventBody{Conn: c, Limit: "payload", Observed: observed, Allowed: limit})
	switch c.g.cfg.Limits.PayloadAction {
	case PayloadClose:
		c.out.Close(int(wire.CloseTooBig), "frame over the payload limit")
	case PayloadEvent:
	default:
		err := &wire.Error{Code: wire.ResourceExhausted, Message: "frame over the payload limit", RetryAfter: wire.Never,
			Details: map[string]any{"observed": observed, "limit": limit}}
		c.fail(0, err)
	}
}

// user returns the user id, "" before hello.
func (c *connection) user() string {
	if id := c.identity.Load(); id != nil {
		return id.User
	}
	return ""
}

// end gives back all that the connection holds. The socket has ended: the
// outbox, which finishes the closing handshake, has said so.
func (c *connection) end() {
	c.turn.Lock()
	defer c.turn.Unlock()
	c.over = true
	if id := c.identity.Load(); id != nil && len(id.Attributes) > 0 {
		c.g.attributes.remove(c)
	}
	for _, p := range c.pending {
		c.g.fanout.release(p.in)
	}
	for _, m := range c.topics {
		c.g.cursors.leave(c, m.in.topic)
		m.in.leave(m)
		c.g.fanout.release(m.in)
	}
	for _, m := range c.direct {
		m.in.leave(m)
		c.g.fanout.release(m.in)
	}
	c.endCalls()
	c.endRequests()
	c.endGroups()
	code, reason, byPeer := c.out.Closed()
	c.departed(byPeer && code == int(wire.CloseNormal))
	stats := c.out.Stats()
	c.g.metrics.closed(code)
	c.g.event("connection.closed", "", eventBody{Conn: c, Code: code, Reason: reason, Duration: time.Since(c.opened), Stats: &stats})
	if c.g.log.Enabled(context.Background(), slog.LevelDebug) {
		c.g.log.Debug("connection closed", "conn", c.id, "user", c.user(), "code", code, "by_peer", byPeer)
	}
	c.g.remove(c)
}

// rateWindow counts frames in a token bucket of one second's worth.
type rateWindow struct {
	tokens float64
	last   time.Time
}

// take returns 0 if one more fits at perSecond, else how long until it does.
func (w *rateWindow) take(now time.Time, perSecond int) time.Duration {
	if perSecond <= 0 {
		return 0
	}
	rate := float64(perSecond)
	if w.last.IsZero() {
		w.tokens = rate
	} else {
		w.tokens = min(rate, w.tokens+now.Sub(w.last).Seconds()*rate)
	}
	w.last = now
	if w.tokens < 1 {
		return time.Duration((1 - w.tokens) / rate * float64(time.Second))
	}
	w.tokens--
	return 0
}
