package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// TasksCmd asks the tasks service on the bus (FAIRLEAD_NATS_URL). What it prints
// is for people on a terminal, one JSON object in a line elsewhere.
type TasksCmd struct {
	Ls       TasksLsCmd       `cmd:"" help:"List tasks, newest first."`
	Show     TasksShowCmd     `cmd:"" help:"Print a task as it is, with its input, result or error."`
	Watch    TasksWatchCmd    `cmd:"" help:"Follow a task to its end. Exit code 1: it did not succeed."`
	Enqueue  TasksEnqueueCmd  `cmd:"" help:"Ask for a task and print its id; with --watch follow it to its end."`
	Retry    TasksRetryCmd    `cmd:"" help:"Have tasks begin again that failed, died or were cancelled."`
	Cancel   TasksCancelCmd   `cmd:"" help:"End tasks that wait, and have running ones end."`
	Takeover TasksTakeoverCmd `cmd:"" help:"Give up the attempts of running tasks, so that others begin."`
	Counts   TasksCountsCmd   `cmd:"" help:"Print how many tasks there are of each state."`
	Cron     TasksCronCmd     `cmd:"" help:"Schedules: tasks that are enqueued by the clock."`
}

// taskForm says how a command prints.
type taskForm struct {
	JSON bool `name:"json" help:"Print JSON lines on a terminal too."`
}

// lines reports whether what is printed is for programs.
func (f taskForm) lines(env *Env) bool { return f.JSON || !onTerminal(env.Stdout) }

// taskIDs are the tasks that a command is about.
type taskIDs struct {
	IDs []string `arg:"" name:"id" help:"Tasks, such as t_…"`
}

// each asks an endpoint about every task and prints what each is then. One that
// fails does not keep the others from it.
func (c *taskIDs) each(ctx context.Context, env *Env, endpoint string, lines bool) error {
	for _, id := range c.IDs {
		if _, err := wire.ParseTaskID("ID", id); err != nil {
			return usage(err)
		}
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	defer nc.Close()
	var failed []error
	for _, id := range c.IDs {
		answer, err := askTasks[json.RawMessage](ctx, env, nc, endpoint, wire.TaskRef{ID: id})
		if err == nil {
			err = printTask(env, answer, lines)
		}
		if ctx.Err() != nil {
			return stopped(ctx, err)
		}
		if err != nil && len(c.IDs) > 1 {
			err = fmt.Errorf("%s: %w", id, err)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// TasksShowCmd shows a task.
type TasksShowCmd struct {
	taskForm
	ID string `arg:"" help:"The task, such as t_…"`
}

// Run prints the task.
func (c *TasksShowCmd) Run(ctx context.Context, env *Env) error {
	return (&taskIDs{[]string{c.ID}}).each(ctx, env, "get", c.lines(env))
}

// TasksRetryCmd has tasks begin again.
type TasksRetryCmd struct {
	taskForm
	taskIDs
}

// Run prints the tasks as they are then.
func (c *TasksRetryCmd) Run(ctx context.Context, env *Env) error {
	return c.each(ctx, env, "retry", c.lines(env))
}

// TasksCancelCmd cancels tasks.
type TasksCancelCmd struct {
	taskForm
	taskIDs
}

// Run prints the tasks as they are then: one that runs does so until its worker
// ends it, or its time to do so is over.
func (c *TasksCancelCmd) Run(ctx context.Context, env *Env) error {
	return c.each(ctx, env, "cancel", c.lines(env))
}

// TasksTakeoverCmd gives attempts up.
type TasksTakeoverCmd struct {
	taskForm
	taskIDs
}

// Run prints the tasks as they are then.
func (c *TasksTakeoverCmd) Run(ctx context.Context, env *Env) error {
	return c.each(ctx, env, "takeover", c.lines(env))
}

// TasksCountsCmd counts tasks.
type TasksCountsCmd struct {
	taskForm
	Name string `arg:"" optional:"" help:"Only tasks of this name."`
}

// Run prints the counts.
func (c *TasksCountsCmd) Run(ctx context.Context, env *Env) error {
	if c.Name != "" {
		if err := wire.CheckTaskName("NAME", c.Name); err != nil {
			return usage(err)
		}
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	defer nc.Close()
	counts, err := askTasks[wire.TaskCounts](ctx, env, nc, "counts", wire.TaskName{Name: c.Name})
	if err != nil {
		return stopped(ctx, err)
	}
	if c.lines(env) {
		return printLine(env, counts)
	}
	_, err = env.Stdout.Write(countsTable(counts))
	return err
}

// askTasks asks an endpoint of the tasks service.
func askTasks[Rep, Req any](ctx context.Context, env *Env, nc *nats.Conn, endpoint string, req Req) (Rep, error) {
	return bus.Call[Req, Rep](ctx, nc, wire.Namespace(env.Namespace).Svc("tasks", endpoint), req)
}

// printTask prints a task: as it came, or for people.
func printTask(env *Env, answer json.RawMessage, lines bool) error {
	if lines {
		return printJSON(env)(answer)
	}
	var t wire.Task
	if err := json.Unmarshal(answer, &t); err != nil {
		return fmt.Errorf("read the task: %w", err)
	}
	_, err := env.Stdout.Write(taskPage(&t))
	return err
}

// printLine prints a value as one line of JSON.
func printLine(env *Env, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	_, err = env.Stdout.Write(append(line, '\n'))
	return err
}
