package runner

import (
	"encoding/json"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// told is the end of an attempt that was committed.
type told struct {
	a        *attempt
	state    wire.TaskState // of the task now
	result   []byte
	err      *wire.TaskError
	failures int
	crashes  int
	silent   bool        // nobody took the attempt: nothing happened
	kept     *store.Kept // of what this replica has ended
	task     *wire.Task  // as it was read; nil: it was not
}

// tell makes news of an ending that was written.
func (x *ending) tell(of store.Outcome) told {
	state := of.State
	t := told{a: x.a, state: state, kept: of.Kept, failures: x.a.Failures, crashes: x.a.Crashes}
	failed, crashed := x.end.Failed, x.end.Crashed
	if x.end.State != "" {
		t.result, t.err = x.end.Result, x.end.Error
	} else {
		failed, crashed = x.back.Failed, x.back.Crashed
		t.err, t.silent = x.back.Error, x.back.Unstarted && state == wire.TaskPending
	}
	if failed {
		t.failures++
	}
	if crashed {
		t.crashes++
	}
	return t
}

// ofTask makes news of a task that was found ended.
func ofTask(a *attempt, task *wire.Task) told {
	return told{a: a, state: task.State, result: task.Result, err: task.Error, failures: task.Failures, crashes: task.Crashes, task: task}
}

// asTask is the task as it ended, without its input: what any replica reads of it.
func (t *told) asTask() *wire.Task {
	if t.task != nil {
		task := *t.task
		task.Input = nil
		return &task
	}
	a := t.a
	task := &wire.Task{
		ID: a.ID.String(), Name: a.Name, State: t.state, Attempt: a.Number, Failures: t.failures, Crashes: t.crashes,
		Fence: a.Fence, Priority: a.Priority, Result: t.result, Error: t.err, Metadata: a.Metadata,
		IdempotencyKey: a.IdempotencyKey, StartedAt: a.Started,
	}
	if k := t.kept; k != nil {
		task.Attempt, task.Fence, task.UniqueKey, task.Error = k.Attempt, k.Fence, k.UniqueKey, k.Error
		task.CreatedAt, task.RunAt, task.StartedAt, task.FinishedAt = k.Created, k.RunAt, k.Started, k.Finished
	}
	return task
}

// tell tells everybody what was committed: the other replicas, who waits here, who
// watches the task, who hears of all.
func (r *Runner) tell(ended []told) {
	if len(ended) == 0 {
		return
	}
	if r.live.any() {
		r.tellReplicas(ended)
	}
	m := messages.Get().(*message)
	defer messages.Put(m)
	for i := range ended {
		t := &ended[i]
		if t.state.Ended() {
			r.waiters.deliverBy(t.a.ID, t.asTask)
		}
		if t.silent {
			continue
		}
		if t.state.Ended() {
			r.tellTopic(m, t.a, t.state, t.result, t.err)
		}
		code := wire.Code("")
		if t.err != nil {
			code = t.err.Code
		}
		r.tellEvent(m, t.a, t.state, code)
	}
}

// mostTold is how many ends one message to the other replicas carries.
const mostTold = 1000

func (r *Runner) tellReplicas(ended []told) {
	for ; len(ended) > 0; ended = ended[min(len(ended), mostTold):] {
		some := ended[:min(len(ended), mostTold)]
		ends := make([]wire.TaskEnd, len(some))
		for i := range some {
			ends[i] = wire.TaskEnd{ID: some[i].a.ID.String(), Fence: some[i].a.Fence, State: some[i].state}
		}
		r.tellEnds(ends)
	}
}

func (r *Runner) tellEnds(ends []wire.TaskEnd) {
	body, err := json.Marshal(wire.TaskEnds{Replica: r.cfg.ID, Ends: ends})
	if err == nil {
		r.publish(&nats.Msg{Subject: r.ns.TaskEnds(), Data: body})
	}
}

// heardEnds hears what other replicas have committed: the places of those attempts
// are free, and who waits for them is to read them.
func (r *Runner) heardEnds(msg *nats.Msg) {
	var ends wire.TaskEnds
	if json.Unmarshal(msg.Data, &ends) != nil || ends.Replica == r.cfg.ID {
		return
	}
	for _, e := range ends.Ends {
		id, err := wire.ParseTaskID("id", e.ID)
		if err != nil {
			continue
		}
		if e.State == wire.TaskRunning { // it is to be cancelled
			r.table.flag(id, e.Fence)
			continue
		}
		r.held.forget(id, e.Fence)
		if a := r.table.remove(id, e.Fence); a != nil {
			r.released(a.Name)
			if r.policies.of(a.Name).Concurrency > 0 {
				r.demand(a.Name)
			}
		}
		if e.State.Ended() && r.waiters.has(id) {
			r.reads.add(&reading{id: id})
		}
	}
}
