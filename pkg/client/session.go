package client

import (
	"cmp"
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Bounds of the wait between two attempts where an option leaves them at zero.
const (
	DefaultMinBackoff = 300 * time.Millisecond
	DefaultMaxBackoff = 10 * time.Second
)

// drainGrace is how long answers under way may hold up a move to another gateway.
const drainGrace = time.Second

// SessionOptions says how a session connects.
type SessionOptions struct {
	// Options are those of every connection. A TokenSource lets the session go on
	// when a token has expired; with a Token it ends then. NoHello does not count.
	Options
	// MinBackoff and MaxBackoff bound the wait before the next attempt, which is
	// random between nothing and the bound, and doubles. Defaults:
	// [DefaultMinBackoff], [DefaultMaxBackoff].
	MinBackoff, MaxBackoff time.Duration
	// Setup is called with each connection before it says hello: the place to set
	// Inbox, Serve, OnSystem and the like, so that nothing is missed.
	Setup func(*Client)
	// OnState hears of each change, in the session's own goroutine: it must not
	// block.
	OnState func(State, error)
}

// State is what a session does.
type State string

// The states of a session.
const (
	StateConnecting State = "connecting" // dialing
	StateOpen       State = "open"       // hello was answered
	StateWaiting    State = "waiting"    // for the next attempt
	StateClosed     State = "closed"     // for good: by Close, or because the server said so
)

// Session is one client over as many connections as it takes: it dials again
// when one is lost, as the close codes of the protocol say, and follows its
// topics from where it was. It queues nothing: what is asked while there is no
// connection fails with UNAVAILABLE. Its methods may be called by any goroutine.
type Session struct {
	urls []string
	o    SessionOptions
	halt context.CancelFunc
	done chan struct{} // closed with StateClosed, when nothing of the session runs any more

	mu       sync.Mutex
	state    State // guarded by mu, like all below
	changed  chan struct{}
	current  *Client // nil while there is none
	identity string  // keeps an anonymous user who it is
	follows  map[string]*Follow
	begin    func(*Follow) // has a topic followed on the current connection; nil without one
	err      error         // why it is closed
}

// OpenSession returns a session that begins to connect to url; several, by
// comma, take turns. [Session.Ready] waits for it. The caller calls
// [Session.Close].
func OpenSession(url string, o SessionOptions) *Session {
	o.MinBackoff = cmp.Or(max(o.MinBackoff, 0), DefaultMinBackoff)
	o.MaxBackoff = cmp.Or(max(o.MaxBackoff, 0), DefaultMaxBackoff)
	o.RequestTimeout = cmp.Or(max(o.RequestTimeout, 0), DefaultRequestTimeout)
	o.NoHello = true // the session says it, after Setup
	ctx, halt := context.WithCancel(context.Background())
	s := &Session{
		urls: strings.Split(url, ","), o: o, halt: halt, done: make(chan struct{}),
		state: StateConnecting, changed: make(chan struct{}), identity: o.Session, follows: map[string]*Follow{},
	}
	go s.run(ctx)
	return s
}

// Close says goodbye and ends the session. It does not wait for callbacks, so
// that they may call it; [Session.Wait] does.
func (s *Session) Close() { s.halt() }

// Wait returns when the session is closed and every callback has returned.
func (s *Session) Wait() { <-s.done }

// Done is closed when the session is: by Close, or because the server said that
// it must not come back.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why a session that is closed is; nil before, and after Close.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// State returns what the session does now.
func (s *Session) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Client returns the connection, nil while there is none. It is the session's:
// what is set on it is gone with it, and closing it is losing it.
func (s *Session) Client() *Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Ready waits for a connection. It is not for callbacks: while one runs, the
// connection that it belongs to is not replaced. The error is ctx's, or why the
// session is closed.
func (s *Session) Ready(ctx context.Context) (*Client, error) {
	for {
		s.mu.Lock()
		c, state, err, changed := s.current, s.state, s.err, s.changed
		s.mu.Unlock()
		switch {
		case c != nil:
			return c, nil
		case state == StateClosed && err != nil:
			return nil, err
		case state == StateClosed:
			return nil, wire.Errorf(wire.Cancelled, "the session is closed")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, wire.AsError(ctx.Err())
		}
	}
}

// Publish is [Client.Publish] on the connection that there is.
func (s *Session) Publish(ctx context.Context, topic, event string, data any, o PublishOptions) (Result, error) {
	c, err := s.now()
	if err != nil {
		return Result{}, err
	}
	return c.Publish(ctx, topic, event, data, o)
}

// Call is [Client.Call] on the connection that there is.
func (s *Session) Call(ctx context.Context, method string, data any, o CallOptions) (Answer, error) {
	c, err := s.now()
	if err != nil {
		return Answer{}, err
	}
	return c.Call(ctx, method, data, o)
}

func (s *Session) now() (*Client, error) {
	if c := s.Client(); c != nil {
		return c, nil
	}
	return nil, wire.Errorf(wire.Unavailable, "not connected").With("outcome", "none")
}

// set notes a change and tells of it.
func (s *Session) set(state State, c *Client, err error) {
	s.mu.Lock()
	s.state, s.current = state, c
	if state == StateClosed {
		s.err = err
	}
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if s.o.OnState != nil {
		s.o.OnState(state, err)
	}
}

// run keeps a connection until ctx ends or the server says stop.
func (s *Session) run(ctx context.Context) {
	defer close(s.done)
	defer s.halt()
	again := retry{min: s.o.MinBackoff, max: s.o.MaxBackoff, random: rand.Float64}
	for turn := 0; ; turn++ {
		s.set(StateConnecting, nil, nil)
		e, err := s.once(ctx, s.urls[turn%len(s.urls)])
		if ctx.Err() != nil {
			s.set(StateClosed, nil, nil)
			return
		}
		wait, retries := again.next(e)
		if !retries {
			s.set(StateClosed, nil, err)
			return
		}
		s.set(StateWaiting, nil, err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// once has one connection from its beginning to its end.
func (s *Session) once(ctx context.Context, url string) (ending, error) {
	e := ending{tokens: s.o.TokenSource != nil}
	c, code, err := s.connect(ctx, url)
	if err != nil {
		e.code, e.pause = code, max(err.RetryAfter, 0)
		return e, err
	}
	opened := time.Now()
	e.moved, e.pause = s.live(ctx, c)
	closed := c.CloseError()
	e.code, e.lasted = closed.Code, max(time.Since(opened), 1)
	return e, closed.asError()
}

// connect dials and says hello. Where that fails it returns the close code that
// it amounts to.
func (s *Session) connect(ctx context.Context, url string) (*Client, wire.CloseCode, *wire.Error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.RequestTimeout)
	defer cancel()
	token := s.o.Token
	if s.o.TokenSource != nil {
		var err error
		if token, err = askToken(ctx, s.o.TokenSource, s.o.RequestTimeout); err != nil {
			return nil, wire.CloseAbnormal, wire.AsError(err) // the source may have one later
		}
	}
	c, err := open(ctx, url, s.o.Options)
	if err != nil {
		e := wire.AsError(err)
		return nil, refusal(e), e
	}
	if s.o.Setup != nil {
		s.o.Setup(c)
	}
	s.mu.Lock()
	identity := s.identity
	s.mu.Unlock()
	w, err := c.Hello(ctx, token, identity, s.o.Client)
	if err != nil {
		c.Abort()
		c.Wait()
		e := wire.AsError(err)
		return nil, refusal(e), e
	}
	s.mu.Lock()
	s.identity = w.Session
	s.mu.Unlock()
	c.keep(s.o.Options)
	return c, 0, nil
}

// live follows the topics on a connection until it ends, and everything that it
// brought is handled. It reports whether the server had asked for the end, and
// what is left of the delay that it gave.
func (s *Session) live(ctx context.Context, c *Client) (moved bool, left time.Duration) {
	var following sync.WaitGroup
	s.mu.Lock()
	s.begin = func(f *Follow) { following.Go(func() { f.run(ctx, c) }) }
	for _, f := range s.follows {
		s.begin(f)
	}
	s.mu.Unlock()
	s.set(StateOpen, c, nil)
	select {
	case <-c.done:
	case <-ctx.Done():
		c.Close(wire.CloseNormal)
	case after := <-c.leaving:
		moved, left = s.leave(ctx, c, after)
	}
	s.mu.Lock()
	s.current, s.begin = nil, nil // nothing is begun on it any more
	s.mu.Unlock()
	following.Wait()
	c.Wait()
	c.Abort()
	return moved, left
}

// leave lets a gateway go that drains: after the delay that it gave, and when
// the answers under way are there. The gateway may close before.
func (s *Session) leave(ctx context.Context, c *Client, after time.Duration) (moved bool, left time.Duration) {
	due := time.Now().Add(after)
	timer := time.NewTimer(after)
	defer timer.Stop()
	for {
		select {
		case <-c.done:
			return c.CloseError().Code == wire.CloseGoingAway, max(0, time.Until(due))
		case <-ctx.Done():
			c.Close(wire.CloseNormal)
			return false, 0
		case <-timer.C:
		}
		if c.idle() || time.Now().After(due.Add(drainGrace)) {
			c.part(wire.CloseGoingAway) // not 1000: the user does not leave
			return true, 0
		}
		timer.Reset(20 * time.Millisecond)
	}
}
