package ratelimit

import (
	"slices"
	"sync"
)

// turn says whose a cell is: the worker's that decides for all who wait, or that
// of a request for several keys, which holds them while it is decided. It is given
// in the order in which it was asked for. A worker never waits for it: the cell
// is put in line again when its turn has come, and other keys go on meanwhile.
type turn struct {
	mu    sync.Mutex
	taken bool            // guarded by mu, like all below
	given bool            // to the worker, which has not begun yet
	queue []chan struct{} // who asked; nil is the worker
}

// try takes the turn for the worker if it is free, or was given to it. Otherwise
// pass says when it is.
func (t *turn) try() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.given:
		t.given = false
	case t.taken:
		t.queue = append(t.queue, nil)
		return false
	}
	t.taken = true
	return true
}

// ask takes the turn, and returns nil, or what is closed when it is given.
func (t *turn) ask() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.taken {
		t.taken = true
		return nil
	}
	mine := make(chan struct{})
	t.queue = append(t.queue, mine)
	return mine
}

// withdraw takes back what was asked, and reports false where the turn was given
// meanwhile.
func (t *turn) withdraw(mine <-chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := slices.IndexFunc(t.queue, func(c chan struct{}) bool { return c == mine })
	if at >= 0 {
		t.queue = slices.Delete(t.queue, at, at+1)
	}
	return at >= 0
}

// pass gives the turn to who is next, and reports whether that is the worker.
func (t *turn) pass() (worker bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		t.taken = false
		return false
	}
	next := t.queue[0]
	t.queue = slices.Delete(t.queue, 0, 1)
	if next == nil {
		t.given = true
		return true
	}
	close(next)
	return false
}

// drop reports whether the worker was given a turn that it will not use.
func (t *turn) drop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.given
	t.given = false
	return was
}

// free reports whether nobody has the turn.
func (t *turn) free() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.taken
}
