package runner

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

const (
	// holdFor is how long the supervisor of an attempt has to commit what its worker
	// said, before who has a copy does.
	holdFor = 2 * time.Second
	// mostHeld and mostHeldBytes bound the copies.
	mostHeld      = 65_536
	mostHeldBytes = 64 << 20
)

// holding keeps copies of ends that others were told of, until they say that they
// have committed them.
type holding struct {
	mu    sync.Mutex // guards what follows
	byRef map[store.Ref]*copied
	queue []*copied // by age
	bytes int
}

type copied struct {
	said
	replica string
	bytes   int
	at      time.Time
	gone    bool
}

func newHolding() *holding { return &holding{byRef: map[store.Ref]*copied{}} }

// keep keeps a copy; false: there are too many.
func (h *holding) keep(replica string, s said, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	ref := store.Ref{ID: s.id, Fence: s.fence}
	if h.byRef[ref] != nil {
		return true
	}
	bytes := s.size()
	if len(h.byRef) >= mostHeld || h.bytes+bytes > mostHeldBytes {
		return false
	}
	c := &copied{said: s, replica: replica, bytes: bytes, at: now}
	h.byRef[ref] = c
	h.queue = append(h.queue, c)
	h.bytes += bytes
	return true
}

// forget drops the copy of what was committed.
func (h *holding) forget(id wire.TaskID, fence int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.byRef[store.Ref{ID: id, Fence: fence}]; c != nil {
		h.remove(c)
	}
}

func (h *holding) remove(c *copied) {
	c.gone = true
	h.bytes -= c.bytes
	delete(h.byRef, store.Ref{ID: c.id, Fence: c.fence})
	c.said = said{}
}

// due returns the copies that were kept long enough, and those of replicas that
// are not there any more.
func (h *holding) due(now time.Time, alive func(replica string) bool) (due []said) {
	h.mu.Lock()
	defer h.mu.Unlock()
	rest := h.queue[:0]
	for _, c := range h.queue {
		switch {
		case c.gone:
		case now.Sub(c.at) >= holdFor || !alive(c.replica):
			due = append(due, c.said)
			h.remove(c)
		default:
			rest = append(rest, c)
		}
	}
	clear(h.queue[len(rest):])
	h.queue = rest
	return due
}

func (h *holding) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.byRef)
}

// keepHeld commits what others were told of and have not committed.
func (r *Runner) keepHeld(ctx context.Context) {
	every(ctx, 100*time.Millisecond, func(context.Context) {
		now := time.Now()
		for _, s := range r.held.due(now, func(replica string) bool { return r.live.alive(replica, now) }) {
			r.metrics.heldUsed.Add(1)
			r.hear(s)
		}
	})
}
