package ratelimit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// fresh is for how long a state that was read or written is what a denial, or a
	// look, may be answered from. Whatever takes tokens is stored on condition that
	// the state is the newest: it may be as old as it likes.
	fresh = time.Second
	// maxWaiting bounds who waits for one key.
	maxWaiting = 16_384
)

// cell is what a replica has of one key: who waits for it, and what it knows.
type cell struct {
	key  string // in the bucket
	turn turn
	// state belongs to whoever holds the turn.
	state state

	mu      sync.Mutex
	waiting []*waiter // guarded by mu, like all below
	spare   []*waiter // its room, for the next time
	queued  bool      // a worker has the cell, or will
	gone    bool      // it was evicted: the key has another one
	floor   uint64    // a state of an older revision is void

	used atomic.Int64 // when somebody asked last, on the keeper's clock
}

// state is an entry as it was read or written.
type state struct {
	entry    entry
	revision uint64 // 0: there was none
	known    bool   // else it is to be read; where revision is 0 too, nothing ever was
	asked    time.Time
	ends     time.Time // when it ends by itself, at the latest
	epoch    uint64    // of the keeper's forgetAll when it was asked for
}

// waiter is a request that waits for its answer.
type waiter struct {
	request
	ctx      context.Context
	deadline time.Time // of ctx; zero: none
	came     time.Time // of who looks or adjusts: what was taken before is to be seen
	answer   answer
	done     chan struct{} // has one element when there is an answer
}

// over reports whether whoever waits has given up.
func (w *waiter) over(now time.Time) bool {
	return w.ctx.Err() != nil || !w.deadline.IsZero() && !w.deadline.After(now)
}

// finish answers. A waiter is answered once.
func (w *waiter) finish() { w.done <- struct{}{} }

// joined says what became of an attempt to wait for a cell.
type joined uint8

const (
	joinedFirst joined = iota // a worker is to be told
	joinedOthers
	joinFull
	joinGone
)

func (c *cell) join(w *waiter, most int) joined {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.gone:
		return joinGone
	case len(c.waiting) >= most:
		return joinFull
	}
	c.waiting = append(c.waiting, w)
	if c.queued {
		return joinedOthers
	}
	c.queued = true
	return joinedFirst
}

// takeWaiting returns everybody who waits. They are given back to finished.
func (c *cell) takeWaiting() []*waiter {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.waiting
	c.waiting, c.spare = c.spare[:0], nil
	return all
}

// finished takes back the room of takeWaiting, and reports whether others wait.
func (c *cell) finished(all []*waiter) (more bool) {
	clear(all)
	c.mu.Lock()
	defer c.mu.Unlock()
	if cap(all) <= 4096 { // a flood once is no reason to keep the room
		c.spare = all[:0]
	}
	c.queued = len(c.waiting) > 0
	return c.queued
}

// void makes states of older revisions unknown.
func (c *cell) void(revision uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.floor = max(c.floor, revision)
}

// evict makes a cell nobody uses unusable, and reports whether nobody did.
func (c *cell) evict() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Who takes the turn after this sees that the cell is gone.
	c.gone = !c.queued && len(c.waiting) == 0 && c.turn.free()
	return c.gone
}

// wasEvicted reports whether the key may have another cell.
func (c *cell) wasEvicted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

var (
	errFull      = &wire.Error{Code: wire.ResourceExhausted, Message: "too many requests wait for the key"}
	errCrowded   = &wire.Error{Code: wire.ResourceExhausted, Message: "too many keys are asked for at a time"}
	errStopping  = &wire.Error{Code: wire.Unavailable, Message: "the replica is stopping", Details: map[string]any{"outcome": "none"}}
	errUnknown   = &wire.Error{Code: wire.Unavailable, Message: "JetStream is away: try again", Details: map[string]any{"outcome": "unknown"}}
	errAway      = &wire.Error{Code: wire.Unavailable, Message: "JetStream is away: try again", Details: map[string]any{"outcome": "none"}}
	errContended = &wire.Error{Code: wire.Aborted, Message: "other replicas change the key too fast"}
	errCorrupt   = &wire.Error{Code: wire.Internal, Message: "what is stored of the key can't be read: reset it"}
)
