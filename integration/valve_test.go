package integration

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// flow is a direction through a valve.
type flow int

const (
	there flow = iota // from who connects
	back              // to who connects
)

// valve is a TCP proxy whose two directions can be stopped each by itself: what
// is sent meanwhile waits, as behind a network that is slow or gone, and no end
// notices.
type valve struct {
	listener net.Listener
	to       string
	pipes    sync.WaitGroup

	mu      sync.Mutex
	stopped [2]bool
	turned  chan struct{}               // closed and replaced when a direction is let go
	watch   func(toward flow, b []byte) // sees the bytes before they pass; guarded by mu
	open    map[net.Conn]bool
	ended   bool
}

func startValve(t *testing.T, to string) *valve {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	v := &valve{listener: listener, to: to, turned: make(chan struct{}), open: map[net.Conn]bool{}}
	v.pipes.Go(v.accept)
	t.Cleanup(func() {
		listener.Close()
		v.mu.Lock()
		v.ended = true
		v.mu.Unlock()
		v.cut()
		v.pipes.Wait()
	})
	return v
}

func (v *valve) addr() string { return v.listener.Addr().String() }

func (v *valve) accept() {
	for {
		front, err := v.listener.Accept()
		if err != nil {
			return
		}
		v.pipes.Go(func() { v.join(front) })
	}
}

func (v *valve) join(front net.Conn) {
	defer front.Close()
	rear, err := net.Dial("tcp", v.to)
	if err != nil {
		return
	}
	defer rear.Close()
	v.mu.Lock()
	if v.ended {
		v.mu.Unlock()
		return
	}
	v.open[front], v.open[rear] = true, true
	v.mu.Unlock()
	gone := make(chan struct{}) // either end is
	var once sync.Once
	pass := func(toward flow, to, from net.Conn) {
		defer once.Do(func() { close(gone) })
		defer front.Close()
		defer rear.Close()
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			if n > 0 && (!v.wait(toward, b[:n], gone) || !written(to, b[:n])) {
				return
			}
			if err != nil {
				return
			}
		}
	}
	var both sync.WaitGroup
	both.Go(func() { pass(there, rear, front) })
	both.Go(func() { pass(back, front, rear) })
	both.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.open, front)
	delete(v.open, rear)
}

func written(to net.Conn, b []byte) bool {
	_, err := to.Write(b)
	return err == nil
}

// wait shows bytes to who watches and returns when they may pass; false where
// the connection ends first.
func (v *valve) wait(toward flow, b []byte, gone <-chan struct{}) bool {
	v.mu.Lock()
	if v.watch != nil {
		v.watch(toward, b)
	}
	for v.stopped[toward] {
		turned := v.turned
		v.mu.Unlock()
		select {
		case <-turned:
		case <-gone:
			return false
		}
		v.mu.Lock()
	}
	defer v.mu.Unlock()
	return true
}

// stop holds a direction back from the next bytes on.
func (v *valve) stop(toward flow) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stopped[toward] = true
}

// release lets both directions go on.
func (v *valve) release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stopped = [2]bool{}
	close(v.turned)
	v.turned = make(chan struct{})
}

// deafenAt stops what comes back as soon as text goes there, and closes the
// channel then: who sent it gets no answer.
func (v *valve) deafenAt(text string) (sent <-chan struct{}) {
	done := make(chan struct{})
	v.mu.Lock()
	defer v.mu.Unlock()
	v.watch = func(toward flow, b []byte) {
		if toward == there && bytes.Contains(b, []byte(text)) && !v.stopped[back] {
			v.stopped[back] = true
			close(done)
		}
	}
	return done
}

// cut ends every connection; what was held back is lost. New ones are let in.
func (v *valve) cut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.watch, v.stopped = nil, [2]bool{}
	for c := range v.open {
		c.Close()
	}
	close(v.turned)
	v.turned = make(chan struct{})
}

// ways are the valves between the nodes of a cluster, by the node that connects
// and the one that it connects to.
type ways struct {
	t *testing.T

	mu  sync.Mutex
	all map[[2]int]*valve
}

func newWays(t *testing.T) *ways { return &ways{t: t, all: map[[2]int]*valve{}} }

// via makes the way between two nodes.
func (w *ways) via(from, to int, addr string) string {
	v := startValve(w.t, addr)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[[2]int{from, to}] = v
	return v.addr()
}

// stop holds back what one node sends to another, whoever connected.
func (w *ways) stop(from, to int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v := w.all[[2]int{from, to}]; v != nil {
		v.stop(there)
	}
	if v := w.all[[2]int{to, from}]; v != nil {
		v.stop(back)
	}
}

// release lets everything go on.
func (w *ways) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.all {
		v.release()
	}
}

// renew ends all connections, what was held back with them, and lets the nodes
// connect again.
func (w *ways) renew() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.all {
		v.cut()
	}
}
