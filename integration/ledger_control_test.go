package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A ledger that notices nothing would let every test pass that uses it: each of
// these histories has one thing wrong, and one has nothing.
func TestTheLedgerNotices(t *testing.T) {
	t.Parallel()
	m := func(n int) message { return message{"a", "x", n} }
	at := func(n int) event { return event{seq: int64(10 * n), prev: int64(10 * (n - 1)), message: m(n)} }
	gone := func(from int64) event { return event{control: "truncated", missing: from} }
	skip := func(seq int64) event { return event{control: "skip", seq: seq, prev: seq - 10} }
	wrong := func(e event, n int) event { e.message = m(n); return e }
	full := []event{at(1), at(2), at(3), at(4)}
	tests := []struct {
		name   string
		events []event
		left   bool
		more   func(l *ledger, r *reader)
		want   string // part of what is found; "": nothing is
	}{
		{name: "nothing wrong", events: full},
		{name: "a lost message", events: []event{at(1), at(2), at(4)}, want: "the last was 20"},
		{name: "the last message lost", events: full[:3], want: "never got [40]"},
		{name: "the last not owed to who left", events: full[:3], left: true},
		{name: "one lost before who left", events: []event{at(1), at(3)}, left: true, want: "never got [20]"},
		{name: "a doubled message", events: []event{at(1), at(2), at(2), at(3), at(4)}, want: "came behind 20"},
		{name: "a swapped pair", events: []event{at(1), at(3), at(2), at(4)}, want: "came behind 30"},
		{name: "a wrong payload", events: []event{at(1), wrong(at(2), 5), at(3), at(4)}, want: "20 is a/x/5 here and a/x/2 elsewhere"},
		{name: "a payload that nobody published", events: []event{at(1), wrong(at(2), 99), at(3), at(4)}, want: "never published"},
		{name: "one of another topic", events: append(slices.Clone(full), event{seq: 50, prev: 40, message: message{"b", "x", 1}}), want: "another topic"},
		{name: "a truncation that is so", events: []event{at(1), gone(11), {seq: 30, prev: 20, message: m(3)}, at(4)}},
		{name: "a truncation up to a position", events: []event{at(1), gone(11), skip(20), at(3), at(4)}},
		{name: "a false truncation", events: []event{at(1), at(2), gone(21), at(3), at(4)}, want: "told that 21 to 29 are gone"},
		{name: "a truncation that excuses too little", events: []event{gone(1), at(2), at(4)}, want: "never got [30]"},
		{name: "a truncation of a log that lost nothing", events: []event{at(1), gone(11), at(3), at(4)}, more: func(l *ledger, _ *reader) { l.complete = true }, want: "told that 11 to 29 are gone"},
		{name: "withheld from who has all", events: []event{at(1), skip(20), at(3), at(4)}, want: "withheld"},
		{name: "withheld from its publisher", events: []event{at(1), skip(20), at(3), at(4)}, more: func(_ *ledger, r *reader) { r.withheld = true }},
		{name: "a retry stored twice", events: append(slices.Clone(full), wrong(at(5), 4)), want: "a/x/4 lies at 40 and at 50"},
		{name: "acknowledged twice as the first", events: full, more: func(l *ledger, _ *reader) { l.ack(m(4), 40, false) }, want: "stored 2 times"},
		{name: "acknowledged again as a duplicate", events: full, more: func(l *ledger, _ *reader) { l.ack(m(4), 40, true) }},
		{name: "a duplicate of another place", events: full, more: func(l *ledger, _ *reader) { l.ack(m(4), 45, true) }, want: "lies at 40 and at 45"},
		{name: "acknowledged in another order", events: full, more: func(l *ledger, _ *reader) { l.try(m(6)); l.ack(m(6), 5, false) }, want: "is stored at 40, behind a/x/6 at 5"},
		{name: "refused, and stored", events: append(slices.Clone(full), at(5)), more: func(l *ledger, _ *reader) { l.refuse(m(5), "none") }, want: "every answer was that it was not stored"},
		{name: "refused without knowing, and stored", events: append(slices.Clone(full), at(5)), more: func(l *ledger, _ *reader) { l.refuse(m(5), "unknown") }},
	}
	for _, test := range tests {
		l := newLedger()
		for n := 1; n <= 5; n++ {
			l.try(m(n))
		}
		l.try(message{"b", "x", 1})
		for n := 1; n <= 4; n++ { // the fifth is never acknowledged
			l.ack(m(n), int64(10*n), false)
		}
		r := l.open("reader", "a", 0)
		for _, e := range test.events {
			r.note(e)
		}
		if test.left {
			r.leave()
		}
		if test.more != nil {
			test.more(l, r)
		}
		found, owed := l.audit()
		text := strings.Join(found, "; ")
		for _, seqs := range owed {
			text += fmt.Sprintf("; never got %v", seqs)
		}
		if test.want == "" && text != "" || !strings.Contains(text, test.want) {
			t.Errorf("%s: found %q, want %q", test.name, text, test.want)
		}
	}
}
