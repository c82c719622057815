package runner

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// ending is an attempt of which it is to be written what became of it, and who is
// told.
type ending struct {
	a     *attempt // of this replica's table, or as it was read for another's
	end   store.End
	back  store.Back
	from  origin
	tries int // so often it was found that it had not been written, and could be
}

// errTooMany answers what finds no room.
var errTooMany = &wire.Error{Code: wire.ResourceExhausted, Message: "too many outcomes wait to be stored", RetryAfter: time.Second}

// concludes takes what a worker said at the end of an attempt.
func (r *Runner) concludes(s said) {
	a := r.table.end(s.id, s.fence)
	if a == nil { // another's, or it was said before: the store knows
		if !r.looks.add(&look{said: s}) {
			r.answer(s.from, errTooMany)
		}
		return
	}
	r.claimFor(a.Name, r.lanes.heard(a.Name, true))
	r.conclude(a, s, 0)
}

// conclude has the end of an attempt written.
func (r *Runner) conclude(a *attempt, s said, tries int) {
	if s.err != nil {
		r.fails(a, tries, s.err, s.from)
		return
	}
	r.queueEnd(&ending{a: a, from: s.from, tries: tries, end: store.End{
		Ref: store.Ref{ID: a.ID, Fence: a.Fence}, State: wire.TaskCommitted, Result: s.result, Retention: r.retention(a.Name),
	}})
}

// fails has written what follows a failure that a worker told of.
func (r *Runner) fails(a *attempt, tries int, e *wire.TaskError, from origin) {
	p := r.policies.of(a.Name)
	r.follow(&ending{a: a, from: from, tries: tries}, afterFailure(&p, a.Failures, e, rand.Float64()), 0, e, true)
}

// follow has the end of an attempt written that did not commit. owner is set where
// the replica decided it by its own clock. An attempt that is to be cancelled is,
// rather than tried again.
func (r *Runner) follow(x *ending, v verdict, owner store.Owner, e *wire.TaskError, failed bool) {
	ref := store.Ref{ID: x.a.ID, Fence: x.a.Fence, Owner: owner}
	if v.again {
		x.back = store.Back{Ref: ref, After: v.after, Error: e, Failed: failed, Crashed: !failed, Retention: r.retention(x.a.Name)}
		r.queueBack(x)
		return
	}
	x.end = store.End{Ref: ref, State: wire.TaskFailed, Error: e, Failed: failed, Crashed: !failed, Retention: r.retention(x.a.Name)}
	switch {
	case r.table.flagged(x.a):
		x.end.State = wire.TaskCancelled
	case !failed:
		x.end.State, x.end.Error = wire.TaskDead, errDead()
	}
	r.queueEnd(x)
}

func (r *Runner) retention(name string) time.Duration {
	return cmp.Or(r.policies.of(name).Retention, r.cfg.Retention)
}

func (r *Runner) queueEnd(x *ending) { r.queue(r.ends, x) }

func (r *Runner) queueBack(x *ending) {
	if x.back.Retention == 0 {
		x.back.Retention = r.retention(x.a.Name)
	}
	r.queue(r.backs, x)
}

// queue has an ending written. Where too many wait the attempt goes on: its worker
// is told so, or its time runs out.
func (r *Runner) queue(b *batch[*ending], x *ending) {
	if !b.add(x) {
		r.metrics.exhausted.Add(1)
		r.table.resume(x.a)
		r.answer(x.from, errTooMany)
	}
}

// writeEnds ends tasks.
func (r *Runner) writeEnds(ctx context.Context, items []*ending) ([]*ending, error) {
	first, again := once(items)
	ends := make([]store.End, len(first))
	for i, x := range first {
		ends[i] = x.end
	}
	outcomes, err := r.store.End(ctx, ends)
	if err != nil {
		return items, err
	}
	r.settle(r.ends, first, outcomes)
	r.lookAfter(again)
	return nil, nil
}

// writeBacks has tasks wait for their next attempt.
func (r *Runner) writeBacks(ctx context.Context, items []*ending) ([]*ending, error) {
	first, again := once(items)
	backs := make([]store.Back, len(first))
	for i, x := range first {
		backs[i] = x.back
	}
	outcomes, err := r.store.Back(ctx, backs)
	if err != nil {
		return items, err
	}
	r.settle(r.backs, first, outcomes)
	r.lookAfter(again)
	return nil, nil
}

// once splits off what is said of an attempt a second time within one write: that
// one row is written twice is not for a statement to sort out. Only what was heard
// by way of the store can be.
func once(items []*ending) (first, again []*ending) {
	mayBe := false
	for _, x := range items {
		mayBe = mayBe || x.tries > 0
	}
	if !mayBe {
		return items, nil
	}
	seen := make(map[store.Ref]bool, len(items))
	for _, x := range items {
		ref := store.Ref{ID: x.a.ID, Fence: x.a.Fence}
		if seen[ref] {
			again = append(again, x)
			continue
		}
		seen[ref] = true
		first = append(first, x)
	}
	return first, again
}

// settle tells what became of attempts: frees their places, answers their workers,
// tells who waits. What was not written is looked at again: it may have been, by
// this very write when it was tried before, or by another replica. Until that is
// known the attempt stays in the table: nobody else looks after it. What somebody
// writes to in a transaction is written a little later.
func (r *Runner) settle(b *batch[*ending], items []*ending, outcomes []store.Outcome) {
	ended := make([]told, 0, len(items))
	var missed []*ending
	for i, x := range items {
		if !outcomes[i].Done {
			if outcomes[i].Busy {
				b.postpone(x)
			} else {
				missed = append(missed, x)
			}
			continue
		}
		r.drop(x.a.ID, x.a.Fence)
		r.counts(x, outcomes[i].State)
		ended = append(ended, x.tell(outcomes[i]))
		r.answer(x.from, nil)
	}
	r.tell(ended)
	r.lookAfter(missed)
}

// counts counts what was written, and has what waits now be claimed.
func (r *Runner) counts(x *ending, state wire.TaskState) {
	switch state {
	case wire.TaskCommitted:
		r.metrics.committed.Add(1)
	case wire.TaskFailed:
		r.metrics.failed.Add(1)
	case wire.TaskCancelled:
		r.metrics.cancelled.Add(1)
	case wire.TaskDead:
		r.metrics.dead.Add(1)
	case wire.TaskPending:
		r.metrics.back(&x.back)
		if x.back.After == 0 {
			r.demand(x.a.Name)
		} else {
			r.alarm.set(x.back.After)
		}
	}
	if r.policies.of(x.a.Name).Concurrency > 0 { // others may wait for this one's place
		r.demand(x.a.Name)
	}
}

// lookAfter looks at what was not written.
func (r *Runner) lookAfter(items []*ending) {
	for _, x := range items {
		s := said{id: x.a.ID, fence: x.a.Fence, end: true, result: x.end.Result, err: x.end.Error, from: x.from}
		if x.end.State == "" {
			s.err = x.back.Error
		}
		if !r.looks.add(&look{said: s, of: x}) {
			r.table.resume(x.a)
			r.answer(x.from, errTooMany)
		}
	}
}

// drop takes an attempt out of memory that is nobody's business here any more, and
// gives its place back; false: it was not there.
func (r *Runner) drop(id wire.TaskID, fence int64) bool {
	a := r.table.remove(id, fence)
	if a != nil {
		r.released(a.Name)
	}
	return a != nil
}
