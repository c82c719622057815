package ratelimit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
)

// The rules refuse a limit that no bucket can have.
func TestLimitsThatAreNone(t *testing.T) {
	for _, c := range []struct{ limit, field string }{
		{"capacity: 0, refill: 1, per: 1s", "capacity"}, {"capacity: -1, refill: 1, per: 1s", "capacity"},
		{"capacity: 5, refill: 0, per: 1s", "refill"}, {"capacity: 5, refill: -1, per: 1s", "refill"},
		{"capacity: 5, refill: 1, per: 0s", "per"}, {"capacity: 5, refill: 1, per: -1s", "per"},
	} {
		_, err := rules.Parse([]byte("limits:\n  few: {"+c.limit+"}\n"), rules.Dev)
		if err == nil || !strings.Contains(err.Error(), "limits.few."+c.field) {
			t.Errorf("{%s}: got %v, want it refused for %s", c.limit, err, c.field)
		}
	}
}

// What was read of a limit is what was written, whatever becomes of the text.
func TestPolicyIsAsWritten(t *testing.T) {
	text := []byte("limits:\n  few: {capacity: 5, refill: 2, per: 1s}\n")
	set, err := rules.Parse(text, rules.Dev)
	if err != nil {
		t.Fatal(err)
	}
	want := *limitOf("few", 5, 2, time.Second)
	clear(text)
	if got := set.Limit("few"); got == nil || *got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// rule is something that a limiter does, whatever it is stored in. Each has keys
// and policies of its own.
type rule struct {
	rule string
	test func(*testing.T, *keeping)
}

// takeRules are of takes.
var takeRules = []rule{
	{"a full bucket gives, and says what is left", func(t *testing.T, r *keeping) {
		v := take1(t, r.keeper, "first", limitOf("p", 5, 1, time.Second), 1)
		expectGiven(t, "1 of 5", v, 4)
		if v.Limit != 5 || v.ResetMs != 1000 || v.Revision != 0 || v.Version == "" {
			t.Errorf("got %+v, want the limit 5, full in 1000ms, decided on nothing, with a version", v)
		}
		if next := take1(t, r.keeper, "first", limitOf("p", 5, 1, time.Second), 1); next.Revision == 0 {
			t.Errorf("got %+v, want the revision that the first one made", next)
		}
	}},
	{"what is taken adds up", func(t *testing.T, r *keeping) {
		l := slow("p", 10)
		take1(t, r.keeper, "adds", l, 3)
		expectGiven(t, "2 after 3 of 10", take1(t, r.keeper, "adds", l, 2), 5)
	}},
	{"an empty bucket denies", func(t *testing.T, r *keeping) {
		l := limitOf("p", 2, 1, time.Second)
		take1(t, r.keeper, "empty", l, 2)
		expectDenied(t, "1 of none", take1(t, r.keeper, "empty", l, 1), 0, 1000)
	}},
	{"a denial says when there is enough, rounded up", func(t *testing.T, r *keeping) {
		l := limitOf("p", 5, 2, time.Second)
		take1(t, r.keeper, "when", l, 5)
		expectDenied(t, "3 of none at 2/s", take1(t, r.keeper, "when", l, 3), 0, 1500)
		third := limitOf("third", 5, 3, time.Second)
		take1(t, r.keeper, "when", third, 5)
		expectDenied(t, "1 of none at 3/s", take1(t, r.keeper, "when", third, 1), 0, 334)
	}},
	{"a cost above the capacity is never given, and changes nothing", func(t *testing.T, r *keeping) {
		for _, capacity := range []int{5, 10} {
			l := slow(fmt.Sprint("p", capacity), capacity)
			l.Block = time.Minute
			cost := int64(10)
			if capacity == 10 {
				cost = 11
			}
			expectDenied(t, fmt.Sprintf("%d of %d", cost, capacity), take1(t, r.keeper, "above", l, cost), int64(capacity), -1)
			expectGiven(t, "then 1", take1(t, r.keeper, "above", l, 1), int64(capacity)-1)
		}
	}},
	{"keys are independent", func(t *testing.T, r *keeping) {
		l := slow("p", 2)
		take1(t, r.keeper, "k1", l, 2)
		if v := take1(t, r.keeper, "k1", l, 1); v.Allowed {
			t.Errorf("k1: got %+v, want denied", v)
		}
		expectGiven(t, "k2", take1(t, r.keeper, "k2", l, 1), 1)
		ten := slow("ten", 10)
		for range 10 {
			take1(t, r.keeper, "u1", ten, 1)
		}
		expectGiven(t, "u2 after u1 used up its own", take1(t, r.keeper, "u2", ten, 1), 9)
	}},
	{"a bucket fills with time", func(t *testing.T, r *keeping) {
		l := limitOf("p", 10, 2, time.Second)
		take1(t, r.keeper, "fills", l, 6)
		r.pass(2 * time.Second)
		expectGiven(t, "1, 2s after 6 of 10 at 2/s", take1(t, r.keeper, "fills", l, 1), 7)
	}},
	{"a bucket fills no further than its capacity", func(t *testing.T, r *keeping) {
		l := limitOf("p", 5, 10, time.Second)
		take1(t, r.keeper, "capped", l, 3)
		r.pass(10 * time.Second)
		expectGiven(t, "1, long after", take1(t, r.keeper, "capped", l, 1), 4)
	}},
	{"what is left is rounded down", func(t *testing.T, r *keeping) {
		l := limitOf("p", 10, 1, time.Second)
		take1(t, r.keeper, "floor", l, 5)
		r.pass(1500 * time.Millisecond)
		expectGiven(t, "1, with 6.5 there", take1(t, r.keeper, "floor", l, 1), 5)
	}},
	{"parts of tokens are not lost between looks and denials", func(t *testing.T, r *keeping) {
		l := limitOf("p", 10, 1, time.Second)
		for _, poll := range []struct {
			how  string
			look bool
			cost int64
		}{{"nothing", true, 0}, {"takes of 0", false, 0}, {"denials", false, 10}, {"looks", true, 1}} {
			key := "parts " + poll.how
			take1(t, r.keeper, key, l, 5)
			for range 10 {
				r.pass(100 * time.Millisecond)
				if poll.how == "nothing" {
					continue
				}
				out, err := r.consume(soon(t), key, []take{{l, poll.cost}}, 1, poll.look)
				if err != nil || out.verdicts[0].Allowed != (poll.cost < 10) {
					t.Errorf("%s: got %+v (%v)", poll.how, out, err)
				}
			}
			expectGiven(t, "1 after 10 times 100ms with "+poll.how, take1(t, r.keeper, key, l, 1), 5)
		}
	}},
	{"a clock that goes back gives nothing", func(t *testing.T, r *keeping) {
		l := limitOf("p", 5, 10, time.Second)
		take1(t, r.keeper, "back", l, 3)
		r.pass(-5 * time.Second)
		expectGiven(t, "1, 5s before", take1(t, r.keeper, "back", l, 1), 1)
		r.pass(5 * time.Second)
		expectGiven(t, "1, when it was", take1(t, r.keeper, "back", l, 1), 0)
	}},
	{"policies of a key are independent", func(t *testing.T, r *keeping) {
		api, ws := slow("api", 2), slow("ws", 2)
		take1(t, r.keeper, "same", api, 2)
		expectGiven(t, "ws after api was used up", take1(t, r.keeper, "same", ws, 1), 1)
		cheap, expensive := slow("cheap", 10), slow("expensive", 5)
		take1(t, r.keeper, "same", cheap, 10)
		expectGiven(t, "expensive after cheap", take1(t, r.keeper, "same", expensive, 1), 4)
		if v := take1(t, r.keeper, "same", cheap, 1); v.Allowed {
			t.Errorf("cheap: got %+v, want denied still", v)
		}
	}},
	{"of many at a time exactly as many are given as there are", func(t *testing.T, r *keeping) {
		for _, c := range []struct{ capacity, callers int }{{5, 10}, {10, 15}} {
			l := limitOf(fmt.Sprint("p", c.capacity), c.capacity, 1, 1000*time.Second)
			given := make(chan bool, c.callers)
			for range c.callers {
				go func() {
					out, err := r.consume(soon(t), "parallel", []take{{l, 1}}, 1, false)
					given <- err == nil && out.granted == 1
				}()
			}
			got := 0
			for range c.callers {
				if <-given {
					got++
				}
			}
			if got != c.capacity {
				t.Errorf("%d of %d at a time: got %d given", c.capacity, c.callers, got)
			}
		}
	}},
	{"the one too many is denied for a while", func(t *testing.T, r *keeping) {
		l := slow("p", 10)
		for i := range 10 {
			expectGiven(t, fmt.Sprint("take ", i+1), take1(t, r.keeper, "eleven", l, 1), int64(9-i))
		}
		if v := take1(t, r.keeper, "eleven", l, 1); v.Allowed || v.RetryAfterMs <= 0 {
			t.Errorf("the 11th of 10: got %+v, want denied for a while", v)
		}
	}},
	{"a cost takes as many", func(t *testing.T, r *keeping) {
		expectGiven(t, "3 of 10", take1(t, r.keeper, "weighted", slow("p", 10), 3), 7)
	}},
	{"a denied cost leaves what a smaller one gets", func(t *testing.T, r *keeping) {
		l := slow("p", 5)
		take1(t, r.keeper, "smaller", l, 2)
		if v := take1(t, r.keeper, "smaller", l, 5); v.Allowed || v.Remaining != 3 {
			t.Errorf("5 of 3: got %+v, want denied with 3 left", v)
		}
		expectGiven(t, "3 of 3", take1(t, r.keeper, "smaller", l, 3), 0)
	}},
	{"a cost of nothing is allowed from an empty bucket, not from a banned key", func(t *testing.T, r *keeping) {
		l := slow("p", 1)
		take1(t, r.keeper, "zero", l, 1)
		expectGiven(t, "0 of none", take1(t, r.keeper, "zero", l, 0), 0)
		if _, _, err := r.ban(soon(t), "zero", l, time.Minute); err != nil {
			t.Fatal(err)
		}
		if v := take1(t, r.keeper, "zero", l, 0); v.Allowed || !v.Banned {
			t.Errorf("0 of a banned key: got %+v", v)
		}
	}},
	{"another limiter on the same store goes on where this one is", func(t *testing.T, r *keeping) {
		l := slow("p", 5)
		take1(t, r.keeper, "shared", l, 3)
		other := r.start(t, nil)
		expectGiven(t, "1 by another", take1(t, other, "shared", l, 1), 1)
		expectGiven(t, "1 by this one again", take1(t, r.keeper, "shared", l, 1), 0)
		if v := take1(t, other, "shared", l, 1); v.Allowed {
			t.Errorf("got %+v by the other, want denied", v)
		}
	}},
	{"n times in order gives as often as it goes", func(t *testing.T, r *keeping) {
		l := slow("p", 10)
		out, err := r.consume(soon(t), "folded", []take{{l, 3}}, 5, false)
		if err != nil || out.granted != 3 || out.verdicts[0].Allowed || out.verdicts[0].Remaining != 1 {
			t.Errorf("5 times 3 of 10: got %+v (%v), want 3 of them and 1 left", out, err)
		}
		out, err = r.consume(soon(t), "folded", []take{{l, 1}}, 1, false)
		if err != nil || out.granted != 1 || !out.verdicts[0].Allowed {
			t.Errorf("the last one: got %+v (%v)", out, err)
		}
	}},
	{"a look takes nothing, and says what a take would", func(t *testing.T, r *keeping) {
		l := slow("p", 2)
		for range 3 {
			out, err := r.consume(soon(t), "look", []take{{l, 2}}, 1, true)
			if err != nil || out.granted != 1 {
				t.Fatalf("got %+v (%v)", out, err)
			}
			expectGiven(t, "a look at 2 of 2", out.verdicts[0], 2)
		}
		take1(t, r.keeper, "look", l, 1)
		out, err := r.consume(soon(t), "look", []take{{l, 2}}, 1, true)
		if err != nil || out.granted != 0 || out.verdicts[0].Allowed || out.verdicts[0].Remaining != 1 {
			t.Errorf("a look at 2 of 1: got %+v (%v)", out, err)
		}
	}},
	{"a denial bans where the policy says so, until the ban is over", func(t *testing.T, r *keeping) {
		l := limitOf("p", 2, 1, time.Second)
		l.Block = 10 * time.Second
		take1(t, r.keeper, "banned", l, 2)
		v := take1(t, r.keeper, "banned", l, 1)
		expectDenied(t, "1 of none", v, 0, 10_000)
		if !v.Banned || v.ResetMs != 10_000 {
			t.Errorf("got %+v, want banned for 10s", v)
		}
		r.pass(4 * time.Second)
		expectDenied(t, "1, with tokens there", take1(t, r.keeper, "banned", l, 1), 0, 6_000)
		r.pass(6 * time.Second)
		expectGiven(t, "1 after the ban", take1(t, r.keeper, "banned", l, 1), 1)
	}},
}

func TestLimiter(t *testing.T) {
	for name, open := range map[string]func(*testing.T) *keeping{
		"memory":    func(*testing.T) *keeping { return inMemory() },
		"JetStream": func(t *testing.T) *keeping { return inJetStream(t, natsdev.Test(t).ClientURL(), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := open(t)
			r.start(t, nil)
			for _, c := range slices.Concat(takeRules, changeRules) {
				t.Run(c.rule, func(t *testing.T) { c.test(t, r) })
			}
		})
	}
}
