package outbox

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

// behindAfter is how long one write may wait on a connection without a raw
// socket until its peer counts as behind.
const behindAfter = 50 * time.Millisecond

// Conn is one WebSocket connection. All methods may be called concurrently and
// none but Read waits; Read belongs to one goroutine.
type Conn struct {
	// Owner is the caller's: what the connection belongs to. Passed to Upgrade.
	Owner any

	o           *Outbox
	fl          *flusher
	slot        int // in fl.conns, guarded by fl.reg
	ws          *websocket.Conn
	nc          net.Conn
	raw         syscall.RawConn // nil: nc is written by goroutines that may block
	subprotocol string

	in reader

	// Coarse times of Outbox.clock.
	lastRead  atomic.Int64
	lastWrite atomic.Int64
	progress  atomic.Int64 // of the goroutine that finishes a write; exact

	writing atomic.Bool // the flusher is between taking and having written
	leaving atomic.Bool // closing, by this side
	n       counters

	mu      sync.Mutex
	q       *queue // nil when empty
	pong    []byte // the frame that answers the peer's newest ping
	ping    bool   // a ping frame is due
	pingAt  int64  // when the last one was queued
	queued  bool   // in the flusher's list
	blocked bool   // a goroutine of its own writes

	// The end. closing: nothing more is accepted, the close frame follows what
	// is queued. taken: it left the queue. sent: it was written. hungUp: the
	// reader is done, close the socket after it. ended: the socket is closed.
	closing, taken, sent, hungUp, ended bool
	cause                               cause
	code                                int
	reason                              string
	deadline                            int64
}

// Subprotocol returns the negotiated subprotocol, "" if none was.
func (c *Conn) Subprotocol() string { return c.subprotocol }

// Batch reports whether the peer may be sent JSON arrays of frames: it negotiated
// a subprotocol.
func (c *Conn) Batch() bool { return c.subprotocol != "" }

// RemoteAddr returns the address of the other end of the socket.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Send queues a reply or control frame: one JSON text, which must not be changed
// any more. No policy drops it: where it exceeds the queue's bound the
// connection is closed with 1013. Ignored once the connection is closing.
func (c *Conn) Send(frame []byte) { c.enqueue(item{frame: frame}, nil) }

// Deliver queues a message of a topic: one JSON text, shared with all other
// connections it goes to, which must not be changed any more. What happens when
// the peer is behind is up to src. Ignored once the connection is closing.
func (c *Conn) Deliver(frame []byte, src *Source) { c.enqueue(item{frame, src}, nil) }

// DeliverAt is [Conn.Deliver] for a message of a replayed topic, which at gives
// the place of; at must not be changed any more, nil is Deliver. What src's policy
// drops is told to the peer by skip frames (see [Source]), at most one at a time:
// for one source, frames and skip frames are read as an unbroken chain, a skip
// frame ahead of the next frame that was kept, or once the queue drains.
func (c *Conn) DeliverAt(frame []byte, src *Source, at *Mark) {
	if src.policy() == Disconnect || src.Skip == nil {
		at = nil
	}
	c.enqueue(item{frame, src}, at)
}

func (c *Conn) enqueue(it item, at *Mark) {
	c.mu.Lock()
	c.enqueueLocked(it, at)
}

// enqueueLocked is enqueue with c.mu held, which it gives up.
func (c *Conn) enqueueLocked(it item, at *Mark) {
	if c.closing || len(it.frame) == 0 {
		c.mu.Unlock()
		return
	}
	if c.q == nil {
		c.q = c.o.queues.Get().(*queue)
	}
	c.put(it, at)
	wake := c.wants()
	c.mu.Unlock()
	if wake {
		c.fl.push(c)
	}
}

// put queues it, as its policy says, and reports whether it is the queue's last
// frame now. The caller holds c.mu and has seen to c.q.
func (c *Conn) put(it item, at *Mark) (queued bool) {
	conflate := it.src.policy() == Conflate
	if !c.q.fits(len(it.frame), c.o.cfg.QueueBytes) || conflate && c.behind() {
		return c.squeeze(it, at, conflate)
	}
	c.q.push(it)
	if at != nil {
		c.q.mark(at)
	}
	return true
}

// squeeze is put while the peer is behind: it may give up on the peer. Frames
// that may be lost make room for any other.
func (c *Conn) squeeze(it item, at *Mark, conflate bool) (queued bool) {
	bound := c.o.cfg.QueueBytes
	n, placed := len(it.frame), false
	if conflate && c.behind() {
		if k := c.q.replace(it, at); k > 0 {
			c.drop(it.src, k)
			n, placed = 0, true
		}
	}
	dropped, ok := c.q.shed(n, bound)
	c.count(DropOldest, dropped)
	switch {
	case ok && !placed:
		c.q.push(it)
		if at != nil {
			c.q.mark(at)
		}
		return true
	case ok:
	case it.src.policy() == DropOldest:
		c.drop(it.src, 1+c.q.refuse(it.src, at))
	case placed:
		c.giveUp(item{})
	default:
		c.giveUp(it)
	}
	return false
}

// behind reports whether the peer takes less than it is sent.
func (c *Conn) behind() bool {
	return c.q.bytes > c.o.cfg.QueueBytes/2 || c.behindNow()
}

// behindNow reports whether a write waits for the peer. A connection without a
// raw socket is always written by a goroutine: there it takes a while.
func (c *Conn) behindNow() bool {
	return c.blocked && (c.raw != nil || c.o.now()-c.progress.Load() > int64(behindAfter))
}

// giveUp begins the end of a slow consumer. last is the frame that did not fit,
// if it is not in the queue. The caller holds c.mu.
func (c *Conn) giveUp(last item) {
	queued := len(last.frame)
	if last.frame != nil {
		c.drop(last.src, 1)
	}
	if c.q != nil {
		queued += c.q.bytes
		for _, it := range c.q.items[c.q.head:] {
			if it.frame != nil {
				c.drop(it.src, 1)
			}
		}
	}
	c.begin(ours, closeTryAgain, "slow consumer")
	c.discard()
	c.o.slow.Add(1)
	if c.o.cfg.OnSlow != nil {
		c.o.spawn(func() { c.o.cfg.OnSlow(c, queued) })
	}
}

// drop counts n dropped messages of src.
func (c *Conn) drop(src *Source, n int) {
	if src != nil {
		src.dropped.Add(uint64(n))
	}
	c.count(src.policy(), n)
}

// count adds n drops under p, whose sources have been told.
func (c *Conn) count(p Policy, n int) {
	if n > 0 {
		c.n.dropped[p].Add(uint64(n))
		c.fl.n.dropped[p].Add(uint64(n))
	}
}

// wants reports whether c has to be pushed onto its flusher, and marks it as
// pushed. The caller holds c.mu, and pushes after it.
func (c *Conn) wants() bool {
	if c.queued || c.blocked || c.ended {
		return false
	}
	c.queued = true
	return true
}

// discard empties the queue. The caller holds c.mu.
func (c *Conn) discard() {
	if c.q != nil {
		c.q.reset()
		c.release()
	}
	c.pong, c.ping = nil, false
}

// release gives the empty queue back. The caller holds c.mu.
func (c *Conn) release() {
	if cap(c.q.items) <= keepItems {
		c.o.queues.Put(c.q)
	}
	c.q = nil
}

// wrote notes that ch was written in full.
func (c *Conn) wrote(ch *chunk) {
	c.lastWrite.Store(c.o.clock.Load())
	for _, k := range [...]*counters{&c.n, &c.fl.n} {
		k.framesOut.Add(uint64(ch.frames))
		k.messagesOut.Add(uint64(ch.messages))
		k.bytesOut.Add(uint64(ch.size))
	}
	if !ch.closes {
		return
	}
	c.mu.Lock()
	c.sent = true
	end := c.hungUp
	c.mu.Unlock()
	if end {
		c.end(ours, false)
	}
}

// pending reports whether there is something to write. The caller holds c.mu.
func (c *Conn) pending() bool {
	return !c.ended && !c.taken && (c.q != nil || c.closing || c.ping || c.pong != nil)
}

// take fills ch with what one write carries and reports whether there is any.
// The caller holds c.mu.
func (c *Conn) take(ch *chunk) bool {
	ch.reset()
	if !c.pending() {
		return false
	}
	if c.pong != nil {
		ch.lead = append(ch.lead, c.pong...)
		c.pong = nil
	}
	if c.ping {
		ch.lead = append(ch.lead, headPing, 0)
		c.ping = false
	}
	if c.q != nil {
		ch.take(c.q, c.Batch(), c.o.cfg.FrameBytes)
		if c.q.live == 0 {
			c.release()
		}
	} else if c.closing {
		ch.lead = appendClose(ch.lead, c.code, c.reason)
		c.taken, ch.closes = true, true
	}
	return true
}

// Idle reports whether everything passed to Send and Deliver so far was written
// to the socket, or will never be.
func (c *Conn) Idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended || c.q == nil && !c.blocked && !c.writing.Load()
}

// Queued returns the bytes that wait in the queue, the write under way not
// counted: whoever owes a peer much sends on while it is low.
func (c *Conn) Queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.q == nil {
		return 0
	}
	return c.q.bytes
}
