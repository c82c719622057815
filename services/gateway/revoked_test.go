package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

var revokedAt = time.UnixMilli(1_760_000_000_000)

func entryOf(user, value string) kv.Entry {
	return kv.Entry{Key: revokedKey(user), Value: []byte(value), At: revokedAt}
}

func deletionOf(user string) kv.Entry {
	return kv.Entry{Key: revokedKey(user), Deleted: true, At: revokedAt}
}

func beforeOf(ms int64) string { return fmt.Sprintf(`{"before":%d}`, ms) }

// takes fails the test unless an entry is, or is no, news.
func takes(t *testing.T, r *revocations, e kv.Entry, news bool) {
	t.Helper()
	if _, _, got := r.take(e); got != news {
		t.Errorf("%s %s: news %t, want %t", e.Key, e.Value, got, news)
	}
}

func counts(t *testing.T, r *revocations, user string, want int64) {
	t.Helper()
	if got := r.before(user); got != want {
		t.Errorf("%s: tokens count from %d on, want %d", user, got, want)
	}
}

func TestOutdated(t *testing.T) {
	at := revokedAt.UnixMilli()
	for _, test := range []struct {
		id     auth.Identity
		before int64
		want   bool
	}{
		{auth.Identity{IssuedAt: revokedAt}, 0, false},
		{auth.Identity{}, 0, false},
		{auth.Identity{IssuedAt: revokedAt}, at, false},
		{auth.Identity{IssuedAt: revokedAt}, at + 1, true},
		{auth.Identity{IssuedAt: revokedAt.Add(time.Second)}, at, false},
		{auth.Identity{}, at, true},
		{auth.Identity{Anonymous: true}, at, true},
	} {
		if got := outdated(&test.id, test.before); got != test.want {
			t.Errorf("%+v before %d: got %t, want %t", test.id, test.before, got, test.want)
		}
	}
}

func TestRevocationsAreOnlyTakenBackByTheBucket(t *testing.T) {
	r := newRevocations()
	if r.ready() {
		t.Fatal("ready before anything was read")
	}
	r.begin()
	takes(t, r, entryOf("ann", beforeOf(100)), true)
	counts(t, r, "ann", 100)
	if r.ready() {
		t.Fatal("ready before the bucket was read whole")
	}
	r.complete(revokedAt, time.Hour)
	if !r.ready() {
		t.Fatal("not ready")
	}
	takes(t, r, entryOf("ann", beforeOf(100)), false)
	takes(t, r, entryOf("ann", beforeOf(200)), true)
	takes(t, r, entryOf("bob", `garbage`), true)
	counts(t, r, "bob", revokedAt.UnixMilli())
	takes(t, r, kv.Entry{Key: "rules", Value: []byte("{}")}, false)
	takes(t, r, kv.Entry{Key: "revoked.=zz", Value: []byte(beforeOf(1))}, false)

	// While it is read anew the old view counts beside what is read already.
	r.begin()
	counts(t, r, "ann", 200)
	takes(t, r, entryOf("carol", beforeOf(300)), true)
	takes(t, r, deletionOf("ann"), false)
	takes(t, r, deletionOf("bob"), false)
	takes(t, r, deletionOf("dan"), false)
	counts(t, r, "ann", 200)
	counts(t, r, "carol", 300)
	if n := r.complete(revokedAt, time.Hour); n != 0 {
		t.Errorf("%d forgotten of which all were deleted", n)
	}
	counts(t, r, "ann", 0)
	counts(t, r, "bob", 0)
	counts(t, r, "carol", 300)
	takes(t, r, deletionOf("carol"), false)
	counts(t, r, "carol", 0)
}

func TestWhatWasSaidHereCountsUntilItIsStored(t *testing.T) {
	r := newRevocations()
	until := revokedAt.Add(time.Hour)
	r.say("ann", 200, until)
	r.say("ann", 100, until) // never lowered
	counts(t, r, "ann", 200)
	r.begin()
	takes(t, r, entryOf("ann", beforeOf(150)), false)
	counts(t, r, "ann", 200)
	r.complete(revokedAt, time.Hour)
	if missing := r.unstored(revokedAt); len(missing) != 1 || missing["ann"] != 200 {
		t.Errorf("missing in the bucket: %v, want ann's of 200", missing)
	}
	takes(t, r, entryOf("ann", beforeOf(200)), false)
	takes(t, r, deletionOf("ann"), false)
	counts(t, r, "ann", 0) // the bucket had it: deleting it there takes it back
	r.say("bob", 300, until)
	if missing := r.unstored(until.Add(time.Second)); len(missing) != 0 {
		t.Errorf("missing after every such token is over: %v", missing)
	}
	counts(t, r, "bob", 0)
}

// A bucket that was deleted and made again, or that an older one took the place
// of, takes nothing back.
func TestWhatTheBucketForgetsCountsOn(t *testing.T) {
	const kept = time.Hour
	at := func(user string, before int64, later time.Duration) kv.Entry {
		e := entryOf(user, beforeOf(before))
		e.At = e.At.Add(later)
		return e
	}
	r := newRevocations()
	r.begin()
	for _, e := range []kv.Entry{at("gone", 200, 0), at("older", 200, 0), at("deleted", 200, 0), at("again", 200, 0), at("lowered", 200, 0), at("same", 200, 0)} {
		takes(t, r, e, true)
	}
	takes(t, r, at("over", 200, -kept), true)
	r.complete(revokedAt, kept)
	now := revokedAt.Add(time.Minute)
	r.begin()
	takes(t, r, at("same", 200, 0), false)
	takes(t, r, at("older", 100, -time.Second), false)  // of a backup
	takes(t, r, at("lowered", 100, time.Second), false) // by hand
	takes(t, r, deletionOf("deleted"), false)
	before := deletionOf("again") // of a backup: it was revoked after it
	before.At = before.At.Add(-time.Second)
	takes(t, r, before, false)
	if n := r.complete(now, kept); n != 3 {
		t.Errorf("%d forgotten, want 3", n)
	}
	for user, want := range map[string]int64{"gone": 200, "older": 200, "again": 200, "lowered": 100, "same": 200, "deleted": 0, "over": 0} {
		counts(t, r, user, want)
	}
	if missing := r.unstored(now); len(missing) != 3 || missing["gone"] != 200 || missing["older"] != 200 || missing["again"] != 200 {
		t.Errorf("to be stored again: %v", missing)
	}
	// Once it is there again, only the bucket has it.
	takes(t, r, at("gone", 200, time.Minute), false)
	gone := deletionOf("gone")
	gone.At = now
	takes(t, r, gone, false)
	counts(t, r, "gone", 0)
	r.begin()
	if n := r.complete(now, kept); n != 2 { // lowered and same
		t.Errorf("%d forgotten by the next bucket, want 2", n)
	}
	if missing := r.unstored(revokedAt.Add(kept + time.Minute)); len(missing) != 0 {
		t.Errorf("missing after every such token is over: %v", missing)
	}
}

func TestRevocationsHaveAnEnd(t *testing.T) {
	r := newRevocations()
	r.most = 3
	r.begin()
	r.complete(revokedAt, time.Hour)
	for i := range 3 {
		if r.say(fmt.Sprint("own", i), 1, revokedAt) {
			t.Fatalf("full with %d", i)
		}
	}
	if !r.say("one more", 1, revokedAt) || r.before("one more") != 0 {
		t.Error("one more is taken")
	}
	if r.say("own0", 2, revokedAt) {
		t.Error("of whom there is one already is refused")
	}
	for i := range 10 {
		r.take(entryOf(fmt.Sprint("stored", i), beforeOf(1)))
	}
	if users, missed := r.size(); users != 2*3+3 || missed != 4 {
		t.Errorf("%d users, %d missed; want 9 and 4", users, missed)
	}
	takes(t, r, entryOf("stored0", beforeOf(5)), true)
}

// A gateway that the news reached first says how many it closed all the same.
func TestClosingsAreClaimedOnce(t *testing.T) {
	r, now := newRevocations(), revokedAt
	claims := func(want int) {
		t.Helper()
		if got := r.claim("ann", now); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
	claims(0)
	r.ended("ann", 2, now)
	r.ended("ann", 1, now.Add(time.Second))
	now = now.Add(2 * time.Second)
	claims(3)
	claims(0)
	r.ended("ann", 2, now)
	now = now.Add(closingsKept + time.Second)
	claims(0)
	r.ended("ann", 2, now)
	now = now.Add(closingsKept + 2*time.Second)
	r.ended("ann", 1, now)
	claims(1)
	r.ended("bob", 1, now)
	r.complete(now.Add(time.Minute), time.Hour)
	if len(r.closed) != 0 {
		t.Errorf("kept: %v", r.closed)
	}
}

func TestControlsAreBounded(t *testing.T) {
	cs := newControls()
	n := 0
	for ; n <= controlQueue; n++ {
		if !cs.later("fl.control.user.ann", nil) {
			break
		}
	}
	if n != controlQueue {
		t.Errorf("%d jobs about one user wait, want %d", n, controlQueue)
	}
	cs.stop()
	cs.stop()
	select {
	case <-cs.drain:
	default:
		t.Error("stop stops nothing")
	}
}

// Where the server has no JetStream there is nothing to be read.
func TestWithoutJetStreamRevocationsAreReady(t *testing.T) {
	r := newRevocations()
	r.without()
	if !r.ready() {
		t.Error("not ready")
	}
	if err := r.check(&auth.Identity{User: "ann"}); err != nil {
		t.Errorf("got %v", err)
	}
	r.say("ann", revokedAt.UnixMilli(), revokedAt)
	if err := r.check(&auth.Identity{User: "ann"}); err == nil || err.Code != wire.Unauthenticated || err.Details["reason"] != "revoked" {
		t.Errorf("got %v, want UNAUTHENTICATED", err)
	}
}
