package tasks

import (
	"context"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Cancel ends a task that waits, and has one that runs end.
func (s *Service) Cancel(ctx context.Context, req wire.TaskRef) (*wire.Task, error) {
	return s.steer(ctx, req, s.runner.Cancel)
}

// Retry has a task begin again that failed, died or was cancelled.
func (s *Service) Retry(ctx context.Context, req wire.TaskRef) (*wire.Task, error) {
	return s.steer(ctx, req, s.runner.Retry)
}

// Takeover fences off the attempt of a running task, so that another one begins.
func (s *Service) Takeover(ctx context.Context, req wire.TaskRef) (*wire.Task, error) {
	return s.steer(ctx, req, s.runner.Takeover)
}

func (s *Service) steer(ctx context.Context, req wire.TaskRef, do func(context.Context, wire.TaskID) (*wire.Task, error)) (*wire.Task, error) {
	id, err := checkRef(req)
	if err != nil {
		return nil, err
	}
	task, err := do(ctx, id)
	if err != nil {
		return nil, err
	}
	return withoutInput(task), nil
}

// Hello says that a worker serves names, or that it goes.
func (s *Service) Hello(_ context.Context, req wire.TaskHello) (struct{}, error) {
	if err := checkHello(&req); err != nil {
		return struct{}{}, err
	}
	s.runner.Hello(req)
	return struct{}{}, nil
}
