package ratelimit

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
)

// consumed takes of an entry, and returns what is left.
func consumed(e *entry, l *rules.Limit, cost int64, c changes, now time.Time) answer {
	return e.decide(&request{action: consuming, takes: []take{{l, cost}}, n: 1, changes: c}, now)
}

func adjusted(e *entry, l *rules.Limit, c changes, now time.Time) answer {
	return e.decide(&request{action: adjusting, takes: []take{{limit: l}}, changes: c}, now)
}

// Until a limit changes its time counts by what it was, from then by what it is.
func TestTimeBeforeALimitChangedCountsByWhatItWas(t *testing.T) {
	fast, late := limitOf("p", 1000, 100, time.Second), limitOf("p", 1000, 1, time.Hour)
	changed, now := entryStart.Add(3*time.Second), entryStart.Add(4*time.Second)
	for _, c := range []struct {
		what       string
		was, is    *rules.Limit
		changes    changes
		want, full time.Duration // of want tokens
	}{
		{"slower, and it is known since when", fast, late, changes{"p": changed}, 300, 700*time.Hour - time.Second},
		{"slower, and it is not known since when", fast, late, nil, 400, 600 * time.Hour},
		{"faster", late, fast, changes{"p": changed}, 100, 9 * time.Second},
		{"smaller", fast, limitOf("p", 500, 1, time.Hour), changes{"p": changed}, 0, 500*time.Hour - time.Second},
		{"larger", fast, limitOf("p", 2000, 1, time.Hour), changes{"p": changed}, 1300, 700*time.Hour - time.Second},
		{"before it was stored", fast, late, changes{"p": entryStart.Add(-time.Second)}, 0, 1000*time.Hour - 4*time.Second},
	} {
		var e entry
		consumed(&e, c.was, 1000, nil, entryStart)
		policy := limits.PolicyOf(c.is)
		if look := consumed(&e, c.is, 5000, c.changes, now); look.changed || look.verdicts[0].Remaining != int64(c.want) {
			t.Errorf("%s: a denial says %+v, want %d and nothing written", c.what, look.verdicts[0], c.want)
		}
		if a := adjusted(&e, c.is, c.changes, now); !a.changed || a.err != nil {
			t.Errorf("%s: got %+v, want it changed", c.what, a)
		}
		h := e.find("p")
		if got := policy.Look(h.Bucket, 0, now).Remaining; got != int64(c.want) {
			t.Errorf("%s: %d are left, want %d", c.what, got, c.want)
		}
		// What is missing of the next token may be a part of one.
		if got := time.UnixMicro(h.full).Sub(now); got < c.full-time.Second || got > c.full+time.Second {
			t.Errorf("%s: full in %s, want in %s", c.what, got, c.full)
		}
		if life := e.life(now); life < c.full-time.Second+rest {
			t.Errorf("%s: it lasts %s, want until it is full", c.what, life)
		}
		if a := adjusted(&e, c.is, c.changes, now.Add(time.Second)); a.changed {
			t.Errorf("%s: adjusted twice", c.what)
		}
	}
}

// Nothing is written where there is nothing to adjust.
func TestWhatNeedNotBeAdjusted(t *testing.T) {
	fast, late := limitOf("p", 10, 10, time.Second), limitOf("p", 10, 1, time.Hour)
	var none, other, full, ban entry
	if a := adjusted(&none, late, nil, entryStart); a.changed || len(none.buckets) != 0 {
		t.Errorf("of nothing: got %+v", none)
	}
	consumed(&other, limitOf("other", 5, 1, time.Second), 1, nil, entryStart)
	if a := adjusted(&other, late, nil, entryStart); a.changed {
		t.Errorf("of another policy: got %+v", other)
	}
	same := *fast
	same.Block, same.Shadow = time.Hour, true // not how it fills
	if consumed(&other, fast, 1, nil, entryStart); adjusted(&other, &same, nil, entryStart).changed {
		t.Errorf("of the same rate: got %+v", other)
	}
	consumed(&full, fast, 10, nil, entryStart)
	if a := adjusted(&full, late, nil, entryStart.Add(2*time.Second)); a.changed {
		t.Errorf("of one that was full before: got %+v", full)
	}
	until := entryStart.Add(time.Minute).UnixMicro()
	ban.decide(&request{action: banning, takes: []take{{limit: fast}}, ban: time.Minute}, entryStart)
	if a := adjusted(&ban, late, nil, entryStart.Add(time.Second)); !a.changed || ban.bucket("p").Ban != until || ban.find("p").full < until {
		t.Errorf("of a ban: got %+v, want it until %d", ban, until)
	}
}

// Whether a key is adjusted, and when, makes no difference to who takes from it,
// and no more is given than was refilled.
func TestAdjustedOrNotTheSameIsGiven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := func(label string) *rules.Limit {
			per := rapid.SampledFrom([]time.Duration{10 * time.Millisecond, time.Second, time.Hour}).Draw(t, label+" per")
			return limitOf("p", 100, rapid.IntRange(1, 50).Draw(t, label+" refill"), per)
		}
		now, is, next := entryStart, l("first"), l("next")
		var some, never entry
		var known changes
		most, given := 100.0, int64(0)
		steps := rapid.IntRange(2, 30).Draw(t, "steps")
		change := rapid.IntRange(0, steps-1).Draw(t, "change")
		for i := range steps {
			passes := time.Duration(rapid.Int64Range(0, 2_000_000).Draw(t, "µs")) * time.Microsecond
			now = now.Add(passes)
			most += float64(is.Refill) * float64(passes) / float64(is.Per)
			if i == change {
				is, known = next, changes{"p": now}
			}
			if rapid.IntRange(0, 2).Draw(t, "adjust") == 0 {
				adjusted(&some, is, known, now)
			}
			cost := rapid.Int64Range(0, 60).Draw(t, "cost")
			a, b := consumed(&some, is, cost, known, now), consumed(&never, is, cost, known, now)
			if got, want := fmt.Sprint(a.verdicts), fmt.Sprint(b.verdicts); got != want {
				t.Fatalf("adjusted: %s, not: %s", got, want)
			}
			if given += a.granted * cost; float64(given) > most+1e-6 {
				t.Fatalf("%d were given of %f", given, most)
			}
		}
	})
}
