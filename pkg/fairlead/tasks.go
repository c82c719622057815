package fairlead

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Tasks asks the tasks service: work that must finish, whoever dies. [Work] takes
// it on; [Run] and [Await] wait for its end with types.
//
// Errors are UNAVAILABLE where no replica of the service answers or its Postgres is
// away, NOT_FOUND for a task that is not there or was cleaned away,
// INVALID_ARGUMENT with `details.field` for what can't be, FAILED_PRECONDITION
// where the task is in a state in which that can't be done, RESOURCE_EXHAUSTED
// with RetryAfter where too much waits to be stored.
type Tasks struct{ f *Fairlead }

// Tasks returns the view of the tasks.
func (f *Fairlead) Tasks() Tasks { return Tasks{f} }

// TaskPolicy says how the tasks of a name are run. The zero value is that of a
// name that nobody has registered.
type TaskPolicy struct {
	// Timeout bounds one attempt; 0 is 1m.
	Timeout time.Duration
	// MaxAttempts counts the attempts that end with an error or run out of time; 0
	// is 1: none follows.
	MaxAttempts int
	// Backoff is the wait before the second attempt, 1s where 0; each further one is
	// Factor times as long (2 where 0), up to MaxBackoff (1m where 0).
	Backoff, MaxBackoff time.Duration
	Factor              float64
	// Jitter is the share of the wait that is random, up to 1; 0 is 0.1, a
	// negative one none.
	Jitter float64
	// NonRetryable are codes after which none follows, beside those that always are
	// final; see [Work].
	NonRetryable []wire.Code
	// MaxCrashes is how many workers may be lost with a task; 0 is 3, a negative
	// number none.
	MaxCrashes int
	// Concurrency bounds the attempts of the name that run at a time, over all
	// workers; 0 is no bound.
	Concurrency int
	// Retention is how long what has ended is kept; 0 is
	// FAIRLEAD_TASKS_RETENTION of the service.
	Retention time.Duration
}

// Register says how the tasks of a name are run from now on. Every worker of the
// name may do it as it starts: the last one counts.
func (t Tasks) Register(ctx context.Context, name string, p TaskPolicy) error {
	req := wire.TaskRegister{
		Name: name, Timeout: duration(p.Timeout), Concurrency: p.Concurrency, Retention: duration(p.Retention),
		Retry: &wire.TaskRetry{
			MaxAttempts: p.MaxAttempts, Backoff: duration(p.Backoff), Factor: p.Factor,
			MaxBackoff: duration(p.MaxBackoff), NonRetryable: p.NonRetryable,
		},
	}
	if p.Jitter != 0 {
		req.Retry.Jitter = new(max(p.Jitter, 0))
	}
	if p.MaxCrashes != 0 {
		req.MaxCrashes = new(max(p.MaxCrashes, 0))
	}
	_, err := service[struct{}](ctx, t.f, "tasks", "register", req)
	return err
}

// duration writes one as the service reads it, 0 as none.
func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// Get returns a task as it is.
func (t Tasks) Get(ctx context.Context, id string) (wire.Task, error) { return t.ask(ctx, "get", id) }

// Cancel ends a task that waits, and has the attempt of one that runs end: its
// context ends with wire.ErrCancelled, and after a grace (10s) the task is
// cancelled whatever the worker does. A result that is stored before stays. It
// returns the task as it is then, FAILED_PRECONDITION where it has ended
// otherwise.
func (t Tasks) Cancel(ctx context.Context, id string) (wire.Task, error) {
	return t.ask(ctx, "cancel", id)
}

// Retry has a task begin again that failed, died or was cancelled. It is
// FAILED_PRECONDITION for any other, ALREADY_EXISTS where its unique key is
// another's by now.
func (t Tasks) Retry(ctx context.Context, id string) (wire.Task, error) {
	return t.ask(ctx, "retry", id)
}

// Takeover takes a running task away from its worker, whose fence is lost, and has
// another attempt begin. It is FAILED_PRECONDITION for a task that does not run.
func (t Tasks) Takeover(ctx context.Context, id string) (wire.Task, error) {
	return t.ask(ctx, "takeover", id)
}

func (t Tasks) ask(ctx context.Context, endpoint, id string) (wire.Task, error) {
	return service[wire.Task](ctx, t.f, "tasks", endpoint, wire.TaskRef{ID: id})
}

// Counts says how many tasks of a name there are in each state, "" for all names.
func (t Tasks) Counts(ctx context.Context, name string) (wire.TaskCounts, error) {
	return service[wire.TaskCounts](ctx, t.f, "tasks", "counts", wire.TaskName{Name: name})
}

// Page returns a page of tasks, newest first, without their inputs, and without
// results above 16 KB: [Tasks.Get] has those. The cursor of the page before goes
// on behind it.
func (t Tasks) Page(ctx context.Context, q wire.TaskList) (wire.TaskPage, error) {
	return service[wire.TaskPage](ctx, t.f, "tasks", "list", q)
}

// List goes through the tasks of a name and a state, "" for all of either, newest
// first, as [Tasks.Page] shows them. Those that come or change their state
// meanwhile may be among them or not. After an error it ends.
func (t Tasks) List(ctx context.Context, name string, state wire.TaskState) iter.Seq2[wire.Task, error] {
	return func(yield func(wire.Task, error) bool) {
		q := wire.TaskList{Name: name, State: state, Limit: 100}
		for {
			page, err := t.Page(ctx, q)
			if err != nil {
				yield(wire.Task{}, err)
				return
			}
			for i := range page.Tasks {
				if !yield(page.Tasks[i], nil) {
					return
				}
			}
			if q.Cursor = page.Cursor; q.Cursor == "" {
				return
			}
		}
	}
}

// TaskFailed is the error of [Run] and [Await] for a task that did not end with a
// result. It wraps a [*wire.Error] with the code, message and details of the
// task's last error, CANCELLED for one that was cancelled: errors.Is tells the
// codes apart, and a handler that returns it passes them on.
type TaskFailed struct {
	// Task is the task as it ended.
	Task wire.Task
}

// Error says how the task ended, and why.
func (e *TaskFailed) Error() string {
	return fmt.Sprintf("task %s %s: %v", e.Task.ID, e.Task.State, e.Unwrap())
}
