package bridge

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// hole is a way to Postgres that can become one into which everything vanishes
// without either end being told.
type hole struct {
	listener net.Listener
	to       string
	pipes    sync.WaitGroup

	mu   sync.Mutex
	deep chan struct{} // closed: nothing passes any more
	open []net.Conn
}

// through returns the URL by way of a hole.
func through(t *testing.T, raw string) (*hole, string) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{listener: l, to: u.Host, deep: make(chan struct{})}
	h.pipes.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.pipes.Go(func() { h.join(c) })
		}
	})
	t.Cleanup(h.close)
	u.Host = l.Addr().String()
	return h, u.String()
}

func (h *hole) join(front net.Conn) {
	rear, err := net.Dial("tcp", h.to)
	if err != nil {
		front.Close()
		return
	}
	h.mu.Lock()
	h.open = append(h.open, front, rear)
	h.mu.Unlock()
	pass := func(to, from net.Conn) {
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			select {
			case <-h.deep:
				return
			default:
			}
			if err != nil {
				to.Close()
				return
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
	}
	h.pipes.Go(func() { pass(rear, front) })
	h.pipes.Go(func() { pass(front, rear) })
}

// vanish lets nothing pass any more, in either direction; ends stay open.
func (h *hole) vanish() { close(h.deep) }

func (h *hole) close() {
	h.listener.Close()
	h.mu.Lock()
	for _, c := range h.open {
		c.Close()
	}
	h.mu.Unlock()
	h.pipes.Wait()
}
