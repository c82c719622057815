package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// TasksLsCmd lists tasks.
type TasksLsCmd struct {
	taskForm
	Name   string `arg:"" optional:"" help:"Only tasks of this name."`
	State  string `enum:",pending,running,committed,failed,cancelled,dead" default:"" placeholder:"STATE" help:"Only those that are pending, running, committed, failed, cancelled or dead."`
	Limit  int    `default:"50" placeholder:"N" help:"How many (default ${default})."`
	Before string `placeholder:"ID" help:"Only tasks older than this one."`
}

const (
	// listPage is how many tasks are asked for at a time.
	listPage = 200
	// taskTime is how a time is shown.
	taskTime = "2006-01-02 15:04:05"
)

// Run prints the tasks, page by page.
func (c *TasksLsCmd) Run(ctx context.Context, env *Env) error {
	if c.Limit < 1 {
		return usage(errors.New("--limit: at least 1"))
	}
	if c.Name != "" {
		if err := wire.CheckTaskName("NAME", c.Name); err != nil {
			return usage(err)
		}
	}
	if c.Before != "" {
		if _, err := wire.ParseTaskID("--before", c.Before); err != nil {
			return usage(err)
		}
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	defer nc.Close()
	var tasks []wire.Task // that wait for the table, whose columns are as wide as all of them need
	req := wire.TaskList{Name: c.Name, State: wire.TaskState(c.State), Cursor: c.Before}
	for left := c.Limit; left > 0; {
		req.Limit = min(left, listPage)
		page, err := askTasks[wire.TaskPage](ctx, env, nc, "list", req)
		if err != nil {
			return stopped(ctx, err)
		}
		if c.lines(env) {
			for i := range page.Tasks {
				if err := printLine(env, page.Tasks[i]); err != nil {
					return err
				}
			}
		} else {
			tasks = append(tasks, page.Tasks...)
		}
		left -= len(page.Tasks)
		if req.Cursor = page.Cursor; req.Cursor == "" {
			break
		}
	}
	if c.lines(env) {
		return nil
	}
	table, err := tasksTable(tasks)
	if err != nil {
		return err
	}
	if _, err := env.Stdout.Write(table); err != nil {
		return err
	}
	if req.Cursor != "" {
		fmt.Fprintf(env.Stderr, "there may be more: --before %s\n", req.Cursor)
	}
	return nil
}

// tasksTable is a list for people.
func tasksTable(tasks []wire.Task) ([]byte, error) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "id\tname\tstate\tattempt\tcreated\t\n")
	for i := range tasks {
		t := &tasks[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", t.ID, t.Name, t.State, t.Attempt, t.CreatedAt.Local().Format(taskTime), clipped(remark(t), 80))
	}
	if err := w.Flush(); err != nil {
		return nil, fmt.Errorf("print: %w", err)
	}
	return b.Bytes(), nil
}

// remark is what is worth saying of a task in its state.
func remark(t *wire.Task) string {
	switch {
	case t.State == wire.TaskRunning && t.CancelAsked:
		return "is to end"
	case t.State == wire.TaskRunning && t.Progress != nil:
		if share, label, ok := progressOf(t.Progress); ok {
			return strings.TrimRight(percent(share)+" "+label, " ")
		}
		return shownJSON(t.Progress)
	case t.State == wire.TaskCommitted:
		return shownJSON(t.Result)
	case t.Error != nil:
		return errorOf(t.Error)
	}
	return ""
}

// taskPage is a task for people.
func taskPage(t *wire.Task) []byte {
	var b bytes.Buffer
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-10s%s\n", name, value)
		}
	}
	at := func(name string, when time.Time) {
		if !when.IsZero() {
			field(name, when.Local().Format(taskTime))
		}
	}
	field("id", t.ID)
	field("name", t.Name)
	state := string(t.State) + ", attempt " + strconv.Itoa(t.Attempt)
	if t.CancelAsked {
		state += ", is to end"
	}
	field("state", state)
	if t.Failures+t.Crashes > 0 {
		field("so far", fmt.Sprintf("%d failed, %d lost with their worker", t.Failures, t.Crashes))
	}
	if share, label, ok := progressOf(t.Progress); ok {
		field("progress", strings.TrimRight(bar(share)+" "+percent(share)+" "+label, " "))
	} else {
		field("progress", shownJSON(t.Progress))
	}
	if t.Error != nil {
		field("error", errorOf(t.Error))
		field("details", shownJSON(t.Error.Details))
	}
	field("result", shownJSON(t.Result))
	field("input", shownJSON(t.Input))
	field("metadata", shownJSON(t.Metadata))
	field("key", shown(t.IdempotencyKey))
	field("unique", shown(t.UniqueKey))
	if t.Priority != 0 {
		field("priority", strconv.Itoa(t.Priority))
	}
	at("created", t.CreatedAt)
	if t.State == wire.TaskPending {
		at("due", t.RunAt)
	}
	at("started", t.StartedAt)
	at("finished", t.FinishedAt)
	return b.Bytes()
}

// countsTable is how many there are of each state.
func countsTable(c wire.TaskCounts) []byte {
	var b bytes.Buffer
	for _, s := range []struct {
		name string
		n    int64
	}{
		{"pending", c.Pending}, {"running", c.Running}, {"committed", c.Committed}, {"failed", c.Failed},
		{"cancelled", c.Cancelled}, {"dead", c.Dead}, {"total", c.Total},
	} {
		more := ""
		if s.n >= wire.TaskCountCap {
			more = " or more"
		}
		fmt.Fprintf(&b, "%-10s%8d%s\n", s.name, s.n, more)
	}
	return b.Bytes()
}

// errorOf is the error of a task on one line.
func errorOf(e *wire.TaskError) string {
	return shown((&wire.Error{Code: e.Code, Message: e.Message}).Error())
}

// shownJSON is JSON on one line, as a terminal may show it.
func shownJSON(data []byte) string { return shown(string(oneLine(data))) }

// clipped is a text of at most so many characters.
func clipped(s string, most int) string {
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	return string(runes[:most-1]) + "…"
}
