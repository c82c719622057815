package ratelimit

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
)

// A replica denies from what it knows for a second, and at once no more when it
// hears that the key was reset by another one.
func TestDenialsAreNotRememberedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &keeping{}
		r.store = newMemory(time.Now)
		var reads atomic.Int64
		during := func() {}
		hook := func(h *hooked) {
			h.get = func(ctx context.Context, key string) (kv.Entry, error) {
				reads.Add(1)
				e, err := h.Store.Get(ctx, key)
				then := during
				during = func() {}
				then()
				return e, err
			}
		}
		start := func(store Store) *keeper {
			k := newKeeper(keeperConfig{Store: store, ID: fmt.Sprint(len(r.all)), Now: time.Now, Metrics: &metrics{}})
			r.all = append(r.all, k)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { k.run(ctx); close(done) }()
			t.Cleanup(func() { stop(); <-done })
			return k
		}
		k, other := start(via(hook)(r.store)), start(r.store)
		l := slow("p", 1)
		denied := func(what string, wantReads int64) {
			t.Helper()
			before := reads.Load()
			if v := take1(t, k, "k", l, 1); v.Allowed || reads.Load()-before != wantReads {
				t.Errorf("%s: got %+v after %d reads, want denied after %d", what, v, reads.Load()-before, wantReads)
			}
		}
		reset := func() uint64 {
			t.Helper()
			revision, err := other.reset(t.Context(), "k", l)
			if err != nil {
				t.Fatal(err)
			}
			return revision
		}
		take1(t, k, "k", l, 1)
		denied("at once", 0)
		time.Sleep(time.Second)
		denied("a second after it was written", 0)
		time.Sleep(time.Millisecond)
		denied("later", 1)
		denied("after it was read", 0)
		reset()
		denied("a reset that was not heard of", 0)
		time.Sleep(time.Second + time.Millisecond)
		expectGiven(t, "a reset, later", take1(t, k, "k", l, 1), 0)

		denied("again", 0)
		k.forget("k", reset())
		expectGiven(t, "a reset that was heard of", take1(t, k, "k", l, 1), 0)
		k.forget("k", 1)
		denied("what is older than is known is heard of", 0)

		// Heard of while what was before it is read.
		time.Sleep(2 * time.Second)
		during = func() { k.forget("k", reset()) }
		expectGiven(t, "a reset during a read", take1(t, k, "k", l, 1), 0)

		// All keys at once, and again during a read.
		denied("again", 0)
		k.forgetAll(reset() + 1)
		expectGiven(t, "all were reset", take1(t, k, "k", l, 1), 0)
		time.Sleep(2 * time.Second)
		during = func() { k.forgetAll(reset() + 1) }
		expectGiven(t, "all were reset during a read", take1(t, k, "k", l, 1), 0)

		// A bucket that was made anew begins with small revisions.
		k.forget("k", 1<<40)
		k.forgetAll(1 << 40)
		denied("what it is read for is good", 1)
		denied("from then on", 0)

		// Of several keys it is the same.
		several := func(what string, want bool) {
			t.Helper()
			if verdicts, granted, err := k.consumeAll(t.Context(), []keyed{{"k", take{l, 1}}, {"k2", take{l, 0}}}); err != nil || granted != want {
				t.Errorf("%s: got %+v (%v), want %t", what, verdicts, err, want)
			}
		}
		several("of several", false)
		reset()
		time.Sleep(time.Second + time.Millisecond)
		several("a reset, later", true)

		// What has ended is not asked for: it is known to be full.
		quick := limitOf("quick", 1, 1, time.Second)
		take1(t, k, "ends", quick, 1)
		time.Sleep(20 * time.Second)
		read, conflicts := reads.Load(), k.metrics.conflicts.Load()
		expectGiven(t, "when all of it has ended", take1(t, k, "ends", quick, 1), 0)
		if reads.Load() != read || k.metrics.conflicts.Load() != conflicts {
			t.Error("an entry that has ended was asked for")
		}
	})
}
