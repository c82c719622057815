package presence

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// asksMost and askBytesMost bound what one replica has under way: an ask
	// keeps its body, which another connection may have to be sent.
	asksMost     = 65_536
	askBytesMost = 128 << 20
	// askBusy is when somebody who was refused for that may try again.
	askBusy = 500 * time.Millisecond
)

// asker answers asks: it passes each on to a connection of the user as a request
// of its own, and passes the answer back. Nothing of it waits: an ask under way
// is an entry of a table, all replies come to one wildcard.
//
// The reply subject of who asks is not passed on: whoever is told there that
// nobody listens would be told so of one connection, not of the user.
type asker struct {
	s         *Service
	nc        *nats.Conn
	inbox     string // prefix of the reply subjects, with the last dot
	asks      *nats.Subscription
	closed    chan struct{} // closed when asks has dispatched its last message
	replies   *nats.Subscription
	recent    *recent
	most      int // asks, and bytes of them, under way
	mostBytes int

	mu      sync.Mutex
	pending map[string]*pendingAsk // guarded by mu, like all below; by token
	bytes   int
	tokens  uint64
	halted  bool          // nothing is published any more
	idle    chan struct{} // closed when nothing is pending; nil: nobody waits

	figures askFigures
}

// pendingAsk is an ask in the table.
type pendingAsk struct {
	*asked
	reply  string // of who asks; it has passed the guard
	user   string
	header nats.Header // of the request to a connection
	data   []byte
	token  string
	since  time.Time
	timer  *time.Timer
}

// A reply subject ends in what was sent and the token of the ask.
const (
	toConn  = 'a' // the ask itself
	toUser  = 'p' // a probe
	toCheck = 'c' // whether the connection is still there
)

// newAsker subscribes. The replica's endpoints come after: who is answered by
// those is answered here.
func newAsker(s *Service, nc *nats.Conn) (*asker, error) {
	a := &asker{s: s, nc: nc, inbox: bus.NewInbox(nc) + ".", most: asksMost, mostBytes: askBytesMost, closed: make(chan struct{}), recent: newRecent(), pending: map[string]*pendingAsk{}}
	var err error
	if a.replies, err = nc.Subscribe(a.inbox+"*", a.replied); err != nil {
		return nil, fmt.Errorf("subscribe to replies: %w", err)
	}
	subject := string(s.cfg.Namespace) + ".ask.*"
	if a.asks, err = nc.QueueSubscribe(subject, micro.DefaultQueueGroup, a.ask); err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", subject, err)
	}
	a.asks.SetClosedHandler(func(string) { close(a.closed) })
	if subject, err = s.cfg.Namespace.Event("connection.opened", ""); err != nil {
		return nil, err
	}
	news, err := nc.Subscribe(subject, a.opened)
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", subject, err)
	}
	for _, sub := range [...]*nats.Subscription{a.replies, a.asks, news} {
		if err := sub.SetPendingLimits(2*asksMost, 2*askBytesMost); err != nil {
			return nil, fmt.Errorf("limit what waits for %s: %w", sub.Subject, err)
		}
	}
	return a, nil
}

// ready returns nil when the server has the subscriptions.
func (a *asker) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	return a.nc.FlushWithContext(ctx)
}

// ask takes an ask.
func (a *asker) ask(msg *nats.Msg) {
	if !a.s.guard.MayReply(msg.Reply) {
		a.figures.dropped.Add(1)
		return
	}
	now := a.s.now()
	p, move, err := a.begin(msg, now)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.halted:
		return // the asker is not told: another replica, or nobody, has its next
	case err != nil:
		a.figures.invalid.Add(1)
		a.respond(msg.Reply, nil, err)
		return
	case len(a.pending) >= a.most || a.bytes+len(p.data) > a.mostBytes:
		a.figures.refused.Add(1)
		a.respond(msg.Reply, nil, &wire.Error{Code: wire.ResourceExhausted, Message: "too many asks are under way", RetryAfter: askBusy})
		return
	}
	a.rename(p)
	a.bytes += len(p.data)
	p.timer = time.AfterFunc(p.due().Sub(now), func() { a.due(p) })
	a.move(p, move, now)
}

// rename gives an ask a new token, so that no reply to what was sent before is
// taken for one to what comes; mu is held.
func (a *asker) rename(p *pendingAsk) {
	delete(a.pending, p.token)
	a.tokens++
	p.token = strconv.FormatUint(a.tokens, 36)
	a.pending[p.token] = p
}

// begin makes an entry of an ask, which is not in the table yet.
func (a *asker) begin(msg *nats.Msg, now time.Time) (*pendingAsk, askMove, *wire.Error) {
	user, err := wire.UnescapeToken(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:])
	if err == nil {
		err = wire.CheckUser(user)
	}
	if err != nil {
		return nil, 0, wire.InvalidField("user", "the last token of the subject must be a user id, with each byte outside [A-Za-z0-9_-] as = and two upper-case hex digits")
	}
	meta := wire.ParseMeta(msg.Header)
	ms, parse := strconv.ParseInt(wire.HeaderValue(msg.Header, wire.HeaderDeadline), 10, 64)
	deadline := askDeadline(ms, parse == nil, now)
	p := &pendingAsk{reply: msg.Reply, user: user, data: msg.Data, since: now, header: nats.Header{
		wire.HeaderEvent: {meta.Event}, wire.HeaderDeadline: {wire.Deadline(deadline.UnixMilli())},
		wire.HeaderTarget: {user}, // what is known of whose the connection is may be wrong: the gateway looks
	}}
	for _, name := range [...]string{wire.HeaderTrace, wire.HeaderTraceState} {
		if v := wire.HeaderValue(msg.Header, name); v != "" {
			p.header[name] = []string{v}
		}
	}
	var move askMove
	p.asked, move = newAsked(a.recent.ahead(user, a.s.connections(user), now), meta.Conn, deadline, now)
	return p, move, nil
}

// move does what an ask needs next; mu is held.
func (a *asker) move(p *pendingAsk, move askMove, now time.Time) {
	for {
		var err error
		switch move {
		case moveEnd:
			a.end(p, nil, p.err)
			return
		case moveAsk:
			var subject string
			if subject, err = a.s.cfg.Namespace.Conn(p.conn); err != nil {
				move, err = p.gone(true, now, false), nil // a name that no connection has
				continue
			}
			a.rename(p)
			err = a.send(p, subject, toConn, p.header, p.data)
		case moveCheck:
			var subject string
			if subject, err = a.s.cfg.Namespace.Conn(p.conn); err == nil {
				err = a.send(p, subject, toCheck, nats.Header{wire.HeaderProbe: {"1"}}, nil)
			}
		case moveProbe:
			a.figures.probes.Add(1)
			var subject string
			if subject, err = a.s.cfg.Namespace.User(p.user); err == nil {
				err = a.send(p, subject, toUser, nats.Header{wire.HeaderProbe: {"1"}}, nil)
			}
		}
		switch {
		case errors.Is(err, nats.ErrMaxPayload):
			a.end(p, nil, wire.Errorf(wire.InvalidArgument, "the ask and its headers are larger than NATS allows"))
		case errors.Is(err, nats.ErrReconnectBufExceeded):
			// An answer would be lost as well, and who asks may have another server.
			p.unsent(move, now)
			p.timer.Reset(p.due().Sub(now))
		case err != nil:
			a.end(p, nil, wire.Errorf(wire.Unavailable, "NATS is away"))
		default:
			p.timer.Reset(p.due().Sub(now))
		}
		return
	}
}

func (a *asker) send(p *pendingAsk, subject string, kind byte, header nats.Header, data []byte) error {
	return a.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: a.inbox + string(kind) + p.token, Header: header, Data: data})
}

// drain leaves the queue group, and returns when what was taken is answered. At
// the end of ctx the rest is told that nobody waits for its answer any more.
func (a *asker) drain(ctx context.Context) error {
	if !a.nc.IsConnected() || a.asks.Drain() != nil {
		_ = a.asks.Unsubscribe() // nobody asks over a connection that is not there
	}
	var late error
	select {
	case <-a.closed:
	case <-ctx.Done():
		late = fmt.Errorf("drain the asks: %w", context.Cause(ctx))
	}
	a.mu.Lock()
	idle := make(chan struct{})
	if len(a.pending) == 0 {
		close(idle)
	} else {
		a.idle = idle
	}
	a.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	a.mu.Lock()
	for _, p := range a.pending {
		a.end(p, nil, wire.Errorf(wire.Unavailable, "the replica that asked stops"))
	}
	a.halted = true
	a.mu.Unlock()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return errors.Join(late, bus.Drain(grace, a.nc))
}

// size returns how many asks are under way.
func (a *asker) size() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.pending)
}
