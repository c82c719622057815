package fairlead

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Unwrap returns the task's last error as a [*wire.Error].
func (e *TaskFailed) Unwrap() error {
	if e.Task.State == wire.TaskCancelled {
		return wire.Errorf(wire.Cancelled, "the task was cancelled")
	}
	if e.Task.Error == nil {
		return wire.Errorf(wire.Aborted, "the task is %s", e.Task.State)
	}
	coded := &wire.Error{Code: e.Task.Error.Code, Message: e.Task.Error.Message}
	if json.Unmarshal(e.Task.Error.Details, &coded.Details) != nil { // not an object, which it need not be
		coded.Details = nil
	}
	return coded
}

const (
	// waitOnce is how long one request waits for the end of a task; then it is asked
	// again: an answer may have been lost.
	waitOnce = 10 * time.Second
	// waitSlack is what the answer may take beyond.
	waitSlack = 3 * time.Second
	// waitMargin is how much sooner than the caller's deadline the wait ends, so that
	// what the task is then still arrives.
	waitMargin = 50 * time.Millisecond
)

// Await waits for the end of a task and returns its result. It waits as long as
// ctx lives, also while the service is away; a ctx without a deadline as long as
// it takes. When ctx ends first it is DEADLINE_EXCEEDED or CANCELLED, and the task
// goes on. A task that ended otherwise than committed is a [*TaskFailed].
func Await[Out any](ctx context.Context, f *Fairlead, id string) (Out, error) {
	var none Out
	task, err := f.await(ctx, id)
	if err != nil {
		return none, fmt.Errorf("await %s: %w", id, err)
	}
	return TaskResult[Out](task)
}

// Run enqueues a task, waits for its end and returns its result: [Tasks.Enqueue]
// and [Await] in one. The task goes on where ctx ends first: with
// [EnqueueOptions.IdempotencyKey] the same call finds it again.
func Run[Out any](ctx context.Context, f *Fairlead, name string, in any, o EnqueueOptions) (Out, error) {
	var none Out
	task, err := f.runTask(ctx, name, in, o)
	if err != nil {
		return none, fmt.Errorf("run %s: %w", name, err)
	}
	return TaskResult[Out](task)
}

// TaskResult returns the result of a task that has ended, as [Await] does.
func TaskResult[Out any](task wire.Task) (out Out, err error) {
	switch {
	case !task.State.Ended():
		return out, fmt.Errorf("task %s: %w", task.ID, wire.Errorf(wire.FailedPrecondition, "the task is %s", task.State))
	case task.State != wire.TaskCommitted:
		return out, &TaskFailed{task}
	}
	if raw, ok := any(&out).(*json.RawMessage); ok {
		*raw = task.Result
		return out, nil
	}
	if len(task.Result) == 0 { // null
		return out, nil
	}
	if err := json.Unmarshal(task.Result, &out); err != nil {
		return out, fmt.Errorf("task %s: read the result: %w", task.ID, err)
	}
	return out, nil
}

// runTask enqueues a task and returns it as it ended.
func (f *Fairlead) runTask(ctx context.Context, name string, in any, o EnqueueOptions) (task wire.Task, err error) {
	req, header, err := enqueueRequest(ctx, name, in, o)
	if err != nil {
		return task, err
	}
	once, cancel, wait := f.waiting(ctx)
	task, err = serviceWith[wire.Task](once, f, "tasks", "run", header, wire.TaskRun{TaskEnqueue: req, Wait: wait.String()})
	cancel()
	var e *wire.Error
	switch {
	case err == nil && task.State.Ended():
		return task, nil
	case err == nil:
		return f.await(ctx, task.ID)
	case ctx.Err() != nil || !errors.As(err, &e):
		return task, err
	}
	if id, ok := e.Details["id"].(string); ok { // it is stored
		return f.await(ctx, id)
	}
	if !lostReply(err) || req.IdempotencyKey == "" {
		return task, err
	}
	done, err := f.enqueue(ctx, req, header) // the same key finds it, if it was stored
	if err != nil {
		return task, err
	}
	return f.await(ctx, done.ID)
}

// await returns a task as it ended.
func (f *Fairlead) await(ctx context.Context, id string) (wire.Task, error) {
	for pause := firstPause; ; {
		asked := time.Now()
		once, cancel, wait := f.waiting(ctx)
		task, err := service[wire.Task](once, f, "tasks", "await", wire.TaskAwait{ID: id, Timeout: wait.String()})
		cancel()
		var e *wire.Error
		switch {
		case err == nil && task.State.Ended():
			return task, nil
		case err == nil && time.Since(asked) >= wait/2 && wait > waitMargin && ctx.Err() == nil:
			pause = firstPause
			continue
		case err == nil: // a replica that stops, or hardly any time is left
		case !errors.As(err, &e) || final(e.Code):
			return task, err
		}
		select {
		case <-ctx.Done():
			return task, wire.AsError(ctx.Err()).With("id", id)
		case <-time.After(pause):
			pause = min(2*pause, time.Second)
		}
	}
}

// waiting returns a context for one request that waits at the service, and for how
// long.
func (f *Fairlead) waiting(ctx context.Context) (once context.Context, cancel context.CancelFunc, wait time.Duration) {
	wait = waitOnce
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(min(wait, time.Until(deadline)-waitMargin), 0).Round(time.Millisecond)
	}
	once, cancel = context.WithTimeout(ctx, wait+waitSlack)
	return once, cancel, wait
}
