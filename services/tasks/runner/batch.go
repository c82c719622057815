package runner

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
)

const (
	// mostRows is how many rows one statement carries.
	mostRows = 1000
	// mostBytes is about how many bytes it carries: more are not written in the time
	// that a write has.
	mostBytes = 8 << 20
	// mostWaiting bounds the bytes of what waits, and is being written.
	mostWaiting = 256 << 20
	// flushers is how many statements of a kind are under way at a time. The second
	// begins where a statement of its own pays: for so many rows as besides, or when
	// the first takes longer than slowWrite. Two small ones cost Postgres more than one
	// a moment later.
	flushers  = 2
	besides   = 128
	slowWrite = 20 * time.Millisecond

	retryFirst, retryMost = 50 * time.Millisecond, time.Second
	// laterBy is when what can't be written now, though the others can, is tried again.
	laterBy = time.Second
)

// batch collects what is written together: all that came while the last write was
// under way, without waiting for more.
type batch[T any] struct {
	operation string      // what a write does, for the log
	bound     int         // of what waits
	size      func(T) int // of an item, in bytes; nil: they are small
	// flush writes items. It returns those of which nothing is known, which are to be
	// tried again, and why the write failed if it did.
	flush func(ctx context.Context, items []T) (again []T, err error)
	log   *slog.Logger

	wake chan struct{}

	mu      sync.Mutex // guards what follows
	waiting []T        // from head on
	head    int
	later   []postponed[T] // first come, first due
	trouble trouble
	most    int // of the next write: smaller after one that failed
	busy    int // of items that are being written
	bytes   int // of those, and of what waits
	closed  bool
	writing int       // writes under way
	began   time.Time // when the first of them began, since when there always was one
	written int64
	writes  int64
}

// postponed is an item that waits for its time.
type postponed[T any] struct {
	item T
	at   time.Time
}

func newBatch[T any](log *slog.Logger, operation string, bound int, flush func(context.Context, []T) ([]T, error)) *batch[T] {
	return &batch[T]{operation: operation, bound: bound, flush: flush, log: log, most: mostRows, wake: make(chan struct{}, flushers)}
}

// add has an item written soon; false: too many wait, or nobody writes any more.
func (b *batch[T]) add(item T) bool {
	bytes := b.weigh(item)
	b.mu.Lock()
	if b.closed || len(b.waiting)-b.head+len(b.later) >= b.bound || b.bytes+bytes > mostWaiting {
		b.mu.Unlock()
		return false
	}
	b.waiting = append(b.waiting, item)
	b.bytes += bytes
	idle := !b.withheld()
	b.mu.Unlock()
	if idle {
		b.nudge()
	}
	return true
}

// withheld reports whether what waits is left to who is writing already.
func (b *batch[T]) withheld() bool {
	return b.writing > 0 && len(b.waiting)-b.head < besides && time.Since(b.began) < slowWrite
}

// postpone has an item of a write written in a while, whatever waits before it.
func (b *batch[T]) postpone(item T) {
	b.mu.Lock()
	b.later = append(b.later, postponed[T]{item, time.Now().Add(laterBy)})
	b.bytes += b.weigh(item)
	b.mu.Unlock()
	b.nudge() // who sleeps is to wake up for it
}

// ripe moves what was postponed long enough to what waits, and says how long the
// next one still is; 0: there is none.
func (b *batch[T]) ripe(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for n < len(b.later) && !now.Before(b.later[n].at) {
		b.waiting = append(b.waiting, b.later[n].item)
		n++
	}
	if n > 0 {
		b.later = append(b.later[:0:0], b.later[n:]...)
	}
	if len(b.later) == 0 {
		return 0
	}
	return b.later[0].at.Sub(now)
}

func (b *batch[T]) nudge() {
	select {
	case b.wake <- struct{}{}:
	default: // all flushers are awake, or about to be
	}
}

// weigh is how many bytes some items are together.
func (b *batch[T]) weigh(items ...T) (bytes int) {
	if b.size != nil {
		for i := range items {
			bytes += b.size(items[i])
		}
	}
	return bytes
}

// fits is how many of some items one write carries: as many as are not too large
// together, at least one.
func (b *batch[T]) fits(items []T) int {
	if b.size == nil || b.closed {
		return len(items)
	}
	bytes := 0
	for i := range items {
		if bytes += b.size(items[i]); bytes > mostBytes && i > 0 {
			return i
		}
	}
	return len(items)
}

// take moves what is written next to into: nothing where that is somebody else's.
func (b *batch[T]) take(into []T) []T {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.withheld() && !b.closed {
		return into
	}
	n := b.fits(b.waiting[b.head:][:min(len(b.waiting)-b.head, b.most)])
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
	if n > 0 {
		if b.writing == 0 {
			b.began = time.Now()
		}
		b.writing++
	}
	return into
}

// settle notes what became of a write. Items that are to be tried again wait
// behind the others, and in smaller writes, until one succeeds: what can't be
// written holds up nobody else.
func (b *batch[T]) settle(n, bytes int, again []T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy -= n
	b.writing--
	b.bytes -= bytes - b.weigh(again...)
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
		next := b.ripe(time.Now())
		items = b.take(items[:0])
		if len(items) == 0 {
			if !b.sleep(ctx, next) {
				return
			}
			continue
		}
		bytes := b.weigh(items...) // whoever waits for an item may have it again after
		slow := time.AfterFunc(slowWrite, b.nudge)
		again, err := b.flush(ctx, items)
		slow.Stop()
		if ctx.Err() == nil {
			b.report(err, time.Now())
		}
		done := len(again) == 0
		b.settle(len(items), bytes, again)
		clear(items)
		if done {
			pause = retryFirst
			continue
		}
		b.nudge() // others write what was left to this one
		if clock.Sleep(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, retryMost)
	}
}

// sleep waits until there may be something to do, at most for next unless that is
// 0; false: ctx has ended.
func (b *batch[T]) sleep(ctx context.Context, next time.Duration) bool {
	var timer <-chan time.Time
	if next > 0 {
		t := time.NewTimer(next)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-b.wake:
	case <-timer:
	case <-ctx.Done():
		return false
	}
	return true
}

// report logs when writes begin to fail, and when they succeed again.
func (b *batch[T]) report(err error, now time.Time) {
	b.mu.Lock()
	began, over := b.trouble.note(err, now)
	waiting := len(b.waiting) - b.head + len(b.later) + b.busy
	b.mu.Unlock()
	switch {
	case began:
		b.log.Warn("writes fail", "operation", b.operation, "waiting", waiting, "error", err)
	case over:
		b.log.Warn("writes succeed again", "operation", b.operation, "waiting", waiting)
	}
}

// close takes no more items, and returns those that wait.
func (b *batch[T]) close() (rest []T) {
	b.mu.Lock()
	b.closed = true
	for _, x := range b.later {
		b.waiting = append(b.waiting, x.item)
	}
	b.later = nil
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
	return len(b.waiting) - b.head + len(b.later) + b.busy
}

// held is how many bytes the items are that are not written yet.
func (b *batch[T]) held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}

// figures returns how many items were written, and in how many writes.
func (b *batch[T]) figures() (written, writes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written, b.writes
}
