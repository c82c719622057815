package tasks

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// Register says how the tasks of a name are run from now on.
func (s *Service) Register(ctx context.Context, req wire.TaskRegister) (struct{}, error) {
	p, err := checkRegister(&req)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.runner.Register(ctx, p)
}

// Enqueue stores a task, or finds the one that a key makes it.
func (s *Service) Enqueue(ctx context.Context, req wire.TaskEnqueue) (wire.TaskEnqueued, error) {
	done, err := s.enqueue(ctx, &req)
	if err != nil {
		return wire.TaskEnqueued{}, err
	}
	return wire.TaskEnqueued{ID: done.ID.String(), Existing: done.Existing}, nil
}

func (s *Service) enqueue(ctx context.Context, req *wire.TaskEnqueue) (store.Inserted, error) {
	now := time.Now() // in the id alone, and of a bound of a year
	n, err := checkEnqueue(req, wire.NewTaskID(now), now)
	if err != nil {
		return store.Inserted{}, err
	}
	n.Trace = traceparent(ctx)
	return s.runner.Enqueue(ctx, n)
}

// traceparent is the trace of a request as its attempts continue it, "" without
// one.
func traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// RunTask stores a task and waits for its end. When the wait is over, or the
// replica stops, the answer is the task as it is.
func (s *Service) RunTask(ctx context.Context, req wire.TaskRun) (*wire.Task, error) {
	wait, err := checkDuration("wait", req.Wait, defaultWait, 0, maxWait)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	done, err := s.enqueue(ctx, &req.TaskEnqueue)
	if err != nil {
		return nil, err
	}
	task, err := s.wait(ctx, done.ID, wait-time.Since(began))
	if err != nil { // it is stored: who asked is to know as what, to ask for its end again
		return nil, wire.AsError(err).With("id", done.ID.String())
	}
	return task, nil
}

// Await waits for the end of a task. When the wait is over, or the replica stops,
// the answer is the task as it is.
func (s *Service) Await(ctx context.Context, req wire.TaskAwait) (*wire.Task, error) {
	id, err := wire.ParseTaskID("id", req.ID)
	if err != nil {
		return nil, err
	}
	wait, err := checkDuration("timeout", req.Timeout, defaultWait, 0, maxWait)
	if err != nil {
		return nil, err
	}
	return s.wait(ctx, id, wait)
}

// wait waits for the end of a task for so long at most.
func (s *Service) wait(ctx context.Context, id wire.TaskID, wait time.Duration) (*wire.Task, error) {
	waiting, cancel := context.WithTimeout(ctx, max(wait, 0))
	defer cancel()
	defer context.AfterFunc(s.leaving, cancel)()
	task, err := s.runner.Await(waiting, id)
	if err != nil {
		return nil, err
	}
	return withoutInput(task), nil
}

// withoutInput leaves the input to `get`: who waits for an end knows it.
func withoutInput(task *wire.Task) *wire.Task {
	if task == nil || task.Input == nil {
		return task
	}
	bare := *task // others wait for the same one
	bare.Input = nil
	return &bare
}
