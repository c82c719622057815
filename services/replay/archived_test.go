package replay

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// From every position, with and without its time, everything comes in order and
// once, wherever the stream begins.
func TestArchivedReadsOverTheSeam(t *testing.T) {
	l := openArchived(t, pgdev.Test(t))
	l.publish(30, "t.a", "t.b")
	l.publish(10, "t.b")
	l.copied()
	const n = 30
	all := l.at["t.a"]
	l.wants("from the beginning", "t.a", l.ask(Query{Topic: "t.a"}), 0, n, false)
	for i, p := range all {
		for _, after := range []wire.Position{p, {Seq: p.Seq}} {
			page := l.ask(Query{Topic: "t.a", After: after})
			l.wants(fmt.Sprintf("behind %v", after), "t.a", page, i+1, n, false)
			if page.Base != after || page.Head != all[n-1] {
				t.Errorf("behind %v: base %v, head %v, want %v, %v", after, page.Base, page.Head, after, all[n-1])
			}
		}
		other := wire.Position{Seq: p.Seq, Ts: p.Ts + 1}
		page := l.ask(Query{Topic: "t.a", After: other})
		if !page.Truncated || page.MissingFrom != p.Seq+1 {
			t.Errorf("behind %v of another log: truncated %v, missing from %d", other, page.Truncated, page.MissingFrom)
		}
	}
	for last := 1; last < n+10; last++ {
		from := max(0, n-last)
		l.wants(fmt.Sprintf("the newest %d", last), "t.a", l.ask(Query{Topic: "t.a", Last: last}), from, n, false)
		page := l.ask(Query{Topic: "t.a", Last: last, Limit: 5})
		l.wants(fmt.Sprintf("5 of the newest %d", last), "t.a", page, from, min(from+5, n), false)
		if want := from+5 < n; page.More != want {
			t.Errorf("5 of the newest %d: more %v, want %v", last, page.More, want)
		}
	}
	for _, bounds := range []Query{{Limit: 1}, {Limit: 7}, {Limit: 19}, {Limit: 20}, {Bytes: 1}, {Bytes: 11}} {
		bounds.Topic = "t.a"
		at, got := wire.Position{}, 0
		for more := true; more; {
			bounds.After = at
			page := l.ask(bounds)
			l.wants(fmt.Sprintf("a page of %+v", bounds), "t.a", page, got, got+len(page.Messages), false)
			if len(page.Messages) == 0 {
				t.Fatalf("a page of %+v is empty", bounds)
			}
			got += len(page.Messages)
			at, more = page.Messages[len(page.Messages)-1].Position, page.More
		}
		if got != n {
			t.Errorf("pages of %+v: got %d messages, want %d", bounds, got, n)
		}
	}
	if reads := l.counts.reads.Load(); reads == 0 {
		t.Error("the archive was never read")
	}
}

// What has expired is gone from the archive as it is from the stream.
func TestArchivedExpires(t *testing.T) {
	l := openArchived(t, pgdev.Test(t))
	for range 25 {
		l.publish(1, "t.a")
		l.eventually("a millisecond passes", func() bool { return time.Now().UnixMilli() > l.at["t.a"][len(l.at["t.a"])-1].Ts })
	}
	l.copied()
	all, ttl := l.at["t.a"], l.retention.TTL.Milliseconds()
	for dead := range all { // all before it have expired
		l.clock.set(all[dead].Ts + ttl - 1)
		l.wants(fmt.Sprintf("%d expired, from the beginning", dead), "t.a", l.ask(Query{Topic: "t.a"}), dead, 25, false)
		l.wants(fmt.Sprintf("%d expired, the newest 20", dead), "t.a", l.ask(Query{Topic: "t.a", Last: 20}), max(dead, 5), 25, false)
		for i, p := range all {
			page := l.ask(Query{Topic: "t.a", After: p})
			l.wants(fmt.Sprintf("%d expired, behind %d", dead, i), "t.a", page, max(i+1, dead), 25, i+1 < dead)
		}
	}
	l.clock.set(all[9].Ts + l.retention.archived().Milliseconds() + 1) // ten are of no use any more, all have expired
	if n, err := l.clean(t.Context()); err != nil || n != 10 {
		t.Errorf("clean = %d, %v, want 10, nil", n, err)
	}
	l.wants("all expired", "t.a", l.ask(Query{Topic: "t.a", After: all[3]}), 25, 25, true)
	l.wants("all expired, behind the newest", "t.a", l.ask(Query{Topic: "t.a", After: all[24]}), 25, 25, false)
}

// While messages may be on their way to the archive nothing is said that may
// turn out wrong; what was given up before it was copied is gone for good.
func TestArchivedBehind(t *testing.T) {
	l := openArchived(t, pgdev.Test(t))
	l.publish(5, "t.a")
	l.copied()
	l.stop()
	l.publish(30, "t.a") // 5 to 23 are in neither
	all := l.at["t.a"]
	l.refused("behind what is archived", Query{Topic: "t.a", After: all[2]})
	l.refused("from the beginning", Query{Topic: "t.a"})
	l.refused("the newest 20", Query{Topic: "t.a", Last: 20})
	l.wants("behind what the stream has", "t.a", l.ask(Query{Topic: "t.a", After: all[28]}), 29, 35, false)
	l.wants("the newest 5", "t.a", l.ask(Query{Topic: "t.a", Last: 5}), 30, 35, false)
	l.copy()
	l.copied()
	for i, p := range all {
		page := l.ask(Query{Topic: "t.a", After: p})
		truncated := i < 24 // nothing is left of message 23 that could prove its position
		l.wants(fmt.Sprintf("behind %d", i), "t.a", page, max(i+1, 24), 35, truncated)
		if truncated && page.MissingFrom != p.Seq+1 {
			t.Errorf("behind %d: missing from %d, want %d", i, page.MissingFrom, p.Seq+1)
		}
	}
	l.wants("from the beginning", "t.a", l.ask(Query{Topic: "t.a"}), 24, 35, false)
	l.wants("the newest 30", "t.a", l.ask(Query{Topic: "t.a", Last: 30}), 24, 35, false)
	l.publish(30, "t.a")
	l.copied()
	l.wants("behind the hole", "t.a", l.ask(Query{Topic: "t.a", After: all[24]}), 25, 65, false)
	l.wants("across the hole", "t.a", l.ask(Query{Topic: "t.a", After: all[4]}), 24, 65, true)
	l.wants("from the beginning", "t.a", l.ask(Query{Topic: "t.a"}), 24, 65, false)
}

func TestArchivedWhilePostgresIsAway(t *testing.T) {
	pg := pgdev.TestServer(t)
	l := openArchived(t, pg.URL())
	l.publish(30, "t.a")
	l.publish(3, "t.b")
	l.copied()
	all := l.at["t.a"]
	pg.Stop()
	l.refused("what only the archive has", Query{Topic: "t.a", After: all[2]})
	l.refused("from the beginning", Query{Topic: "t.a"})
	l.refused("the newest 20", Query{Topic: "t.a", Last: 20})
	l.wants("what the stream has", "t.a", l.ask(Query{Topic: "t.a", After: all[20]}), 21, 30, false)
	l.wants("the newest 8", "t.a", l.ask(Query{Topic: "t.a", Last: 8}), 22, 30, false)
	l.publish(1, "t.a", "t.b")
	for what, err := range map[string]error{"Clear": l.Clear(t.Context()), "ClearTopic": l.ClearTopic(t.Context(), "t.a")} {
		if !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("%s: got %v, want UNAVAILABLE", what, err)
		}
	}
	l.wants("after a clear that was refused", "t.a", l.ask(Query{Topic: "t.a", After: all[20]}), 21, 31, false)
	if err := pg.Restart(); err != nil {
		t.Fatal(err)
	}
	l.copied()
	l.wants("all again", "t.a", l.ask(Query{Topic: "t.a", After: all[2]}), 3, 31, false)
	l.wants("all again, from the beginning", "t.a", l.ask(Query{Topic: "t.a"}), 0, 31, false)
	l.wants("another topic", "t.b", l.ask(Query{Topic: "t.b"}), 0, 4, false)
}

func TestArchivedClearTopic(t *testing.T) {
	l := openArchived(t, pgdev.Test(t))
	l.publish(30, "t.a", "t.b")
	if err := l.ClearTopic(t.Context(), "t.a"); err != nil { // though it may not be copied yet
		t.Fatal(err)
	}
	cleared := func(when string, n int) {
		t.Helper()
		l.wants(when+", from the beginning", "t.a", l.ask(Query{Topic: "t.a"}), 30, n, false)
		l.wants(when+", the newest 100", "t.a", l.ask(Query{Topic: "t.a", Last: 100}), 30, n, false)
		for i, p := range l.at["t.a"] {
			l.wants(fmt.Sprintf("%s, behind %d", when, i), "t.a", l.ask(Query{Topic: "t.a", After: p}), max(30, i+1), n, i < 30)
		}
		for i, p := range l.at["t.b"] {
			l.wants(fmt.Sprintf("%s, another topic behind %d", when, i), "t.b", l.ask(Query{Topic: "t.b", After: p}), i+1, 30, false)
		}
	}
	cleared("at once", 30)
	l.publish(25, "t.a")
	l.copied()
	cleared("later", 55)
	if n, err := l.clean(t.Context()); err != nil || n != 30 {
		t.Errorf("clean = %d, %v, want 30, nil", n, err)
	}
	cleared("when it is deleted", 55)
}

func TestArchivedClear(t *testing.T) {
	l := openArchived(t, pgdev.Test(t))
	l.publish(30, "t.a", "t.b")
	if err := l.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := slices.Clone(l.at["t.a"])
	for round := range 3 {
		n := len(l.at["t.a"])
		l.wants("from the beginning", "t.a", l.ask(Query{Topic: "t.a"}), 30, n, false)
		l.wants("the newest 100", "t.a", l.ask(Query{Topic: "t.a", Last: 100}), 30, n, false)
		for i, p := range old {
			l.wants(fmt.Sprintf("round %d, behind %d", round, i), "t.a", l.ask(Query{Topic: "t.a", After: p}), 30, n, true)
		}
		l.publish(20, "t.a")
		l.copied()
	}
	if n, err := l.clean(t.Context()); err != nil || n != 60 {
		t.Errorf("clean = %d, %v, want 60, nil", n, err)
	}
}

// Topics that the stream gave up as a whole, for its bound in bytes, are in the
// archive.
func TestArchivedBeyondTheBytesOfTheStream(t *testing.T) {
	l := openArchived(t, pgdev.Test(t))
	_, empty, err := l.Head(t.Context(), "t.a")
	if err != nil {
		t.Fatal(err)
	}
	l.publish(3, "t.a")
	payload := []byte(`"` + strings.Repeat("x", 2000) + `"`)
	for i := range 50 {
		l.send(fmt.Sprintf("t.other.%d", i), payload)
		if i%8 == 7 {
			l.copied()
		}
	}
	l.copied()
	if head, _, err := l.Head(t.Context(), "t.a"); err != nil || head.Seq != 0 {
		t.Fatalf("the stream still holds the topic up to %v (%v)", head, err)
	}
	for i, p := range l.at["t.a"] {
		l.wants(fmt.Sprintf("behind %d", i), "t.a", l.ask(Query{Topic: "t.a", After: p}), i+1, 3, false)
	}
	l.wants("from the beginning", "t.a", l.ask(Query{Topic: "t.a"}), 0, 3, false)
	l.wants("behind where it was empty", "t.a", l.ask(Query{Topic: "t.a", After: empty}), 0, 3, false)
	l.wants("the newest 2", "t.a", l.ask(Query{Topic: "t.a", Last: 2}), 1, 3, false)
	l.publish(1, "t.a")
	l.wants("and goes on, behind 0", "t.a", l.ask(Query{Topic: "t.a", After: l.at["t.a"][0]}), 1, 4, false)
	l.wants("and goes on, behind where it was empty", "t.a", l.ask(Query{Topic: "t.a", After: empty}), 0, 4, false)
}

// A stream that was made anew has nothing of the one before, though the archive
// has not heard of it yet.
func TestArchivedStreamMadeAnew(t *testing.T) {
	l := openArchived(t, pgdev.Test(t))
	l.publish(30, "t.a")
	l.copied()
	old := l.at["t.a"]
	if err := l.js.DeleteStream(t.Context(), l.name); err != nil {
		t.Fatal(err)
	}
	store := streams.Store{JetStream: l.js, Namespace: "fl"}
	if _, err := store.Update(t.Context(), l.rule); err != nil {
		t.Fatal(err)
	}
	l.stop()
	l.at = map[string][]wire.Position{}
	l.publish(20, "t.a")
	l.refused("before the new stream is copied", Query{Topic: "t.a"})
	l.refused("behind a position of the old one", Query{Topic: "t.a", After: old[2]})
	l.wants("what the new one has", "t.a", l.ask(Query{Topic: "t.a", After: l.at["t.a"][12]}), 13, 20, false)
	if err := l.js.DeleteStream(t.Context(), l.name); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Update(t.Context(), l.rule); err != nil {
		t.Fatal(err)
	}
	l.copy()
	l.at = map[string][]wire.Position{}
	for _, n := range []int{1, 24} {
		l.publish(n, "t.a")
		l.copied()
		for _, p := range old {
			if page := l.ask(Query{Topic: "t.a", After: p}); !page.Truncated {
				t.Errorf("behind %v of the stream before: not truncated", p)
			}
		}
		l.wants("from the beginning", "t.a", l.ask(Query{Topic: "t.a"}), 0, len(l.at["t.a"]), false)
		l.wants("behind the first", "t.a", l.ask(Query{Topic: "t.a", After: l.at["t.a"][0]}), 1, len(l.at["t.a"]), false)
	}
}
