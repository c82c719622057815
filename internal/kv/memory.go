package kv

import (
	"bytes"
	"cmp"
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Memory is a bucket in the memory of one process, with what one in JetStream
// does. It ends with its process. Its methods may be called concurrently.
type Memory struct {
	now func() time.Time
	// markers is how long an entry stays that says that its key expired; 0: there
	// is none.
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
	Entry
	ends time.Time
}

// NewMemory returns an empty bucket. Entries are stored and end by now. One that
// ends leaves an entry that says so, for as long as markers; 0: it leaves nothing.
func NewMemory(now func() time.Time, markers time.Duration) *Memory {
	return &Memory{now: now, markers: markers, keys: map[string]*list.Element{}, order: list.New(), changed: make(chan struct{})}
}

// enter takes the lock and brings the bucket to the present.
func (m *Memory) enter(ctx context.Context) (now time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, fmt.Errorf("memory: %w", err)
	}
	m.mu.Lock()
	now = m.now()
	m.expire(now)
	return now, nil
}

// Get is as [Bucket.Get].
func (m *Memory) Get(ctx context.Context, key string) (Entry, error) {
	if _, err := m.enter(ctx); err != nil {
		return Entry{}, err
	}
	defer m.mu.Unlock()
	at, ok := m.keys[key]
	if !ok {
		return Entry{}, ErrNotFound
	}
	return at.Value.(*kept).copy(), nil
}

// Put is as [Bucket.Put].
func (m *Memory) Put(ctx context.Context, w Write) (uint64, error) {
	return m.PutAll(ctx, []Write{w})
}

// PutAll is as [Bucket.PutAll].
func (m *Memory) PutAll(ctx context.Context, writes []Write) (uint64, error) {
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
		if w.Expect != AnyRevision && w.Expect != has {
			return 0, ErrConflict
		}
	}
	for _, w := range writes {
		e := kept{Entry: Entry{Key: w.Key, At: now, Deleted: w.Delete}}
		if w.Delete {
			w.TTL = cmp.Or(w.TTL, MarkerTTL)
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

// Purge is as [Bucket.Purge].
func (m *Memory) Purge(ctx context.Context) (int, error) {
	if _, err := m.enter(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	purged := len(m.keys)
	clear(m.keys)
	m.order.Init()
	return purged, nil
}

// Keys is as [Bucket.Keys].
func (m *Memory) Keys(ctx context.Context, yield func(key string) bool) error {
	for _, e := range m.Entries() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("memory: %w", err)
		}
		if !e.Deleted && !yield(e.Key) {
			return nil
		}
	}
	return nil
}

// Entries returns everything that the bucket holds, by revision.
func (m *Memory) Entries() []Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(m.now())
	return m.after(0)
}

// Follow does what a [Follower] does. Of changes that come faster than they are
// taken it leaves out those that a newer one of the same key has replaced.
func (m *Memory) Follow(ctx context.Context, begin func() func(Entry), ready func()) {
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
func (m *Memory) after(revision uint64) (entries []Entry) {
	for at := m.order.Back(); at != nil && at.Value.(*kept).Revision > revision; at = at.Prev() {
		entries = append(entries, at.Value.(*kept).copy())
	}
	slices.Reverse(entries)
	return entries
}

// store gives an entry the next revision and puts it in place of its key's.
func (m *Memory) store(e kept) {
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
func (m *Memory) expire(now time.Time) {
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
			if e.Deleted || m.markers == 0 {
				m.order.Remove(m.keys[e.Key])
				delete(m.keys, e.Key)
				continue
			}
			m.store(kept{Entry: Entry{Key: e.Key, At: e.ends, Deleted: true}, ends: e.ends.Add(m.markers)})
		}
	}
}

func (e *kept) copy() Entry {
	c := e.Entry
	c.Value = bytes.Clone(c.Value)
	return c
}
