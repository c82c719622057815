package outbox

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/coder/websocket"
)

// MessageKind is the type of a WebSocket message.
type MessageKind uint8

// The kinds of messages.
const (
	Text MessageKind = iota + 1
	Binary
)

const (
	tooFar       = 16       // times ReadLimit: the connection is closed
	keepMessages = 64 << 10 // bytes of a buffer that is kept for the next message
)

// TooLarge is returned by Read for a message over the limit, which was read to
// its end and not kept. The connection stays usable.
type TooLarge struct {
	Observed int64 // bytes of the message
	Limit    int64
}

func (e *TooLarge) Error() string {
	return fmt.Sprintf("message of %d bytes is over the limit of %d", e.Observed, e.Limit)
}

// Read waits for the next message. data is valid until the next call. An error
// is a *[TooLarge], after which reading goes on, or the *[ClosedError] with
// which the connection has ended: that one is final. Pings and closing
// handshakes are answered while Read waits, so it must always be called again.
// Once the connection is closing, messages are read and dropped.
func (c *Conn) Read() (kind MessageKind, data []byte, err error) {
	r := &c.in
	if r.final != nil {
		return 0, nil, r.final
	}
	c.giveBack()
	for {
		typ, msg, err := c.ws.Reader(context.Background())
		if err != nil {
			return 0, nil, c.terminal(err)
		}
		size, err := c.readMessage(msg)
		if err != nil {
			return 0, nil, c.terminal(err)
		}
		c.n.framesIn.Add(1)
		c.fl.n.framesIn.Add(1)
		if c.isClosing() {
			c.giveBack()
			continue
		}
		if size > c.o.cfg.ReadLimit {
			c.giveBack()
			return 0, nil, &TooLarge{Observed: size, Limit: c.o.cfg.ReadLimit}
		}
		kind = Text
		if typ == websocket.MessageBinary {
			kind = Binary
		}
		return kind, *r.message, nil
	}
}

// readMessage reads one message to its end and returns its size. It is kept, in
// c.in.message, as far as the limit goes.
func (c *Conn) readMessage(msg io.Reader) (int64, error) {
	limit := c.o.cfg.ReadLimit
	c.in.message = c.o.messages.Get().(*[]byte)
	b, size := (*c.in.message)[:0], int64(0)
	defer func() { *c.in.message = b }()
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := msg.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		size += int64(n)
		if size > limit {
			b = b[:0] // from here on it is only counted
			if size > tooFar*limit {
				c.Close(closeTooBig, fmt.Sprintf("message over %d bytes", tooFar*limit))
			}
		}
		if err == io.EOF {
			return size, nil
		}
		if err != nil {
			return size, err
		}
	}
}

// giveBack returns the buffer of the last message.
func (c *Conn) giveBack() {
	if b := c.in.message; b != nil {
		if cap(*b) <= keepMessages {
			*b = (*b)[:0]
			c.o.messages.Put(b)
		}
		c.in.message = nil
	}
}

func (c *Conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// terminal ends the reading side: err came from the library.
func (c *Conn) terminal(err error) error {
	r := &c.in
	c.giveBack()

	var peer websocket.CloseError
	switch {
	case errors.As(err, &peer):
		c.mu.Lock()
		if c.cause != ours {
			c.cause, c.code, c.reason = echoed, int(peer.Code), peer.Reason
		}
		c.mu.Unlock()
	case r.broken == nil:
		// The peer broke the protocol. It is told so, and gets a moment to read
		// that: closing now would reset the connection.
		c.mu.Lock()
		c.begin(ours, closeProtocol, "protocol error")
		if c.cause == echoed {
			c.cause = ours
		}
		wake := c.pending() && c.wants()
		c.mu.Unlock()
		if wake {
			c.fl.push(c)
		}
		c.skipToEnd()
	}
	if r.broken != nil {
		c.end(lost, false)
	}
	_ = c.ws.CloseNow() // closes the socket, at the latest once the close frame is out
	if r.buf != nil {
		r.c.o.reads.Put(r.buf)
	}
	r.rest, r.buf = nil, nil

	code, reason, byPeer := c.Closed()
	r.final = &ClosedError{Code: code, Reason: reason, ByPeer: byPeer}
	return r.final
}

// skipToEnd reads until the peer or the sweeper closes the connection.
func (c *Conn) skipToEnd() {
	buf := c.o.reads.Get().(*[readSize]byte)
	defer c.o.reads.Put(buf)
	for c.in.broken == nil {
		_, _ = (*socket)(c).Read(buf[:])
	}
}
