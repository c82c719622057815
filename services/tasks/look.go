package tasks

import (
	"context"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// pageBytes bounds what a page of tasks holds, so that it fits into one message:
	// one that comes to it ends early.
	pageBytes = 640 << 10
	// listedBytes bounds a result in a page; `get` has those that are larger.
	listedBytes = 16 << 10
)

// Get returns a task as it is.
func (s *Service) Get(ctx context.Context, req wire.TaskRef) (*wire.Task, error) {
	id, err := checkRef(req)
	if err != nil {
		return nil, err
	}
	task, err := s.runner.Get(ctx, id)
	if err == nil && task.State == wire.TaskCommitted {
		task = withoutInput(task)
	}
	return task, err
}

// List returns a page of tasks, newest first.
func (s *Service) List(ctx context.Context, req wire.TaskList) (wire.TaskPage, error) {
	q, err := checkList(&req)
	if err != nil {
		return wire.TaskPage{}, err
	}
	tasks, err := s.store.List(ctx, q)
	if err != nil {
		return wire.TaskPage{}, err
	}
	return page(tasks, q.Limit), nil
}

// page makes a page of the tasks that were found, which are at most limit; where
// they are as many, or too large together, there may be more behind them.
func page(tasks []wire.Task, limit int) wire.TaskPage {
	p := wire.TaskPage{Tasks: []wire.Task{}}
	more := len(tasks) >= limit
	size := 0
	for i := range tasks {
		t := &tasks[i]
		t.Input = nil
		if len(t.Result) > listedBytes {
			t.Result = nil
		}
		size += len(t.Result) + len(t.Progress) + len(t.Metadata) + len(t.IdempotencyKey) + len(t.UniqueKey) + 512
		if t.Error != nil {
			size += len(t.Error.Message) + len(t.Error.Details)
		}
		if i > 0 && size > pageBytes {
			tasks, more = tasks[:i], true
			break
		}
	}
	if p.Tasks = append(p.Tasks, tasks...); more && len(tasks) > 0 {
		p.Cursor = tasks[len(tasks)-1].ID
	}
	return p
}

// Counts says how many tasks there are of each state.
func (s *Service) Counts(ctx context.Context, req wire.TaskName) (wire.TaskCounts, error) {
	if req.Name != "" {
		if err := wire.CheckTaskName("name", req.Name); err != nil {
			return wire.TaskCounts{}, err
		}
	}
	return s.store.Counts(ctx, req.Name)
}
