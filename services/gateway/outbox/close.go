package outbox

import "fmt"

// Close codes that the outbox itself uses.
const (
	closeProtocol  = 1002
	closeAbnormal  = 1006 // never on the wire
	closeTooBig    = 1009
	closeTryAgain  = 1013
	closeHeartbeat = 4408
)

// cause is who began the end of a connection.
type cause uint8

const (
	open   cause = iota
	ours         // Close, Abort, or the outbox itself
	echoed       // the reading library: it answers a close frame, or refuses one
	lost         // the network
)

// ClosedError is what Read returns once the connection has ended.
type ClosedError struct {
	Code   int
	Reason string
	ByPeer bool
}

func (e *ClosedError) Error() string {
	by := "here"
	if e.ByPeer {
		by = "by the peer"
	}
	return fmt.Sprintf("connection closed %s: %d %q", by, e.Code, e.Reason)
}

// begin moves c to closing, the first one wins. The caller holds c.mu.
func (c *Conn) begin(why cause, code int, reason string) bool {
	if c.closing {
		return false
	}
	c.closing = true
	c.leaving.Store(why == ours)
	c.cause, c.code, c.reason = why, code, clip(reason, maxControl-2)
	c.deadline = c.o.now() + int64(c.o.cfg.CloseGrace)
	return true
}

// Close ends the connection with a close frame behind everything queued so far,
// and returns at once. The first call decides code and reason (cut to 123
// bytes). A peer that does not take the frame and answer it within CloseGrace is
// reset.
func (c *Conn) Close(code int, reason string) {
	c.mu.Lock()
	wake := c.begin(ours, code, reason) && c.wants()
	c.mu.Unlock()
	if wake {
		c.fl.push(c)
	}
}

// Leaving reports whether this side has begun to end the connection. It waits for
// nothing.
func (c *Conn) Leaving() bool { return c.leaving.Load() }

// Abort resets the connection: what is queued is lost and the peer gets no close
// frame. Closed reports 1006 unless the connection was closing already.
func (c *Conn) Abort() { c.end(ours, true) }

// end closes the socket, at once.
func (c *Conn) end(why cause, reset bool) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.begin(why, closeAbnormal, "")
	c.ended = true
	c.discard()
	c.mu.Unlock()
	c.fl.remove(c)
	closeSocket(c.nc, reset)
}

// broken notes that nothing can be written any more. The socket stays open for
// the reader, which may yet find the peer's close frame before the end.
func (c *Conn) broken() {
	c.mu.Lock()
	c.begin(lost, closeAbnormal, "")
	c.discard()
	c.taken, c.sent = true, true
	end := c.hungUp
	c.mu.Unlock()
	if end {
		c.end(lost, true)
	}
}

// Closed returns how the connection ended, once Read has returned a terminal
// error: the code of the close frame that came first, ours or the peer's (1005 if
// that had none), or 1006 if there was no close frame.
func (c *Conn) Closed() (code int, reason string, byPeer bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.code, c.reason, c.cause != ours && c.cause != open
}
