package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func testInsertAndClaim(t *testing.T, r *rig) {
	o := r.join()
	stored := r.put(o, New{
		Input: []byte(`{"a": 1}`), Metadata: []byte(`{"m":2}`), Trace: "00-1-2-01", IdempotencyKey: "k", UniqueKey: "u",
		Timeout: 90 * time.Second, Priority: -3,
	}, New{}, New{}, New{Priority: 5}, New{Name: "other"})
	r.pass(time.Second)
	first := r.put(o, New{Priority: 5})[0]
	got := r.claim(o, "work", 4)
	equal(t, "claimed", idsOf(got), []wire.TaskID{stored[3], first, stored[1], stored[2]})
	r.is(stored[0], wire.TaskPending, 0)
	if got[0].Left <= 50*time.Second || got[0].Left > time.Minute {
		t.Errorf("%v left of one minute", got[0].Left)
	}
	rest := r.claim(o, "work", 4)
	if len(rest) != 1 {
		t.Fatalf("claimed %d, want the last one", len(rest))
	}
	a := rest[0]
	if a.Left <= time.Minute || a.Left > 90*time.Second {
		t.Errorf("%v left of 90 s", a.Left)
	}
	if a.Started.IsZero() {
		t.Error("it does not say when it began")
	}
	same(t, "attempt", words(a.ID == stored[0], a.Name, a.Fence, a.Number, a.Failures, a.Crashes, a.Priority, string(a.Input), a.IdempotencyKey,
		string(a.Metadata), a.Trace, a.Timeout, a.Lease, a.CancelAsked),
		`true work 1 1 0 0 -3 {"a": 1} k {"m":2} 00-1-2-01 1m30s 0s false`)
	task := r.is(stored[0], wire.TaskRunning, 1)
	same(t, "task", words(task.Name, task.Attempt, task.Priority, string(task.Input), string(task.Metadata), task.IdempotencyKey, task.UniqueKey,
		task.CreatedAt.IsZero(), task.StartedAt.IsZero(), task.FinishedAt.IsZero()),
		`work 1 -3 {"a": 1} {"m":2} k u false false true`)
	equal(t, "left of other", idsOf(r.claim(o, "other", 9)), stored[4:])
}

func testClaimedInsert(t *testing.T, r *rig) {
	o := r.join()
	in := r.insert(o, New{Claim: true, Deadline: time.Minute, Timeout: time.Hour}, New{Claim: true, Deadline: time.Minute, Delay: time.Hour}, New{})
	equal(t, "running", []bool{in[0].Running, in[1].Running, in[2].Running}, []bool{true, false, false})
	r.is(in[0].ID, wire.TaskRunning, 1)
	r.is(in[1].ID, wire.TaskPending, 0)
	a := must[*Attempt](r)(r.Attempt(t.Context(), in[0].ID, 1))
	if a == nil || a.Number != 1 || a.Left > time.Minute || a.Left < 50*time.Second {
		t.Errorf("the attempt is %+v, want number 1 with a minute left", a)
	}
	same(t, "committed", r.commit(Ref{ID: in[0].ID, Fence: 1, Owner: o}, "1"), Outcome{Done: true, State: wire.TaskCommitted})
}

func testDelay(t *testing.T, r *rig) {
	o := r.join()
	created := r.is(r.put(o, New{Name: "other"})[0], wire.TaskPending, 0).CreatedAt
	stored := r.put(o, New{Delay: time.Minute}, New{RunAt: created.Add(time.Hour), Priority: 100}, New{RunAt: created.Add(-time.Hour)})
	same(t, "due after", r.is(stored[0], wire.TaskPending, 0).RunAt.Sub(created).Round(30*time.Second), time.Minute)
	equal(t, "at once", idsOf(r.claim(o, "work", 9)), stored[2:])
	r.pass(2 * time.Minute)
	equal(t, "after its delay", idsOf(r.claim(o, "work", 9)), stored[:1])
	r.pass(time.Hour)
	equal(t, "after its time", idsOf(r.claim(o, "work", 9)), stored[1:2])
}

func testIdempotencyKey(t *testing.T, r *rig) {
	o := r.join()
	keyed := New{IdempotencyKey: "k"}
	again := func(when string, want wire.TaskID) {
		t.Helper()
		in := r.insert(o, keyed)[0]
		if in.ID != want || !in.Existing {
			t.Errorf("%s: %+v, want the existing %s", when, in, want)
		}
	}
	anew := func(when string) wire.TaskID {
		t.Helper()
		in := r.insert(o, keyed)[0]
		if in.Existing {
			t.Fatalf("%s: it exists, want a new one", when)
		}
		return in.ID
	}
	attempt := func() Ref {
		a := r.claim(o, "work", 1)[0]
		return Ref{ID: a.ID, Fence: a.Fence, Owner: o}
	}
	id := anew("at first")
	again("pending", id)
	if other := r.insert(o, New{Name: "other", IdempotencyKey: "k"})[0]; other.Existing {
		t.Error("a key of another name counts")
	}
	again("running", attempt().ID)
	r.end(End{Ref: Ref{ID: id, Fence: 1}, State: wire.TaskFailed})
	anew("after it failed")
	r.end(End{Ref: attempt(), State: wire.TaskDead})
	id = anew("after it died")
	must[*wire.Task](r)(r.Cancel(t.Context(), id, 0, kept))
	id = anew("after it was cancelled")
	r.commit(attempt(), "1")
	again("committed", id)
	r.pass(kept / 2)
	again("kept", id)
	r.pass(kept)
	again("anew", anew("no longer kept"))
}

func testUniqueKey(t *testing.T, r *rig) {
	o := r.join()
	unique := New{UniqueKey: "u"}
	id := r.put(o, unique)[0]
	for range 2 {
		if in := r.insert(o, unique)[0]; in.ID != id || !in.Existing {
			t.Errorf("%+v, want the existing %s", in, id)
		}
		r.claim(o, "work", 9)
	}
	r.commit(Ref{ID: id, Fence: 1}, "1")
	if in := r.insert(o, unique)[0]; in.Existing {
		t.Error("it has ended, and its key is still taken")
	}
}

func testBothKeys(t *testing.T, r *rig) {
	o := r.join()
	unique := r.put(o, New{UniqueKey: "u"})[0]
	keyed := r.put(o, New{IdempotencyKey: "k"})[0]
	in := r.insert(o, New{IdempotencyKey: "k", UniqueKey: "u"}, New{IdempotencyKey: "new", UniqueKey: "u"})
	same(t, "the idempotency key counts first", in[0], Inserted{ID: keyed, Existing: true})
	same(t, "its unique key is taken", in[1], Inserted{ID: unique, Existing: true})
	if again := r.insert(o, New{IdempotencyKey: "new"})[0]; again.Existing {
		t.Error("the key of a task that was not stored is taken")
	}
}

func testKeysInOneBatch(t *testing.T, r *rig) {
	o := r.join()
	taken := r.put(o, New{UniqueKey: "taken"})[0]
	a, b, c := ids(), ids(), ids()
	in := r.insert(o,
		New{IdempotencyKey: "k", UniqueKey: "taken"}, // is another, and leaves its own key to the next
		New{ID: a, IdempotencyKey: "k"},
		New{IdempotencyKey: "k"},
		New{ID: b, UniqueKey: "u", IdempotencyKey: "l"},
		New{UniqueKey: "u", IdempotencyKey: "m"},
		New{ID: c, IdempotencyKey: "m"},
		New{ID: ids()})
	equal(t, "inserted", in[:6], []Inserted{
		{ID: taken, Existing: true}, {ID: a}, {ID: a, Existing: true}, {ID: b}, {ID: b, Existing: true}, {ID: c},
	})
	for key, want := range map[string]wire.TaskID{"k": a, "l": b, "m": c} {
		same(t, "who has "+key, r.insert(o, New{IdempotencyKey: key})[0], Inserted{ID: want, Existing: true})
	}
	for _, id := range []wire.TaskID{taken, a, b, c, in[6].ID} {
		r.is(id, wire.TaskPending, 0)
	}
	same(t, "tasks", must[wire.TaskCounts](r)(r.Counts(t.Context(), "")).Total, 5)
}

// testKeysOfBatchesAtOnce has batches with the same keys, in any order, stored at
// once, while what has them ends.
func testKeysOfBatchesAtOnce(t *testing.T, r *rig) {
	const writers, batches, keys = 6, 12, 8
	o := r.join()
	answers := make([][]map[string]wire.TaskID, writers)
	made := make([][]wire.TaskID, writers)
	together(writers, func(w int) {
		random := rand.New(rand.NewPCG(uint64(w), 1))
		for b := range batches {
			var tasks []New
			for k := range keys {
				tasks = append(tasks, New{ID: wire.NewTaskID(time.Now()), Name: "work", IdempotencyKey: fmt.Sprint(b, "-", k), UniqueKey: strconv.Itoa(k)})
			}
			random.Shuffle(keys, func(i, j int) { tasks[i], tasks[j] = tasks[j], tasks[i] })
			in, err := r.Insert(t.Context(), o, tasks)
			if err != nil {
				t.Error(err)
				return
			}
			answer := map[string]wire.TaskID{}
			for i := range in {
				answer[tasks[i].UniqueKey] = in[i].ID
				if !in[i].Existing {
					made[w] = append(made[w], in[i].ID)
				}
			}
			answers[w] = append(answers[w], answer)
			if w == 0 { // the others meet the keys free, and theirs again
				attempts, err := r.Claim(t.Context(), o, "work", keys, 0, time.Minute)
				if err != nil {
					t.Error(err)
				}
				var ends []End
				for _, a := range attempts {
					ends = append(ends, End{Ref: Ref{ID: a.ID, Fence: a.Fence}, State: wire.TaskFailed, Retention: kept})
				}
				if _, err := r.End(t.Context(), ends); err != nil {
					t.Error(err)
				}
			}
		}
	})
	all := map[wire.TaskID]bool{}
	for _, of := range made {
		for _, id := range of {
			if all[id] {
				t.Errorf("%s was made twice", id)
			}
			all[id] = true
		}
	}
	for w := range answers {
		for b, answer := range answers[w] {
			for k, id := range answer {
				if !all[id] {
					t.Fatalf("writer %d was told in batch %d that key %s is %s's, which nobody stored", w, b, k, id)
				}
			}
		}
	}
	page := must[[]wire.Task](r)(r.List(t.Context(), Query{Limit: 1000}))
	same(t, "tasks", len(page), len(all))
	live := map[string]int{}
	for _, task := range page {
		if !task.State.Ended() {
			live[task.UniqueKey]++
		}
	}
	for k, n := range live {
		if n > 1 {
			t.Errorf("%d tasks have the unique key %s", n, k)
		}
	}
	if !slices.ContainsFunc(made[1:], func(of []wire.TaskID) bool { return len(of) > 0 }) {
		t.Error("only one writer stored anything: they did not meet")
	}
}
