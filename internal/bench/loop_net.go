package bench

import (
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// netLoop is the loop for systems without epoll: two goroutines per
// connection move bytes, one does the work. It costs several times as much.
type netLoop struct {
	config loopConfig
	in     chan netInput
	signal chan struct{} // capacity 1
	quit   chan struct{}
	conns  map[*netSocket]*conn
	pool   sync.Pool // *[]byte, 32 KiB
	timer  *time.Timer
	spent  loopUsage
	movers sync.WaitGroup

	stopping bool

	mu     sync.Mutex
	posted []func()
}

type netInput struct {
	c    *conn
	s    *netSocket
	data *[]byte
	n    int
	err  error
}

// netSocket is one connection's socket with the bytes that wait to be written.
type netSocket struct {
	conn   net.Conn
	mu     sync.Mutex
	out    []byte
	closed bool
	signal chan struct{} // capacity 1
}

func newNetLoop(config loopConfig) (loop, error) {
	return &netLoop{
		config: config, in: make(chan netInput, 1024), signal: make(chan struct{}, 1), quit: make(chan struct{}),
		conns: map[*netSocket]*conn{}, timer: time.NewTimer(time.Hour),
		pool: sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }},
	}, nil
}

func (l *netLoop) run() error {
	defer l.movers.Wait()
	defer func() {
		close(l.quit)
		for _, c := range l.conns {
			l.drop(c)
		}
		l.timer.Stop()
	}()
	for !l.stopping {
		var woke time.Time
		select {
		case i := <-l.in:
			woke = time.Now()
			l.take(i)
			for n := len(l.in); n > 0; n-- {
				l.take(<-l.in)
			}
		case <-l.signal:
			woke = time.Now()
			l.mu.Lock()
			posted := l.posted
			l.posted = nil
			l.mu.Unlock()
			for _, fn := range posted {
				fn()
			}
		case <-l.timer.C:
			woke = time.Now()
		}
		l.config.turn()
		took := time.Since(woke)
		l.spent.busy += took
		l.spent.turns.Record(int64(took))
	}
	return nil
}

func (l *netLoop) take(i netInput) {
	if i.c.sock != i.s { // dropped meanwhile
		return
	}
	switch {
	case i.c.state == stateDialing && i.err == nil:
		i.c.connected(l.config.upgrade)
		return
	case i.n > 0:
		err := i.c.feed((*i.data)[:i.n], time.Now().UnixNano())
		l.pool.Put(i.data)
		if err == nil {
			return
		}
		i.err = err
	}
	l.forget(i.c)
	i.c.ended(i.err)
}

func (l *netLoop) dial(c *conn) {
	s := &netSocket{signal: make(chan struct{}, 1)}
	c.loop, c.sock = l, s
	l.conns[s] = c
	l.movers.Go(func() {
		nc, err := net.DialTimeout("tcp", l.config.addr, 10*time.Second)
		if err == nil {
			s.mu.Lock()
			s.conn = nc
			if s.closed {
				_ = nc.Close() // dropped while dialing
			}
			s.mu.Unlock()
			l.movers.Go(s.write)
		}
		if !l.give(netInput{c: c, s: s, err: err}) || err != nil {
			return
		}
		for err == nil {
			b := l.pool.Get().(*[]byte)
			var n int
			n, err = nc.Read(*b)
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if n > 0 && !l.give(netInput{c: c, s: s, data: b, n: n}) {
				return
			}
		}
		l.give(netInput{c: c, s: s, err: err})
	})
}

func (l *netLoop) give(i netInput) bool {
	select {
	case l.in <- i:
		return true
	case <-l.quit:
		return false
	}
}

// write moves what send left until the socket is closed.
func (s *netSocket) write() {
	var spare []byte
	for range s.signal {
		s.mu.Lock()
		b, closed := s.out, s.closed
		s.out = spare[:0]
		s.mu.Unlock()
		if closed {
			return
		}
		if _, err := s.conn.Write(b); err != nil {
			_ = s.conn.Close() // the reader reports it
		}
		spare = b
	}
}

func (l *netLoop) send(c *conn, b []byte) {
	s, ok := c.sock.(*netSocket)
	if !ok {
		return
	}
	s.mu.Lock()
	s.out = append(s.out, b...)
	s.mu.Unlock()
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

func (l *netLoop) drop(c *conn) {
	l.forget(c)
	c.state = stateClosed
}

func (l *netLoop) forget(c *conn) {
	s, ok := c.sock.(*netSocket)
	if !ok {
		return
	}
	c.sock = nil
	delete(l.conns, s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.conn != nil {
		if t, ok := s.conn.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // no port in TIME_WAIT
		}
		_ = s.conn.Close() // the peer is told by the reset
	}
	close(s.signal)
}

func (l *netLoop) alarm(at time.Time) { l.timer.Reset(time.Until(at)) }

func (l *netLoop) post(fn func()) {
	l.mu.Lock()
	l.posted = append(l.posted, fn)
	l.mu.Unlock()
	l.wake()
}

func (l *netLoop) wake() {
	select {
	case l.signal <- struct{}{}:
	default:
	}
}

func (l *netLoop) stop() { l.post(func() { l.stopping = true }) }

func (l *netLoop) usage() loopUsage { return l.spent }

func (l *netLoop) all() []*conn { return slices.Collect(maps.Values(l.conns)) }
