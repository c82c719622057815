package fairlead

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ErrLockLost is the cause for which [Lock.Context] ends where the lock is not its
// holder's any more: it was not renewed in time, or somebody else has it.
var ErrLockLost = errors.New("fairlead: the lock was lost")

// LockOptions say how to get a lock. The zero value is good for most.
type LockOptions struct {
	// TTL is how long the lock is held where this process says nothing any more, 50ms
	// to 24h. It is renewed after each third of it. Default 30s.
	TTL time.Duration
	// Wait is how long to stand in line for the lock. Default 5s; below 0: not at all.
	Wait time.Duration
}

const (
	defaultLockTTL  = 30 * time.Second
	defaultLockWait = 5 * time.Second
)

func (o LockOptions) checked() (LockOptions, error) {
	o.TTL, o.Wait = cmp.Or(o.TTL, defaultLockTTL), max(cmp.Or(o.Wait, defaultLockWait), 0)
	if o.TTL < wire.MinLockTTL || o.TTL > wire.MaxLockTTL {
		return o, wire.InvalidField("TTL", "from 50ms to 24h")
	}
	o.TTL = o.TTL.Truncate(time.Millisecond)
	return o, nil
}

// Lock is a lock that this process has, until [Lock.Release] or until it is lost.
// Its methods may be called concurrently.
type Lock struct {
	f     *Fairlead
	key   string
	ttl   time.Duration
	grant wire.LockGrant

	ctx    context.Context // of what is done under it
	cancel context.CancelCauseFunc

	renewals context.Context // of keeping the lock
	stop     context.CancelFunc
	kept     chan struct{} // closed when it is kept no longer
	once     sync.Once     // the release
	released error

	mu       sync.Mutex
	deadline time.Time // the lock counts as lost after; guarded by mu, with the next one
	lost     error
}

// Lock waits for its turn and returns the lock of a key, 1 to 256 bytes. All who
// ask for a key get it one after the other, in the order in which they asked. The
// tasks service keeps it.
//
// DEADLINE_EXCEEDED: somebody else had it all the time of [LockOptions].Wait.
// RESOURCE_EXHAUSTED: a thousand wait already. UNAVAILABLE: the tasks service, or
// JetStream behind it, was away; nobody has a lock that way. [ErrClosed] behind
// [Fairlead.Close].
//
// ctx is also that of what is done under the lock: where it ends, so does
// [Lock.Context], and the lock is still held until Release, or until
// [Fairlead.Drain] or Close, which end [Lock.Context] too and do not wait for what
// is done under it: what they are to wait for is done in [Fairlead.WithLock].
func (f *Fairlead) Lock(ctx context.Context, key string, o LockOptions) (*Lock, error) {
	return f.lock(ctx, key, o, func(error) {})
}

// lock is Lock, which tells unanswered of each answer that did not come meanwhile.
func (f *Fairlead) lock(ctx context.Context, key string, o LockOptions, unanswered func(error)) (*Lock, error) {
	o, err := o.checked()
	if err == nil {
		err = wire.CheckLockKey("key", key)
	}
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	standing, end, ok := f.locks.begin(ctx)
	if !ok {
		return nil, ErrClosed
	}
	defer end()
	a := &acquiring{f: f, key: key, ttl: o.TTL, wait: o.Wait, unanswered: unanswered}
	grant, deadline, err := a.acquire(standing)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", key, err)
	}
	k := &Lock{f: f, key: key, ttl: o.TTL, grant: grant, deadline: deadline, kept: make(chan struct{})}
	k.ctx, k.cancel = context.WithCancelCause(context.WithValue(ctx, fenceKey{}, grant.Fence))
	k.renewals, k.stop = context.WithCancel(context.WithoutCancel(ctx))
	f.locks.add(k)
	go k.keep() // until it is released, which waits for it
	return k, nil
}

// WithLock runs fn while it has the lock of a key, as [Fairlead.Lock] gets it. The
// context of fn ends, with the cause [ErrLockLost], where the lock is lost; fn
// should return then, and is waited for. It returns fn's error; where the lock was
// lost while fn ran, also [ErrLockLost], since somebody else may have done the
// same meanwhile. [LockFence] has the fence.
//
// [Fairlead.Drain] waits for fn, and ends its context where that takes too long;
// [Fairlead.Close] ends it at once and waits: fn must not call them. The lock is
// released when fn has returned, in any case.
func (f *Fairlead) WithLock(ctx context.Context, key string, o LockOptions, fn func(ctx context.Context) error) (err error) {
	k, err := f.Lock(ctx, key, o)
	if err != nil {
		return err
	}
	u, ok := f.beginUnder(k)
	if !ok {
		_ = k.Release(ctx) // it was not used, and ends by its ttl
		return ErrClosed
	}
	defer u.over()
	defer func() {
		released := k.Release(ctx)
		if errors.Is(released, ErrLockLost) {
			err = errors.Join(err, released)
		} else if released != nil {
			f.opts.Log.Warn("a lock was not released, and ends by its ttl", "key", key, "err", released)
		}
	}()
	return fn(k.ctx)
}

type fenceKey struct{}

// LockFence returns the fence of the lock under which ctx is: one of
// [Lock.Context], [Fairlead.WithLock] or [Fairlead.Lead]; 0 for any other.
func LockFence(ctx context.Context) uint64 {
	fence, _ := ctx.Value(fenceKey{}).(uint64)
	return fence
}

// Key is what is locked.
func (k *Lock) Key() string { return k.key }

// Fence is a number that is greater than that of everybody who had this lock
// before. What the lock protects is safe from a holder that was paused, and does
// not know yet that it lost the lock, if it remembers the greatest fence that it
// has seen and refuses every lower one.
func (k *Lock) Fence() uint64 { return k.grant.Fence }

// Context is that of what is done under the lock. It ends when the lock is lost,
// with the cause [ErrLockLost], when it is released, and with the context that it
// was acquired with.
func (k *Lock) Context() context.Context { return k.ctx }

// Held reports whether the lock is still had. It looks at the time too, so that it
// is false at once in a process that was stopped for too long.
func (k *Lock) Held() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.renewals.Err() == nil && k.lost == nil && time.Now().Before(k.deadline)
}

// Release ends [Lock.Context] and gives the lock to whoever is next. It does so
// also where ctx has ended already, within [Options.Timeout]; where the service
// does not answer, the lock ends by its TTL. [ErrLockLost]: it was not had any
// more. Every further call returns what the first did.
func (k *Lock) Release(ctx context.Context) error {
	k.once.Do(func() {
		k.cancel(nil)
		k.stop()
		<-k.kept
		k.released = k.release(ctx)
		k.f.locks.remove(k)
	})
	return k.released
}

func (k *Lock) release(ctx context.Context) error {
	k.mu.Lock()
	lost, deadline := k.lost, k.deadline
	k.mu.Unlock()
	if lost != nil {
		return fmt.Errorf("release the lock %s: %w", k.key, lost)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.f.opts.Timeout)
	defer cancel()
	ctx, cancel = context.WithDeadline(ctx, deadline.Add(k.ttl/10))
	defer cancel()
	for {
		_, err := service[struct{}](ctx, k.f, "tasks", "lock.release", wire.LockRelease{Key: k.key, Fence: k.grant.Fence, Token: k.grant.Token})
		switch wire.CodeOf(err) {
		case wire.Unavailable:
			if pause(ctx, lockPause) == nil {
				continue
			}
		case wire.FailedPrecondition:
			return fmt.Errorf("release the lock %s: %w: %w", k.key, ErrLockLost, err)
		}
		if err != nil {
			return fmt.Errorf("release the lock %s: %w", k.key, err)
		}
		return nil
	}
}

// locks are those that a [Fairlead] has, and waits for. The zero value has none.
type locks struct {
	mu    sync.Mutex
	over  bool                                  // guarded by mu, with the next two
	open  map[*Lock]struct{}                    // not released yet
	stand map[*context.CancelCauseFunc]struct{} // of those who acquire

	work sync.WaitGroup // those who acquire
}

// begin lets somebody acquire a lock, unless none may any more. Whoever it lets
// calls end, which may come after ctx.
func (l *locks) begin(ctx context.Context) (standing context.Context, end func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil, nil, false
	}
	standing, cancel := context.WithCancelCause(ctx)
	if l.stand == nil {
		l.open, l.stand = map[*Lock]struct{}{}, map[*context.CancelCauseFunc]struct{}{}
	}
	l.stand[&cancel] = struct{}{}
	l.work.Add(1)
	return standing, func() {
		cancel(nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.stand, &cancel)
		l.work.Done()
	}, true
}

func (l *locks) add(k *Lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[k] = struct{}{}
}

func (l *locks) remove(k *Lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, k)
}

// end releases all locks. It comes after everything that is waited for and may have
// worked under one.
func (l *locks) end() {
	l.mu.Lock()
	l.over = true
	for cancel := range l.stand {
		(*cancel)(errStopped)
	}
	l.mu.Unlock()
	l.work.Wait()
	l.mu.Lock()
	open := make([]*Lock, 0, len(l.open))
	for k := range l.open {
		open = append(open, k)
	}
	l.mu.Unlock()
	var all sync.WaitGroup
	for _, k := range open {
		k.cancel(errStopped)
		all.Go(func() { _ = k.Release(context.Background()) }) // it ends by its ttl
	}
	all.Wait()
}

// pause waits, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
