package gateway

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// exact is the same as a bucket in exact arithmetic, written another way: it
// holds what is there, not what is missing.
type exact struct {
	tokens *big.Rat
	at     time.Time
	banned time.Time
}

func (e *exact) have(l *rules.Limit, now time.Time) *big.Rat {
	back := big.NewRat(now.Sub(e.at).Nanoseconds(), l.Per.Nanoseconds())
	back.Mul(back, big.NewRat(int64(l.Refill), 1))
	back.Add(back, e.tokens)
	if full := big.NewRat(int64(l.Capacity), 1); back.Cmp(full) > 0 {
		return full
	}
	return back
}

// take says whether the tokens are there, and whether that is so closely decided
// that floating-point numbers may see it otherwise.
func (e *exact) take(l *rules.Limit, cost int, now time.Time) (ok, close bool) {
	e.tokens, e.at = e.have(l, now), now
	if cost > l.Capacity || now.Before(e.banned) {
		return false, false
	}
	left := new(big.Rat).Sub(e.tokens, big.NewRat(int64(cost), 1))
	close = new(big.Rat).Abs(left).Cmp(big.NewRat(1, 1_000_000)) < 0
	if left.Sign() < 0 {
		if l.Block > 0 {
			e.banned = now.Add(l.Block)
		}
		return false, close
	}
	e.tokens = left
	return true, close
}

func TestBucketIsTheModel(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		l := &rules.Limit{
			Capacity: 1 + random.IntN(20), Refill: 1 + random.IntN(50),
			Per: time.Duration(1+random.IntN(5000)) * time.Millisecond,
		}
		if random.IntN(4) == 0 {
			l.Block = time.Duration(1+random.IntN(500)) * time.Millisecond
		}
		start := time.UnixMilli(1_760_000_000_000)
		now := start
		b, model := &bucket{}, &exact{tokens: big.NewRat(int64(l.Capacity), 1), at: now}
		granted := 0
		for range 300 {
			now = now.Add(time.Duration(random.ExpFloat64() * float64(l.Per) / float64(l.Refill)))
			cost := 1 + random.IntN(3)
			if random.IntN(50) == 0 {
				cost = l.Capacity + 1
			}
			want, close := model.take(l, cost, now)
			wait, ok := b.take(l, cost, now)
			if ok != want {
				if close {
					break // the two went different ways from here
				}
				t.Fatalf("seed %d, %+v: take %d = %v, want %v; missing %v", seed, l, cost, ok, want, b.missing)
			}
			switch {
			case ok:
				granted += cost
				if most := float64(l.Capacity) + float64(l.Refill)*now.Sub(start).Seconds()/l.Per.Seconds(); float64(granted) > most+1e-6 {
					t.Fatalf("seed %d, %+v: %d tokens granted in %s, want at most %v", seed, l, granted, now.Sub(start), most)
				}
			case cost > l.Capacity:
				if wait != wire.Never {
					t.Fatalf("seed %d: a cost above the capacity waits %s, want never", seed, wait)
				}
			default:
				early, late := *b, *b
				if _, ok := late.take(l, cost, now.Add(wait+time.Microsecond)); !ok {
					t.Fatalf("seed %d, %+v: refused again after the %s that were named", seed, l, wait)
				}
				if wait > 2*time.Microsecond {
					if _, ok := early.take(l, cost, now.Add(wait-2*time.Microsecond)); ok {
						t.Fatalf("seed %d, %+v: granted before the %s that were named", seed, l, wait)
					}
				}
			}
		}
	}
}

// A clock that goes back gives nothing twice, and a rule that was changed to
// less holds at once.
func TestBucketOfAnotherClockAndRule(t *testing.T) {
	l := &rules.Limit{Capacity: 2, Refill: 1, Per: time.Second}
	now := time.UnixMilli(1_760_000_000_000)
	b := &bucket{}
	for range 2 {
		if _, ok := b.take(l, 1, now); !ok {
			t.Fatal("a full bucket refused")
		}
	}
	if _, ok := b.take(l, 1, now.Add(-time.Hour)); ok {
		t.Error("granted when the clock went back")
	}
	if wait, ok := b.take(l, 1, now.Add(500*time.Millisecond)); ok || wait.Round(time.Millisecond) != 500*time.Millisecond {
		t.Errorf("half a token: wait %s, %v, want 500ms", wait, ok)
	}
	if _, ok := b.take(l, 1, now.Add(time.Second)); !ok {
		t.Error("refused when a token was back")
	}
	less := &rules.Limit{Capacity: 1, Refill: 1, Per: time.Second}
	if _, ok := b.take(less, 1, now.Add(10*time.Second)); !ok {
		t.Error("refused a full bucket of the new rule")
	}
	if _, ok := b.take(less, 1, now.Add(10*time.Second)); ok {
		t.Error("granted more than the new capacity")
	}
}

// What is remembered has a bound: full buckets go first, and none of those that
// are in use is lost while there are any.
func TestRatesForgetFullBucketsFirst(t *testing.T) {
	set, err := rules.Parse([]byte(`{topics: [{match: ">"}], limits: {few: {capacity: 1, refill: 1, per: 1h}, quick: {capacity: 1, refill: 1000, per: 1s}}}`), rules.Dev)
	if err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(1_760_000_000_000)
	take := func(r *rates, limit, key string, at time.Time) *wire.Error {
		return r.take(set, rules.Take{Limit: limit, Cost: 1}, func(*rules.Limit) string { return key }, at)
	}
	r := newRates()
	r.most = evictSample
	if err := take(r, "few", "used", now); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 { // each is full again when the next comes
		now = now.Add(10 * time.Millisecond)
		if err := take(r, "quick", fmt.Sprint(i), now); err != nil {
			t.Fatal(err)
		}
		if n := r.size(); n > r.most {
			t.Fatalf("%d buckets, want at most %d", n, r.most)
		}
	}
	if err := take(r, "few", "used", now); err == nil || err.Code != wire.ResourceExhausted || err.Details["limit"] != "few" {
		t.Errorf("a bucket that was used up: %v, want RESOURCE_EXHAUSTED of few", err)
	}
	if n := r.forgotten.Load(); n != 0 {
		t.Errorf("%d buckets in use were forgotten, want 0", n)
	}
	for i := range 100 {
		if err := take(r, "few", fmt.Sprint(i), now); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.size(); n > r.most {
		t.Errorf("%d buckets, want at most %d", n, r.most)
	}
	if r.forgotten.Load() == 0 {
		t.Error("no bucket in use was forgotten, and yet there was room")
	}
}
