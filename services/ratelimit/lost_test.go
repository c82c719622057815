package ratelimit

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
)

var errLost = errors.New("no acknowledgement came")

// losing returns a hook that stores the next write but does not say so, after
// which then does what somebody else does.
func losing(next *atomic.Bool, then func()) func(*hooked) {
	return func(h *hooked) {
		h.put = func(ctx context.Context, writes []kv.Write) (uint64, error) {
			revision, err := h.Store.PutAll(ctx, writes)
			if err == nil && next.CompareAndSwap(true, false) {
				then()
				return 0, errLost
			}
			return revision, err
		}
	}
}

// A write that was stored without its acknowledgement is recognised, also where
// others wrote on top of it: nothing is counted twice, nothing given back twice.
func TestLostAcknowledgement(t *testing.T) {
	eachStore(t, func(t *testing.T, r *keeping) {
		l := slow("p", 100)
		var lose atomic.Bool
		between := func() {}
		k := r.start(t, via(losing(&lose, func() { between() })))
		other := r.start(t, nil)

		lose.Store(true)
		expectGiven(t, "a lost write", take1(t, k, "lost", l, 10), 90)
		expectGiven(t, "the next", take1(t, other, "lost", l, 1), 89)
		between = func() { expectGiven(t, "on top of a lost write", take1(t, other, "lost", l, 1), 78) }
		lose.Store(true)
		expectGiven(t, "a lost write with another on top", take1(t, k, "lost", l, 10), 79)
		expectLeft(t, r, "the next", "lost", l, 78)

		between = func() { take1(t, other, "lost", l, 1) }
		lose.Store(true)
		if remaining, revision, _, err := k.refund(soon(t), "lost", l, 5, "id"); err != nil || remaining != 83 || revision == 0 {
			t.Errorf("refund: got %d at %d (%v), want 83", remaining, revision, err)
		}
		expectLeft(t, r, "after the refund", "lost", l, 82)

		between = func() {}
		lose.Store(true)
		verdicts, granted, err := k.consumeAll(soon(t), []keyed{{"lost", take{l, 2}}, {"lost too", take{l, 2}}})
		if err != nil || !granted || verdicts[0].Remaining != 80 || verdicts[1].Remaining != 98 {
			t.Errorf("of several keys: got %+v (%v)", verdicts, err)
		}
		expectLeft(t, r, "after several keys", "lost", l, 80)
		expectLeft(t, r, "the other one", "lost too", l, 98)
		if got := k.metrics.recognised.Load(); got != 4 {
			t.Errorf("%d writes were recognised, want 4", got)
		}

		// More others than an entry has room for: the take is charged again, the
		// refund is known by its id.
		var others []*keeper
		for range maxBatches {
			others = append(others, r.start(t, nil))
		}
		between = func() {
			for _, o := range others {
				take1(t, o, "lost", l, 1)
			}
		}
		lose.Store(true)
		expectGiven(t, "a take that is not recognised", take1(t, k, "lost", l, 10), 80-2*10-maxBatches)
		left := int64(80 - 2*10 - maxBatches)
		lose.Store(true)
		if remaining, _, _, err := k.refund(soon(t), "lost", l, 20, "once"); err != nil || remaining != left+20-maxBatches {
			t.Errorf("a refund that is not recognised: got %d (%v), want %d", remaining, err, left+20-maxBatches)
		}
	})
}

// What did not reach the store is made again until it does, once.
func TestLostWrite(t *testing.T) {
	r := inMemory()
	var fails atomic.Int64
	k := r.start(t, via(func(h *hooked) {
		h.put = func(ctx context.Context, writes []kv.Write) (uint64, error) {
			if fails.Add(-1) >= 0 {
				return 0, errLost
			}
			return h.Store.PutAll(ctx, writes)
		}
		h.get = func(ctx context.Context, key string) (kv.Entry, error) {
			if fails.Add(-1) >= 0 {
				return kv.Entry{}, errLost
			}
			return h.Store.Get(ctx, key)
		}
	}))
	l := slow("p", 10)
	fails.Store(3)
	expectGiven(t, "a write at the fourth attempt", take1(t, k, "k", l, 4), 6)
	expectGiven(t, "the next", take1(t, k, "k", l, 1), 5)
	fails.Store(3)
	if out, err := k.consume(soon(t), "another", []take{{l, 1}}, 1, true); err != nil || out.verdicts[0].Remaining != 10 {
		t.Errorf("a read at the fourth attempt: got %+v (%v)", out, err)
	}
	// A store that stays away: nobody waits longer than he wants, and then it goes on
	// with what is stored.
	fails.Store(1 << 40)
	short, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if out, err := k.consume(short, "k", []take{{l, 1}}, 1, false); err == nil {
		t.Errorf("got %+v of a store that is away", out)
	}
	fails.Store(0)
	// The last one may have been stored after nobody waited for it any more.
	if v := take1(t, k, "k", l, 2); v.Remaining != 3 && v.Remaining != 2 {
		t.Errorf("when it is back: got %+v, want 3 or 2 left", v)
	}
}

// A replica does not take for its own what one with the same id wrote before it.
func TestAnotherLifeOfAReplica(t *testing.T) {
	r := inMemory()
	l := slow("p", 10)
	for range 2 {
		var lose atomic.Bool
		lose.Store(true)
		store := via(func(h *hooked) {
			h.put = func(ctx context.Context, writes []kv.Write) (uint64, error) {
				if lose.Swap(false) {
					return 0, errLost
				}
				return h.Store.PutAll(ctx, writes)
			}
		})(r.store)
		k := newKeeper(keeperConfig{Store: store, ID: "same", Now: r.now, Metrics: &metrics{}})
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { k.run(ctx) })
		take1(t, k, "k", l, 1)
		stop()
		running.Wait()
	}
	expectLeft(t, r, "after one take in each life", "k", l, 8)
}
