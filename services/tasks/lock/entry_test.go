package lock

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// book is an entry under test, with the revisions and the clock of a bucket.
type book struct {
	t        *testing.T
	e        *entry
	revision uint64
	now      time.Time
}

func newBook(t *testing.T) *book {
	return &book{t: t, e: &entry{}, revision: 10, now: noon}
}

// do decides one request, stores what came of it, and reads that again.
func (b *book) do(r request) outcome {
	b.t.Helper()
	if r.ttl == 0 {
		r.ttl = time.Second
	}
	if r.alive == 0 {
		r.alive = waiterLease
	}
	before := b.e.encode()
	work := b.e.clone()
	d := work.decide(&r, view{now: b.now})
	if string(b.e.encode()) != string(before) {
		b.t.Fatal("the entry that was decided on has changed")
	}
	if changed := string(work.encode()) != string(before); changed != d.changed {
		b.t.Errorf("%+v: changed is %v, the entry went from %s to %s", r, d.changed, before, work.encode())
	}
	if d.changed {
		b.revision++
		var err error
		if b.e, err = decodeEntry(work.encode(), b.revision, b.now); err != nil {
			b.t.Fatal(err)
		}
	}
	return d.outcome
}

func (b *book) is(holder string, fence uint64, line ...string) {
	b.t.Helper()
	got, want := "nobody", "nobody"
	if h := b.e.holder; h != nil {
		got = fmt.Sprint(h.who, " ", h.fence)
	}
	for _, w := range b.e.line {
		got += " " + w.who
	}
	if holder != "" {
		want = fmt.Sprint(holder, " ", fence)
	}
	want = strings.Join(append([]string{want}, line...), " ")
	if got != want {
		b.t.Errorf("got %s, want %s", got, want)
	}
}

func (b *book) want(got, want outcome) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("got the outcome %d, want %d", got, want)
	}
}

func TestTheLine(t *testing.T) {
	b := newBook(t)
	b.want(b.do(request{who: "a"}), granted)
	b.is("a", 11)
	b.want(b.do(request{who: "b"}), held)
	b.want(b.do(request{who: "b", wait: true}), queued)
	b.want(b.do(request{who: "c", wait: true}), queued)
	b.want(b.do(request{who: "d", wait: true}), queued)
	b.want(b.do(request{who: "b", wait: true}), queued) // the same place
	b.want(b.do(request{who: "a", wait: true}), granted)
	b.is("a", 11, "b", "c", "d")
	b.want(b.do(request{who: "c"}), held) // it waits no longer
	b.is("a", 11, "b", "d")
	b.want(b.do(request{action: releasing, who: "a", fence: 10}), gone)
	b.want(b.do(request{action: releasing, who: "a", fence: 11}), finished)
	b.is("b", 16, "d")
	b.want(b.do(request{action: releasing, who: "a", fence: 11}), finished) // said again
	b.is("b", 16, "d")
	b.want(b.do(request{action: leaving, who: "b"}), granted) // too late to leave
	b.want(b.do(request{action: leaving, who: "d"}), gone)
	b.want(b.do(request{action: leaving, who: "d"}), gone)
	b.want(b.do(request{action: releasing, who: "b", fence: 16}), finished)
	b.is("", 0)
	b.want(b.do(request{action: releasing, who: "a", fence: 11}), gone) // that is too long ago
	b.want(b.do(request{action: releasing, who: "b", fence: 0}), gone)
}

func TestWaitersThatNobodyAnswersAreSkipped(t *testing.T) {
	b := newBook(t)
	b.do(request{who: "a", ttl: 20 * time.Second})
	b.do(request{who: "dead", wait: true, alive: time.Second})
	b.do(request{who: "dead too", wait: true, alive: time.Second})
	b.do(request{who: "b", wait: true, ttl: 7 * time.Second})
	b.now = b.now.Add(2 * time.Second)
	b.want(b.do(request{action: releasing, who: "a", fence: 11}), finished)
	b.is("b", 15)
	if got := b.e.holder.left(view{now: b.now}); got != 7*time.Second {
		t.Errorf("it has the lock for %s, want the 7s that it asked for", got)
	}
}

// An expired holder is followed by the first in line, whoever notices it.
func TestTheHolderExpires(t *testing.T) {
	for _, notice := range []request{{who: "x"}, {who: "x", wait: true}, {action: keeping}} {
		b := newBook(t)
		b.do(request{who: "a", ttl: 200 * time.Millisecond})
		b.do(request{who: "b", wait: true})
		b.now = b.now.Add(199 * time.Millisecond)
		b.do(notice)
		if b.e.holder.who != "a" {
			t.Errorf("%+v: %s has the lock 1 ms before it is over", notice, b.e.holder.who)
		}
		b.now = b.now.Add(time.Millisecond)
		b.do(notice)
		if b.e.holder.who != "b" || b.e.holder.fence != b.revision {
			t.Errorf("%+v: %+v has the lock, want b with %d", notice, b.e.holder, b.revision)
		}
	}
}

// A renewal counts from when it was stored, whatever others write meanwhile, and
// is refused once the time is over.
func TestRenewals(t *testing.T) {
	b := newBook(t)
	b.do(request{who: "a"})
	b.now = b.now.Add(900 * time.Millisecond)
	b.want(b.do(request{action: renewing, who: "a", fence: 11, ttl: 3 * time.Second}), granted)
	b.now = b.now.Add(time.Second)
	b.do(request{who: "b", wait: true}) // which writes the entry
	b.is("a", 11, "b")
	b.now = b.now.Add(1999 * time.Millisecond)
	b.want(b.do(request{action: renewing, who: "b", fence: 11}), gone)
	b.want(b.do(request{action: renewing, who: "a", fence: 12}), gone)
	if got := b.e.holder.left(view{now: b.now}); got != time.Millisecond {
		t.Errorf("%s are left, want 1ms", got)
	}
	b.now = b.now.Add(time.Millisecond)
	b.want(b.do(request{action: renewing, who: "a", fence: 11}), gone)
}

// Without a clock it counts for how long the replica has seen the renewal.
func TestExpiryWithoutAClock(t *testing.T) {
	h := holder{who: "a", fence: 1, renewed: 1, ttl: time.Second, at: noon}
	for _, test := range []struct {
		v    view
		want time.Duration
	}{
		{view{watched: 400 * time.Millisecond}, 600 * time.Millisecond},
		{view{watched: time.Hour}, 0},
		{view{now: noon.Add(-time.Hour), watched: 900 * time.Millisecond}, 100 * time.Millisecond}, // the clock was set back
		{view{now: noon.Add(-time.Hour)}, time.Second},
		{view{now: noon.Add(700 * time.Millisecond), watched: time.Millisecond}, 300 * time.Millisecond},
	} {
		if got := h.left(test.v); got != test.want {
			t.Errorf("%+v: %s are left, want %s", test.v, got, test.want)
		}
	}
}

func TestTheLineIsFull(t *testing.T) {
	b := newBook(t)
	b.do(request{who: "a", ttl: time.Hour})
	for i := range wire.MaxLockWaiters {
		alive := time.Hour
		if i == 500 {
			alive = time.Second
		}
		b.e.line = append(b.e.line, waiter{who: fmt.Sprint(i), ttl: time.Second, until: b.now.Add(alive)})
	}
	b.want(b.do(request{who: "late", wait: true}), full)
	b.want(b.do(request{who: "7", wait: true}), queued) // it is in line
	b.now = b.now.Add(2 * time.Second)
	b.want(b.do(request{who: "late", wait: true, alive: time.Hour}), queued) // in place of one that is dead
	b.want(b.do(request{who: "later", wait: true}), full)
	if n := len(b.e.encode()); n > 128<<10 {
		t.Errorf("a full line is %d bytes", n)
	}
}

// A promise is made anew only once half of it is over, and kept to the end of a
// wait.
func TestPromises(t *testing.T) {
	b := newBook(t)
	b.do(request{who: "a", ttl: time.Hour})
	b.do(request{who: "b", wait: true, alive: waiterLease})
	b.do(request{who: "c", wait: true, alive: waiterLease})
	before := b.revision
	b.now = b.now.Add(2 * time.Second)
	b.do(request{action: keeping, keep: map[string]time.Duration{"b": waiterLease}})
	if b.revision != before {
		t.Error("a promise that is good was made anew")
	}
	b.now = b.now.Add(time.Second)
	b.do(request{action: keeping, keep: map[string]time.Duration{"b": waiterLease, "none": waiterLease}})
	b.is("a", 11, "b", "c")
	b.now = b.now.Add(2500 * time.Millisecond)
	b.do(request{action: keeping, keep: map[string]time.Duration{"b": time.Second}})
	b.is("a", 11, "b")
	b.now = b.now.Add(2 * time.Second)
	b.do(request{action: keeping})
	b.is("a", 11, "b") // it had been promised longer
	b.now = b.now.Add(time.Second)
	b.do(request{action: keeping})
	b.is("a", 11)
}

// The bucket keeps an entry for at least as long as it says something.
func TestKeptFor(t *testing.T) {
	hour := &holder{who: "a", ttl: time.Hour}
	tests := []struct {
		e    entry
		v    view
		want time.Duration
	}{
		{entry{}, view{}, 11 * time.Second},
		{entry{holder: &holder{who: "a", ttl: 200 * time.Millisecond}}, view{}, 2 * time.Second},
		{entry{holder: &holder{who: "a", ttl: 2 * time.Second}}, view{}, 3 * time.Second},
		{entry{holder: &holder{who: "a", fence: 1, renewed: 1, ttl: 9 * time.Second, at: noon}}, view{now: noon.Add(3500 * time.Millisecond)}, 7 * time.Second},
		{entry{holder: hour, line: []waiter{{who: "b", until: noon}}}, view{now: noon}, time.Hour + 6*time.Second},
		{entry{holder: &holder{who: "a", ttl: time.Second}, line: []waiter{{who: "b", until: noon.Add(5 * time.Second)}}}, view{now: noon}, 11 * time.Second},
	}
	for _, test := range tests {
		if got := test.e.keptFor(test.v); got != test.want {
			t.Errorf("%s: kept for %s, want %s", test.e.encode(), got, test.want)
		}
	}
}

func TestTokens(t *testing.T) {
	one := tokenOf("k", "id")
	if one != tokenOf("k", "id") || len(one) != 22 {
		t.Errorf("the token is %q", one)
	}
	seen := map[string]bool{}
	for _, s := range []string{one, tokenOf("k", "id2"), tokenOf("k2", "id"), tokenOf("ki", "d"), whoOf("k", one), whoOf("k2", one), whoOf("k", "")} {
		if seen[s] {
			t.Errorf("%s twice", s)
		}
		seen[s] = true
	}
}

// What is decoded is what would be written, no bytes do harm, and what no replica
// writes is refused.
func FuzzEntry(f *testing.F) {
	b := book{t: &testing.T{}, e: &entry{}, revision: 10, now: noon}
	for _, r := range []request{{who: "a"}, {who: "b", wait: true}, {who: "c", wait: true}, {action: releasing, who: "a", fence: 11}} {
		b.do(r)
		f.Add(b.e.encode())
	}
	for _, s := range []string{
		``, `{}`, `null`, `{"holder":{"who":"a","ttlMs":50}}`, `{"holder":{"who":"a","ttlMs":-1}}`, `{"holder":{"who":"a","fence":99,"renewed":99,"ttlMs":50,"at":"2026-01-02T12:00:00Z"}}`,
		`{"line":[{"w":"a","t":50,"u":1},{"w":"a","t":50,"u":1}]}`, `{"line":[{"w":"a","t":1e99,"u":1}]}`, `{"released":{"who":"a","fence":3}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEntry(data, 20, noon)
		if err != nil {
			return
		}
		if h := e.holder; h != nil && (h.fence == 0 || h.fence > 20 || h.renewed < h.fence || h.at.IsZero() || h.left(view{now: h.at}) != h.ttl) {
			t.Errorf("%s: the holder %+v", data, h)
		}
		again, err := decodeEntry(e.encode(), 21, noon.Add(time.Second))
		if err != nil {
			t.Fatalf("%s: written as %s: %v", data, e.encode(), err)
		}
		if h := e.holder; h != nil && !h.at.Equal(again.holder.at) {
			t.Errorf("%s: at %s, again %s", data, h.at, again.holder.at)
		} else if h != nil {
			again.holder.at = h.at
		}
		if !reflect.DeepEqual(e, again) {
			t.Errorf("%s: %s, again %s", data, e.encode(), again.encode())
		}
		for _, r := range []request{{who: "z", wait: true, ttl: time.Second}, {action: keeping}, {action: leaving, who: "a"}, {action: releasing, who: "a", fence: 3}, {action: renewing, who: "a", fence: 3, ttl: time.Second}} {
			work := again.clone()
			work.decide(&r, view{now: noon.Add(time.Hour)})
			if _, err := decodeEntry(work.encode(), 22, noon); err != nil {
				t.Errorf("%s: %+v makes %s: %v", data, r, work.encode(), err)
			}
		}
	})
}
