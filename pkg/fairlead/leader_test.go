package fairlead_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// term is one time that somebody led.
type term struct {
	who   string
	fence uint64
	ctx   context.Context
	end   chan error // what the function is to return
}

// candidate stands for a lead; each term that it has comes out of terms.
func candidate(t *testing.T, f *fairlead.Fairlead, who string, o fairlead.LeaderOptions, terms chan<- term) *fairlead.Leader {
	t.Helper()
	l, err := f.Lead(t.Context(), "sweeper", o, func(ctx context.Context) error {
		one := term{who, fairlead.LockFence(ctx), ctx, make(chan error, 1)}
		terms <- one
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-one.end:
			return err
		}
	})
	must(t, err)
	t.Cleanup(func() { must(t, l.Stop(context.WithoutCancel(t.Context()))) })
	return l
}

// One at a time leads; who stops hands over at once, and whose function returns
// stands again.
func TestLead(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{})
	terms, troubles := make(chan term, 10), make(chan error, 10)
	o := fairlead.LeaderOptions{TTL: time.Hour, Pause: 10 * time.Millisecond, OnError: func(err error) { troubles <- err }}
	a := candidate(t, r.f, "a", o, terms)
	first := receive(t, terms)
	eventually(t, "a leads", a.IsLeader)
	b := candidate(t, r.worker(), "b", o, terms)
	r.waits("leader:sweeper", 1)
	if b.IsLeader() || b.Fence() != 0 || a.Fence() != first.fence {
		t.Errorf("b leads: %v, with fence %d; a has %d, its term %d", b.IsLeader(), b.Fence(), a.Fence(), first.fence)
	}
	must(t, a.Stop(t.Context())) // of an hour
	must(t, a.Stop(t.Context()))
	if first.ctx.Err() == nil || a.IsLeader() {
		t.Error("a goes on leading")
	}
	second := receive(t, terms)
	if second.who != "b" || second.fence <= first.fence {
		t.Errorf("%s leads with fence %d behind %d", second.who, second.fence, first.fence)
	}
	wrong := errors.New("wrong")
	second.end <- wrong
	if err := receive(t, troubles); !errors.Is(err, wrong) {
		t.Errorf("got the error %v", err)
	}
	third := receive(t, terms)
	if third.who != "b" || third.fence <= second.fence {
		t.Errorf("%s leads with fence %d behind %d", third.who, third.fence, second.fence)
	}
	_, err := r.f.Lead(t.Context(), "", o, nil)
	coded(t, err, wire.InvalidArgument)
	_, err = r.f.Lead(t.Context(), "x", fairlead.LeaderOptions{TTL: time.Millisecond}, nil)
	coded(t, err, wire.InvalidArgument)
}

// A leader that loses the service leads no more before another one does, and
// stands again.
func TestALeadIsLost(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{})
	terms, troubles := make(chan term, 10), make(chan error, 100)
	var leading atomic.Int32
	l, err := r.f.Lead(t.Context(), "sweeper", fairlead.LeaderOptions{TTL: 600 * time.Millisecond, OnError: func(err error) { troubles <- err }},
		func(ctx context.Context) error {
			if leading.Add(1) > 1 {
				t.Error("two terms at a time")
			}
			defer leading.Add(-1)
			terms <- term{fence: fairlead.LockFence(ctx), ctx: ctx}
			<-ctx.Done()
			return nil
		})
	must(t, err)
	first := receive(t, terms)
	r.away.Store(true)
	lostCause(t, first.ctx)
	if l.IsLeader() {
		t.Error("it leads though it lost the lead")
	}
	if err := receive(t, troubles); !errors.Is(err, fairlead.ErrLockLost) {
		t.Errorf("got the error %v, want ErrLockLost", err)
	}
	r.away.Store(false)
	if second := receive(t, terms); second.fence <= first.fence {
		t.Errorf("fence %d behind %d", second.fence, first.fence)
	}
	r.f.Close() // which hands on what it leads
	if l.IsLeader() {
		t.Error("it leads behind Close")
	}
	_, err = r.f.Lead(t.Context(), "sweeper", fairlead.LeaderOptions{}, nil)
	if !errors.Is(err, fairlead.ErrClosed) {
		t.Errorf("behind Close: %v", err)
	}
	must(t, r.lock(r.worker(), "leader:sweeper", fairlead.LockOptions{Wait: -1}).Release(t.Context()))
}

// Nobody else leads before the function has returned, whoever has no time to wait
// for it.
func TestALeaderThatIsDrained(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{})
	in, out, drained := make(chan context.Context, 1), make(chan struct{}), make(chan error, 1)
	_, err := r.f.Lead(t.Context(), "sweeper", fairlead.LeaderOptions{TTL: time.Hour}, func(ctx context.Context) error {
		in <- ctx
		<-out
		return nil
	})
	must(t, err)
	lead := receive(t, in)
	over, end := context.WithCancel(t.Context())
	end()
	go func() { drained <- r.f.Drain(over) }()
	<-lead.Done()
	_, err = r.worker().Lock(t.Context(), "leader:sweeper", fairlead.LockOptions{Wait: 200 * time.Millisecond})
	coded(t, err, wire.DeadlineExceeded)
	if len(drained) > 0 {
		t.Error("Drain has returned, and the function has not")
	}
	close(out)
	if err := receive(t, drained); !errors.Is(err, context.Canceled) {
		t.Errorf("Drain: %v", err)
	}
	must(t, r.lock(r.worker(), "leader:sweeper", fairlead.LockOptions{}).Release(t.Context()))
}

// Where nobody answers who could give the lead, that is said at once.
func TestALeaderThatNobodyAnswers(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	troubles := make(chan error, 10)
	l, err := r.f.Lead(t.Context(), "sweeper", fairlead.LeaderOptions{OnError: func(err error) { troubles <- err }}, func(context.Context) error { return nil })
	must(t, err)
	coded(t, receive(t, troubles), wire.Unavailable)
	must(t, l.Stop(t.Context()))
	if len(troubles) > 1 {
		t.Errorf("said %d times more", len(troubles))
	}
}

// A panic of a leader ends its term, not the process.
func TestALeaderPanics(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{})
	troubles := make(chan error, 10)
	terms, again := 0, make(chan bool, 10)
	_, err := r.f.Lead(t.Context(), "k", fairlead.LeaderOptions{Pause: time.Millisecond, OnError: func(err error) { troubles <- err }}, func(ctx context.Context) error {
		switch terms++; terms {
		case 1:
			panic("oh no")
		case 2:
			runtime.Goexit()
		}
		again <- true
		<-ctx.Done()
		return ctx.Err()
	})
	must(t, err)
	for range 2 {
		if err := receive(t, troubles); err == nil {
			t.Error("no error")
		}
	}
	receive(t, again)
	r.f.Close()
}
