package runner

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// Heartbeat notes that the worker of an attempt is alive. FAILED_PRECONDITION: the
// attempt was given up; it and all errors of what workers say are *wire.Error.
func (r *Runner) Heartbeat(ctx context.Context, req wire.TaskHeartbeat) error {
	s := said{sign: sign{lease: promise(req.LeaseMs), progress: req.Progress}}
	return r.sayFor(ctx, req.TaskAttempt, s)
}

// Complete commits the result of an attempt; nil also where it was committed
// before. A result that is no JSON or too large ends the attempt with an error.
func (r *Runner) Complete(ctx context.Context, req wire.TaskComplete) error {
	s := said{end: true}
	s.result, s.err = resultOf(req.Result)
	return r.sayFor(ctx, req.TaskAttempt, s)
}

// Fail ends an attempt with an error; what follows says the policy of its name.
func (r *Runner) Fail(ctx context.Context, req wire.TaskFail) error {
	return r.sayFor(ctx, req.TaskAttempt, said{end: true, err: clean(&req.Error)})
}

// sayFor hears what somebody says who waits for the answer.
func (r *Runner) sayFor(ctx context.Context, of wire.TaskAttempt, s said) (err error) {
	if s.id, err = r.attemptOf(of); err != nil {
		return err
	}
	if r.stopped.Load() {
		return errStops
	}
	done := make(chan error, 1)
	s.fence, s.from = of.Fence, origin{done: done}
	r.hear(s)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return wire.AsError(ctx.Err())
	}
}

// attemptOf checks what a worker names its attempt by.
func (r *Runner) attemptOf(of wire.TaskAttempt) (id wire.TaskID, err error) {
	if id, err = wire.ParseTaskID("id", of.ID); err != nil {
		return id, err
	}
	switch {
	case r.tokens.Load() == nil:
		return id, away(errors.New("the secret was not read yet"))
	case of.Fence <= 0 || !r.genuine(id, of.Fence, of.Token):
		r.metrics.forged.Add(1)
		return id, wire.Errorf(wire.PermissionDenied, "the token is not that of the attempt")
	}
	return id, nil
}

// Step stores the result of a step of a running attempt where there is none, and
// returns what is stored.
func (r *Runner) Step(ctx context.Context, req wire.TaskStep) (wire.TaskStepped, error) {
	id, err := r.attemptOf(req.TaskAttempt)
	if err != nil {
		return wire.TaskStepped{}, err
	}
	stored, err := r.store.Step(ctx, store.Ref{ID: id, Fence: req.Fence}, req.Step, req.Result)
	switch {
	case errors.Is(err, store.ErrState), errors.Is(err, store.ErrNotFound):
		r.metrics.refused.Add(1)
		return wire.TaskStepped{}, r.whyNot(ctx, id)
	case err != nil:
		return wire.TaskStepped{}, away(err)
	}
	return wire.TaskStepped{Done: stored != nil, Result: stored}, nil
}

// whyNot says what has become of a task whose attempt is not the one that counts.
func (r *Runner) whyNot(ctx context.Context, id wire.TaskID) error {
	task, err := r.read(ctx, id, false)
	if err != nil {
		return err
	}
	return errGivenUp(task.Fence, task.State)
}

// Hello notes that a worker serves names: what waits for one of them is tried at
// once.
func (r *Runner) Hello(req wire.TaskHello) {
	now := time.Now()
	for _, name := range req.Names {
		r.claimFor(name, r.lanes.hello(name, req.Worker, req.Slots, req.Leaving, now))
	}
}

// Cancel ends a task that waits, and has one that runs end: by its worker, or
// after a grace without it. FAILED_PRECONDITION where it has ended otherwise.
func (r *Runner) Cancel(ctx context.Context, id wire.TaskID) (*wire.Task, error) {
	retention := r.cfg.Retention
	task, err := r.store.Cancel(ctx, id, r.cfg.CancelGrace, retention)
	if err != nil {
		return nil, refused(task, err)
	}
	if task.State == wire.TaskRunning {
		r.table.flag(id, task.Fence)
		r.tellCancel(id, task.Fence, "cancelled")
		r.tellEnds([]wire.TaskEnd{{ID: task.ID, Fence: task.Fence, State: wire.TaskRunning}})
		return r.withProgress(id, task), nil
	}
	r.metrics.cancelled.Add(1)
	r.tell([]told{ofTask(r.asRead(id, task, task.Fence), task)})
	return task, nil
}

// Retry has a task begin again that failed, died or was cancelled.
// FAILED_PRECONDITION where it did not, ALREADY_EXISTS where its unique key is
// another's by now.
func (r *Runner) Retry(ctx context.Context, id wire.TaskID) (*wire.Task, error) {
	task, err := r.store.Retry(ctx, id)
	if err != nil {
		return nil, refused(task, err)
	}
	r.Wake(task.Name)
	return task, nil
}

// Takeover fences off the attempt of a running task, so that another one begins.
// FAILED_PRECONDITION where it does not run.
func (r *Runner) Takeover(ctx context.Context, id wire.TaskID) (*wire.Task, error) {
	task, err := r.store.Takeover(ctx, id)
	if err != nil {
		return nil, refused(task, err)
	}
	fence := task.Fence - 1
	r.drop(id, fence)
	r.tellCancel(id, fence, "takeover")
	r.tellEnds([]wire.TaskEnd{{ID: task.ID, Fence: fence, State: wire.TaskPending}})
	r.Wake(task.Name)
	return task, nil
}

// refused says why something can't be done with a task.
func refused(task *wire.Task, err error) error {
	if errors.Is(err, store.ErrState) {
		e := wire.Errorf(wire.FailedPrecondition, "the task is not in a state for that")
		switch {
		case task != nil && task.State == wire.TaskRunning && task.CancelAsked:
			e = wire.Errorf(wire.FailedPrecondition, "the task is being cancelled").With("state", string(task.State))
		case task != nil:
			e = wire.Errorf(wire.FailedPrecondition, "the task is %s", task.State).With("state", string(task.State))
		}
		return e
	}
	return away(err)
}
