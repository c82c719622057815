package presence

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestRecent(t *testing.T) {
	r := newRecent()
	same := func(now time.Time, user string, known []string, want ...string) {
		t.Helper()
		if got := r.ahead(user, known, now); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", user, got, want)
		}
	}
	same(at(0), "ann", nil)
	r.add("ann", "c1", at(0))
	r.add("bob", "b1", at(time.Second))
	r.add("ann", "c2", at(2*time.Second))
	same(at(2*time.Second), "ann", []string{"c0"}, "c2", "c0")
	same(at(2*time.Second), "ann", []string{"c1", "c2", "c0"}, "c1", "c2", "c0")
	same(at(2*time.Second), "bob", nil, "b1")
	r.add("joe", "j1", at(recentKeep+time.Second/2)) // forgets the first of ann's
	same(at(recentKeep+time.Second), "ann", nil, "c2")
	same(at(recentKeep+2*time.Second), "bob", []string{"b0"}, "b0")
	r.gone("ann", "c1") // which is not the last of hers
	same(at(recentKeep+time.Second), "ann", nil, "c2")
	r.gone("ann", "c2")
	same(at(recentKeep+time.Second), "ann", []string{"c0"}, "c0")
	r.add("joe", "j2", at(time.Minute))
	if len(r.byUser) != 1 || len(r.queue) != 1 {
		t.Errorf("%d users and %d connections are left, want one", len(r.byUser), len(r.queue))
	}
	for i := range recentMost + 10 {
		r.add(fmt.Sprint("u", i), fmt.Sprint(i), at(time.Hour))
	}
	if len(r.queue) != recentMost || len(r.byUser) != recentMost {
		t.Errorf("%d connections of %d users, want %d", len(r.queue), len(r.byUser), recentMost)
	}
}

// A connection that was told of and is not there, or not the user's, is asked
// once; the user's own have the ask then, and the next one at once.
func TestAskForgetsARecentConnectionThatIsNotThere(t *testing.T) {
	r := startAsks(t)
	r.knows("ann", "c1")
	c1, other := r.hears("fl.conn.c1"), r.hears("fl.conn.other")
	r.a.recent.add("ann", "other", time.Now())
	for i := range 2 {
		got := r.ask("ann", "1")
		if i == 0 {
			m := r.next(other)
			if user := m.Header.Get("Fl-Target"); user != "ann" {
				t.Errorf("the gateway is not told whose connection it must be, but %q", user)
			}
			gone := &nats.Msg{Header: nats.Header{"Status": {"503"}}}
			wire.ErrorHeader(gone.Header, wire.Errorf(wire.NotFound, "no such connection"))
			if err := m.RespondMsg(gone); err != nil {
				t.Fatal(err)
			}
		}
		r.respond(r.next(c1), "1")
		r.next(got)
	}
	if n, _, err := other.Pending(); n != 0 || err != nil {
		t.Errorf("it was asked %d times more (%v)", n, err)
	}
}
