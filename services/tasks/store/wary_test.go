package store

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// TestOpenCommit has a worker commit in a transaction that it does not end: no
// other task waits for it.
func TestOpenCommit(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	r := &rig{Store: p, t: t}
	o := r.join()
	var refs []Ref
	for range 6 {
		refs = append(refs, r.start(o, New{}))
	}
	held := refs[2]
	tx, err := p.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }() // it may be over
	if _, err := tx.Exec(t.Context(), `select fairlead.complete($1, $2, '1')`, uuid(held.ID), held.Fence); err != nil {
		t.Fatal(err)
	}
	commit := func(ref Ref) End { return End{Ref: ref, State: wire.TaskCommitted} }
	done, busy, stale := Outcome{Done: true, State: wire.TaskCommitted}, Outcome{Busy: true}, Ref{ID: refs[0].ID, Fence: 9}
	equal(t, "ends", r.end(commit(refs[0]), commit(held), commit(stale), commit(refs[1])), []Outcome{done, busy, {}, done})
	equal(t, "backs", r.back(Back{Ref: held}, Back{Ref: refs[3]}, Back{Ref: stale}), []Outcome{busy, {Done: true, State: wire.TaskPending}, {}})
	// For a while nobody waits at all.
	equal(t, "ends", r.end(commit(held), commit(refs[4])), []Outcome{busy, done})
	if err := p.Beats(t.Context(), []Beat{{Ref: held, Progress: []byte("1")}, {Ref: refs[5], Progress: []byte("2")}}); err != nil {
		t.Error(err)
	}
	same(t, "progress", string(r.get(refs[5].ID).Progress), "2")
	same(t, "adopted", len(must[[]Attempt](r)(p.Adopt(t.Context(), o, []Ref{held, refs[5]}))), 1)
	same(t, "given away", must[int](r)(p.Leave(t.Context(), o)), 1)
	if _, err := p.Cancel(t.Context(), held.ID, time.Minute, kept); wire.CodeOf(err) != wire.Aborted {
		t.Errorf("Cancel: %v, want ABORTED", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	held.Owner = 0
	equal(t, "ends", r.end(commit(held), commit(refs[1])), []Outcome{done, {}})
}

// TestOpenEnqueue has somebody store a task in a transaction that is not ended: only
// who wants the same key hears of it.
func TestOpenEnqueue(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	r := &rig{Store: p, t: t}
	o := r.join()
	tx, err := p.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }() // it may be over
	must[wire.TaskID](r)(enqueue(t.Context(), tx, `'work', unique_key => 'u', idempotency_key => 'k'`))
	tasks := []New{
		{IdempotencyKey: "a"}, {IdempotencyKey: "k"}, {UniqueKey: "v"}, {UniqueKey: "u", IdempotencyKey: "b"}, {}, {IdempotencyKey: "k"},
	}
	for i := range tasks {
		tasks[i].ID, tasks[i].Name = ids(), "work"
	}
	for range 2 {
		var busy *BusyError
		_, err := p.Insert(t.Context(), o, tasks)
		if !errors.As(err, &busy) || wire.CodeOf(err) != wire.Aborted || !slices.Equal(busy.Tasks, []int{1, 3, 5}) {
			t.Fatalf("Insert: %v, want it to name tasks 1, 3 and 5", err)
		}
	}
	same(t, "stored", must[wire.TaskCounts](r)(p.Counts(t.Context(), "")).Total, 0)
	free := []New{tasks[0], tasks[2], tasks[4]}
	for i, in := range r.insert(o, free...) {
		same(t, "inserted", in, Inserted{ID: free[i].ID})
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	in := r.insert(o, tasks[1], tasks[3], tasks[5])
	equal(t, "then", in, []Inserted{{ID: tasks[1].ID}, {ID: tasks[3].ID}, {ID: tasks[1].ID, Existing: true}})
	for _, id := range []wire.TaskID{in[0].ID, in[1].ID} {
		r.is(id, wire.TaskPending, 0)
	}
}
