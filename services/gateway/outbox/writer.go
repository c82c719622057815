package outbox

import (
	"net"
	"time"
)

// sliceBytes is how much one blocking write carries: progress is seen after
// each, and it fills one TLS record.
const sliceBytes = 16 << 10

// finishLater has a goroutine finish what the kernel did not take.
func (o *Outbox) finishLater(c *Conn, rest *chunk) {
	o.spawn(func() { c.drain(rest) })
}

// drain writes rest, waiting for the peer, and ends when there is nothing left
// to do: a connection with a raw socket goes back to its flusher, one without
// has its whole queue written here. c is marked blocked until then.
func (c *Conn) drain(rest *chunk) {
	ch := rest
	if ch == nil {
		ch = c.o.chunks.Get().(*chunk)
		ch.reset()
	}
	for {
		if ch.len() > 0 && !c.writeAll(ch) {
			break
		}
		c.mu.Lock()
		if c.raw != nil || !c.take(ch) {
			c.blocked = false
			wake := c.pending() && c.wants()
			c.mu.Unlock()
			ch.reset()
			c.o.chunks.Put(ch)
			if wake {
				c.fl.push(c)
			}
			return
		}
		c.mu.Unlock()
		ch.build(c.Batch())
	}
	c.broken()
	c.mu.Lock()
	c.blocked = false
	c.mu.Unlock()
}

// writeAll writes ch and waits for it. It reports whether that succeeded.
func (c *Conn) writeAll(ch *chunk) bool {
	for ch.len() > 0 {
		p := ch.body
		var buf *[readSize]byte
		if len(ch.lead) > 0 {
			// The heads leave together with what follows them.
			buf = c.o.reads.Get().(*[readSize]byte)
			k := copy(buf[:], ch.lead)
			p = buf[:k+copy(buf[k:], ch.body)]
		}
		c.progress.Store(c.o.now())
		n, err := c.nc.Write(p[:min(len(p), sliceBytes)])
		if buf != nil {
			c.o.reads.Put(buf)
		}
		if err != nil {
			return false
		}
		ch.advance(n)
	}
	c.wrote(ch)
	return true
}

// closeSocket closes nc; reset: without waiting for anything, and so that the
// peer sees a reset. Otherwise a TLS connection may take seconds to say goodbye.
func closeSocket(nc net.Conn, reset bool) {
	if !reset {
		_ = nc.Close()
		return
	}
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn()
	}
	if tcp, ok := nc.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	} else {
		_ = nc.SetDeadline(time.Unix(1, 0))
	}
	_ = nc.Close()
}
