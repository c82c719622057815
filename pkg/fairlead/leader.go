package fairlead

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// LeaderOptions say how to lead. The zero value is good for most.
type LeaderOptions struct {
	// TTL is how long a leader that says nothing any more stays it, 50ms to 24h: by
	// then another one leads. Default 30s.
	TTL time.Duration
	// Pause is how long a leader whose function returned lets others lead before it
	// stands again, and how long it waits where it cannot stand. Default 1s.
	Pause time.Duration
	// OnError is called, one at a time, with what fn returned, with [ErrLockLost] where
	// the lead was lost, and with what keeps this process from standing: at once, and
	// every 10s as long as it does. Default: they are logged.
	OnError func(error)
}

// Leader stands for the lead of a name, and has it or not.
type Leader struct {
	f    *Fairlead
	name string
	o    LeaderOptions
	fn   func(context.Context) error

	ctx    context.Context // of standing
	cancel context.CancelCauseFunc
	done   chan struct{}

	told time.Time // when OnError was last told that nobody answers; that of run

	mu   sync.Mutex
	lock *Lock // of the lead; nil without it; guarded by mu
}

// tellEvery is how often it is said that nobody answers who could give the lead.
const tellEvery = 10 * time.Second

// Lead stands for the lead of a name until ctx ends or [Leader.Stop]: of all
// processes that do, one at a time runs fn. The context of fn ends when the lead
// is lost, with the cause [ErrLockLost], and when this process is to lead no
// longer; fn should return then, and the lead is handed on when it has. Where fn
// returns before, the lead is handed on too, and this process stands again.
//
// A leader that cannot reach the tasks service leads no more before another one
// can: the lead is a [Lock], whose fence [LockFence] has.
func (f *Fairlead) Lead(ctx context.Context, name string, o LeaderOptions, fn func(ctx context.Context) error) (*Leader, error) {
	checked, err := LockOptions{TTL: o.TTL}.checked()
	if err == nil {
		err = wire.CheckLockKey("name", leaderKey(name))
	}
	if err == nil && name == "" {
		err = wire.InvalidField("name", "must not be empty")
	}
	if err != nil {
		return nil, fmt.Errorf("lead: %w", err)
	}
	o.TTL, o.Pause = checked.TTL, cmp.Or(max(o.Pause, 0), time.Second)
	if o.OnError == nil {
		o.OnError = func(err error) { f.opts.Log.Warn("leading", "name", name, "err", err) }
	}
	l := &Leader{f: f, name: name, o: o, fn: fn, done: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		l.cancel(nil)
		return nil, ErrClosed
	}
	f.open[l] = struct{}{}
	go l.run() // until it is stopped
	return l, nil
}

func leaderKey(name string) string { return "leader:" + name }

// IsLeader reports whether this process leads now. It looks at the time too, so
// that it is false at once in a process that was stopped for too long.
func (l *Leader) IsLeader() bool { return l.Fence() != 0 }

// Fence is that of the lead, 0 without it. It is greater than that of every leader
// before.
func (l *Leader) Fence() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lock == nil || !l.lock.Held() {
		return 0
	}
	return l.lock.Fence()
}

// Stop ends the context of fn, waits for it, and hands the lead on at once. It
// returns ctx's error where that ends first; the rest happens all the same. It may
// be called again.
func (l *Leader) Stop(ctx context.Context) error {
	l.cancel(errStopped)
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop leading %s: %w", l.name, ctx.Err())
	}
}

// drain is Stop, and waits for fn also where ctx ends: the lead is not handed on
// before.
func (l *Leader) drain(ctx context.Context) error {
	err := l.Stop(ctx)
	<-l.done
	return err
}

func (l *Leader) end(cause error) { l.cancel(cause) }

func (l *Leader) halt() {
	l.cancel(errStopped)
	<-l.done
}

func (l *Leader) run() {
	defer close(l.done)
	defer func() {
		l.cancel(nil)
		l.f.mu.Lock()
		defer l.f.mu.Unlock()
		delete(l.f.open, l)
	}()
	for l.ctx.Err() == nil {
		k, err := l.f.lock(l.ctx, leaderKey(l.name), LockOptions{TTL: l.o.TTL, Wait: wire.MaxLockWait}, l.unanswered)
		switch {
		case err == nil:
			l.lead(k)
		case l.ctx.Err() != nil:
		case wire.CodeOf(err) == wire.DeadlineExceeded: // another one leads
		default:
			l.o.OnError(err)
			_ = pause(l.ctx, l.o.Pause)
		}
	}
}

// lead runs fn while the lead is had, and hands it on.
func (l *Leader) lead(k *Lock) {
	l.set(k)
	err := l.call(k.Context())
	l.set(nil)
	released := k.Release(l.ctx)
	if l.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // it was stopped
	}
	lost := errors.Is(released, ErrLockLost)
	if lost && !errors.Is(err, ErrLockLost) {
		err = errors.Join(err, released)
	}
	if err != nil {
		l.o.OnError(err)
	}
	if !lost {
		_ = pause(l.ctx, l.o.Pause)
	}
}

func (l *Leader) set(k *Lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lock = k
}

// unanswered tells that this process stands, and nobody answers.
func (l *Leader) unanswered(err error) {
	if now := time.Now(); l.told.IsZero() || now.Sub(l.told) >= tellEvery {
		l.told = now
		l.o.OnError(fmt.Errorf("lead %s: %w", l.name, err))
	}
}

// call calls fn, whose panic is an error, as is runtime.Goexit.
func (l *Leader) call(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		err := fmt.Errorf("lead %s: the function ended its goroutine", l.name)
		defer func() {
			if r := recover(); r != nil {
				l.f.opts.Log.Error("a leader panicked", "name", l.name, "err", fmt.Sprint(r), "stack", string(debug.Stack()))
				err = fmt.Errorf("lead %s: panic: %v", l.name, r)
			}
			done <- err
		}()
		err = l.fn(ctx)
	}()
	return <-done
}
