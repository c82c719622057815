package runner

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// stiller is a way to a server that can stand still, without anything being closed.
type stiller struct {
	addr string

	mu    sync.Mutex
	moves *sync.Cond
	still bool
}

func (r *rig) stiller() *stiller {
	r.Helper()
	to, err := url.Parse(r.server.ClientURL())
	if err != nil {
		r.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.Fatal(err)
	}
	s := &stiller{addr: "nats://" + l.Addr().String()}
	s.moves = sync.NewCond(&s.mu)
	var group sync.WaitGroup
	var mu sync.Mutex
	open := []io.Closer{l}
	r.Cleanup(func() {
		s.stand(false)
		mu.Lock()
		for _, c := range open {
			_ = c.Close() // it may be closed by now
		}
		mu.Unlock()
		group.Wait()
	})
	group.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to.Host)
			if err != nil {
				_ = in.Close()
				continue
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			group.Go(func() { s.pass(out, in) })
			group.Go(func() { s.pass(in, out) })
		}
	})
	return s
}

func (s *stiller) stand(still bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.still = still
	s.moves.Broadcast()
}

func (s *stiller) pass(to, from net.Conn) {
	defer func() { _ = errors.Join(to.Close(), from.Close()) }() // either may be closed by now
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		s.mu.Lock()
		for s.still {
			s.moves.Wait()
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A worker that says what it promised is not given up because NATS says nothing to
// its replica, though the connection looks well.
func TestNATSStandsStill(t *testing.T) {
	r := newRig(t)
	way := r.stiller()
	nc, err := bus.Connect(context.Background(), bus.Config{URL: way.addr, Name: "still"}, bus.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	p := r.replica(func(c *Config) { c.NATS, c.Peers = nc, nc })
	attempts := r.attempts("work")
	id := r.enqueue(p, "work", func(n *store.New) { n.Timeout = time.Minute })
	msg := await(t, "the attempt", attempts)
	r.beat(msg, 500*time.Millisecond, "")
	eventually(t, "the promise to be heard", func() bool { return promised(p.table, id) })

	beating, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	group.Go(func() {
		every(beating, 100*time.Millisecond, func(context.Context) { r.beat(msg, 500*time.Millisecond, "") })
	})
	way.stand(true)
	over := time.After(4 * time.Second)
	eventually(t, "the promise to be long over", func() bool {
		select {
		case <-over:
			return true
		default:
			return r.task(id).Fence != 1
		}
	})
	way.stand(false)
	r.reply(msg, "1")
	if task := r.until(id, wire.TaskCommitted); task.Fence != 1 || task.Crashes != 0 {
		t.Errorf("fence %d, %d crashes, want 1 and none", task.Fence, task.Crashes)
	}
}

func promised(tb *table, id wire.TaskID) bool {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.byID[id] != nil && tb.byID[id].promised > 0
}

// A failure that is said again is no news, whatever followed it.
func TestAFailureIsSaidAgain(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	register(t, p, store.Policy{Name: "work", MaxAttempts: 5})
	attempts := r.attempts("work")
	r.enqueue(p, "work")
	msg := await(t, "the attempt", attempts)
	fail := wire.TaskFail{TaskAttempt: attemptOf(msg), Error: wire.TaskError{Code: wire.Unavailable, Message: "x", RetryAfterMs: 60_000}}
	for range 2 {
		if err := p.Fail(t.Context(), fail); err != nil {
			t.Errorf("Fail: %v", err)
		}
	}
	fail.Error.Message = "something else"
	if err := p.Fail(t.Context(), fail); !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Errorf("Fail otherwise: %v, want FAILED_PRECONDITION", err)
	}
}

// A worker of an attempt that was fenced off by who was not told so hears of it.
func TestTheAnswerOfATakeoverIsLost(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("work")
	id := r.enqueue(p, "work", func(n *store.New) { n.Timeout = time.Hour })
	await(t, "the attempt", attempts)
	stops, err := r.nc.SubscribeSync(p.ns.TaskCancel(id, 1))
	if err == nil {
		err = r.nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.memory.Takeover(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	p.gone(id, 1, r.task(id))
	if _, err := stops.NextMsg(patience); err != nil {
		t.Errorf("the worker was not told: %v", err)
	}
	if a := p.table.get(id); a != nil && a.Fence == 1 {
		t.Error("it is still supervised")
	}
}
