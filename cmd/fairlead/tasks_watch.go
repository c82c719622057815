package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/term"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// TasksWatchCmd follows a task.
type TasksWatchCmd struct {
	taskForm
	ID string `arg:"" help:"The task, such as t_…"`
}

// Run prints what becomes of the task: a bar on a terminal, a line for each change
// elsewhere. It succeeds when the task does.
func (c *TasksWatchCmd) Run(ctx context.Context, env *Env) error {
	id, err := wire.ParseTaskID("ID", c.ID)
	if err != nil {
		return usage(err)
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	defer nc.Close()
	return watchTask(ctx, env, nc, id, c.lines(env))
}

const (
	// watchEvery is how often a task that is followed is read besides what its topic
	// says: messages of a topic may be lost.
	watchEvery = 5 * time.Second
	// watchSoon is when it is read again where the last try failed, or where its topic
	// says that it has ended.
	watchSoon = 500 * time.Millisecond
	// rewriteLine goes back to the beginning of a terminal's line, and clears it.
	rewriteLine = "\r\x1b[K"
)

// watchTask follows a task to its end and prints what becomes of it.
func watchTask(ctx context.Context, env *Env, nc *nats.Conn, id wire.TaskID, lines bool) error {
	out := &taskPrinter{env: env, lines: lines}
	task, err := followTask(ctx, env, nc, id, out)
	if err != nil {
		out.end()
		if ctx.Err() != nil {
			fmt.Fprintln(env.Stderr, "the task goes on")
			return &exitError{exitFailure, nil}
		}
		return err
	}
	return out.result(task)
}

// followTask tells out what becomes of a task until it has ended, and returns it
// then. It listens to the task's topic, and reads the task at the beginning, after
// each reconnect and now and then; what is read counts.
func followTask(ctx context.Context, env *Env, nc *nats.Conn, id wire.TaskID, out *taskPrinter) (*wire.Task, error) {
	subject, err := wire.Namespace(env.Namespace).Topic(wire.TaskTopic(id))
	if err != nil {
		return nil, err
	}
	told := make(chan *nats.Msg, 256)
	if _, err := nc.ChanSubscribe(subject, told); err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", subject, err)
	}
	if err := flush(ctx, nc); err != nil {
		return nil, err
	}
	connected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(connected)
	again := time.NewTimer(0)
	defer again.Stop()
	var seen taskSeen
	for first := true; ; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case m := <-told:
			var t wire.Task
			if json.Unmarshal(m.Data, &t) != nil || t.ID != id.String() {
				continue
			}
			if t.State.Ended() { // what is stored says how
				again.Reset(0)
			} else if seen.tell(&t) {
				out.change(&seen.task)
			}
		case <-connected:
			seen.missed = true
			again.Reset(0)
		case <-again.C:
			t, err := askTasks[wire.Task](ctx, env, nc, "get", wire.TaskRef{ID: id.String()})
			switch {
			case err != nil && (first || !passes(err)):
				return nil, err
			case err != nil:
				out.waits(err)
				again.Reset(watchSoon)
			case t.State.Ended():
				return &t, nil
			default:
				if first = false; seen.read(&t) {
					out.change(&seen.task)
				}
				again.Reset(watchEvery)
			}
		}
	}
}

// passes reports whether an error is one of those that end by themselves.
func passes(err error) bool {
	switch wire.CodeOf(err) {
	case wire.Unavailable, wire.DeadlineExceeded, wire.ResourceExhausted, wire.Aborted:
		return true
	}
	return false
}

// taskSeen is a task as far as it is known from its topic, and from reading it.
type taskSeen struct {
	task   wire.Task
	known  bool
	told   bool // the topic has told the progress of this attempt
	missed bool // messages of the topic may have been lost since
}

// tell takes what the topic says, and reports whether that is news. What an
// earlier attempt says comes too late.
func (s *taskSeen) tell(t *wire.Task) bool {
	if t.Attempt < s.task.Attempt {
		return false
	}
	next := s.task
	next.ID, next.Name, next.State, next.Attempt = t.ID, t.Name, t.State, t.Attempt
	if t.Progress != nil {
		next.Progress, s.told = t.Progress, true
	}
	return s.change(next)
}

// read takes what is stored, and reports whether that is news. A progress is
// stored now and then only: what the topic has told of the same attempt is newer.
func (s *taskSeen) read(t *wire.Task) bool {
	next := *t
	if t.Progress == nil || s.told && !s.missed && t.Attempt == s.task.Attempt {
		next.Progress = s.task.Progress
	}
	s.told = s.told && t.Attempt == s.task.Attempt
	s.missed = false
	return s.change(next)
}

func (s *taskSeen) change(next wire.Task) bool {
	news := !s.known || next.State != s.task.State || next.Attempt != s.task.Attempt || !bytes.Equal(next.Progress, s.task.Progress)
	s.task, s.known = next, true
	return news
}

// taskPrinter prints what becomes of a task.
type taskPrinter struct {
	env   *Env
	lines bool
	drawn bool // a line of the terminal is in use
	away  bool // it was said that the service does not answer
}

// taskLine is what is printed for programs.
type taskLine struct {
	ID       string          `json:"id"`
	Name     string          `json:"name"`
	State    wire.TaskState  `json:"state"`
	Attempt  int             `json:"attempt"`
	Progress json.RawMessage `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *wire.TaskError `json:"error,omitempty"`
}

// change prints a task that has not ended. Where that fails, so will the result.
func (p *taskPrinter) change(t *wire.Task) {
	p.away = false
	if p.lines {
		_ = printLine(p.env, taskLine{ID: t.ID, Name: t.Name, State: t.State, Attempt: t.Attempt, Progress: t.Progress, Error: t.Error})
		return
	}
	fmt.Fprint(p.env.Stdout, rewriteLine, statusLine(t, p.width()))
	p.drawn = true
}

// width is how much of a line may be used.
func (p *taskPrinter) width() int {
	if f, ok := p.env.Stdout.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			return w - 1
		}
	}
	return 79
}

// waits says that the task can't be read just now, once.
func (p *taskPrinter) waits(err error) {
	if !p.away {
		p.end()
		fmt.Fprintf(p.env.Stderr, "waiting: %v\n", err)
	}
	p.away = true
}

// end leaves the line of the terminal that is in use.
func (p *taskPrinter) end() {
	if p.drawn {
		fmt.Fprintln(p.env.Stdout)
	}
	p.drawn = false
}

// result prints a task that has ended; one that did not succeed is an error.
func (p *taskPrinter) result(t *wire.Task) error {
	if t.State == wire.TaskCommitted {
		t.Error = nil // of an earlier attempt
	}
	if p.lines {
		err := printLine(p.env, taskLine{ID: t.ID, Name: t.Name, State: t.State, Attempt: t.Attempt, Result: t.Result, Error: t.Error})
		if err != nil {
			return err
		}
	} else {
		if t.State == wire.TaskCommitted {
			t.Progress = []byte("1")
		}
		p.change(t)
		p.end()
		if len(t.Result) > 0 {
			if _, err := fmt.Fprintln(p.env.Stdout, shownJSON(t.Result)); err != nil {
				return err
			}
		}
	}
	if t.State == wire.TaskCommitted {
		return nil
	}
	why := fmt.Sprintf("the task %s, attempt %d", t.State, t.Attempt)
	if t.State == wire.TaskCancelled || t.State == wire.TaskDead {
		why = fmt.Sprintf("the task is %s, attempt %d", t.State, t.Attempt)
	}
	if t.Error != nil {
		why = errorOf(t.Error) + " (" + why + ")"
	}
	return &exitError{exitFailure, errors.New(why)}
}
