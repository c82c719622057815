package integration

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// link is a TCP proxy in front of one or more backends that the test can cut,
// and that keeps what passed if asked to.
type link struct {
	t        *testing.T
	listener net.Listener
	choose   func() string // the backend of the next connection; "" refuses it
	tap      io.Writer     // nil: nothing is kept

	// What goes this way is lost while it is set, and the connection with it:
	// its bytes make no sense any more, so that cut has to follow.
	toBackend, fromBackend atomic.Bool
	rate                   atomic.Int64 // bytes a second each way; 0: no bound

	mu    sync.Mutex
	open  map[net.Conn]bool
	down  bool
	pipes sync.WaitGroup
}

// line is one direction of a connection.
type line struct {
	io.Writer
	lost *atomic.Bool
	rate *atomic.Int64
}

func (w line) Write(b []byte) (int, error) {
	if w.lost.Load() {
		return len(b), nil
	}
	if rate := w.rate.Load(); rate > 0 {
		<-time.After(time.Duration(len(b)) * time.Second / time.Duration(rate))
	}
	return w.Writer.Write(b)
}

func startLink(t *testing.T, choose func() string, tap io.Writer) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &link{t: t, listener: listener, choose: choose, tap: tap, open: map[net.Conn]bool{}}
	l.pipes.Go(l.accept)
	t.Cleanup(func() {
		listener.Close()
		l.cut()
		l.pipes.Wait()
	})
	return l
}

// to is a link's choice of one backend.
func to(addr string) func() string { return func() string { return addr } }

// balance chooses among the gateways that are ready, in turn, as a load
// balancer with health checks does.
func balance(gateways ...*gateway) func() string {
	var mu sync.Mutex
	turn := 0
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		for range gateways {
			g := gateways[turn%len(gateways)]
			turn++
			resp, err := web.Get(g.http("/readyz"))
			if err != nil {
				continue
			}
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return g.addr
			}
		}
		return ""
	}
}

func (l *link) addr() string { return l.listener.Addr().String() }

func (l *link) accept() {
	for {
		front, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.pipes.Go(func() { l.join(front) })
	}
}

func (l *link) join(front net.Conn) {
	defer front.Close()
	addr := l.choose()
	if addr == "" {
		return
	}
	back, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer back.Close()
	if !l.keep(front, back) {
		return
	}
	defer l.forget(front, back)
	var both sync.WaitGroup
	copyTo := func(to, from net.Conn, lost *atomic.Bool) {
		var w io.Writer = line{to, lost, &l.rate}
		if l.tap != nil {
			w = io.MultiWriter(to, l.tap)
		}
		_, _ = io.Copy(w, from) // either end may close, and the test may cut
		to.(*net.TCPConn).CloseWrite()
	}
	both.Go(func() { copyTo(back, front, &l.toBackend) })
	both.Go(func() { copyTo(front, back, &l.fromBackend) })
	both.Wait()
}

func (l *link) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		l.open[c] = true
	}
	return !l.down
}

func (l *link) forget(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		delete(l.open, c)
	}
}

// cut closes every connection and refuses new ones until restore.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for c := range l.open {
		c.Close()
	}
}

func (l *link) restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

// capture keeps all bytes of a link.
type capture struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (c *capture) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes.Write(b)
}

func (c *capture) holds(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Contains(c.bytes.Bytes(), []byte(text))
}

func (c *capture) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes.Len()
}
