package store

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func sorted(ids []wire.TaskID) []wire.TaskID {
	slices.SortFunc(ids, func(a, b wire.TaskID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

func testOwners(t *testing.T, r *rig) {
	a, b := r.join(), r.join()
	if a == 0 || b <= a {
		t.Fatalf("owners %d and %d, want growing ones above 0", a, b)
	}
	r.pass(10 * time.Second)
	if err := r.Renew(t.Context(), a, 15*time.Second); err != nil {
		t.Error(err)
	}
	r.pass(10 * time.Second)
	if err := r.Renew(t.Context(), a, 15*time.Second); err != nil {
		t.Error(err)
	}
	for _, o := range []Owner{b, 0, b + 100} {
		if err := r.Renew(t.Context(), o, time.Hour); !errors.Is(err, ErrOwner) {
			t.Errorf("Renew(%d): %v, want ErrOwner", o, err)
		}
	}
	if c := r.join(); c <= b {
		t.Errorf("the next owner is %d after %d", c, b)
	}
}

func testAdopt(t *testing.T, r *rig) {
	dead, other := r.join(), r.join()
	gone, flagged, lives := r.start(dead, New{}), r.start(dead, New{}), r.start(other, New{})
	must[*wire.Task](r)(r.Cancel(t.Context(), flagged.ID, time.Hour, kept))
	me := r.join()
	adopt := func(refs ...Ref) []Attempt { return must[[]Attempt](r)(r.Adopt(t.Context(), me, refs)) }
	same(t, "of owners with a lease", len(adopt(gone, lives)), 0)
	r.pass(10 * time.Second)
	if err := errors.Join(r.Renew(t.Context(), me, time.Minute), r.Renew(t.Context(), other, time.Minute)); err != nil {
		t.Fatal(err)
	}
	r.pass(10 * time.Second)
	stale := gone
	stale.Fence++
	got := adopt(lives, gone, stale, flagged, gone, Ref{ID: ids(), Fence: 1})
	slices.SortFunc(got, func(a, b Attempt) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	equal(t, "adopted", idsOf(got), []wire.TaskID{gone.ID, flagged.ID})
	same(t, "attempt", words(got[0].Fence, got[0].Number, got[0].Crashes, got[0].CancelAsked, got[1].CancelAsked), "1 1 0 false true")
	if got[0].Left < 30*time.Second || got[0].Left > 45*time.Second {
		t.Errorf("%v left, want 40 s", got[0].Left)
	}
	// Who had it acts on its own timer no more, its worker still does.
	same(t, "the owner of before", r.end(End{Ref: gone, State: wire.TaskFailed})[0], Outcome{})
	same(t, "the owner of before", r.back(Back{Ref: gone, Crashed: true})[0], Outcome{})
	equal(t, "once more", idsOf(adopt(gone)), []wire.TaskID{gone.ID})
	same(t, "the worker", r.commit(Ref{ID: gone.ID, Fence: 1}, "1").Done, true)
	same(t, "ended", len(adopt(gone)), 0)
}

func testOrphans(t *testing.T, r *rig) {
	dead := r.join()
	a, b := r.start(dead, New{}), r.start(dead, New{})
	r.put(dead, New{})
	r.pass(20 * time.Second)
	me, other := r.join(), r.join()
	r.start(other, New{})
	orphans := func(n int) []wire.TaskID { return idsOf(must[[]Attempt](r)(r.Orphans(t.Context(), me, n))) }
	same(t, "none of no number", len(orphans(0)), 0)
	first := orphans(1)
	same(t, "at most one", len(first), 1)
	equal(t, "both", sorted(append(first, orphans(9)...)), []wire.TaskID{a.ID, b.ID})
	same(t, "left", len(orphans(9)), 0)
	r.is(a.ID, wire.TaskRunning, 1)
	// What comes late, for an owner that is known no longer, is found too.
	late := r.start(dead, New{})
	unknown := r.start(dead+1000, New{})
	equal(t, "late", sorted(orphans(9)), []wire.TaskID{late.ID, unknown.ID})
	owned := must[[]Ref](r)(r.Owned(t.Context(), me))
	slices.SortFunc(owned, func(a, b Ref) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	equal(t, "owned", owned, []Ref{{a.ID, 1, me}, {b.ID, 1, me}, {late.ID, 1, me}, {unknown.ID, 1, me}})
	same(t, "mine", r.back(Back{Ref: Ref{ID: late.ID, Fence: 1, Owner: me}})[0].Done, true)
	same(t, "owned", len(must[[]Ref](r)(r.Owned(t.Context(), me))), 3)
}

func testLeave(t *testing.T, r *rig) {
	a, b := r.join(), r.join()
	ref, other := r.start(a, New{}), r.start(b, New{})
	r.put(a, New{})
	same(t, "attempts", must[int](r)(r.Leave(t.Context(), a)), 1)
	if err := r.Renew(t.Context(), a, time.Minute); !errors.Is(err, ErrOwner) {
		t.Errorf("Renew after Leave: %v, want ErrOwner", err)
	}
	same(t, "again", must[int](r)(r.Leave(t.Context(), a)), 0)
	same(t, "who left", r.back(Back{Ref: ref, Crashed: true})[0], Outcome{})
	equal(t, "orphans", idsOf(must[[]Attempt](r)(r.Orphans(t.Context(), b, 9))), []wire.TaskID{ref.ID})
	task := r.is(ref.ID, wire.TaskRunning, 1)
	same(t, "crashes", task.Crashes, 0)
	same(t, "mine", r.commit(Ref{ID: ref.ID, Fence: 1, Owner: b}, "1").Done && r.commit(other, "1").Done, true)
}

func testBeats(t *testing.T, r *rig) {
	o := r.join()
	ref := r.start(o, New{})
	attempt := func() *Attempt { return must[*Attempt](r)(r.Attempt(t.Context(), ref.ID, 1)) }
	beat := func(beats ...Beat) {
		t.Helper()
		if err := r.Beats(t.Context(), beats); err != nil {
			t.Fatal(err)
		}
	}
	beat(Beat{Ref: ref, Progress: []byte(`1`)})
	same(t, "progress", string(r.get(ref.ID).Progress), `1`)
	same(t, "lease", attempt().Lease, 0)
	beat(Beat{Ref: Ref{ID: ref.ID, Fence: 1}, Lease: 30 * time.Second}, Beat{Ref: Ref{ID: ids(), Fence: 1}, Lease: time.Second})
	same(t, "progress", string(r.get(ref.ID).Progress), `1`)
	if l := attempt().Lease; l < 20*time.Second || l > 30*time.Second {
		t.Errorf("the lease is %v, want 30 s", l)
	}
	// Those of one attempt count in their order.
	beat(Beat{Ref: ref, Progress: []byte(`2`), Lease: time.Second}, Beat{Ref: ref, Lease: time.Minute}, Beat{Ref: ref, Progress: []byte(`3`)})
	same(t, "progress", string(r.get(ref.ID).Progress), `3`)
	if l := attempt().Lease; l < 50*time.Second {
		t.Errorf("the lease is %v, want a minute", l)
	}
	stale := ref
	stale.Fence = 2
	beat(Beat{Ref: stale, Progress: []byte(`4`)}, Beat{Ref: Ref{ID: ref.ID, Fence: 1, Owner: o + 1}, Progress: []byte(`5`)})
	same(t, "progress", string(r.get(ref.ID).Progress), `3`)
	// A promise that was broken is no missing one, also to who takes the attempt over.
	r.pass(2 * time.Minute)
	got := must[[]Attempt](r)(r.Orphans(t.Context(), r.join(), 1))
	if len(got) != 1 || got[0].Lease <= 0 || got[0].Lease > time.Second || got[0].Left != 0 {
		t.Errorf("%+v, want a lease that is as good as over", got)
	}
	r.back(Back{Ref: Ref{ID: ref.ID, Fence: 1}})
	same(t, "the lease of the next", r.claim(o, "work", 1)[0].Lease, 0)
}

// testInputsStay reads tasks and takes attempts over for which nobody needs to know
// what they work on: it may be large.
func testInputsStay(t *testing.T, r *rig) {
	ctx, o := t.Context(), r.join()
	ended := r.put(o, New{Input: []byte("1")})[0]
	must[*wire.Task](r)(r.Cancel(ctx, ended, 0, kept))
	committed, heard := r.start(o, New{Input: []byte("2")}), r.start(o, New{Input: []byte("3")})
	r.commit(committed, "4")
	unheard := r.start(o, New{Input: []byte("5")})
	peeked := must[[]*wire.Task](r)(r.Peek(ctx, []wire.TaskID{ended, ids(), committed.ID, heard.ID}))
	if len(peeked) != 4 || peeked[1] != nil {
		t.Fatalf("Peek = %v", peeked)
	}
	for i, state := range map[int]wire.TaskState{0: wire.TaskCancelled, 2: wire.TaskCommitted, 3: wire.TaskRunning} {
		same(t, "peeked", words(peeked[i].State, string(peeked[i].Input)), words(state, ""))
	}
	same(t, "result", string(peeked[2].Result), "4")
	must[int](r)(r.Leave(ctx, o))
	o = r.join()
	adopted := must[[]Attempt](r)(r.Adopt(ctx, o, []Ref{heard}))
	orphans := must[[]Attempt](r)(r.Orphans(ctx, o, 9))
	equal(t, "taken over", idsOf(append(adopted, orphans...)), []wire.TaskID{heard.ID, unheard.ID})
	for _, a := range append(adopted, orphans...) {
		same(t, "input", string(a.Input), "")
	}
}

func testAttempt(t *testing.T, r *rig) {
	ref := r.start(r.join(), New{Input: []byte("1")})
	get := func(id wire.TaskID, fence int64) *Attempt {
		return must[*Attempt](r)(r.Attempt(t.Context(), id, fence))
	}
	if a := get(ref.ID, 1); a == nil || string(a.Input) != "1" || a.Fence != 1 {
		t.Errorf("the attempt is %+v", a)
	}
	if get(ref.ID, 2) != nil || get(ids(), 1) != nil {
		t.Error("an attempt that is none was found")
	}
	r.commit(ref, "1")
	if get(ref.ID, 1) != nil {
		t.Error("an attempt that ended was found")
	}
}

func testSteps(t *testing.T, r *rig) {
	o := r.join()
	ref := r.start(o, New{})
	step := func(ref Ref, name, result string) string {
		t.Helper()
		var b []byte
		if result != "" {
			b = []byte(result)
		}
		return string(must[[]byte](r)(r.Step(t.Context(), ref, name, b)))
	}
	same(t, "nothing yet", step(ref, "a", ""), "")
	same(t, "stored", step(ref, "a", `{"x": 1}`), `{"x": 1}`)
	same(t, "stays", step(ref, "a", `2`), `{"x": 1}`)
	same(t, "null is a result", step(ref, "b", "null"), "null")
	same(t, "looked up", step(Ref{ID: ref.ID, Fence: 1}, "b", ""), "null")
	refused := func(when string, ref Ref) {
		t.Helper()
		for _, result := range [][]byte{nil, []byte("1")} {
			if _, err := r.Step(t.Context(), ref, "z", result); !errors.Is(err, ErrState) {
				t.Errorf("%s: %v, want ErrState", when, err)
			}
		}
	}
	refused("another owner", Ref{ID: ref.ID, Fence: 1, Owner: o + 1})
	refused("unknown", Ref{ID: ids(), Fence: 1})
	// The next attempt finds them, and so does one after the task failed.
	r.back(Back{Ref: ref, Failed: true})
	refused("given up", ref)
	r.claim(o, "work", 1)
	second := Ref{ID: ref.ID, Fence: 3, Owner: o}
	same(t, "of the attempt before", step(second, "a", "3"), `{"x": 1}`)
	r.end(End{Ref: second, State: wire.TaskFailed})
	r.pass(kept / 2)
	must[bool](r)(r.Clean(t.Context(), 100))
	must[*wire.Task](r)(r.Retry(t.Context(), ref.ID))
	r.pass(kept)
	must[bool](r)(r.Clean(t.Context(), 100))
	r.claim(o, "work", 1)
	last := Ref{ID: ref.ID, Fence: 4}
	same(t, "after a retry", step(last, "a", ""), `{"x": 1}`)
	r.commit(last, "1")
	refused("committed", last)
}

func testRetention(t *testing.T, r *rig) {
	o := r.join()
	a, b, c := r.start(o, New{IdempotencyKey: "k"}), r.start(o, New{}), r.start(o, New{})
	must[[]byte](r)(r.Step(t.Context(), b, "a", []byte("1")))
	r.end(End{Ref: a, State: wire.TaskCommitted, Retention: time.Hour}, End{Ref: b, State: wire.TaskFailed, Retention: 30 * 24 * time.Hour},
		End{Ref: c, State: wire.TaskCommitted, Retention: time.Nanosecond})
	r.pass(time.Minute)
	if r.get(c.ID) != nil {
		t.Error("what is kept no longer was found")
	}
	r.is(a.ID, wire.TaskCommitted, 1)
	r.pass(25 * time.Hour)
	if more := must[bool](r)(r.Clean(t.Context(), 1000)); more {
		t.Error("there is more to clean")
	}
	if r.get(a.ID) != nil {
		t.Error("what is kept no longer was found")
	}
	r.is(b.ID, wire.TaskFailed, 1)
	same(t, "tasks", must[wire.TaskCounts](r)(r.Counts(t.Context(), "")).Total, 1)
	if in := r.insert(o, New{IdempotencyKey: "k"})[0]; in.Existing {
		t.Error("the key of what is kept no longer is taken")
	}
	r.pass(31 * 24 * time.Hour)
	must[bool](r)(r.Clean(t.Context(), 1000))
	same(t, "kept", len(must[[]wire.Task](r)(r.List(t.Context(), Query{State: wire.TaskFailed, Limit: 9}))), 0)
}

// What is cancelled is kept as its name says, too, whoever cancels it.
func testRetentionOfName(t *testing.T, r *rig) {
	o := r.join()
	if err := r.Register(t.Context(), Policy{Name: "long", Retention: 40 * 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	cancelled := func(name string) (all []wire.TaskID) {
		waits, runs := r.insert(o, New{Name: name})[0].ID, r.start(o, New{Name: name}).ID
		must[*wire.Task](r)(r.Cancel(t.Context(), waits, time.Second, kept))
		must[*wire.Task](r)(r.Cancel(t.Context(), runs, time.Second, kept))
		return []wire.TaskID{waits, runs}
	}
	long, short := cancelled("long"), cancelled("short")
	r.pass(2 * time.Second)
	same(t, "killed", len(must[[]Ref](r)(r.Kill(t.Context(), 9, kept))), 2)
	r.pass(kept + time.Hour)
	for i := range long {
		r.is(long[i], wire.TaskCancelled, r.get(long[i]).Fence)
		if r.get(short[i]) != nil {
			t.Error("a task whose name says nothing is kept for longer than the service says")
		}
	}
	r.pass(40 * 24 * time.Hour)
	if r.get(long[0]) != nil || r.get(long[1]) != nil {
		t.Error("a task is kept for longer than its name says")
	}
}
