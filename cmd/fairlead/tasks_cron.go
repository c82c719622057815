package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// TasksCronCmd is about schedules.
type TasksCronCmd struct {
	Ls  CronLsCmd  `cmd:"" help:"List the schedules."`
	Set CronSetCmd `cmd:"" help:"Make a schedule, or change it."`
	Rm  CronRmCmd  `cmd:"" help:"Remove a schedule. What it has enqueued stays."`
}

// CronLsCmd lists schedules.
type CronLsCmd struct{ taskForm }

// Run prints all of them.
func (c *CronLsCmd) Run(ctx context.Context, env *Env) error {
	nc, err := env.Connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	defer nc.Close()
	var all []wire.TaskCronState
	for req := (wire.TaskCronList{}); ; {
		page, err := askTasks[wire.TaskCronPage](ctx, env, nc, "cron.list", req)
		if err != nil {
			return stopped(ctx, err)
		}
		all = append(all, page.Schedules...)
		if req.Cursor = page.Cursor; req.Cursor == "" {
			break
		}
	}
	if c.lines(env) {
		for i := range all {
			if err := printLine(env, all[i]); err != nil {
				return err
			}
		}
		return nil
	}
	table, err := cronTable(all)
	if err != nil {
		return err
	}
	_, err = env.Stdout.Write(table)
	return err
}

// cronTable is a list of schedules for people.
func cronTable(all []wire.TaskCronState) ([]byte, error) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "name\tspec\ttask\tnext\tlast\t\n")
	for _, s := range all {
		spec, next, last := s.Spec, s.NextAt.Local().Format(taskTime), "never"
		if s.TZ != "" {
			spec += " " + s.TZ
		}
		if s.Paused {
			next = "paused"
		}
		if !s.LastAt.IsZero() {
			last = s.LastAt.Local().Format(taskTime)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, shown(spec), s.Task, next, last, clipped(shownJSON(s.Input), 60))
	}
	if err := w.Flush(); err != nil {
		return nil, fmt.Errorf("print: %w", err)
	}
	return b.Bytes(), nil
}

// CronSetCmd makes a schedule.
type CronSetCmd struct {
	Name  string `arg:"" help:"The schedule's name."`
	Spec  string `arg:"" help:"When: five fields such as '30 4 * * 1', @daily, or an interval such as 90s."`
	Task  string `arg:"" help:"The name of the tasks that it enqueues."`
	Input string `arg:"" optional:"" help:"Their input, JSON; - reads standard input; nothing is null."`

	Text     bool          `help:"INPUT is any text: send it as a JSON string."`
	TZ       string        `name:"tz" placeholder:"ZONE" help:"The spec's time zone, such as Europe/Paris (default UTC)."`
	Missed   string        `enum:"skip,once,all" default:"skip" placeholder:"WHAT" help:"What becomes of ticks that were missed: skip, once or all (default ${default})."`
	Paused   bool          `help:"Keep it from firing."`
	Priority int           `placeholder:"N" help:"Of the tasks, from -100 to 100."`
	Timeout  time.Duration `placeholder:"TIME" help:"How long one attempt may take."`
}

// Run prints nothing.
func (c *CronSetCmd) Run(ctx context.Context, env *Env) error {
	if err := errors.Join(wire.CheckTaskName("NAME", c.Name), wire.CheckTaskName("TASK", c.Task)); err != nil {
		return usage(err)
	}
	switch {
	case c.Timeout < 0:
		return usage(errors.New("--timeout: more than 0"))
	case c.Priority < -100 || c.Priority > 100:
		return usage(errors.New("--priority: from -100 to 100"))
	}
	input, err := payload(env, c.Input, c.Text)
	if err != nil {
		return err
	}
	req := wire.TaskCron{
		Name: c.Name, Spec: c.Spec, TZ: c.TZ, Task: c.Task, Input: input, Missed: wire.CronMissed(c.Missed), Paused: c.Paused, Priority: c.Priority,
	}
	if c.Timeout > 0 {
		req.Timeout = c.Timeout.String()
	}
	return askCron[struct{}](ctx, env, "cron.set", req, nil)
}

// CronRmCmd removes a schedule.
type CronRmCmd struct {
	Name string `arg:"" help:"The schedule's name."`
}

// Run prints nothing. Where there is none it fails.
func (c *CronRmCmd) Run(ctx context.Context, env *Env) error {
	if err := wire.CheckTaskName("NAME", c.Name); err != nil {
		return usage(err)
	}
	return askCron(ctx, env, "cron.delete", wire.TaskCronName{Name: c.Name}, func(done wire.TaskCronDeleted) error {
		if !done.Deleted {
			return wire.Errorf(wire.NotFound, "no such schedule: %s", c.Name)
		}
		return nil
	})
}

func askCron[Rep, Req any](ctx context.Context, env *Env, endpoint string, req Req, then func(Rep) error) error {
	nc, err := env.Connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	defer nc.Close()
	rep, err := askTasks[Rep](ctx, env, nc, endpoint, req)
	if err != nil || then == nil {
		return stopped(ctx, err)
	}
	return then(rep)
}
