package client

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// FollowOptions says what of a topic a session receives. The callbacks are
// called one at a time, in the order of what they tell, in a goroutine of the
// session; OnMessage alone is required.
type FollowOptions struct {
	// After, Ts and Last are where to begin, as in [SubscribeOptions]; later
	// connections go on behind the last message that was handled.
	After *int64
	Ts    int64
	Last  int
	// Presence is `watch` or `join`; Data is the member's public data. View
	// receives who is there, anew on every connection.
	Presence string
	Data     any
	View     *Presence
	// Queue bounds the messages that wait. Over it the topic is followed anew from
	// where it was.
	Queue int

	OnMessage func(Message)
	// OnStart hears that the topic is followed, before the first message that
	// comes on a connection.
	OnStart func(Start)
	// OnTruncated hears, in its place among the messages, that those from
	// missingFrom on are gone for good.
	OnTruncated func(missingFrom int64)
	// OnDenied hears that the server refuses the topic. It is not followed any
	// more then.
	OnDenied func(*wire.Error)
}

// Start is how following a topic begins on a connection.
type Start struct {
	Position
	// Again says that it was followed before. Recovered says that nothing behind
	// where it was is missed: never so on a topic without replay, or with wildcards.
	Again     bool
	Recovered bool
}

// Follow is a topic, or pattern, that a session follows.
type Follow struct {
	s     *Session
	topic string
	o     FollowOptions
	data  []byte

	stopped chan struct{} // closed by Stop
	stop    sync.Once

	mu      sync.Mutex
	at      place // guarded by mu, like the next
	started bool
}

// place is a position, where there is one.
type place struct {
	seq, ts int64
	known   bool
}

// Follow follows a topic over all connections of the session, from now on or
// from the first connection on. It fails for a topic that the session follows
// already (ALREADY_EXISTS), and for data that is no JSON.
func (s *Session) Follow(topic string, o FollowOptions) (*Follow, error) {
	if o.OnMessage == nil {
		return nil, wire.InvalidField("OnMessage", "a function")
	}
	f := &Follow{s: s, topic: topic, o: o, stopped: make(chan struct{})}
	if o.After != nil && wire.IsPattern(topic) {
		return nil, wire.InvalidField("After", "a topic without wildcards")
	}
	if o.Data != nil {
		var err error
		if f.data, err = wire.EncodeData("data", o.Data); err != nil {
			return nil, err
		}
	}
	if o.After != nil {
		f.at = place{*o.After, o.Ts, true}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state == StateClosed:
		return nil, wire.Errorf(wire.Cancelled, "the session is closed")
	case s.follows[topic] != nil:
		return nil, wire.Errorf(wire.AlreadyExists, "topic: the session follows it")
	}
	s.follows[topic] = f
	if s.begin != nil {
		s.begin(f)
	}
	return f, nil
}

// Stop ends it. A message that is handled at the moment is the last one. Stop
// does not wait for it, so that OnMessage may call it.
func (f *Follow) Stop() {
	f.s.mu.Lock()
	if f.s.follows[f.topic] == f {
		delete(f.s.follows, f.topic)
	}
	f.s.mu.Unlock()
	f.stop.Do(func() { close(f.stopped) })
}

// Position returns the place behind the last message that was handled; false
// while there is none, and for a topic without replay. It can be kept, and given
// to another session as After and Ts.
func (f *Follow) Position() (seq, ts int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at.seq, f.at.ts, f.at.known
}

// run follows the topic on one connection until that ends, or Stop, or the
// session does.
func (f *Follow) run(session context.Context, c *Client) {
	ctx, cancel := context.WithCancel(session)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		select {
		case <-f.stopped:
			cancel()
		case <-ctx.Done():
		}
	})
	for failures := 0; ; failures++ {
		e, once := f.once(ctx, c)
		if once {
			failures = 0
		}
		switch {
		case ctx.Err() != nil, c.CloseError() != nil:
			return
		case e.Code != wire.AlreadyExists && !transient(e):
			f.Stop()
			if f.o.OnDenied != nil {
				f.o.OnDenied(e)
			}
			return
		}
		pauseOn(ctx, c, max(followBackoff<<min(failures, 8), e.RetryAfter))
	}
}

// followBackoff is the first pause before a topic is asked for again on the same
// connection; it doubles eight times.
const followBackoff = 100 * time.Millisecond

// once subscribes and hands out what comes until that ends. It returns why, and
// whether it had begun.
func (f *Follow) once(ctx context.Context, c *Client) (why *wire.Error, begun bool) {
	sub, err := c.Subscribe(ctx, f.topic, f.options())
	if err != nil {
		return wire.AsError(err), false
	}
	// Where the past can't be read now, what comes meanwhile comes with it, later:
	// the order stays.
	if unread := (&wire.Error{Code: wire.Code(sub.position.Reason)}); transient(unread) {
		err = unread
	} else {
		begun = true
		f.start(sub)
		err = f.take(ctx, sub)
	}
	bounded, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	_ = sub.Unsubscribe(bounded) // a lost connection needs none
	return wire.AsError(err), begun
}

func (f *Follow) options() SubscribeOptions {
	o := SubscribeOptions{Presence: f.o.Presence, Control: true, Queue: f.o.Queue, followed: true}
	if f.data != nil {
		o.Data = json.RawMessage(f.data)
	}
	if f.o.View != nil {
		f.o.View.Reset()
		o.OnPresence = f.o.View.Apply
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if at := f.at; at.known {
		o.After, o.Ts = &at.seq, at.ts
	} else if !f.started {
		o.Last = f.o.Last
	}
	return o
}

func (f *Follow) start(sub *Subscription) {
	p := sub.Position()
	f.mu.Lock()
	begin := Start{Position: p, Again: f.started, Recovered: p.Recovered != nil && *p.Recovered}
	f.started = true
	if p.Known && !wire.IsPattern(f.topic) {
		f.at = place{p.Seq, p.Ts, true}
	}
	f.mu.Unlock()
	if f.o.OnStart != nil {
		f.o.OnStart(begin)
	}
}

// take hands out what a subscription brings until it ends.
func (f *Follow) take(ctx context.Context, sub *Subscription) error {
	for {
		m, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case <-f.stopped:
			return context.Canceled
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		switch m.Control {
		case "":
			f.o.OnMessage(m)
			f.move(m)
		case "skip":
			f.move(m)
		case "truncated":
			if f.o.OnTruncated != nil {
				var said struct {
					MissingFrom int64 `json:"missingFrom"`
				}
				_ = json.Unmarshal(m.Raw, &said) // it was decoded once already
				f.o.OnTruncated(said.MissingFrom)
			}
		}
	}
}

func (f *Follow) move(m Message) {
	if m.Seq == 0 || wire.IsPattern(f.topic) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = place{m.Seq, m.Ts, true}
}

// pauseOn waits, at most as long as the connection and ctx last.
func pauseOn(ctx context.Context, c *Client, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-c.done:
	}
}
