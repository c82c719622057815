package ratelimit

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/fairlead-io/fairlead/internal/kv"
)

// late is what a leader does with a write that is slow, not lost: it refuses all
// others of its keys and shows what was before, until it stores it.
type late struct {
	mu     sync.Mutex
	armed  bool       // guarded by mu, like all below: the next write is slow
	flying []kv.Write // that was not answered
	reads  int        // after which it is stored
}

func (l *late) hook(h *hooked) {
	land := func(ctx context.Context) {
		if _, err := h.Store.PutAll(ctx, l.flying); err != nil {
			panic(err)
		}
		l.flying = nil
	}
	h.put = func(ctx context.Context, writes []kv.Write) (uint64, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		switch {
		case l.armed:
			l.armed = false
			for _, w := range writes {
				w.Value = bytes.Clone(w.Value)
				l.flying = append(l.flying, w)
			}
			return 0, errLost
		case l.flying != nil:
			return 0, kv.ErrConflict
		}
		return h.Store.PutAll(ctx, writes)
	}
	h.get = func(ctx context.Context, key string) (kv.Entry, error) {
		e, err := h.Store.Get(ctx, key)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.flying != nil {
			if l.reads--; l.reads <= 0 {
				land(ctx) // just after this read
			}
		}
		return e, err
	}
}

func (l *late) arm(reads int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed, l.reads = true, reads
}

// A write that is stored long after it was sent, and read, and made again, is
// charged once and given to those who are charged.
func TestSlowWriteIsChargedOnce(t *testing.T) {
	for _, reads := range []int{1, 2, 5} {
		r := inMemory()
		var slowly late
		k := r.start(t, via(slowly.hook))
		l := slow("p", 10)
		slowly.arm(reads)
		expectGiven(t, "all there is, of a key nobody had", take1(t, k, "k", l, 10), 0)
		expectLeft(t, r, "all there is", "k", l, 0)
		if _, _, _, err := k.refund(soon(t), "k", l, 6, "id"); err != nil {
			t.Fatal(err)
		}
		slowly.arm(reads)
		expectGiven(t, "what came back", take1(t, k, "k", l, 6), 0)

		slowly.arm(reads)
		verdicts, granted, err := k.consumeAll(soon(t), []keyed{{"a", take{l, 10}}, {"b", take{l, 9}}})
		if err != nil || !granted || verdicts[0].Remaining != 0 || verdicts[1].Remaining != 1 {
			t.Errorf("of several keys: got %+v (%v), want all given", verdicts, err)
		}
		expectLeft(t, r, "the first of several", "a", l, 0)
		expectLeft(t, r, "the second of several", "b", l, 1)
		if got := k.metrics.recognised.Load(); got != 3 {
			t.Errorf("%d writes were recognised, want 3", got)
		}
	}
}

// A read that shows what was before the state which a write was decided on does
// not tell that the write was not stored.
func TestSlowWriteBehindAnOldLeader(t *testing.T) {
	for _, several := range []bool{false, true} {
		r := inMemory()
		l := slow("p", 10)
		var mu sync.Mutex
		var lose bool
		var stale []kv.Entry // what the next reads show
		k := r.start(t, via(func(h *hooked) {
			h.put = func(ctx context.Context, writes []kv.Write) (uint64, error) {
				mu.Lock()
				lost := lose
				lose = false
				mu.Unlock()
				revision, err := h.Store.PutAll(ctx, writes)
				if lost {
					return 0, errLost
				}
				return revision, err
			}
			h.get = func(ctx context.Context, key string) (kv.Entry, error) {
				mu.Lock()
				defer mu.Unlock()
				if at := slices.IndexFunc(stale, func(e kv.Entry) bool { return e.Key == key }); at >= 0 {
					e := stale[at]
					stale = slices.Delete(stale, at, at+1)
					return e, nil
				}
				return h.Store.Get(ctx, key)
			}
		}))
		keys := []string{"a", "b"}
		for _, key := range keys {
			take1(t, k, key, l, 1)
			old, err := r.store.Get(soon(t), entryPrefix+key)
			if err != nil {
				t.Fatal(err)
			}
			take1(t, k, key, l, 1)
			mu.Lock()
			stale = append(stale, old)
			mu.Unlock()
		}
		mu.Lock()
		lose = true
		mu.Unlock()
		if several {
			if verdicts, granted, err := k.consumeAll(soon(t), []keyed{{"a", take{l, 8}}, {"b", take{l, 8}}}); err != nil || !granted || verdicts[1].Remaining != 0 {
				t.Errorf("of several keys: got %+v (%v), want all given", verdicts, err)
			}
			expectLeft(t, r, "of several keys", "b", l, 0)
		} else {
			expectGiven(t, "what is left", take1(t, k, "a", l, 8), 0)
		}
		expectLeft(t, r, "what is left", "a", l, 0)
	}
}
