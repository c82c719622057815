package ratelimit

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
)

func all(string) bool { return true }

// An empty bucket whose limit fills slower from now on lasts as long as it takes by
// that. Left alone it is gone when it said that it would be, and so is full.
func TestEmptyBucketStaysEmptyAfterALimitGotSlower(t *testing.T) {
	t.Parallel()
	fast, late := limitOf("p", 1000, 1000, time.Second), limitOf("p", 1000, 1, time.Hour)
	for _, adjusts := range []bool{true, false} {
		r := inMemory()
		k := r.start(t, nil)
		take1(t, k, "k", fast, 1000)
		take1(t, k, "beside", slow("other", 5), 1)
		k.changed.Store(&changes{"p": r.now()})
		r.pass(3 * time.Second) // by its old rate it is full
		if adjusts {
			if n, left, err := k.adjustAll(soon(t), []*rules.Limit{late}, all); err != nil || n != 1 || left != 0 {
				t.Fatalf("%d keys adjusted, %d left (%v), want 1", n, left, err)
			}
			if n, _, err := k.adjustAll(soon(t), []*rules.Limit{late}, all); err != nil || n != 0 {
				t.Errorf("again: %d keys adjusted (%v), want none", n, err)
			}
		}
		r.pass(time.Hour)
		if v := take1(t, r.start(t, nil), "k", late, 2); v.Allowed == adjusts {
			t.Errorf("an hour later, adjusted %t: got %+v", adjusts, v)
		}
	}
}

// Of takes by what the limit was and by what it is, while keys are adjusted, no more
// are given than there are.
func TestNothingIsGivenTwiceWhileKeysAreAdjusted(t *testing.T) {
	t.Parallel()
	fast, late := limitOf("p", 200, 200, time.Second), limitOf("p", 200, 1, time.Hour)
	r := inMemory()
	replicas := []*keeper{r.start(t, nil), r.start(t, nil)}
	const keys = 20
	var given [keys]atomic.Int64
	var asking sync.WaitGroup
	ask := func(k *keeper, l *rules.Limit, n int) {
		asking.Go(func() {
			for i := range n {
				key := i % keys
				out, err := k.consume(soon(t), fmt.Sprint("k", key), []take{{l, 1}}, 4, false)
				if err != nil {
					t.Errorf("consume: %v", err)
					return
				}
				given[key].Add(out.granted)
			}
		})
	}
	for _, k := range replicas {
		ask(k, fast, 15*keys)
	}
	asking.Wait()
	for i, k := range replicas {
		k.changed.Store(&changes{"p": r.now()})
		for range 3 {
			ask(k, late, 15*keys)
			ask(k, fast, 5*keys) // has not heard of the change
		}
		asking.Go(func() {
			mine := func(key string) bool { n, _ := strconv.Atoi(key[1:]); return n%2 == i }
			if _, left, err := k.adjustAll(soon(t), []*rules.Limit{late}, mine); err != nil || left != 0 {
				t.Errorf("%d keys are left (%v)", left, err)
			}
		})
	}
	asking.Wait()
	if _, _, err := replicas[0].adjustAll(soon(t), []*rules.Limit{late}, all); err != nil {
		t.Fatal(err)
	}
	r.pass(30 * time.Second)
	ask(replicas[1], late, keys)
	asking.Wait()
	for key := range given {
		if got := given[key].Load(); got != 200 {
			t.Errorf("k%d: %d of 200 were given", key, got)
		}
	}
}

// Replicas adjust their keys when the rules change, and nobody has to ask for one.
func TestKeysAreAdjustedWhenTheRulesChange(t *testing.T) {
	t.Parallel()
	r := startRig(t, 2)
	r.eventually("the replicas to know each other", func() bool {
		return r.replicas[0].client.Counts().Replicas == 2 && r.replicas[1].client.Counts().Replicas == 2
	})
	put := func(text string) {
		t.Helper()
		r.replaceRules(rigRules + "  fast: " + text + "\n")
		r.eventually("the rules", func() bool {
			l := r.live.Current().Limit("fast")
			return l != nil && strings.HasPrefix(text, fmt.Sprintf("{capacity: %d, refill: %d,", l.Capacity, l.Refill))
		})
	}
	sum := func() int64 { return r.replicas[0].metrics.adjusted.Load() + r.replicas[1].metrics.adjusted.Load() }
	put("{capacity: 1000, refill: 900, per: 1m}")
	const keys = 24
	began := time.Now()
	for i := range keys {
		r.wants("consume", fmt.Sprintf(`{"policy":"fast","key":"k%d","cost":1000}`, i), `{"allowed":true}`)
	}
	stream, err := r.store.JetStream.Stream(t.Context(), "KV_fl_ratelimit")
	if err != nil {
		t.Fatal(err)
	}
	// lasts is for how long the server keeps a key from when it was stored.
	lasts := func(key int) time.Duration {
		msg, err := stream.GetLastMsgForSubject(t.Context(), fmt.Sprint("$KV.fl_ratelimit.v1.k", key))
		if err != nil {
			t.Fatal(err)
		}
		ttl, err := time.ParseDuration(msg.Header.Get("Nats-TTL") + "s")
		if err != nil {
			t.Fatal(err)
		}
		return ttl
	}
	if got := lasts(0); got > 100*time.Second {
		t.Fatalf("an empty bucket lasts %s before", got)
	}
	put("{capacity: 1000, refill: 1, per: 1h}")
	r.eventually("the keys to be adjusted", func() bool { return sum() == keys })
	for i := range keys {
		if got := lasts(i); got < time.Hour {
			t.Errorf("k%d lasts %s, want until it is full", i, got)
		}
	}
	most := 1 + 15*time.Since(began).Seconds()
	for _, s := range r.replicas {
		if s.metrics.adjusted.Load() == 0 {
			t.Error("one of the replicas did nothing")
		}
		if v, err := s.keeper.consume(soon(t), "k0", []take{{r.live.Current().Limit("fast"), 1}}, 1, true); err != nil || float64(v.verdicts[0].Remaining) > most {
			t.Errorf("got %+v (%v), want at most %f left", v, err, most)
		}
	}
	// It changes again before they have walked over all of it a second time. One that
	// was gone meanwhile has not changed.
	put("{capacity: 1000, refill: 2, per: 1h}")
	r.eventually("the keys to be adjusted to the newest", func() bool { return sum() == 2*keys })
	r.replaceRules(rigRules)
	heard := func(limit string, want bool) {
		t.Helper()
		for _, s := range r.replicas {
			r.eventually("the replicas to hear of the rules", func() bool { _, known := s.keeper.changes()[limit]; return known == want })
		}
	}
	heard("fast", false)
	r.replaceRules(strings.Replace(rigRules, "capacity: 5,", "capacity: 6,", 1) + "  fast: {capacity: 1000, refill: 3, per: 1h}\n")
	heard("five", true)
	if got := sum(); got != 2*keys {
		t.Errorf("%d keys were adjusted to a limit that is new", got-2*keys)
	}
}
