package outbox

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// readSize is the size of the buffers that reads borrow while there are bytes.
const readSize = 4096

// reader is the reading side of a Conn's socket. It belongs to the goroutine
// that calls Read.
type reader struct {
	c     *Conn
	ready func(fd uintptr) bool // readRaw

	rest []byte          // read from the socket and not yet asked for
	buf  *[readSize]byte // rest's buffer, if borrowed

	direct []byte // the caller's buffer, where it is large enough
	n      int
	err    error

	message *[]byte // what Read returned last, borrowed
	broken  error   // why the socket ended
	final   *ClosedError
}

// socket is what the WebSocket library takes for the network: a Conn seen from
// below. It reads through borrowed buffers, and turns the library's control
// frames, the only ones it is asked to write, into entries of the Conn's queue.
type socket Conn

var errWrite = errors.New("outbox: the library may only write whole control frames")

func (s *socket) Read(p []byte) (int, error) {
	c := (*Conn)(s)
	r := &c.in
	if len(r.rest) > 0 {
		return r.unread(p), nil
	}
	r.n, r.err, r.direct = 0, nil, nil
	if c.raw == nil {
		r.n, r.err = c.nc.Read(p)
	} else {
		if len(p) >= readSize {
			r.direct = p
		}
		if err := c.raw.Read(r.ready); err != nil {
			r.err = err
		}
	}
	if r.n > 0 {
		c.lastRead.Store(c.o.clock.Load())
		c.n.bytesIn.Add(uint64(r.n))
		c.fl.n.bytesIn.Add(uint64(r.n))
		if len(r.rest) > 0 {
			return r.unread(p), nil
		}
		return r.n, nil
	}
	if r.err == nil {
		r.err = io.ErrNoProgress
	}
	r.broken = r.err
	return 0, r.err
}

// unread moves rest into p.
func (r *reader) unread(p []byte) int {
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	if len(r.rest) == 0 {
		if r.buf != nil {
			r.c.o.reads.Put(r.buf)
		}
		r.rest, r.buf = nil, nil
	}
	return n
}

// Write takes one control frame. It never waits: a pong is left for the next
// write, of several the newest (RFC 6455 section 5.5.3), and a close frame
// begins the end.
func (s *socket) Write(p []byte) (int, error) {
	c := (*Conn)(s)
	if len(p) < 2 || int(p[1]) != len(p)-2 {
		return 0, errWrite
	}
	c.mu.Lock()
	switch p[0] {
	case headPong:
		if !c.closing {
			c.pong = append([]byte(nil), p...)
		}
	case headClose:
		code, reason := 1005, ""
		if len(p) >= 4 {
			code, reason = int(binary.BigEndian.Uint16(p[2:])), string(p[4:])
		}
		c.begin(echoed, code, reason)
		c.discard() // the peer has said its last word, or has broken the protocol
	default:
		c.mu.Unlock()
		return 0, errWrite
	}
	wake := c.pending() && c.wants()
	c.mu.Unlock()
	if wake {
		c.fl.push(c)
	}
	return len(p), nil
}

// Close is called by the library when it is done with the connection. A close
// frame that is still to be written is waited for elsewhere: by then the socket
// closes.
func (s *socket) Close() error {
	c := (*Conn)(s)
	c.mu.Lock()
	wait := c.closing && !c.sent && !c.ended
	c.hungUp = true
	c.mu.Unlock()
	if !wait {
		c.end(lost, false)
	}
	return nil
}

func (s *socket) LocalAddr() net.Addr  { return s.nc.LocalAddr() }
func (s *socket) RemoteAddr() net.Addr { return s.nc.RemoteAddr() }

// Deadlines are the sweeper's; the library sets none.
func (s *socket) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (s *socket) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (s *socket) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }
