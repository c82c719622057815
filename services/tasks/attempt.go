package tasks

import (
	"context"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Heartbeat says that the worker of an attempt is alive, and how far it is.
func (s *Service) Heartbeat(ctx context.Context, req wire.TaskHeartbeat) (struct{}, error) {
	if err := checkHeartbeat(&req); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.runner.Heartbeat(ctx, req)
}

// Complete commits the result of an attempt. One that was committed before is no
// error.
func (s *Service) Complete(ctx context.Context, req wire.TaskComplete) (struct{}, error) {
	if err := checkComplete(&req); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.runner.Complete(ctx, req)
}

// Fail ends an attempt with an error; what follows says the policy of its name.
func (s *Service) Fail(ctx context.Context, req wire.TaskFail) (struct{}, error) {
	if err := checkFail(&req); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.runner.Fail(ctx, req)
}

// Step stores the result of a step of a task, or looks for it.
func (s *Service) Step(ctx context.Context, req wire.TaskStep) (wire.TaskStepped, error) {
	if err := checkStep(&req); err != nil {
		return wire.TaskStepped{}, err
	}
	return s.runner.Step(ctx, req)
}
