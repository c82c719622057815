package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// TasksEnqueueCmd asks for a task.
type TasksEnqueueCmd struct {
	taskForm
	Name  string `arg:"" help:"The task's name, such as resize."`
	Input string `arg:"" optional:"" help:"Its input, JSON; - reads standard input; nothing is null."`

	Text     bool          `help:"INPUT is any text: send it as a JSON string."`
	Key      string        `placeholder:"KEY" help:"Idempotency key: with the one of an earlier task it is that one."`
	Unique   string        `placeholder:"KEY" help:"Unique key: with that of a task that has not ended it is that one."`
	Delay    time.Duration `placeholder:"TIME" help:"Not before so long from now."`
	At       string        `placeholder:"TIME" help:"Not before this time, such as 2030-01-31T08:00:00Z."`
	Priority int           `placeholder:"N" help:"From -100 to 100: of the tasks of a name, greater ones first."`
	Timeout  time.Duration `placeholder:"TIME" help:"How long one attempt may take."`
	Metadata string        `placeholder:"JSON" help:"An object that the worker gets beside the input."`
	Watch    bool          `help:"Follow it to its end, as fairlead tasks watch does."`
}

// Run prints the id, and with --watch what becomes of the task.
func (c *TasksEnqueueCmd) Run(ctx context.Context, env *Env) error {
	req, err := c.request(env)
	if err != nil {
		return err
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	defer nc.Close()
	done, err := askTasks[wire.TaskEnqueued](ctx, env, nc, "enqueue", req)
	if err != nil {
		return stopped(ctx, err)
	}
	if err := c.print(env, done); err != nil || !c.Watch {
		return err
	}
	id, err := wire.ParseTaskID("id", done.ID)
	if err != nil {
		return fmt.Errorf("read the answer: %v", err) //nolint:errorlint // not the caller's mistake
	}
	return watchTask(ctx, env, nc, id, c.lines(env))
}

func (c *TasksEnqueueCmd) print(env *Env, done wire.TaskEnqueued) error {
	if c.lines(env) {
		return printLine(env, done)
	}
	if done.Existing {
		fmt.Fprintln(env.Stderr, "it was there already")
	}
	_, err := fmt.Fprintln(env.Stdout, done.ID)
	return err
}

// request is what is asked for.
func (c *TasksEnqueueCmd) request(env *Env) (req wire.TaskEnqueue, err error) {
	req = wire.TaskEnqueue{Name: c.Name, IdempotencyKey: c.Key, UniqueKey: c.Unique, RunAt: c.At, Priority: c.Priority}
	if err := wire.CheckTaskName("NAME", c.Name); err != nil {
		return req, usage(err)
	}
	switch {
	case c.Delay < 0:
		return req, usage(errors.New("--delay: not negative"))
	case c.Timeout < 0:
		return req, usage(errors.New("--timeout: more than 0"))
	case c.Delay > 0 && c.At != "":
		return req, usage(errors.New("--delay and --at: one of them"))
	case c.Priority < -100 || c.Priority > 100:
		return req, usage(errors.New("--priority: from -100 to 100"))
	case len(c.Key) > wire.MaxTaskKey || len(c.Unique) > wire.MaxTaskKey:
		return req, usage(fmt.Errorf("--key and --unique: at most %d bytes", wire.MaxTaskKey))
	}
	if c.At != "" {
		if _, err := time.Parse(time.RFC3339Nano, c.At); err != nil {
			return req, usage(errors.New("--at: a time as in RFC 3339, such as 2030-01-31T08:00:00Z"))
		}
	}
	if c.Metadata != "" {
		if c.Metadata[0] != '{' || !wire.ValidJSON([]byte(c.Metadata)) {
			return req, usage(errors.New("--metadata: a JSON object"))
		}
		req.Metadata = []byte(c.Metadata)
	}
	if c.Delay > 0 {
		req.Delay = c.Delay.String()
	}
	if c.Timeout > 0 {
		req.Timeout = c.Timeout.String()
	}
	if req.Input, err = payload(env, c.Input, c.Text); err != nil {
		return req, err
	}
	if len(req.Input) > wire.MaxTaskInput {
		return req, usage(fmt.Errorf("INPUT: at most %d bytes of JSON", wire.MaxTaskInput))
	}
	return req, nil
}
