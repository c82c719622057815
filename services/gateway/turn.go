package gateway

import (
	"context"
	"slices"
	"sync"
)

// turn is a lock that can be waited for with a deadline, in order. The zero
// value is free.
type turn struct {
	mu      sync.Mutex
	taken   bool            // guarded by mu, like waiting
	waiting []chan struct{} // of whom has to wait, oldest first
}

// Lock takes the turn, however long that takes.
func (t *turn) Lock() { _ = t.lock(context.Background()) } // which never ends

// lock takes the turn, unless ctx is done first: then that is the error.
func (t *turn) lock(ctx context.Context) error {
	t.mu.Lock()
	if !t.taken {
		t.taken = true
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	t.waiting = append(t.waiting, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.waiting, mine)
	if i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	t.mu.Unlock()
	if i < 0 { // it came at the same time
		t.Unlock()
	}
	return ctx.Err()
}

// yield lets those have the turn that wait for it, and takes it again behind them.
func (t *turn) yield() {
	t.mu.Lock()
	alone := len(t.waiting) == 0
	t.mu.Unlock()
	if !alone {
		t.Unlock()
		t.Lock()
	}
}

// Unlock passes the turn on to whoever waits longest.
func (t *turn) Unlock() {
	t.mu.Lock()
	if len(t.waiting) == 0 {
		t.taken, t.waiting = false, nil
	} else {
		close(t.waiting[0])
		t.waiting = slices.Delete(t.waiting, 0, 1)
	}
	t.mu.Unlock()
}
