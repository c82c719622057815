package ratelimit

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
)

// given has callers consume by several keepers, each times, and returns how often
// they were given something.
func given(t *testing.T, keepers []*keeper, l *rules.Limit, callers, times int) int64 {
	t.Helper()
	var given atomic.Int64
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			k := keepers[caller%len(keepers)]
			for range times {
				out, err := k.consume(soon(t), "hot", []take{{l, 1}}, 1, false)
				if err != nil {
					t.Errorf("consume: %v", err)
					return
				}
				given.Add(out.granted)
			}
		})
	}
	all.Wait()
	return given.Load()
}

// However many replicas work on a key, it gives what it has, and no more. On a
// store that ignores what a write expects it does not: the check can fail.
func TestReplicasOfOneKeyAreExact(t *testing.T) {
	eachStore(t, func(t *testing.T, r *keeping) {
		for range 3 {
			r.start(t, nil)
		}
		if got := given(t, r.all, slow("p", 100), 8, 1000); got != 100 {
			t.Errorf("8 x 1,000 takes of 100 by 3 replicas: got %d given", got)
		}
	})
	t.Run("without the condition", func(t *testing.T) {
		r := inMemory()
		for range 3 {
			r.start(t, via(func(h *hooked) {
				h.put = func(ctx context.Context, writes []kv.Write) (uint64, error) {
					for i := range writes {
						writes[i].Expect = kv.AnyRevision
					}
					return h.Store.PutAll(ctx, writes)
				}
			}))
		}
		if got := given(t, r.all, slow("p", 100), 9, 200); got <= 100 {
			t.Errorf("got %d given: the check does not tell", got)
		}
	})
}

// Takes of several keys leave nothing behind where they fail in between, and see
// what others took meanwhile.
func TestSeveralKeysAtOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, r *keeping) {
		l, tight := slow("p", 100), slow("tight", 1)
		items := []keyed{{"s1", take{l, 10}}, {"s2", take{tight, 1}}}
		other := r.start(t, nil)
		var meanwhile, dead atomic.Bool
		k := r.start(t, via(func(h *hooked) {
			h.put = func(ctx context.Context, writes []kv.Write) (uint64, error) {
				if dead.Load() {
					return 0, errLost
				}
				if meanwhile.CompareAndSwap(true, false) {
					take1(t, other, "s2", tight, 1)
				}
				return h.Store.PutAll(ctx, writes)
			}
		}))
		dead.Store(true)
		short, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		defer cancel()
		if _, granted, err := k.consumeAll(short, items); granted || err == nil {
			t.Errorf("got %t (%v) of a replica that died", granted, err)
		}
		dead.Store(false)
		meanwhile.Store(true)
		verdicts, granted, err := k.consumeAll(soon(t), items)
		if err != nil || granted || !verdicts[0].Allowed || verdicts[1].Allowed {
			t.Errorf("got %+v (%v), want the second denied", verdicts, err)
		}
		expectLeft(t, r, "the first key", "s1", l, 100)
	})
}

// Whoever waits for the same keys in another order does not wait for ever, and
// what was given together is what is missing of both.
func TestSeveralKeysOfManyCallers(t *testing.T) {
	r := inJetStream(t, natsdev.Test(t).ClientURL(), 1)
	l := slow("p", 1000)
	for range 2 {
		r.start(t, nil)
	}
	var both, single atomic.Int64
	var all sync.WaitGroup
	for caller := range 8 {
		all.Go(func() {
			k := r.all[caller%2]
			a, b := "a", "b"
			if caller%4 < 2 {
				a, b = b, a
			}
			for range 10 {
				_, granted, err := k.consumeAll(soon(t), []keyed{{a, take{l, 1}}, {b, take{l, 1}}})
				if err != nil {
					t.Errorf("both: %v", err)
				} else if granted {
					both.Add(1)
				}
				if out, err := k.consume(soon(t), "a", []take{{l, 1}}, 1, false); err != nil {
					t.Errorf("one: %v", err)
				} else {
					single.Add(out.granted)
				}
			}
		})
	}
	all.Wait()
	expectLeft(t, r, "a", "a", l, 1000-both.Load()-single.Load())
	expectLeft(t, r, "b", "b", l, 1000-both.Load())
	if both.Load() != 80 || single.Load() != 80 {
		t.Errorf("got %d and %d given of 80 and 80", both.Load(), single.Load())
	}
}

// Two replicas whose clocks differ give what time gives, and once what the clocks
// differ by.
func TestClocksThatDiffer(t *testing.T) {
	r := inMemory()
	const skew = 5 * time.Second
	ahead := newKeeper(keeperConfig{Store: r.store, ID: "ahead", Now: func() time.Time { return r.now().Add(skew) }, Metrics: &metrics{}})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { ahead.run(ctx) })
	defer func() { stop(); running.Wait() }()
	k := r.start(t, nil)
	l := limitOf("p", 10, 10, time.Second)
	got := int64(0)
	for i := range 200 { // 10s
		by := k
		if i%2 == 1 {
			by = ahead
		}
		for v := take1(t, by, "k", l, 1); v.Allowed; v = take1(t, by, "k", l, 1) {
			got++
		}
		r.pass(50 * time.Millisecond)
	}
	if most := int64(10 + 10*10 + 10*5); got > most || got < 10+10*9 {
		t.Errorf("10/s for 10s, by clocks 5s apart: got %d, want at most %d", got, most)
	}
}
