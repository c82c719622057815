package fairlead

import (
	"context"
	"fmt"
)

// underLock is a function that [Fairlead.WithLock] runs: the lock is not released
// before it has returned.
type underLock struct {
	f    *Fairlead
	lock *Lock
	done chan struct{} // closed when the function has returned and the lock is released
}

// beginUnder has Drain and Close wait for what is done under a lock; false where
// they have come already. Whoever it lets calls over.
func (f *Fairlead) beginUnder(k *Lock) (u *underLock, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, false
	}
	u = &underLock{f: f, lock: k, done: make(chan struct{})}
	f.open[u] = struct{}{}
	return u, true
}

func (u *underLock) over() {
	u.f.mu.Lock()
	delete(u.f.open, u)
	u.f.mu.Unlock()
	close(u.done)
}

// drain lets the function come to its end. When ctx ends first it halts.
func (u *underLock) drain(ctx context.Context) error {
	select {
	case <-u.done:
		return nil
	case <-ctx.Done():
		u.halt()
		return fmt.Errorf("drain what is done under the lock %s: %w", u.lock.key, ctx.Err())
	}
}

func (u *underLock) end(cause error) { u.lock.cancel(cause) }

func (u *underLock) halt() {
	u.end(errStopped)
	<-u.done
}
