package presence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// TestStoreModel plays random histories against a map.
func TestStoreModel(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			clock := newTestClock()
			playStore(t, &storeModel{store: newMemory(clock.now), clock: clock, markers: kv.MarkerTTL, prefix: "k"})
		})
	})
	t.Run("JetStream", func(t *testing.T) {
		s := openBucket(t, natsdev.Test(t).ClientURL(), 1)
		histories := 0
		rapid.Check(t, func(t *rapid.T) {
			histories++
			m := &storeModel{store: s, prefix: fmt.Sprintf("k%d", histories)}
			revision, err := s.Put(context.Background(), kv.Write{Key: "begin", Expect: kv.AnyRevision})
			if err != nil {
				t.Fatal(err)
			}
			m.revision = revision
			playStore(t, m)
		})
	})
}

// storeModel is what a store has to hold.
type storeModel struct {
	store   Store
	prefix  string     // of the keys
	clock   *testClock // nil: time passes by itself, and nothing is made to end
	markers time.Duration

	entries  map[string]modelEntry
	revision uint64
	told     map[string][]uint64 // every revision that a key ever had
}

type modelEntry struct {
	value    string
	revision uint64
	deleted  bool
	ends     time.Time
}

func playStore(t *rapid.T, m *storeModel) {
	m.entries, m.told = map[string]modelEntry{}, map[string][]uint64{}
	ctx := context.Background()
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		switch op := rapid.IntRange(0, 9).Draw(t, "op"); op {
		case 0, 1, 2, 3:
			w := m.drawWrite(t, m.drawKey(t))
			revision, err := m.store.Put(ctx, w)
			m.check(t, []kv.Write{w}, revision, err)
		case 4, 5:
			var writes []kv.Write
			for range rapid.IntRange(1, 4).Draw(t, "writes") {
				key := m.drawKey(t)
				if !slices.ContainsFunc(writes, func(w kv.Write) bool { return w.Key == key }) {
					writes = append(writes, m.drawWrite(t, key))
				}
			}
			revision, err := m.store.PutAll(ctx, writes)
			m.check(t, writes, revision, err)
		case 6:
			if m.clock != nil {
				m.clock.pass(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
				if rapid.IntRange(0, 9).Draw(t, "long") == 0 {
					m.clock.pass(m.markers)
				}
				m.expire()
			}
		default:
			key := m.drawKey(t)
			m.compare(t, key)
		}
	}
	for i := range modelKeys {
		m.compare(t, m.key(i))
	}
	m.compareView(t)
}

const modelKeys = 4

func (m *storeModel) key(i int) string { return fmt.Sprintf("%s.%d", m.prefix, i) }

func (m *storeModel) drawKey(t *rapid.T) string {
	return m.key(rapid.IntRange(0, modelKeys-1).Draw(t, "key"))
}

func (m *storeModel) drawWrite(t *rapid.T, key string) kv.Write {
	w := kv.Write{Key: key, Delete: rapid.IntRange(0, 3).Draw(t, "delete") == 0}
	if !w.Delete {
		w.Value = []byte(rapid.StringN(0, 8, -1).Draw(t, "value"))
	}
	if m.clock != nil {
		w.TTL = time.Duration(rapid.SampledFrom([]int{0, 0, 1, 999, 1000, 1001, 2500}).Draw(t, "ttl")) * time.Millisecond
	}
	switch has := m.entries[key].revision; rapid.IntRange(0, 5).Draw(t, "expect") {
	case 0:
		w.Expect = 0
	case 1:
		w.Expect = kv.AnyRevision
	case 2: // one that it had, or that another key has
		w.Expect = m.revision
		if told := m.told[key]; len(told) > 0 {
			w.Expect = rapid.SampledFrom(told).Draw(t, "told")
		}
	default:
		w.Expect = has
	}
	return w
}

// check compares the outcome of writes with what it had to be, and notes them.
func (m *storeModel) check(t *rapid.T, writes []kv.Write, revision uint64, err error) {
	for _, w := range writes {
		if w.Expect != kv.AnyRevision && w.Expect != m.entries[w.Key].revision {
			if !errors.Is(err, kv.ErrConflict) {
				t.Fatalf("%+v: got %d (%v), want a conflict: it has %d", writes, revision, err, m.entries[w.Key].revision)
			}
			return
		}
	}
	if err != nil || revision != m.revision+uint64(len(writes)) {
		t.Fatalf("%+v: got %d (%v), want %d", writes, revision, err, m.revision+uint64(len(writes)))
	}
	for _, w := range writes {
		m.revision++
		e := modelEntry{value: string(w.Value), revision: m.revision, deleted: w.Delete}
		if w.Delete && w.TTL == 0 {
			w.TTL = kv.MarkerTTL
		}
		if w.TTL > 0 && m.clock != nil {
			e.ends = m.clock.now().Add((w.TTL + time.Second - 1) / time.Second * time.Second)
		}
		m.set(w.Key, e)
	}
}

func (m *storeModel) set(key string, e modelEntry) {
	m.entries[key] = e
	m.told[key] = append(m.told[key], e.revision)
}

// expire ends entries one at a time, those that end first before the others.
func (m *storeModel) expire() {
	for {
		next := ""
		for key, e := range m.entries {
			if e.ends.IsZero() || e.ends.After(m.clock.now()) {
				continue
			}
			if o := m.entries[next]; next == "" || e.ends.Before(o.ends) || e.ends.Equal(o.ends) && e.revision < o.revision {
				next = key
			}
		}
		if next == "" {
			return
		}
		e := m.entries[next]
		if e.deleted {
			delete(m.entries, next)
			continue
		}
		m.revision++
		m.set(next, modelEntry{revision: m.revision, deleted: true, ends: e.ends.Add(m.markers)})
	}
}

func (m *storeModel) compare(t *rapid.T, key string) {
	got, err := m.store.Get(context.Background(), key)
	want, ok := m.entries[key]
	if !ok {
		if !errors.Is(err, kv.ErrNotFound) {
			t.Fatalf("%s: got %+v (%v), want nothing", key, got, err)
		}
		return
	}
	if err != nil || string(got.Value) != want.value || got.Revision != want.revision || got.Deleted != want.deleted {
		t.Fatalf("%s: got %+v (%v), want %+v", key, got, err, want)
	}
}

// compareView follows the store once and compares what is there.
func (m *storeModel) compareView(t *rapid.T) {
	ctx, stop := context.WithTimeout(context.Background(), storePatience)
	defer stop()
	view := map[string]modelEntry{}
	whole := false
	last := uint64(0)
	m.store.Follow(ctx, func() func(kv.Entry) {
		return func(e kv.Entry) {
			if e.Revision <= last {
				t.Errorf("follow: %d after %d", e.Revision, last)
			}
			last = e.Revision
			view[e.Key] = modelEntry{value: string(e.Value), revision: e.Revision, deleted: e.Deleted}
		}
	}, func() { whole = true; stop() })
	if !whole {
		t.Fatal("follow: the view was never whole")
	}
	for i := range modelKeys {
		want := m.entries[m.key(i)]
		want.ends = time.Time{}
		if got := view[m.key(i)]; got != want {
			t.Fatalf("follow: %s: got %+v, want %+v", m.key(i), got, want)
		}
	}
}
