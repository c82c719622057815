package runner

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// mostTries is how often an outcome is written again that was found unwritten.
const mostTries = 3

// look is something that was said of an attempt that this replica does not
// supervise, or of which a write found nothing: what it means says the store.
type look struct {
	said
	of *ending // the write; nil: none
}

// lookAll finds out what was said means. What must not be lost is looked at again
// while the store is away; who can say it again is told so.
func (r *Runner) lookAll(ctx context.Context, items []*look) (again []*look, err error) {
	rest := items
	if !r.policies.known() {
		err = errUnknown // what follows a failure is not known yet
	} else {
		rest, err = r.adoptHeard(ctx, items)
	}
	if err == nil {
		var tasks []*wire.Task
		if tasks, err = r.tasksOf(ctx, rest); err == nil {
			for i, x := range rest {
				r.judge(x, tasks[i])
			}
			return nil, nil
		}
	}
	for _, x := range rest {
		if x.end && (x.of != nil || !x.from.waits()) {
			again = append(again, x)
		} else {
			r.answer(x.from, away(err))
		}
	}
	return again, err
}

func (r *Runner) tasksOf(ctx context.Context, items []*look) ([]*wire.Task, error) {
	if len(items) == 0 {
		return nil, nil
	}
	ids := make([]wire.TaskID, len(items))
	for i, x := range items {
		ids[i] = x.id
	}
	return r.store.Peek(ctx, ids)
}

// adoptHeard takes over the attempts of which a worker was heard and that nobody
// has. It returns what is not settled by that.
func (r *Runner) adoptHeard(ctx context.Context, items []*look) (rest []*look, err error) {
	owner, able := r.able()
	var refs []store.Ref
	if able {
		for _, x := range items {
			if !x.end {
				refs = append(refs, store.Ref{ID: x.id, Fence: x.fence})
			}
		}
	}
	if len(refs) == 0 {
		return items, nil
	}
	got, err := r.store.Adopt(ctx, owner, refs)
	if err != nil {
		if !unsent(err) {
			r.owner.doubt(owner) // some may be taken over: nobody knows which
		}
		return items, err
	}
	mine := make(map[wire.TaskID]bool, len(got))
	for i := range got {
		mine[got[i].ID] = true
		r.adopt(got[i], owner)
	}
	for _, x := range items {
		if x.end || !mine[x.id] || !r.beat(x.said) {
			rest = append(rest, x)
		}
	}
	return rest, nil
}

// adopt supervises an attempt that another replica dispatched, or was to. One that
// is known stays as it is known.
func (r *Runner) adopt(a store.Attempt, owner store.Owner) {
	if r.table.own(a.ID, a.Fence, owner) != nil {
		return
	}
	now := time.Now()
	taken := r.newAttempt(a, owner)
	taken.adopted, taken.links = true, r.links()
	taken.deadline = now.Add(max(a.Left, adoptGrace))
	if a.Lease > 0 {
		taken.promised = a.Lease
		taken.lease = now.Add(max(a.Lease, adoptGrace))
	}
	r.lanes.occupy(a.Name, now)
	for _, old := range r.table.put(taken) {
		r.released(old.Name)
	}
	r.metrics.adopted.Add(1)
	r.sooner()
	if a.CancelAsked {
		r.tellCancel(a.ID, a.Fence, "cancelled")
	}
}

// adoptGrace is how long the worker of an attempt that is taken over has at least
// to be heard.
const adoptGrace = 3 * time.Second

// judge says what was said means, given what the task is now.
func (r *Runner) judge(x *look, task *wire.Task) {
	if task != nil && task.Fence == x.fence && task.State == wire.TaskRunning {
		r.judgeRunning(x, task)
		return
	}
	mine := x.of != nil && r.drop(x.id, x.fence)
	switch {
	case task == nil:
		r.answer(x.from, wire.Errorf(wire.NotFound, "no such task"))
	case task.Fence == x.fence && x.end && task.State == x.meant(), x.followed(task):
		r.answer(x.from, nil) // it was said before
		if x.of != nil {      // by this replica, perhaps, whose write was not answered
			r.tell([]told{ofTask(x.of.a, task)})
		}
	default:
		if x.of == nil || x.from.waits() {
			r.metrics.refused.Add(1)
		}
		r.answer(x.from, errGivenUp(task.Fence, task.State))
		r.waiters.deliver(x.id, task)
		if mine && task.Fence == x.fence { // it ended in SQL: nobody else tells
			r.tell([]told{ofTask(x.of.a, task)})
		}
	}
}

var errUnknown = errors.New("the policies were not read yet")

// judgeAgain is after how long an attempt is judged anew of which the outcome was
// decided under a number that was given up.
const judgeAgain = 500 * time.Millisecond

// meant is the state that the task is in if what was said has been committed.
func (x *look) meant() wire.TaskState {
	switch {
	case x.of != nil && x.of.end.State != "":
		return x.of.end.State
	case x.err != nil:
		return wire.TaskFailed
	}
	return wire.TaskCommitted
}

// followed reports whether a task is as it is after the failure that was said: it
// waits for its next attempt, or was to be cancelled.
func (x *look) followed(task *wire.Task) bool {
	switch {
	case !x.end || x.err == nil || task.Error == nil || task.Error.Code != x.err.Code || task.Error.Message != x.err.Message:
		return false
	case task.Fence == x.fence: // else it was killed, or given up
		return task.State == wire.TaskCancelled
	}
	return task.Fence == x.fence+1 && (task.State == wire.TaskPending || task.State == wire.TaskCancelled)
}

// judgeRunning settles what was said of an attempt that runs.
func (r *Runner) judgeRunning(x *look, task *wire.Task) {
	switch {
	case !x.end: // another one has it, who can't have heard
		r.pass(x.said)
		r.answer(x.from, nil)
	case x.of == nil:
		r.conclude(r.asRead(x.id, task, x.fence), x.said, 1)
	case x.of.end.Owner != 0 || x.of.back.Owner != 0:
		// It was decided under a number that is given up: if the attempt is still had, it
		// is decided anew, else somebody else does.
		r.table.postpone(x.of.a, time.Now(), judgeAgain)
		r.sooner()
		r.answer(x.from, nil)
	case x.of.tries < mostTries:
		x.of.tries++
		if x.of.end.State != "" {
			r.queueEnd(x.of)
		} else {
			r.queueBack(x.of)
		}
	default:
		r.table.resume(x.of.a)
		r.answer(x.from, wire.Errorf(wire.Aborted, "the outcome was not stored: send it again"))
	}
}

// asRead is the attempt of a task of which the store has told.
func (r *Runner) asRead(id wire.TaskID, task *wire.Task, fence int64) *attempt {
	return &attempt{
		text: task.ID, topic: r.subjects.topic + task.ID,
		Attempt: store.Attempt{
			ID: id, Name: task.Name, Fence: fence, Number: task.Attempt, Failures: task.Failures, Crashes: task.Crashes,
			Priority: task.Priority, IdempotencyKey: task.IdempotencyKey, Metadata: task.Metadata, Started: task.StartedAt,
		},
		cancel: task.CancelAsked, ending: true, at: -1,
	}
}
