package jobs

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// group has what many callers want to write go in few writes: while some are
// under way, whatever comes waits and goes together with the next one. Nobody
// waits for company.
type group[T, R any] struct {
	// write stores the items; one result for each. It has a context of its own, that
	// of no caller.
	write func(context.Context, []T) ([]R, error)
	// alone reports whether an error may be that of one item only: each is written
	// by itself then.
	alone func(error) bool
	size  func(T) int // rows
	wait  time.Duration

	mu      sync.Mutex // guards what is below
	queue   []*entry[T, R]
	waiting int // rows in queue
	writers int
	closed  bool
	done    sync.WaitGroup // writers
}

type entry[T, R any] struct {
	item   T
	rows   int
	gone   bool // nobody waits for it any more; guarded by the group's mu
	result R
	err    error
	done   chan struct{}
}

const (
	groupWriters = 2
	groupRows    = 1000   // of one write, but for an item that has more
	groupWaiting = 20_000 // rows that wait at most
)

// do has item written and returns what became of it. When ctx ends first it is not
// known, unless the write had not begun: then it never does.
func (g *group[T, R]) do(ctx context.Context, item T) (result R, err error) {
	e := &entry[T, R]{item: item, rows: g.size(item), done: make(chan struct{})}
	if err := g.add(e); err != nil {
		return result, err
	}
	select {
	case <-e.done:
		return e.result, e.err
	case <-ctx.Done():
		g.mu.Lock()
		e.gone = true
		g.mu.Unlock()
		return result, ctx.Err()
	}
}

func (g *group[T, R]) add(e *entry[T, R]) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return wire.Errorf(wire.Unavailable, "the replica stops").With("outcome", "none")
	case g.waiting > 0 && g.waiting+e.rows > groupWaiting:
		return &wire.Error{Code: wire.ResourceExhausted, Message: "too many jobs wait to be written", RetryAfter: time.Second}
	}
	g.queue = append(g.queue, e)
	g.waiting += e.rows
	if g.writers < groupWriters {
		g.writers++
		g.done.Go(g.run)
	}
	return nil
}

// run writes until nothing waits.
func (g *group[T, R]) run() {
	for batch := g.take(); len(batch) > 0; batch = g.take() {
		g.flush(batch)
	}
}

// take returns what goes next; where that is nothing the writer has ended.
func (g *group[T, R]) take() (batch []*entry[T, R]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	rows, n := 0, 0
	for _, e := range g.queue {
		if !e.gone {
			if rows > 0 && rows+e.rows > groupRows {
				break
			}
			rows += e.rows
			batch = append(batch, e)
		}
		g.waiting -= e.rows
		n++
	}
	clear(g.queue[:n])
	if g.queue = g.queue[n:]; len(g.queue) == 0 {
		g.queue = nil
	}
	if len(batch) == 0 {
		g.writers--
	}
	return batch
}

func (g *group[T, R]) flush(batch []*entry[T, R]) {
	results, err := g.store(batch)
	if err != nil && len(batch) > 1 && g.alone(err) {
		for _, e := range batch {
			g.flush([]*entry[T, R]{e})
		}
		return
	}
	for i, e := range batch {
		if e.err = err; err == nil {
			e.result = results[i]
		}
		close(e.done)
	}
}

func (g *group[T, R]) store(batch []*entry[T, R]) ([]R, error) {
	ctx, cancel := context.WithTimeout(context.Background(), g.wait)
	defer cancel()
	items := make([]T, len(batch))
	for i, e := range batch {
		items[i] = e.item
	}
	return g.write(ctx, items)
}

// close refuses what comes from now on, and waits for what has come.
func (g *group[T, R]) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.done.Wait()
}
