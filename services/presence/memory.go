package presence

import (
	"bytes"
	"cmp"
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
)

// memory is a [Store] in the memory of one process, with what a JetStream bucket
// does. It ends with its process.
type memory struct {
	now func() time.Time
	// markers is how long an entry stays that says that its key expired.
	markers time.Duration

	mu       sync.Mutex
	revision uint64 // of the newest write there ever was
	keys     map[string]*list.Element
	order    *list.List    // of *kept, by revision
	due      time.Time     // no entry ends before; zero: none ends
	changed  chan struct{} // closed and replaced at every change
}

// kept is an entry and when it ends by itself; zero: never.
type kept struct {
	kv.Entry
	ends time.Time
}

var _ Store = (*memory)(nil)

// newMemory returns an empty store. Entries are stored and end by now.
func newMemory(now func() time.Time) *memory {
	return &memory{now: now, markers: kv.MarkerTTL, keys: map[string]*list.Element{}, order: list.New(), changed: make(chan struct{})}
}

// enter takes the lock and brings the store to the present.
func (m *memory) enter(ctx context.Context) (now time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, fmt.Errorf("memory: %w", err)
	}
	m.mu.Lock()
	now = m.now()
	m.expire(now)
	return now, nil
}

// Get implements [Store].
func (m *memory) Get(ctx context.Context, key string) (kv.Entry, error) {
	if _, err := m.enter(ctx); err != nil {
		return kv.Entry{}, err
	}
	defer m.mu.Unlock()
	at, ok := m.keys[key]
	if !ok {
		return kv.Entry{}, kv.ErrNotFound
	}
	return at.Value.(*kept).copy(), nil
}

// Put implements [Store].
func (m *memory) Put(ctx context.Context, w kv.Write) (uint64, error) {
	return m.PutAll(ctx, []kv.Write{w})
}

// PutAll implements [Store].
func (m *memory) PutAll(ctx context.Context, writes []kv.Write) (uint64, error) {
	now, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	for _, w := range writes {
		has := uint64(0)
		if at, ok := m.keys[w.Key]; ok {
			has = at.Value.(*kept).Revision
		}
		if w.Expect != kv.AnyRevision && w.Expect != has {
			return 0, kv.ErrConflict
		}
	}
	for _, w := range writes {
		e := kept{Entry: kv.Entry{Key: w.Key, At: now, Deleted: w.Delete}}
		if w.Delete {
			w.TTL = cmp.Or(w.TTL, kv.MarkerTTL)
		} else {
			e.Value = bytes.Clone(w.Value)
		}
		if w.TTL > 0 {
			e.ends = now.Add((w.TTL + time.Second - 1).Truncate(time.Second))
		}
		m.store(e)
	}
	return m.revision, nil
}

// Purge implements [Store].
func (m *memory) Purge(ctx context.Context) (int, error) {
	if _, err := m.enter(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	purged := len(m.keys)
	clear(m.keys)
	m.order.Init()
	return purged, nil
}

// Follow implements [Store]. Of changes that come faster than they are taken it
// leaves out those that a newer one of the same key has replaced, as JetStream
// does.
func (m *memory) Follow(ctx context.Context, begin func() func(kv.Entry), ready func()) {
	if ctx.Err() != nil {
		return
	}
	take := begin()
	complete, last := false, uint64(0)
	for {
		m.mu.Lock()
		now := m.now()
		m.expire(now)
		entries := m.after(last)
		changed, due := m.changed, m.due
		m.mu.Unlock()
		for _, e := range entries {
			if ctx.Err() != nil {
				return
			}
			take(e)
			last = e.Revision
		}
		if !complete {
			complete = true
			ready()
		}
		if !waitUntil(ctx, changed, now, due) {
			return
		}
	}
}

// waitUntil returns at the next change, and by the time that an entry ends at
// the latest. It returns false when ctx is done.
func waitUntil(ctx context.Context, changed <-chan struct{}, now, due time.Time) bool {
	var ends <-chan time.Time
	if !due.IsZero() {
		// The clock may be one that jumps: nothing is slept through.
		timer := time.NewTimer(min(max(due.Sub(now), time.Millisecond), time.Second))
		defer timer.Stop()
		ends = timer.C
	}
	select {
	case <-changed:
	case <-ends:
	case <-ctx.Done():
		return false
	}
	return true
}

// after returns the entries above a revision, in their order.
func (m *memory) after(revision uint64) (entries []kv.Entry) {
	for at := m.order.Back(); at != nil && at.Value.(*kept).Revision > revision; at = at.Prev() {
		entries = append(entries, at.Value.(*kept).copy())
	}
	slices.Reverse(entries)
	return entries
}

// store gives an entry the next revision and puts it in place of its key's.
func (m *memory) store(e kept) {
	m.revision++
	e.Revision = m.revision
	if at, ok := m.keys[e.Key]; ok {
		m.order.Remove(at)
	}
	m.keys[e.Key] = m.order.PushBack(&e)
	if !e.ends.IsZero() && (m.due.IsZero() || e.ends.Before(m.due)) {
		m.due = e.ends
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

// expire ends what has to end by now. A value leaves an entry that says so, and
// such an entry leaves nothing.
func (m *memory) expire(now time.Time) {
	for !m.due.IsZero() && !m.due.After(now) {
		var over []*kept
		m.due = time.Time{}
		for at := m.order.Front(); at != nil; at = at.Next() {
			switch e := at.Value.(*kept); {
			case e.ends.IsZero():
			case !e.ends.After(now):
				over = append(over, e)
			case m.due.IsZero() || e.ends.Before(m.due):
				m.due = e.ends
			}
		}
		slices.SortStableFunc(over, func(a, b *kept) int { return a.ends.Compare(b.ends) })
		for _, e := range over {
			if e.Deleted {
				m.order.Remove(m.keys[e.Key])
				delete(m.keys, e.Key)
				continue
			}
			m.store(kept{Entry: kv.Entry{Key: e.Key, At: e.ends, Deleted: true}, ends: e.ends.Add(m.markers)})
		}
	}
}

func (e *kept) copy() kv.Entry {
	c := e.Entry
	c.Value = bytes.Clone(c.Value)
	return c
}
