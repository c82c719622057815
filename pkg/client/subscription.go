package client

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ErrUnsubscribed is what [Subscription.Next] returns after its last message
// when the subscription was ended by [Subscription.Unsubscribe].
var ErrUnsubscribed = errors.New("unsubscribed")

// SubscribeOptions says where a subscription starts and who receives. The
// zero value starts with the next message and is read with [Subscription.Next].
type SubscribeOptions struct {
	// After resumes behind this seq, if not nil; 0 is the oldest retained message.
	After *int64
	// Ts is the time of the message at After, which tells a new log from the known one.
	Ts int64
	// Last asks for this many earlier messages.
	Last int
	// Presence is `watch` or `join`; Data is the member's public data.
	Presence string
	Data     any
	// Cursors asks for the topic's cursors.
	Cursors bool
	// OnMessage receives the messages, one at a time, in a goroutine of the
	// client. Without it they wait for Next or Messages.
	OnMessage func(Message)
	// OnPresence receives the topic's presence frames, one at a time, in a
	// goroutine of the client; [Presence.Apply] makes a view of them.
	OnPresence func(*wire.ServerFrame)
	// OnCursors receives the topic's cursor frames, one at a time, in a goroutine
	// of the client; [Cursors.Apply] makes a view of them. It asks for them too.
	OnCursors func(*wire.ServerFrame)
	// Control lets the topic's control frames through as messages with Control set.
	Control bool
	// Queue bounds the messages that wait. Default: the client's.
	Queue int

	followed bool // by a session
}

// Position is the gateway's answer to subscribe.
type Position struct {
	Topic string `json:"topic"`
	// Known says that the topic has positions, of which Seq and Ts are one; Seq is
	// 0 where it never had a message.
	Known       bool   `json:"-"`
	Seq         int64  `json:"seq"`
	Ts          int64  `json:"ts"`
	Head        int64  `json:"head"`
	Recovered   *bool  `json:"recovered"`
	MissingFrom *int64 `json:"missingFrom"`
	// Reason is the error code for which the past could not be read, "" where it
	// could: whether anything is missing is not known, and may be later.
	Reason string `json:"reason"`
}

// Subscription receives the messages of one topic or pattern. Where patterns
// overlap, each subscription receives what the server sent for any of them.
type Subscription struct {
	c        *Client
	topic    string
	control  bool
	followed bool // by a session, which unsubscribes
	queue    *queue[Message]
	presence *queue[*wire.ServerFrame] // nil: nobody asked
	cursors  *queue[*wire.ServerFrame] // nil: nobody asked
	position Position

	pump     sync.Once
	messages chan Message
}

// Subscribe subscribes to a topic, or to a pattern with NATS wildcards, and
// returns when the subscription is live. A topic that has a [Subscription]
// already is ALREADY_EXISTS here; [Client.Request] reaches the server's own
// answer to that.
func (c *Client) Subscribe(ctx context.Context, topic string, o SubscribeOptions) (*Subscription, error) {
	var data []byte
	if o.Data != nil {
		var err error
		if data, err = wire.EncodeData("data", o.Data); err != nil {
			return nil, err
		}
	}
	s := &Subscription{c: c, topic: topic, control: o.Control, followed: o.followed, queue: newQueue[Message](o.Queue)}
	if o.Queue <= 0 {
		s.queue.max = c.queue
	}
	if o.OnPresence != nil {
		s.presence = newQueue[*wire.ServerFrame](s.queue.max)
	}
	if o.OnCursors != nil {
		s.cursors = newQueue[*wire.ServerFrame](s.queue.max)
	}
	if err := c.attach(s); err != nil { // first: messages may follow the reply at once
		return nil, err
	}
	ok, err := c.ask(ctx, c.timeout, func(id int64) []byte {
		f := newFrame("subscribe", id)
		f.str("topic", topic)
		if o.After != nil {
			f.int("after", *o.After)
		}
		if o.Ts != 0 {
			f.int("ts", o.Ts)
		}
		if o.Last != 0 {
			f.int("last", int64(o.Last))
		}
		f.optional("presence", o.Presence)
		if data != nil {
			f.raw("data", data)
		}
		if o.Cursors || o.OnCursors != nil {
			f.bool("cursors", true)
		}
		return f.end()
	})
	if err == nil {
		if e := json.Unmarshal(ok, &s.position); e != nil {
			err = wire.Errorf(wire.Internal, "subscribe's reply: %v", e)
		}
		var at struct {
			Seq *int64 `json:"seq"`
		}
		s.position.Known = json.Unmarshal(ok, &at) == nil && at.Seq != nil
	}
	if err != nil {
		if wire.CodeOf(err) == wire.DeadlineExceeded || wire.CodeOf(err) == wire.Cancelled {
			_ = c.sendUnsubscribe(topic) // it may have taken effect; a lost connection needs no unsubscribe
		}
		c.detach(s) // last: the topic's next subscribe is sent behind that
		s.end(err)
		return nil, err
	}
	if o.OnMessage != nil {
		c.start(func() { consume(c, s.queue, o.OnMessage) })
	}
	if o.OnPresence != nil {
		c.start(func() { consume(c, s.presence, o.OnPresence) })
	}
	if o.OnCursors != nil {
		c.start(func() { consume(c, s.cursors, o.OnCursors) })
	}
	return s, nil
}

// end lets the readers of a subscription have what waits, then err.
func (s *Subscription) end(err error) {
	s.queue.end(err)
	if s.presence != nil {
		s.presence.end(err)
	}
	if s.cursors != nil {
		s.cursors.end(err)
	}
}

func (c *Client) attach(s *Subscription) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closeErr != nil {
		return c.closeErr.asError()
	}
	if c.subs[s.topic] != nil {
		return wire.Errorf(wire.AlreadyExists, "topic: a subscription of this client has it")
	}
	c.subs[s.topic] = s
	if wire.IsPattern(s.topic) {
		c.patterns++
	}
	return nil
}

func (c *Client) detach(s *Subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subs[s.topic] != s {
		return
	}
	delete(c.subs, s.topic)
	if wire.IsPattern(s.topic) {
		c.patterns--
	}
}

// Topic returns what was subscribed to.
func (s *Subscription) Topic() string { return s.topic }

// Position returns the position the subscription started from.
func (s *Subscription) Position() Position { return s.position }

// Next waits for the next message. It returns [ErrUnsubscribed] after the last
// one, a [*wire.Error] when the connection closed or the queue ran over, or
// ctx's error. It is not for subscriptions with OnMessage.
func (s *Subscription) Next(ctx context.Context) (Message, error) {
	m, err := s.queue.pop(ctx.Done())
	if err == errStopped {
		err = context.Cause(ctx)
	}
	return m, err
}

// Err returns why the subscription ended; nil while it is live.
func (s *Subscription) Err() error { return s.queue.ended() }

// Messages returns a channel of the messages, closed after the last one;
// [Subscription.Err] then says why. Next is not to be used beside it, and a
// reader that stops early leaves a goroutine until [Client.Close].
func (s *Subscription) Messages() <-chan Message {
	s.pump.Do(func() {
		s.messages = make(chan Message)
		if !s.c.start(s.forward) { // closed already: what is left fits a channel
			var rest []Message
			for m, err := s.queue.pop(nil); err == nil; m, err = s.queue.pop(nil) {
				rest = append(rest, m)
			}
			s.messages = make(chan Message, len(rest))
			for _, m := range rest {
				s.messages <- m
			}
			close(s.messages)
		}
	})
	return s.messages
}

func (s *Subscription) forward() {
	defer close(s.messages)
	for {
		m, err := s.queue.pop(s.c.stop)
		if err != nil {
			return
		}
		select {
		case s.messages <- m:
		case <-s.c.stop:
			return
		}
	}
}

// Unsubscribe ends the subscription; messages that arrived before the server's
// reply can still be read. It is idempotent.
func (s *Subscription) Unsubscribe(ctx context.Context) error {
	err := s.c.Unsubscribe(ctx, s.topic)
	s.c.detach(s)
	s.end(ErrUnsubscribed)
	return err
}

// Unsubscribe ends the subscription to topic, whoever made it.
func (c *Client) Unsubscribe(ctx context.Context, topic string) error {
	_, err := c.ask(ctx, c.timeout, func(id int64) []byte {
		f := newFrame("unsubscribe", id)
		f.str("topic", topic)
		return f.end()
	})
	c.mu.Lock()
	s := c.subs[topic]
	c.mu.Unlock()
	if s != nil && err == nil {
		c.detach(s)
		s.end(ErrUnsubscribed)
	}
	return err
}

// abandon ends a subscription whose queue ran over: its reader is told, the
// server is asked to stop, the connection and everyone else on it go on. The
// connection's reader calls it, which must not write.
func (s *Subscription) abandon() {
	s.c.detach(s)
	s.end(wire.Errorf(wire.ResourceExhausted, "%d messages of the subscription wait and nobody takes them", s.queue.max))
	if !s.followed {
		s.c.start(func() { _ = s.c.sendUnsubscribe(s.topic) }) // a lost connection needs no unsubscribe
	}
}

// sendUnsubscribe asks for the end of a subscription and waits for no answer.
func (c *Client) sendUnsubscribe(topic string) error {
	f := newFrame("unsubscribe", c.lastID.Add(1))
	f.str("topic", topic)
	return c.SendFrame(f.end())
}
