package client

import (
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// dispatch gives one frame to whom it is for. The reader calls it: it never
// blocks and never writes to the connection.
func (c *Client) dispatch(f *wire.ServerFrame) {
	switch {
	case f.Kind == wire.KindReply:
		c.answered(f)
	case f.Group != "": // a message of a group, or a change of it
		push(c, "OnGroup", c.slots().group, f)
		c.toGroup(f)
	case f.Kind == wire.KindMessage:
		c.deliver(f)
	case f.Op == "request":
		c.serve(f)
	case f.Op == "system":
		if f.Event == "refresh" {
			select {
			case c.renew <- struct{}{}:
			default: // it is asked for already
			}
		}
		push(c, "OnSystem", c.slots().system, SystemEvent{Event: f.Event, What: f.What, At: f.At})
	case f.Op == "drain":
		select {
		case c.leaving <- time.Duration(f.AfterMs) * time.Millisecond:
		default: // it was said already
		}
		push(c, "OnDrain", c.slots().drain, Drain{After: time.Duration(f.AfterMs) * time.Millisecond})
	case f.Topic != "":
		c.deliver(f)
	}
	// A ping was answered by being read (an RFC 6455 ping comes with it), and
	// ops of later protocol versions are ignored.
}

type slots struct {
	inbox, other *callback[Message]
	system       *callback[SystemEvent]
	drain        *callback[Drain]
	group        *callback[*wire.ServerFrame]
	failure      *callback[*wire.Error]
}

func (c *Client) slots() slots {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slots{c.inbox, c.other, c.system, c.drain, c.group, c.failure}
}

func (c *Client) answered(f *wire.ServerFrame) {
	if f.ID == 0 {
		if f.Error != nil {
			push(c, "OnError", c.slots().failure, f.Error)
		}
		return
	}
	c.mu.Lock()
	r := c.pending[f.ID]
	if r != nil && f.Progress == nil {
		delete(c.pending, f.ID)
	}
	c.mu.Unlock()
	switch {
	case r == nil: // the one who asked gave up
	case f.Progress != nil:
		select {
		case r.progress <- f.Progress:
		default:
		}
	default:
		r.reply <- reply{frame: f, err: f.Error}
	}
}

// deliver queues a message, or a control frame of a topic, for each
// subscription that its topic matches.
func (c *Client) deliver(f *wire.ServerFrame) {
	m, err := messageOf(f)
	if err != nil {
		push(c, "OnError", c.slots().failure, wire.AsError(err))
		return
	}
	if m.Direct || m.Topic == "" {
		push(c, "Inbox", c.slots().inbox, m)
		return
	}
	taken := false
	for _, s := range c.matching(m.Topic) {
		taken = true
		if (m.Control == "" || s.control) && !s.queue.push(m) ||
			m.Control == "presence" && s.presence != nil && !s.presence.push(f) ||
			m.Control == "cursors" && s.cursors != nil && !s.cursors.push(f) {
			s.abandon()
		}
	}
	if !taken && m.Control == "" {
		push(c, "OnMessage", c.slots().other, m)
	}
}

// messageOf returns what a frame says. Its error is of a payload that is no
// base64, at which the gateway would be at fault.
func messageOf(f *wire.ServerFrame) (Message, error) {
	m := Message{
		Topic: f.Topic, Group: f.Group, Event: f.Event, Seq: f.Seq, Prev: f.Prev, Ts: f.Ts, From: f.From, Direct: f.Direct,
		Control: f.Op, Raw: f.Raw,
	}
	switch payload, err := f.Payload(); {
	case err != nil:
		return m, wire.Errorf(wire.Internal, "a message's base64: %v", err)
	case f.Text != nil || f.Base64 != nil:
		m.Binary = payload
	default:
		m.Data = payload
	}
	return m, nil
}

func (c *Client) matching(topic string) []*Subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*Subscription
	if s := c.subs[topic]; s != nil {
		found = append(found, s)
	}
	if c.patterns == 0 {
		return found
	}
	for pattern, s := range c.subs {
		if pattern != topic && wire.IsPattern(pattern) && wire.MatchPattern(pattern, topic) {
			found = append(found, s)
		}
	}
	return found
}
