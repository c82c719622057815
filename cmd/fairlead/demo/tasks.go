package demo

import (
	"context"
	"errors"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// serveTasks serves the calls about tasks.
func (w *Worker) serveTasks() error {
	_, there := fairlead.Handle(w.f, "demo.tasks", w.whetherTasks, fairlead.HandleOptions{})
	_, task := fairlead.Handle(w.f, "demo.task", w.task, fairlead.HandleOptions{Timeout: patience})
	_, get := fairlead.Handle(w.f, "demo.task.get", w.getTask, fairlead.HandleOptions{})
	return errors.Join(there, task, get)
}

type taskState struct {
	Off string `json:"off,omitempty"` // why there are no tasks
}

func (w *Worker) whetherTasks(context.Context, *fairlead.Call, struct{}) (taskState, error) {
	return taskState{w.tasks.Off}, nil
}

type taskRef struct {
	ID string `json:"id"`
}

// task asks for a task, and sees to it that somebody works on it.
func (w *Worker) task(ctx context.Context, _ *fairlead.Call, _ struct{}) (taskRef, error) {
	if w.tasks.Off != "" {
		return taskRef{}, wire.Errorf(wire.Unavailable, "tasks are %s", w.tasks.Off)
	}
	if err := w.f.Tasks().Register(ctx, renderTask, renderPolicy); err != nil {
		return taskRef{}, err
	}
	if err := w.tasks.Renderer.Start(ctx); err != nil {
		return taskRef{}, err
	}
	done, err := w.f.Tasks().Enqueue(ctx, renderTask, struct{}{}, fairlead.EnqueueOptions{})
	return taskRef{done.ID}, err
}

// getTask shows a task of the page, and no other.
func (w *Worker) getTask(ctx context.Context, _ *fairlead.Call, ref taskRef) (wire.Task, error) {
	task, err := w.f.Tasks().Get(ctx, ref.ID)
	if err == nil && task.Name != renderTask {
		return wire.Task{}, wire.Errorf(wire.NotFound, "no such task of the demo")
	}
	return task, err
}
