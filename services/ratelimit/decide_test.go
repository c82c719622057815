package ratelimit

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/internal/limits"
)

// Takes that are wanted n times get what n requests of one get, and leave the
// same behind.
func TestTimesAreTheSameAsOneByOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var takes []take
		for i := range rapid.IntRange(1, 3).Draw(t, "takes") {
			l := limitOf(fmt.Sprint("p", i), rapid.IntRange(1, 20).Draw(t, "capacity"), rapid.IntRange(1, 9).Draw(t, "refill"), time.Second)
			l.Shadow = rapid.Bool().Draw(t, "shadow")
			l.Block = time.Duration(rapid.IntRange(0, 2).Draw(t, "block")) * time.Second
			takes = append(takes, take{l, int64(rapid.IntRange(0, 6).Draw(t, "cost"))})
		}
		var once, each entry
		now := entryStart
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			n := int64(rapid.IntRange(1, 12).Draw(t, "n"))
			before := string(once.append(nil))
			a := once.decide(&request{action: consuming, takes: takes, n: n}, now)
			if changed := string(once.append(nil)) != before; changed != a.changed {
				t.Fatalf("it says changed %t, want %t", a.changed, changed)
			}
			granted := int64(0)
			var last answer
			for range n {
				last = each.decide(&request{action: consuming, takes: takes, n: 1}, now)
				granted += last.granted
			}
			if a.granted != granted {
				t.Fatalf("%d times at once: got %d, one by one %d", n, a.granted, granted)
			}
			if got, want := fmt.Sprint(a.verdicts), fmt.Sprint(last.verdicts); got != want {
				t.Fatalf("at once: got %s, one by one %s", got, want)
			}
			for _, x := range takes {
				p := limits.PolicyOf(x.limit)
				got, want := p.Look(once.bucket(x.limit.Name), 1, now), p.Look(each.bucket(x.limit.Name), 1, now)
				if got != want {
					t.Fatalf("%s is left with %+v, one by one with %+v", x.limit.Name, got, want)
				}
			}
		}
	})
}

// A look says what a take of the same moment would, and changes nothing.
func TestLookSaysWhatATakeWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := limitOf("p", rapid.IntRange(1, 9).Draw(t, "capacity"), rapid.IntRange(1, 9).Draw(t, "refill"), time.Second)
		l.Shadow = rapid.Bool().Draw(t, "shadow")
		var e entry
		now := entryStart
		for range 8 {
			now = now.Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond)
			r := request{action: peeking, takes: []take{{l, int64(rapid.IntRange(0, 10).Draw(t, "cost"))}}, n: int64(rapid.IntRange(1, 4).Draw(t, "n"))}
			before := string(e.append(nil))
			look := e.decide(&r, now)
			if look.changed || string(e.append(nil)) != before {
				t.Fatal("a look changed something")
			}
			r.action = consuming
			a := e.decide(&r, now)
			if a.granted != look.granted || a.verdicts[0].Allowed != look.verdicts[0].Allowed || a.verdicts[0].RetryAfterMs != look.verdicts[0].RetryAfterMs {
				t.Fatalf("a look said %+v, the take %+v", look.outcome, a.outcome)
			}
		}
	})
}

func TestCostsThatAreTooMuchForANumber(t *testing.T) {
	var e entry
	l := slow("p", 5)
	const most = 1<<63 - 1
	for _, takes := range [][]take{{{l, most}}, {{l, most}, {l, most}}, {{l, 1}, {l, most}}} {
		a := e.decide(&request{action: consuming, takes: takes, n: most}, entryStart)
		if a.granted != 0 || a.changed || a.verdicts[len(takes)-1].RetryAfterMs != -1 {
			t.Errorf("%d takes: got %+v, want never", len(takes), a.outcome)
		}
	}
	if a := e.decide(&request{action: consuming, takes: []take{{l, 0}}, n: most}, entryStart); a.granted != most || a.changed {
		t.Errorf("nothing, very often: got %+v", a.outcome)
	}
}
