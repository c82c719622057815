package fairlead

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Message is one that was published on a topic.
type Message struct {
	Topic string
	Event string // never empty
	// User and Conn are whose client published it; empty where a worker did.
	// They are as trustworthy as the NATS permissions are: whoever may publish
	// to NATS may write any user into a message.
	User, Conn string
	// Data is the message's data as it came: mostly JSON.
	Data []byte
	// Header has all headers, `traceparent` for one.
	Header nats.Header
}

// Decode reads the data into v as json.Unmarshal does.
func (m *Message) Decode(v any) error { return decode(m.Data, v) }

// SubscribeOptions refine a subscription.
type SubscribeOptions struct {
	// Queue is a queue group: each message goes to one of its members. Default:
	// none, every subscriber gets all.
	Queue string
}

// Subscription receives until it is drained.
type Subscription struct{ run *running }

// Drain stops the subscription; what has arrived is handed over before it
// returns, unless ctx ends first. Not for use within the subscription's own
// function.
func (s *Subscription) Drain(ctx context.Context) error { return s.run.drain(ctx) }

// Subscribe hands what is published on topics to fn, one message at a time, in
// the order of NATS, which per topic and publisher is the order of publishing.
// The pattern may end in `>` and have `*` for a token. Messages of workers come
// too, this one's among them: those of clients have a User. It is at most once:
// what is published while the worker is away is missed.
//
// The context of fn ends with [Fairlead.Close]. A panic is logged.
func (f *Fairlead) Subscribe(pattern string, fn func(context.Context, *Message), o SubscribeOptions) (*Subscription, error) {
	err := wire.CheckPattern(pattern)
	var subject string
	if err == nil {
		subject, err = f.subject(f.opts.Namespace.Topic(pattern))
	}
	var r *running
	if err == nil {
		r, err = f.run(subject, o.Queue, 1, func(r *running, msg *nats.Msg) func() {
			for _, m := range f.messages(msg) {
				f.safely(subject, func() { fn(r.ctx, m) })
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", pattern, err)
	}
	return &Subscription{r}, nil
}

// messages reads a message of NATS: several where it is a batch, none where it
// only says that the topic was cleared.
func (f *Fairlead) messages(msg *nats.Msg) []*Message {
	topic, ok := f.opts.Namespace.ParseTopic(msg.Subject)
	if !ok || wire.HeaderValue(msg.Header, wire.HeaderClear) != "" {
		return nil
	}
	meta := wire.ParseMeta(msg.Header)
	one := Message{Topic: topic, Event: meta.Event, User: meta.User, Conn: meta.Conn, Data: msg.Data, Header: msg.Header}
	if wire.HeaderValue(msg.Header, wire.HeaderBatch) != "1" {
		return []*Message{&one}
	}
	var batch []struct {
		Event string          `json:"event"`
		Data  json.RawMessage `json:"data"`
	}
	if json.Unmarshal(msg.Data, &batch) != nil {
		return nil
	}
	all := make([]*Message, len(batch))
	for i, e := range batch {
		m := one
		m.Event, m.Data = wire.DefaultEvent, e.Data
		if e.Event != "" {
			m.Event = e.Event
		}
		all[i] = &m
	}
	return all
}

// Lifecycle is something that happened to a connection, a topic, or the like.
type Lifecycle struct {
	// What is `connection.opened`, `limit.exceeded` and so on; docs/nats.md of
	// the project lists them.
	What string
	At   time.Time
	// Gateway, Conn and User say where and whose; empty where it has none.
	Gateway, Conn, User string
	// Body is the whole event as JSON.
	Body json.RawMessage
}

// Events hands lifecycle events to fn, one at a time: `connection.opened`,
// `connection.*`, or `>` for all. They are hints, at most once: fine for an
// audit log or a counter, not for deciding who is online. With a queue each
// goes to one of its members.
func (f *Fairlead) Events(pattern string, fn func(context.Context, Lifecycle), o SubscribeOptions) (*Subscription, error) {
	err := wire.CheckPattern(pattern)
	var subject string
	if err == nil {
		subject, err = f.subject(f.opts.Namespace.Event(pattern, ""))
	}
	prefix := len(subject) - len(pattern)
	var r *running
	if err == nil {
		r, err = f.run(subject, o.Queue, 1, func(r *running, msg *nats.Msg) func() {
			var body struct {
				At                  int64
				Gateway, Conn, User string
			}
			if json.Unmarshal(msg.Data, &body) != nil {
				return nil
			}
			e := Lifecycle{What: msg.Subject[prefix:], At: time.UnixMilli(body.At), Gateway: body.Gateway, Conn: body.Conn, User: body.User, Body: msg.Data}
			f.safely(subject, func() { fn(r.ctx, e) })
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("events %s: %w", pattern, err)
	}
	return &Subscription{r}, nil
}

// safely runs a caller's function; a panic is logged and goes no further.
func (f *Fairlead) safely(what string, fn func()) {
	defer func() {
		if p := recover(); p != nil {
			f.opts.Log.Error("a handler panicked", "subject", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	fn()
}
