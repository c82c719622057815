package runner

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
)

const (
	// mostRows is how many rows one statement carries.
	mostRows = 1000
	// flushers is how many statements of a kind are under way at a time: while one
	// waits for the disk, the next is collected and sent.
	flushers = 2

	retryFirst, retryMost = 50 * time.Millisecond, time.Second
)

// batch collects what is written together: all that came while the last write was
// under way, without waiting for more.
type batch[T any] struct {
	bound int // of what waits
	// flush writes items. It returns those of which nothing is known, which are to be
	// tried again.
	flush func(ctx context.Context, items []T) (again []T)

	wake chan struct{}

	mu      sync.Mutex // guards what follows
	waiting []T        // from head on
	head    int
	most    int // of the next write: smaller after one that failed
	busy    int // of items that are being written
	closed  bool
	written int64
	writes  int64
}

func newBatch[T any](bound int, flush func(context.Context, []T) []T) *batch[T] {
	return &batch[T]{bound: bound, flush: flush, most: mostRows, wake: make(chan struct{}, flushers)}
}

// add has an item written soon; false: too many wait, or nobody writes any more.
func (b *batch[T]) add(item T) bool {
	b.mu.Lock()
	if b.closed || len(b.waiting)-b.head >= b.bound {
		b.mu.Unlock()
		return false
	}
	b.waiting = append(b.waiting, item)
	b.mu.Unlock()
	b.nudge()
	return true
}

func (b *batch[T]) nudge() {
	select {
	case b.wake <- struct{}{}:
	default: // all flushers are awake, or about to be
	}
}

// take moves what is written next to into.
func (b *batch[T]) take(into []T) []T {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.waiting)-b.head, b.most)
	into = append(into, b.waiting[b.head:b.head+n]...)
	clear(b.waiting[b.head : b.head+n])
	b.head += n
	if b.head == len(b.waiting) {
		b.waiting, b.head = b.waiting[:0], 0
	} else if b.head > len(b.waiting)/2 {
		rest := copy(b.waiting, b.waiting[b.head:])
		clear(b.waiting[rest:])
		b.waiting, b.head = b.waiting[:rest], 0
	}
	b.busy += n
	return into
}

// settle notes what became of a write. Items that are to be tried again wait
// behind the others, and in smaller writes, until one succeeds: what can't be
// written holds up nobody else.
func (b *batch[T]) settle(n int, again []T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy -= n
	if len(again) == 0 {
		b.written += int64(n)
		b.writes++
		b.most = min(2*b.most, mostRows)
		return
	}
	b.waiting = append(b.waiting, again...)
	b.most = max(b.most/2, 1)
}

// run writes until ctx ends; [flushers] of it do.
func (b *batch[T]) run(ctx context.Context) {
	var items []T
	pause := retryFirst
	for {
		items = b.take(items[:0])
		if len(items) == 0 {
			select {
			case <-b.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		again := b.flush(ctx, items)
		done := len(again) == 0
		b.settle(len(items), again)
		clear(items)
		if done {
			pause = retryFirst
			continue
		}
		if clock.Sleep(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, retryMost)
	}
}

// close takes no more items, and returns those that wait.
func (b *batch[T]) close() (rest []T) {
	b.mu.Lock()
	b.closed = true
	b.most = len(b.waiting)
	b.mu.Unlock()
	return b.take(nil)
}

// empty waits until nothing waits and nothing is being written; false: ctx ended
// first.
func (b *batch[T]) empty(ctx context.Context) bool {
	for b.depth() > 0 {
		if clock.Sleep(ctx, 2*time.Millisecond) != nil {
			return false
		}
	}
	return true
}

// depth is how many items are not written yet.
func (b *batch[T]) depth() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting) - b.head + b.busy
}

// figures returns how many items were written, and in how many writes.
func (b *batch[T]) figures() (written, writes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written, b.writes
}
