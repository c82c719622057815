package tasks

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

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

// Enqueue stores a task, or finds the one that a key makes it. answer is called when
// that is committed: many wait for the same write.
func (s *Service) Enqueue(ctx context.Context, req wire.TaskEnqueue, answer func(wire.TaskEnqueued, error)) {
	n, err := newTask(ctx, &req)
	if err != nil {
		answer(wire.TaskEnqueued{}, err)
		return
	}
	s.runner.EnqueueThen(n, func(done store.Inserted, err error) {
		if err != nil {
			answer(wire.TaskEnqueued{}, err)
			return
		}
		answer(wire.TaskEnqueued{ID: done.ID.String(), Existing: done.Existing}, nil)
	})
}

// newTask is the task that a request asks for.
func newTask(ctx context.Context, req *wire.TaskEnqueue) (store.New, error) {
	now := time.Now() // in the id alone, and of a bound of a year
	n, err := checkEnqueue(req, wire.NewTaskID(now), now)
	n.Trace = traceparent(ctx)
	return n, err
}

// traceparent is the trace of a request as its attempts continue it, "" without
// one.
func traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
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
	n, err := newTask(ctx, &req.TaskEnqueue)
	if err != nil {
		return nil, err
	}
	done, err := s.runner.Enqueue(ctx, n)
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
