package runner

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

func newOne(fence int64, deadline time.Duration) *attempt {
	return &attempt{Attempt: store.Attempt{ID: wire.NewTaskID(t0), Fence: fence}, deadline: at(deadline), at: -1}
}

// Whatever is done, the attempt that is due first is the first.
func TestWhatIsDueFirstComesFirst(t *testing.T) {
	table := newTable()
	var all []*attempt
	for step := range 20_000 {
		now := at(time.Duration(step) * time.Millisecond)
		switch rand.N(6) {
		case 0, 1:
			a := newOne(1, time.Duration(step+rand.N(5000))*time.Millisecond)
			all = append(all, a)
			table.put(a)
		case 2:
			if len(all) > 0 {
				a := all[rand.N(len(all))]
				table.beat(a.ID, a.Fence, sign{lease: time.Duration(rand.N(3000)) * time.Millisecond}, now)
			}
		case 3:
			if len(all) > 0 {
				i := rand.N(len(all))
				table.remove(all[i].ID, 1)
				all[i] = all[len(all)-1]
				all = all[:len(all)-1]
			}
		case 4:
			if len(all) > 0 {
				if a := table.end(all[rand.N(len(all))].ID, 1); a != nil && rand.N(2) == 0 {
					table.resume(a)
				}
			}
		case 5:
			for _, x := range table.expire(now, 3) {
				if x.due().After(now) {
					t.Fatalf("step %d: an attempt is given up %s too early", step, x.due().Sub(now))
				}
				if rand.N(2) == 0 {
					table.postpone(x.attempt, now, time.Second)
				}
			}
		}
		var first time.Time
		n := 0
		for _, a := range table.byID {
			if !a.ending {
				n++
				if first.IsZero() || a.due().Before(first) {
					first = a.due()
				}
			}
		}
		if next, ok := table.next(); ok != (n > 0) || ok && !next.Equal(first) || len(table.heap) != n {
			t.Fatalf("step %d: next %v %v of %d, want %v of %d", step, next, ok, len(table.heap), first, n)
		}
	}
}

func TestAnAttemptEndsOnce(t *testing.T) {
	table := newTable()
	a := newOne(3, time.Minute)
	table.put(a)
	for _, fence := range []int64{2, 4} {
		if table.end(a.ID, fence) != nil {
			t.Errorf("ended by fence %d, want 3 alone", fence)
		}
		if got, _, _ := table.beat(a.ID, fence, sign{}, t0); got != nil {
			t.Errorf("kept alive by fence %d, want 3 alone", fence)
		}
	}
	if table.end(a.ID, 3) != a || table.end(a.ID, 3) != nil || len(table.expire(at(time.Hour), 10)) > 0 {
		t.Error("want one end, and no time that runs out after it")
	}
	if table.remove(a.ID, 2) != nil {
		t.Error("removed by what was said of an older attempt")
	}
	next := newOne(4, time.Minute)
	next.ID = a.ID
	if displaced := table.put(next); len(displaced) != 1 || displaced[0] != a || table.count() != 1 {
		t.Errorf("%d displaced, %d there, want 1 and 1", len(displaced), table.count())
	}
	if table.resume(a); len(table.heap) != 1 {
		t.Error("an attempt that is not there any more is due")
	}
	if table.remove(a.ID, 9) != next || table.count() != 0 || len(table.heap) != 0 {
		t.Error("not removed by what was said of a newer attempt")
	}
}

func TestSilenceMeansNothingToWhoCouldNotHear(t *testing.T) {
	var e ear
	hears := func(now, wake time.Duration, connected bool, links uint64) bool {
		return e.hears(at(now), at(wake), connected, links)
	}
	if !hears(0, 0, true, 0) {
		t.Error("one that hears")
	}
	if hears(time.Second, time.Second, false, 0) {
		t.Error("one that is cut off")
	}
	if hears(2*time.Second, 2*time.Second, true, 1) || !e.again {
		t.Error("one that hears again: what was said is still to be read")
	}
	if hears(3*time.Second, 3*time.Second, true, 1) || e.again {
		t.Error("a moment later")
	}
	if !hears(4*time.Second, 4*time.Second, true, 1) {
		t.Error("when it has heard for long enough")
	}
	if hears(5*time.Second, 5*time.Second, true, 2) || !e.again {
		t.Error("one whose connection was made anew between two looks")
	}
	if !hears(8*time.Second, 8*time.Second, true, 2) {
		t.Error("when it has heard for long enough again")
	}
	if hears(20*time.Second, 9*time.Second, true, 2) || hears(21*time.Second, 21*time.Second, true, 2) {
		t.Error("one that stood still")
	}
	if !hears(22*time.Second, 22*time.Second, true, 2) {
		t.Error("when it has gone on for long enough")
	}
}

func TestATokenIsThatOfOneAttempt(t *testing.T) {
	mine, others := newTokens([]byte("secret")), newTokens([]byte("other"))
	id, other := wire.NewTaskID(t0), wire.NewTaskID(t0)
	token := mine.of(id, 7)
	if len(token) != 26 || token != newTokens([]byte("secret")).of(id, 7) {
		t.Errorf("token %q, want 26 characters, the same in every replica", token)
	}
	if !mine.fits(id, 7, token) || mine.fits(id, 8, token) || mine.fits(other, 7, token) || others.fits(id, 7, token) || mine.fits(id, 7, "") {
		t.Error("a token fits another attempt, or not its own")
	}
}

func TestCopiesAreKeptForAWhile(t *testing.T) {
	h := newHolding()
	there := func(replica string) bool { return replica == "a" }
	ids := []wire.TaskID{wire.NewTaskID(t0), wire.NewTaskID(t0), wire.NewTaskID(t0)}
	for i, replica := range []string{"a", "a", "b"} {
		if !h.keep(replica, said{id: ids[i], fence: 1, end: true, result: []byte("12")}, t0) {
			t.Fatal("not kept")
		}
	}
	if due := h.due(at(time.Millisecond), there); len(due) != 1 || due[0].id != ids[2] {
		t.Errorf("%d due at once, want that of the replica that is gone", len(due))
	}
	h.forget(ids[0], 1)
	h.forget(ids[1], 2) // another attempt
	if due := h.due(at(holdFor), there); len(due) != 1 || due[0].id != ids[1] {
		t.Errorf("%d due, want the one that nobody has committed", len(due))
	}
	if h.count() != 0 || h.bytes != 0 || len(h.queue) != 0 {
		t.Errorf("%d copies, %d bytes, %d queued are left", h.count(), h.bytes, len(h.queue))
	}
	large := said{fence: 1, result: make([]byte, mostHeldBytes/2+1)}
	large.id = ids[0]
	first := h.keep("a", large, t0)
	large.id = ids[1]
	if second := h.keep("a", large, t0); !first || second {
		t.Errorf("kept %v, then %v, want no more bytes than are allowed", first, second)
	}
}

// What comes late takes the place of nothing that began after it.
func TestPutKeepsTheGreaterFence(t *testing.T) {
	table, id := newTable(), wire.NewTaskID(time.Now())
	put := func(fence int64) (displaced []*attempt) {
		return table.put(&attempt{Attempt: store.Attempt{ID: id, Fence: fence}, at: -1, deadline: time.Now().Add(time.Hour)})
	}
	put(5)
	if displaced := put(3); len(displaced) != 1 || displaced[0].Fence != 3 || table.get(id).Fence != 5 {
		t.Errorf("%d displaced, fence %d supervised, want the late one, 5", len(displaced), table.get(id).Fence)
	}
	if displaced := put(6); len(displaced) != 1 || displaced[0].Fence != 5 || table.get(id).Fence != 6 {
		t.Errorf("%d displaced, fence %d supervised, want the older one, 6", len(displaced), table.get(id).Fence)
	}
}
