package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
)

var localsAt = time.UnixMilli(1_760_000_000_000)

func limit(capacity, refill int, per time.Duration) *rules.Limit {
	return &rules.Limit{Name: "some", Capacity: capacity, Refill: refill, Per: per}
}

func TestLocalsGrantTheFirstOfMany(t *testing.T) {
	l := newLocals()
	ask := limits.Ask{Limit: limit(5, 1, time.Second), Key: "ann", Cost: 2}
	if got := l.take(ask, 3, localsAt); got.Granted != 2 || got.Allowed || got.RetryAfter != time.Second {
		t.Errorf("3 times 2 of 5: got %+v, want 2 granted and a second to wait", got)
	}
	if got := l.take(ask, 3, localsAt.Add(time.Second)); got.Granted != 1 {
		t.Errorf("a second later: got %+v, want 1 more", got)
	}
	ask.Key = "bob"
	if got := l.take(ask, 1, localsAt); got.Granted != 1 {
		t.Errorf("another key: got %+v, want it granted", got)
	}
}

func TestLocalsOfALimitWithShadowRefuseNobody(t *testing.T) {
	l := newLocals()
	shadow := limit(2, 1, time.Hour)
	shadow.Shadow = true
	if got := l.take(limits.Ask{Limit: shadow, Key: "ann", Cost: 1}, 2, localsAt); got.Shadowed || got.Granted != 2 {
		t.Errorf("within the limit: got %+v", got)
	}
	if got := l.take(limits.Ask{Limit: shadow, Key: "ann", Cost: 1}, 3, localsAt); !got.Allowed || !got.Shadowed || got.Granted != 3 {
		t.Errorf("above it: got %+v, want all of them, shadowed", got)
	}
	shadow.Block = 10 * time.Hour
	l.take(limits.Ask{Limit: shadow, Key: "bob", Cost: 1}, 3, localsAt)
	if got := l.take(limits.Ask{Limit: shadow, Key: "bob", Cost: 1}, 1, localsAt.Add(time.Hour)); got.Shadowed || got.Banned {
		t.Errorf("when there is something again: got %+v, want no ban", got)
	}
}

func TestLocalsTakeAllOrNothing(t *testing.T) {
	l := newLocals()
	few, many := limit(1, 1, time.Hour), limit(9, 1, time.Hour)
	few.Name, few.Block = "few", time.Minute
	both := func(cost int64) []limits.Ask {
		return []limits.Ask{{Limit: many, Key: "ann", Cost: cost}, {Limit: few, Key: "ann", Cost: 1}}
	}
	if granted, answers := l.takeAll(both(4), localsAt); !granted || answers[0].Remaining != 5 || answers[1].Remaining != 0 {
		t.Fatalf("got %v, %+v", granted, answers)
	}
	granted, answers := l.takeAll(both(4), localsAt)
	if granted || answers[0].Granted != 1 || answers[1].Allowed || answers[1].Banned {
		t.Errorf("without tokens of one: got %v, %+v, want a refusal by the second, without a ban", granted, answers)
	}
	if got := l.take(limits.Ask{Limit: many, Key: "ann", Cost: 5}, 1, localsAt); got.Granted != 1 {
		t.Errorf("the other bucket: got %+v, want what it had", got)
	}
	// Two asks of one bucket are counted together.
	twice := []limits.Ask{{Limit: many, Key: "bob", Cost: 5}, {Limit: many, Key: "bob", Cost: 5}}
	if granted, _ := l.takeAll(twice, localsAt); granted {
		t.Error("10 of 9 were granted")
	}
}

// What is remembered has a bound: full buckets go first, and none of those that
// are in use is lost while there are any.
func TestLocalsForgetFullBucketsFirst(t *testing.T) {
	few, quick := limit(1, 1, time.Hour), limit(1, 1000, time.Second)
	quick.Name = "quick"
	now := localsAt
	l := newLocals()
	l.most = evictSample
	take := func(limit *rules.Limit, key string) bool {
		return l.take(limits.Ask{Limit: limit, Key: key, Cost: 1}, 1, now).Allowed
	}
	if !take(few, "used") {
		t.Fatal("a full bucket refused")
	}
	for i := range 1000 { // each is full again when the next comes
		now = now.Add(10 * time.Millisecond)
		if !take(quick, fmt.Sprint(i)) {
			t.Fatal("a full bucket refused")
		}
		if n := l.size(); n > l.most {
			t.Fatalf("%d buckets, want at most %d", n, l.most)
		}
	}
	if take(few, "used") {
		t.Error("a bucket that was used up is full again")
	}
	if n := l.forgotten.Load(); n != 0 {
		t.Errorf("%d buckets in use were forgotten, want 0", n)
	}
	for i := range 100 {
		if !take(few, fmt.Sprint(i)) {
			t.Fatal("a full bucket refused")
		}
	}
	if n := l.size(); n > l.most {
		t.Errorf("%d buckets, want at most %d", n, l.most)
	}
	if l.forgotten.Load() == 0 {
		t.Error("no bucket in use was forgotten, and yet there was room")
	}
}

// What makes room is never a ban, as long as there is anything else.
func TestABanIsForgottenLast(t *testing.T) {
	at := func(d time.Duration) int64 { return localsAt.Add(d).UnixMicro() }
	banned := limits.Bucket{At: at(-time.Hour), Ban: at(time.Minute)}
	used := limits.Bucket{At: at(0)}
	if sooner(banned, used, localsAt) || !sooner(used, banned, localsAt) {
		t.Error("a banned key is forgotten before one that was just used")
	}
	if older := (limits.Bucket{At: at(-time.Second)}); !sooner(older, used, localsAt) || sooner(used, older, localsAt) {
		t.Error("of two the one used last is forgotten")
	}
}
