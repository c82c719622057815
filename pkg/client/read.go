package client

import (
	"context"
	"encoding/json"
	"time"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Frame is a frame of the server as it came, for [Client.Frames].
type Frame struct {
	wire.ServerFrame
	// Message is the whole WebSocket message that held the frame; frames of
	// one message share it. Don't change it.
	Message []byte
	// Index is the frame's place in that message.
	Index int
	// Binary says that Message was a binary message; it holds no frame then.
	Binary bool
}

// Message is a message of a topic, or one sent to this user or connection.
type Message struct {
	Topic string
	Group string // of a group's message, in place of Topic
	Event string
	// Data is the payload's JSON, byte for byte; nil where the payload was no JSON.
	Data json.RawMessage
	// Binary is the payload where it was no JSON (it came as text or base64).
	Binary []byte
	Seq    int64  // 0 on a topic without replay
	Prev   int64  // seq of the message before it on the topic
	Ts     int64  // milliseconds since 1970 when it was stored
	From   string // the publishing user, where the topic's rule shows it
	Direct bool   // sent to this user or connection rather than the topic
	// Control is the op of a control frame of the topic (`truncated`, `skip`,
	// `presence`, `cursors`), which stands in its place among the messages
	// where [SubscribeOptions.Control] asked for it; Raw holds its JSON.
	Control string
	Raw     json.RawMessage
}

// Payload returns the payload's bytes, whatever form it came in.
func (m Message) Payload() []byte {
	if m.Data != nil {
		return m.Data
	}
	return m.Binary
}

// SystemEvent is a change of the server's own state, or something that an
// operator did to this connection.
type SystemEvent struct {
	Event string // degraded, recovered; refresh: a newer token is wanted; subscribed, unsubscribed
	What  string // nats, replay, …; the topic of subscribed and unsubscribed
	At    int64  // milliseconds since 1970
}

// Drain is the server's request to reconnect elsewhere after a delay.
type Drain struct {
	After time.Duration
}

// SendFrame sends one WebSocket text message as it stands: a frame, an array
// of frames, or anything a test wants the server to refuse.
func (c *Client) SendFrame(message []byte) error {
	return c.send(websocket.MessageText, message)
}

// SendBinary sends one binary WebSocket message, which the protocol refuses.
func (c *Client) SendBinary(message []byte) error {
	return c.send(websocket.MessageBinary, message)
}

// send writes one message. The deadline is the connection's, not a caller's:
// a write that is given up closes the connection.
func (c *Client) send(typ websocket.MessageType, message []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	if err := c.conn.Write(ctx, typ, message); err != nil {
		if e := c.CloseError(); e != nil {
			return e.asError()
		}
		return wire.Errorf(wire.Unavailable, "send: %v", err)
	}
	return nil
}

// Frames receives every frame of the server, replies included, before anything
// else handles it; nil unless [Options.Tap]. It is closed when the connection
// is. When its queue runs over the connection is dropped.
func (c *Client) Frames() <-chan Frame { return c.tap }

// read is the connection's only reader; it ends with the connection.
func (c *Client) read() {
	var err error
	for err == nil {
		var typ websocket.MessageType
		var message []byte
		if typ, message, err = c.conn.Read(context.Background()); err == nil {
			c.heard.Store(time.Now().UnixNano())
			err = c.take(typ, message)
		}
	}
	_ = c.conn.CloseNow() // the reason is in err
	c.end(err)
}

func (c *Client) take(typ websocket.MessageType, message []byte) error {
	if typ != websocket.MessageText {
		return c.tapped(Frame{Message: message, Binary: true})
	}
	frames, err := wire.DecodeServer(message)
	if err != nil {
		return err
	}
	for i := range frames {
		if err := c.tapped(Frame{ServerFrame: frames[i], Message: message, Index: i}); err != nil {
			return err
		}
		c.dispatch(&frames[i])
	}
	return nil
}

func (c *Client) tapped(f Frame) error {
	if c.tap == nil {
		return nil
	}
	select {
	case c.tap <- f:
		return nil
	default:
		return wire.Errorf(wire.ResourceExhausted, "the frame tap holds %d frames that nobody took", cap(c.tap))
	}
}

// end records how the connection ended and lets go of everyone who waits.
func (c *Client) end(cause error) {
	c.mu.Lock()
	c.closeErr = closed(cause, c.localErr)
	err := c.closeErr.asError()
	pending := c.pending
	c.pending = nil
	subs, groups := c.subs, c.groups
	c.subs, c.groups = nil, nil
	var queues []interface{ end(error) }
	if c.inbox != nil {
		queues = append(queues, c.inbox.queue)
	}
	if c.other != nil {
		queues = append(queues, c.other.queue)
	}
	if c.system != nil {
		queues = append(queues, c.system.queue)
	}
	if c.drain != nil {
		queues = append(queues, c.drain.queue)
	}
	if c.group != nil {
		queues = append(queues, c.group.queue)
	}
	if c.failure != nil {
		queues = append(queues, c.failure.queue)
	}
	c.mu.Unlock()

	for _, r := range pending {
		r.reply <- reply{err: err}
	}
	for _, s := range subs {
		s.end(err)
	}
	for _, g := range groups {
		g.end(err)
	}
	for _, q := range queues {
		q.end(err)
	}
	if c.tap != nil {
		close(c.tap)
	}
	close(c.done)
}

// push gives v to cb, if there is one; a queue that runs over drops the
// connection, because what it would lose could not be told otherwise.
func push[T any](c *Client, what string, cb *callback[T], v T) {
	if cb != nil && !cb.queue.push(v) {
		c.start(func() {
			c.fail(&CloseError{Code: wire.CloseAbnormal, Local: true, Reason: "the queue of " + what + " ran over"})
		})
	}
}

// Inbox sets the function that receives messages sent to this user or
// connection. It replaces an earlier one.
func (c *Client) Inbox(fn func(Message)) { install(c, &c.inbox, fn) }

// OnMessage sets the function that receives messages of topics without a
// [Subscription] here, such as those a token's claim subscribed.
func (c *Client) OnMessage(fn func(Message)) { install(c, &c.other, fn) }

// OnSystem sets the function that hears of the server's own state.
func (c *Client) OnSystem(fn func(SystemEvent)) { install(c, &c.system, fn) }

// OnDrain sets the function that hears that the server is leaving.
func (c *Client) OnDrain(fn func(Drain)) { install(c, &c.drain, fn) }

// OnGroup sets the function that receives the frames of groups in their order:
// changes (Op is `group`) and messages (Op is empty).
func (c *Client) OnGroup(fn func(*wire.ServerFrame)) { install(c, &c.group, fn) }

// OnError sets the function that receives errors of no request (`id` 0).
func (c *Client) OnError(fn func(*wire.Error)) { install(c, &c.failure, fn) }

func install[T any](c *Client, slot **callback[T], fn func(T)) {
	cb := every(c, fn)
	c.mu.Lock()
	old := *slot
	*slot = cb
	over := c.closeErr != nil
	c.mu.Unlock()
	if old != nil {
		old.queue.end(context.Canceled)
	}
	if over {
		cb.queue.end(context.Canceled)
	}
}
