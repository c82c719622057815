package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func testEnd(t *testing.T, r *rig) {
	o := r.join()
	n := New{Input: []byte(`[1]`), Metadata: []byte(`{}`)}
	a, b, c := r.start(o, n), r.start(o, n), r.start(o, n)
	no := false
	broken := &wire.TaskError{Code: wire.Internal, Message: "it broke", Retryable: &no, RetryAfterMs: 7, Details: json.RawMessage(`{"d":1}`)}
	out := r.end(
		End{Ref: c, State: wire.TaskFailed, Error: broken, Failed: true},
		End{Ref: a, State: wire.TaskCommitted, Result: []byte(`{"r": 1}`)},
		End{Ref: b, State: wire.TaskDead, Error: broken, Crashed: true})
	equal(t, "outcomes", out, []Outcome{{Done: true, State: wire.TaskFailed}, {Done: true, State: wire.TaskCommitted}, {Done: true, State: wire.TaskDead}})
	task := r.is(a.ID, wire.TaskCommitted, 1)
	same(t, "committed", words(string(task.Result), task.Input == nil, task.Error, task.FinishedAt.IsZero(), task.Failures, task.Attempt),
		`{"r": 1} true <nil> false 0 1`)
	task = r.is(c.ID, wire.TaskFailed, 1)
	same(t, "failed", words(task.Result == nil, string(task.Input), task.Failures, task.Crashes), `true [1] 1 0`)
	e := task.Error
	same(t, "its error", words(e.Code, e.Message, *e.Retryable, e.RetryAfterMs, string(e.Details)), `INTERNAL it broke false 7 {"d":1}`)
	same(t, "crashes", r.is(b.ID, wire.TaskDead, 1).Crashes, 1)
}

func testEndIsFenced(t *testing.T, r *rig) {
	o, other := r.join(), r.join()
	a, b := r.start(o, New{}), r.start(o, New{})
	pending := r.put(o, New{})[0]
	wrong := func(ref Ref, fence int64, owner Owner) End {
		ref.Fence, ref.Owner = fence, owner
		return End{Ref: ref, State: wire.TaskFailed}
	}
	for i, out := range r.end(wrong(a, 0, 0), wrong(a, 2, 0), wrong(a, 1, other), wrong(Ref{ID: ids()}, 1, 0), wrong(Ref{ID: pending}, 0, 0)) {
		same(t, words("outcome ", i), out, Outcome{})
	}
	r.is(a.ID, wire.TaskRunning, 1)
	r.is(pending, wire.TaskPending, 0)
	// What a worker says counts whoever owns it; of two ends of one attempt the first.
	said := Ref{ID: a.ID, Fence: 1}
	out := r.end(End{Ref: b, State: wire.TaskCommitted}, End{Ref: said, State: wire.TaskCommitted, Result: []byte(`"first"`)},
		End{Ref: said, State: wire.TaskFailed})
	equal(t, "outcomes", out, []Outcome{{Done: true, State: wire.TaskCommitted}, {Done: true, State: wire.TaskCommitted}, {}})
	same(t, "again", r.commit(said, `"second"`), Outcome{})
	same(t, "result", string(r.is(a.ID, wire.TaskCommitted, 1).Result), `"first"`)
	same(t, "back", r.back(Back{Ref: said})[0], Outcome{})
}

// testEndsAtOnce has several replicas end the same attempts at once: each ends
// once.
func testEndsAtOnce(t *testing.T, r *rig) {
	o := r.join()
	var refs []Ref
	for range 40 {
		refs = append(refs, r.start(o, New{IdempotencyKey: ids().String(), UniqueKey: ids().String()}))
	}
	var done atomic.Int64
	together(6, func(i int) {
		ends := make([]End, len(refs))
		for j := range refs {
			ends[(j*7+i*5)%len(refs)] = End{Ref: refs[j], State: wire.TaskCommitted, Result: fmt.Append(nil, i), Retention: kept}
		}
		out, err := r.End(t.Context(), ends)
		if err != nil {
			t.Error(err)
		}
		for _, o := range out {
			if o.Done {
				done.Add(1)
			}
		}
	})
	same(t, "ends", done.Load(), int64(len(refs)))
	same(t, "committed", must[wire.TaskCounts](r)(r.Counts(t.Context(), "work")).Committed, int64(len(refs)))
}

func testBack(t *testing.T, r *rig) {
	o := r.join()
	failed, crashed, unstarted := r.start(o, New{}), r.start(o, New{}), r.start(o, New{})
	broken := &wire.TaskError{Code: wire.Internal, Message: "it broke"}
	out := r.back(Back{Ref: unstarted, Unstarted: true}, Back{Ref: failed, After: time.Minute, Error: broken, Failed: true}, Back{Ref: crashed, Crashed: true})
	equal(t, "outcomes", out, []Outcome{{Done: true, State: wire.TaskPending}, {Done: true, State: wire.TaskPending}, {Done: true, State: wire.TaskPending}})
	task := r.is(failed.ID, wire.TaskPending, 2)
	same(t, "failed", words(task.Attempt, task.Failures, task.Crashes, task.Error.Message, task.StartedAt.IsZero()), "1 1 0 it broke true")
	task = r.is(crashed.ID, wire.TaskPending, 2)
	same(t, "crashed", words(task.Attempt, task.Failures, task.Crashes, task.Error), "1 0 1 <nil>")
	same(t, "attempt of what nobody took", r.is(unstarted.ID, wire.TaskPending, 2).Attempt, 0)
	equal(t, "at once", idsOf(r.claim(o, "work", 9)), []wire.TaskID{crashed.ID, unstarted.ID})
	r.pass(2 * time.Minute)
	attempts := r.claim(o, "work", 9)
	equal(t, "after its wait", idsOf(attempts), []wire.TaskID{failed.ID})
	same(t, "attempt", words(attempts[0].Fence, attempts[0].Number, attempts[0].Failures), "3 2 1")
	// No error keeps what is there.
	r.back(Back{Ref: Ref{ID: failed.ID, Fence: 3}, Crashed: true})
	same(t, "error", r.is(failed.ID, wire.TaskPending, 4).Error.Message, "it broke")
}

func testBackIsFenced(t *testing.T, r *rig) {
	o, other := r.join(), r.join()
	a := r.start(o, New{})
	for i, out := range r.back(Back{Ref: Ref{ID: a.ID, Fence: 2}}, Back{Ref: Ref{ID: a.ID, Fence: 1, Owner: other}}, Back{Ref: Ref{ID: ids(), Fence: 1}}) {
		same(t, words("outcome ", i), out, Outcome{})
	}
	r.is(a.ID, wire.TaskRunning, 1)
	out := r.back(Back{Ref: a, Failed: true}, Back{Ref: a, Failed: true})
	equal(t, "outcomes", out, []Outcome{{Done: true, State: wire.TaskPending}, {}})
	same(t, "failures", r.is(a.ID, wire.TaskPending, 2).Failures, 1)
	same(t, "a late result", r.commit(a, "1"), Outcome{})
}

func testBackOfCancelled(t *testing.T, r *rig) {
	o := r.join()
	a, b := r.start(o, New{IdempotencyKey: "k", UniqueKey: "u"}), r.start(o, New{})
	must[*wire.Task](r)(r.Cancel(t.Context(), a.ID, time.Minute, kept))
	out := r.back(Back{Ref: b}, Back{Ref: a, Failed: true, After: time.Hour})
	equal(t, "outcomes", out, []Outcome{{Done: true, State: wire.TaskPending}, {Done: true, State: wire.TaskCancelled}})
	same(t, "failures", r.is(a.ID, wire.TaskCancelled, 2).Failures, 1)
	if in := r.insert(o, New{IdempotencyKey: "k", UniqueKey: "u"})[0]; in.Existing {
		t.Error("the keys of what was cancelled are taken")
	}
}

func testCancel(t *testing.T, r *rig) {
	o := r.join()
	pending, running := r.put(o, New{Input: []byte("1"), UniqueKey: "u"})[0], r.start(o, New{})
	ended := r.start(o, New{})
	r.commit(ended, "1")
	for range 2 { // once more is no error
		task := must[*wire.Task](r)(r.Cancel(t.Context(), pending, time.Minute, kept))
		same(t, "cancelled", words(task.ID == pending.String(), task.State, string(task.Input)), "true cancelled 1")
		task = must[*wire.Task](r)(r.Cancel(t.Context(), running.ID, time.Minute, kept))
		same(t, "asked", words(task.State, task.CancelAsked, task.Fence), "running true 1")
	}
	r.is(pending, wire.TaskCancelled, 0)
	if in := r.insert(o, New{UniqueKey: "u"})[0]; in.Existing {
		t.Error("the key of what was cancelled is taken")
	}
	if task, err := r.Cancel(t.Context(), ended.ID, 0, kept); !errors.Is(err, ErrState) || task == nil || task.State != wire.TaskCommitted {
		t.Errorf("Cancel(committed) = %v, %v, want the task and ErrState", task, err)
	}
	if _, err := r.Cancel(t.Context(), ids(), 0, kept); !errors.Is(err, ErrNotFound) {
		t.Errorf("Cancel(unknown): %v, want ErrNotFound", err)
	}
	// A commit that comes before the kill stays.
	same(t, "committed", r.commit(running, "1"), Outcome{Done: true, State: wire.TaskCommitted})
	r.pass(time.Hour)
	same(t, "killed", len(must[[]Ref](r)(r.Kill(t.Context(), 9, kept))), 0)
}

// testCancelAgainstBack has attempts fail while they are cancelled: each is
// cancelled in the end, and none runs on unnoticed.
func testCancelAgainstBack(t *testing.T, r *rig) {
	o := r.join()
	var refs []Ref
	for range 50 {
		refs = append(refs, r.start(o, New{}))
	}
	backs := make([]Back, len(refs))
	for i := range refs {
		backs[i] = Back{Ref: refs[i], Failed: true, After: time.Hour, Retention: kept}
	}
	together(5, func(i int) {
		if i == 0 {
			out, err := r.Back(t.Context(), backs)
			for _, o := range out {
				if !o.Done {
					t.Error("an attempt of this replica is not to be given back")
				}
			}
			if err != nil {
				t.Error(err)
			}
			return
		}
		for j := i - 1; j < len(refs); j += 4 {
			if _, err := r.Cancel(t.Context(), refs[j].ID, time.Hour, kept); err != nil {
				t.Error(err)
			}
		}
	})
	for _, ref := range refs {
		if task := r.get(ref.ID); task == nil || task.State != wire.TaskCancelled {
			t.Fatalf("%+v, want it cancelled", task)
		}
	}
}

func testKill(t *testing.T, r *rig) {
	o := r.join()
	a, b := r.start(o, New{UniqueKey: "u"}), r.start(o, New{})
	r.start(o, New{})
	must[*wire.Task](r)(r.Cancel(t.Context(), a.ID, 10*time.Second, kept))
	must[*wire.Task](r)(r.Cancel(t.Context(), b.ID, time.Minute, kept))
	same(t, "within its grace", len(must[[]Ref](r)(r.Kill(t.Context(), 9, kept))), 0)
	r.pass(30 * time.Second)
	// Asked once more it has no longer grace.
	must[*wire.Task](r)(r.Cancel(t.Context(), a.ID, time.Hour, kept))
	equal(t, "killed", must[[]Ref](r)(r.Kill(t.Context(), 9, kept)), []Ref{a})
	r.is(a.ID, wire.TaskCancelled, 2)
	same(t, "a late result", r.commit(a, "1"), Outcome{})
	if in := r.insert(o, New{UniqueKey: "u"})[0]; in.Existing {
		t.Error("the key of what was killed is taken")
	}
	r.pass(time.Minute)
	same(t, "none of no number", len(must[[]Ref](r)(r.Kill(t.Context(), 0, kept))), 0)
	equal(t, "killed", must[[]Ref](r)(r.Kill(t.Context(), 9, kept)), []Ref{b})
}

func testTakeover(t *testing.T, r *rig) {
	o := r.join()
	a := r.start(o, New{})
	task := must[*wire.Task](r)(r.Takeover(t.Context(), a.ID))
	same(t, "taken over", words(task.State, task.Fence, task.Attempt, task.Failures, task.Crashes), "pending 2 1 0 0")
	same(t, "a late result", r.commit(a, "1"), Outcome{})
	if task, err := r.Takeover(t.Context(), a.ID); !errors.Is(err, ErrState) || task == nil {
		t.Errorf("Takeover(pending) = %v, %v, want ErrState", task, err)
	}
	equal(t, "again", idsOf(r.claim(o, "work", 9)), []wire.TaskID{a.ID})
	must[*wire.Task](r)(r.Cancel(t.Context(), a.ID, time.Hour, kept))
	if _, err := r.Takeover(t.Context(), a.ID); !errors.Is(err, ErrState) {
		t.Errorf("Takeover of what is to be cancelled: %v, want ErrState", err)
	}
	if _, err := r.Takeover(t.Context(), ids()); !errors.Is(err, ErrNotFound) {
		t.Errorf("Takeover(unknown): %v, want ErrNotFound", err)
	}
}

func testRetry(t *testing.T, r *rig) {
	o := r.join()
	ref := r.start(o, New{Input: []byte("1"), Metadata: []byte(`{}`), Trace: "trace", Timeout: time.Hour, Priority: 4, IdempotencyKey: "k", UniqueKey: "u"})
	if task, err := r.Retry(t.Context(), ref.ID); !errors.Is(err, ErrState) || task == nil {
		t.Errorf("Retry(running) = %v, %v, want ErrState", task, err)
	}
	if _, err := r.Retry(t.Context(), ids()); !errors.Is(err, ErrNotFound) {
		t.Errorf("Retry(unknown): %v, want ErrNotFound", err)
	}
	r.end(End{Ref: ref, State: wire.TaskDead, Failed: true, Crashed: true, Error: &wire.TaskError{Code: wire.Aborted, Message: "lost"}})
	task := must[*wire.Task](r)(r.Retry(t.Context(), ref.ID))
	same(t, "again", words(task.State, task.Fence, task.Failures, task.Crashes, string(task.Input), task.IdempotencyKey, task.UniqueKey,
		task.FinishedAt.IsZero(), task.Error.Message), "pending 1 0 0 1 k u true lost")
	same(t, "tasks", must[wire.TaskCounts](r)(r.Counts(t.Context(), "")).Total, 1)
	a := r.claim(o, "work", 1)[0]
	same(t, "attempt", words(a.Fence, a.Number, a.Failures, a.Timeout, a.Trace, a.Priority, string(a.Metadata)), "2 2 0 1h0m0s trace 4 {}")
	same(t, "a result of before", r.commit(ref, "1"), Outcome{})
	r.commit(Ref{ID: ref.ID, Fence: 2}, "2")
	if _, err := r.Retry(t.Context(), ref.ID); !errors.Is(err, ErrState) {
		t.Errorf("Retry(committed): %v, want ErrState", err)
	}
	for _, how := range []wire.TaskState{wire.TaskFailed, wire.TaskCancelled} {
		ref := r.start(o, New{})
		r.end(End{Ref: ref, State: how})
		must[*wire.Task](r)(r.Retry(t.Context(), ref.ID))
		r.is(ref.ID, wire.TaskPending, 1)
	}
	r.pass(2 * kept)
	if _, err := r.Retry(t.Context(), ref.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("Retry of what is kept no longer: %v, want ErrNotFound", err)
	}
}

func testRetryKeys(t *testing.T, r *rig) {
	o := r.join()
	ref := r.start(o, New{IdempotencyKey: "k", UniqueKey: "u"})
	r.end(End{Ref: ref, State: wire.TaskFailed})
	other := r.start(o, New{IdempotencyKey: "k", UniqueKey: "u"})
	if _, err := r.Retry(t.Context(), ref.ID); !errors.Is(err, wire.ErrAlreadyExists) {
		t.Errorf("Retry: %v, want ALREADY_EXISTS", err)
	}
	r.is(ref.ID, wire.TaskFailed, 1)
	r.commit(other, "1")
	// The idempotency key stays with what was committed.
	must[*wire.Task](r)(r.Retry(t.Context(), ref.ID))
	same(t, "who has k", r.insert(o, New{IdempotencyKey: "k"})[0], Inserted{ID: other.ID, Existing: true})
	same(t, "who has u", r.insert(o, New{UniqueKey: "u"})[0], Inserted{ID: ref.ID, Existing: true})
	r.claim(o, "work", 1)
	r.end(End{Ref: Ref{ID: ref.ID, Fence: 2}, State: wire.TaskFailed})
	same(t, "who has k", r.insert(o, New{IdempotencyKey: "k"})[0], Inserted{ID: other.ID, Existing: true})
	// Both are free again.
	r.pass(kept / 2)
	must[*wire.Task](r)(r.Retry(t.Context(), ref.ID))
	same(t, "who has u", r.insert(o, New{UniqueKey: "u"})[0], Inserted{ID: ref.ID, Existing: true})
}
