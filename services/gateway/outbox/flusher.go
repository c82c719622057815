package outbox

import (
	"sync"
	"syscall"
)

// turnWrites is how many writes one connection gets until the flusher goes on to
// the next.
const turnWrites = 4

// flusher writes for the connections pinned to it, one round after the other,
// and never waits for a peer.
type flusher struct {
	o    *Outbox
	n    counters
	wake chan struct{} // one slot

	mu     sync.Mutex
	dirty  []*Conn // connections with something to write
	asleep bool

	reg   sync.Mutex
	conns []*Conn // open connections; Conn.slot is the index

	// Owned by run.
	round []*Conn
	chunk *chunk
	raw   rawWrite
}

func newFlusher(o *Outbox) *flusher {
	f := &flusher{o: o, wake: make(chan struct{}, 1), chunk: new(chunk)}
	f.raw.init()
	return f
}

// push has c written in the next round. The caller has set c.queued.
func (f *flusher) push(c *Conn) {
	f.mu.Lock()
	f.dirty = append(f.dirty, c)
	wake := f.asleep
	f.asleep = false
	f.mu.Unlock()
	if wake {
		f.wake <- struct{}{} // never blocks: asleep was set with the slot empty
	}
}

func (f *flusher) run(stop <-chan struct{}) {
	for {
		f.mu.Lock()
		f.round, f.dirty = f.dirty, f.round[:0]
		f.asleep = len(f.round) == 0
		f.mu.Unlock()
		if len(f.round) == 0 {
			select {
			case <-f.wake:
			case <-stop:
				return
			}
			continue
		}
		for i, c := range f.round {
			f.round[i] = nil
			f.flush(c)
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}

// flush writes what c has queued, until its peer takes no more.
func (f *flusher) flush(c *Conn) {
	for range turnWrites {
		c.mu.Lock()
		if c.blocked || c.ended {
			c.queued = false
			c.mu.Unlock()
			return
		}
		if c.raw == nil {
			c.queued = false
			start := c.pending()
			if start {
				c.blocked = true
				c.progress.Store(c.o.now())
			}
			c.mu.Unlock()
			if start {
				f.o.spawn(func() { c.drain(nil) })
			}
			return
		}
		some := c.take(f.chunk)
		more := c.pending()
		if !more {
			c.queued = false
		}
		c.writing.Store(some)
		c.mu.Unlock()
		if some {
			f.write(c)
		}
		if !more {
			return
		}
	}
	f.push(c)
}

// write builds and writes f.chunk. What the kernel does not take goes to
// Outbox.finish.
func (f *flusher) write(c *Conn) {
	ch := f.chunk
	ch.build(c.Batch())
	n, err := f.raw.write(c.raw, ch)
	switch {
	case err != nil:
		c.broken()
	case n == ch.size:
		c.wrote(ch)
	default:
		ch.advance(n)
		c.mu.Lock()
		c.blocked = true
		c.progress.Store(c.o.now())
		c.mu.Unlock()
		f.chunk = f.o.chunks.Get().(*chunk)
		f.o.finish(c, ch)
	}
	c.writing.Store(false)
}

// rawWrite is a reusable call of writev through a RawConn.
type rawWrite struct {
	ch   *chunk
	vec  [2][]byte
	n    int
	err  error
	once func(fd uintptr) bool
}

func (w *rawWrite) init() { w.once = w.attempt }

// write returns how much of ch the kernel took, without waiting.
func (w *rawWrite) write(raw syscall.RawConn, ch *chunk) (int, error) {
	w.ch, w.n, w.err = ch, 0, nil
	err := raw.Write(w.once)
	w.ch, w.vec = nil, [2][]byte{}
	if err == nil {
		err = w.err
	}
	return w.n, err
}

func (f *flusher) add(c *Conn) {
	f.reg.Lock()
	defer f.reg.Unlock()
	c.slot = len(f.conns)
	f.conns = append(f.conns, c)
}

func (f *flusher) remove(c *Conn) {
	f.reg.Lock()
	defer f.reg.Unlock()
	if c.slot < 0 {
		return
	}
	last := len(f.conns) - 1
	f.conns[c.slot] = f.conns[last]
	f.conns[c.slot].slot = c.slot
	f.conns[last] = nil
	f.conns = f.conns[:last]
	c.slot = -1
}

// open appends the open connections to conns.
func (f *flusher) open(conns []*Conn) []*Conn {
	f.reg.Lock()
	defer f.reg.Unlock()
	return append(conns, f.conns...)
}
