package ratelimit

import (
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/limits"
)

// What was taken, and banned, while the server's clock was wrong by far counts from
// when it is right again.
func TestAClockThatWasAhead(t *testing.T) {
	const wrong = 365 * 24 * time.Hour
	r := inMemory()
	k := r.start(t, nil)
	l, blocking := limitOf("p", 5, 1, time.Hour), limitOf("blocking", 1, 1, time.Hour)
	blocking.Block = 30 * time.Minute
	r.pass(wrong)
	take1(t, k, "k", l, 5)
	take1(t, k, "several", l, 5)
	take1(t, k, "banned", blocking, 1)
	take1(t, k, "banned", blocking, 1)
	if _, _, _, err := k.refund(soon(t), "refund", l, 1, "id"); err != nil {
		t.Fatal(err)
	}
	r.pass(-wrong)
	expectDenied(t, "nothing is given back by it", take1(t, k, "k", l, 1), 0, 3_600_000)
	if v := take1(t, k, "banned", blocking, 1); !v.Banned || v.RetryAfterMs != 1_800_000 {
		t.Errorf("banned for 30m: got %+v", v)
	}
	if _, _, first, err := k.refund(soon(t), "refund", l, 1, "id"); err != nil || first {
		t.Errorf("a refund that was made: got %t (%v)", first, err)
	}
	several := []keyed{{"several", take{l, 1}}, {"other", take{l, 1}}}
	if verdicts, granted, err := k.consumeAll(soon(t), several); err != nil || granted || verdicts[0].RetryAfterMs != 3_600_000 {
		t.Errorf("of several: got %+v (%v), want the first denied for an hour", verdicts, err)
	}
	expectLeft(t, r, "the other of several", "other", l, 5)
	r.pass(90 * time.Minute)
	expectGiven(t, "an hour later", take1(t, k, "k", l, 1), 0)
	if _, granted, err := k.consumeAll(soon(t), several); err != nil || !granted {
		t.Errorf("of several, an hour later: got %t (%v)", granted, err)
	}
	expectGiven(t, "when the ban is over", take1(t, k, "banned", blocking, 1), 0)
	if _, _, first, err := k.refund(soon(t), "refund", l, 1, "id"); err != nil || !first {
		t.Errorf("a refund that is long over: got %t (%v)", first, err)
	}
}

// Nothing is moved that is ahead by less than clocks may differ, and a look moves
// nothing that is stored.
func TestSettle(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	at := func(d time.Duration) int64 { return now.Add(d).UnixMicro() }
	held1 := func(d time.Duration) entry {
		return entry{buckets: []held{{"p", limits.Bucket{Missing: 5, Share: 10, At: at(d), Ban: at(d + time.Hour)}, rate{}, at(d + 2*time.Hour)}}}
	}
	for _, c := range []struct{ ahead, want time.Duration }{{-time.Hour, -time.Hour}, {0, 0}, {maxAhead, maxAhead}, {maxAhead + time.Microsecond, 0}, {1000 * time.Hour, 0}} {
		e, want := held1(c.ahead), held1(c.want)
		if mended := e.settle(now); mended != (c.ahead != c.want) || e.buckets[0] != want.buckets[0] {
			t.Errorf("%s ahead: got %+v (%t), want %+v", c.ahead, e.buckets[0], mended, want.buckets[0])
		}
	}
	e := held1(0)
	if e.settle(time.Time{}) {
		t.Error("moved by a clock that knows nothing")
	}

	r := inMemory()
	k := r.start(t, nil)
	l := slow("p", 5)
	r.pass(time.Hour)
	take1(t, k, "k", l, 1)
	r.pass(-time.Hour)
	before, err := r.store.Get(soon(t), "v1.k")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := k.consume(soon(t), "k", []take{{l, 1}}, 1, true); err != nil || out.verdicts[0].Remaining != 4 {
		t.Errorf("a look: got %+v (%v)", out, err)
	}
	if after, err := r.store.Get(soon(t), "v1.k"); err != nil || after.Revision != before.Revision {
		t.Errorf("a look wrote revision %d (%v)", after.Revision, err)
	}
}
