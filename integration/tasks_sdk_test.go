package integration

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// TestTasksInGo drives two replicas with pkg/fairlead, as workers and as callers.
func TestTasksInGo(t *testing.T) {
	t.Parallel()
	s := anyTasks(t, 2, "FAIRLEAD_TASKS_CANCEL_GRACE=5s")
	for name, test := range map[string]func(*testing.T, *taskStack, *fairlead.Fairlead){
		"run":                               sdkRun,
		"a slow attempt stays alive":        sdkSlow,
		"a step is done once":               sdkSteps,
		"progress is watched":               sdkWatch,
		"a takeover ends the context":       sdkTakeover,
		"a cancellation ends the context":   sdkCancel,
		"in a transaction":                  sdkTransaction,
		"in a transaction of database/sql":  sdkSQL,
		"a worker that stops":               sdkStops,
		"a result behind a lost connection": sdkReconnect,
		"jobs":                              sdkJobs,
		"once":                              sdkOnce,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := s.of(t)
			test(t, one, sdk(t, one.nc))
		})
	}
}

// sdk is the package over a connection, for one test.
func sdk(t *testing.T, nc *nats.Conn) *fairlead.Fairlead {
	f := fairlead.New(nc, fairlead.Options{Timeout: patience})
	t.Cleanup(f.Close)
	return f
}

// works begins a worker, or fails the test.
func works[In, Out any](t *testing.T, f *fairlead.Fairlead, name string, o fairlead.WorkOptions, fn func(context.Context, *fairlead.Attempt, In) (Out, error)) *fairlead.Worker {
	t.Helper()
	w, err := fairlead.Work(f, name, fn, o)
	must(t, err)
	return w
}

type sum struct{ A, B int }

func sdkRun(t *testing.T, _ *taskStack, f *fairlead.Fairlead) {
	name := taskName("add")
	works(t, f, name, fairlead.WorkOptions{}, func(_ context.Context, a *fairlead.Attempt, in sum) (int, error) {
		if in.A < 0 {
			return 0, wire.InvalidField("A", "from 0")
		}
		return in.A + in.B, nil
	})
	for i := range 20 {
		got, err := fairlead.Run[int](t.Context(), f, name, sum{i, 1}, fairlead.EnqueueOptions{})
		if err != nil || got != i+1 {
			t.Fatalf("%d + 1: got %d, %v", i, got, err)
		}
	}
	_, err := fairlead.Run[int](t.Context(), f, name, sum{A: -1}, fairlead.EnqueueOptions{})
	var failed *fairlead.TaskFailed
	if !errors.As(err, &failed) || !errors.Is(err, wire.ErrInvalidArgument) || failed.Task.State != wire.TaskFailed || failed.Task.Attempt != 1 {
		t.Errorf("got %v (%+v), want INVALID_ARGUMENT of a task that failed", err, failed)
	}
	first, err := f.Tasks().Enqueue(t.Context(), name, sum{1, 1}, fairlead.EnqueueOptions{IdempotencyKey: "k"})
	must(t, err)
	again, err := f.Tasks().Enqueue(t.Context(), name, sum{1, 1}, fairlead.EnqueueOptions{IdempotencyKey: "k"})
	must(t, err)
	if first.Existing || !again.Existing || first.ID != again.ID {
		t.Errorf("got %+v, then %+v, want the same task", first, again)
	}
	n := 0
	for task, err := range f.Tasks().List(t.Context(), name, wire.TaskCommitted) {
		must(t, err)
		if n++; task.Name != name {
			t.Errorf("listed a task of %s", task.Name)
		}
	}
	if n < 20 {
		t.Errorf("listed %d, want all that are committed", n)
	}
}

// Heartbeats keep an attempt that takes longer than the lease.
func sdkSlow(t *testing.T, _ *taskStack, f *fairlead.Fairlead) {
	name := taskName("slow")
	var ran atomic.Int32
	works(t, f, name, fairlead.WorkOptions{Lease: 2 * time.Second, Concurrency: 1}, func(ctx context.Context, a *fairlead.Attempt, _ any) (int, error) {
		ran.Add(1)
		select {
		case <-time.After(3 * time.Second):
			return a.Number(), nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	})
	var ids []string
	for range 2 { // the second waits in the worker meanwhile
		done, err := f.Tasks().Enqueue(t.Context(), name, nil, fairlead.EnqueueOptions{})
		must(t, err)
		ids = append(ids, done.ID)
	}
	for _, id := range ids {
		if number, err := fairlead.Await[int](t.Context(), f, id); err != nil || number != 1 {
			t.Errorf("attempt %d ended it, %v, want the first", number, err)
		}
	}
	if ran.Load() != 2 {
		t.Errorf("%d attempts ran, want 2", ran.Load())
	}
}

// The second attempt of a task goes on behind what the first has done.
func sdkSteps(t *testing.T, _ *taskStack, f *fairlead.Fairlead) {
	name := taskName("order")
	var charged atomic.Int32
	stored := make(chan bool, 10)
	works(t, f, name, fairlead.WorkOptions{}, func(ctx context.Context, a *fairlead.Attempt, _ any) (string, error) {
		paid, err := fairlead.Step(ctx, "charge", func(context.Context) (string, error) {
			return fmt.Sprint("charge ", charged.Add(1)), nil
		})
		if err != nil {
			return "", err
		}
		if a.Number() == 1 {
			stored <- true
			<-ctx.Done()
			_, err := fairlead.Step(context.WithoutCancel(ctx), "mail", func(context.Context) (string, error) { return "mailed", nil })
			if !errors.Is(err, fairlead.ErrFenceLost) {
				t.Errorf("a step of an attempt that was given up: %v", err)
			}
			return "", err
		}
		return fmt.Sprint(paid, ", attempt ", a.Number()), nil
	})
	done, err := f.Tasks().Enqueue(t.Context(), name, nil, fairlead.EnqueueOptions{})
	must(t, err)
	receive(t, stored)
	if _, err := f.Tasks().Takeover(t.Context(), done.ID); err != nil {
		t.Fatal(err)
	}
	got, err := fairlead.Await[string](t.Context(), f, done.ID)
	if want := "charge 1, attempt 2"; err != nil || got != want || charged.Load() != 1 {
		t.Errorf("got %q, %v, charged %d times, want %q and once", got, err, charged.Load(), want)
	}
}

func sdkWatch(t *testing.T, _ *taskStack, f *fairlead.Fairlead) {
	name := taskName("count")
	begin := make(chan bool)
	works(t, f, name, fairlead.WorkOptions{}, func(_ context.Context, a *fairlead.Attempt, _ any) (string, error) {
		<-begin
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := range 50 {
			if err := a.Progress(i); err != nil {
				return "", err
			}
			<-tick.C
		}
		return "done", nil
	})
	done, err := f.Tasks().Enqueue(t.Context(), name, nil, fairlead.EnqueueOptions{})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var states []wire.TaskState
	var progress []string
	var last wire.Task
	for task, err := range f.Tasks().Watch(ctx, done.ID) {
		must(t, err)
		if len(states) == 0 {
			close(begin)
		}
		states = append(states, task.State)
		if string(task.Progress) != "" && task.State == wire.TaskRunning {
			progress = append(progress, string(task.Progress))
		}
		last = task
	}
	if len(progress) < 3 || last.State != wire.TaskCommitted || string(last.Result) != `"done"` {
		t.Errorf("saw %v with the progress %v, last %+v", states, progress, last)
	}
}

// waitsFor works until the context ends, and passes on why.
func waitsFor(t *testing.T, f *fairlead.Fairlead, name string, o fairlead.WorkOptions) (began chan *fairlead.Attempt, why chan error) {
	began, why = make(chan *fairlead.Attempt, 10), make(chan error, 10)
	works(t, f, name, o, func(ctx context.Context, a *fairlead.Attempt, _ any) (any, error) {
		began <- a
		<-ctx.Done()
		why <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	return began, why
}

func sdkTakeover(t *testing.T, s *taskStack, f *fairlead.Fairlead) {
	name := taskName("taken")
	began, why := waitsFor(t, f, name, fairlead.WorkOptions{})
	done, err := f.Tasks().Enqueue(t.Context(), name, nil, fairlead.EnqueueOptions{})
	must(t, err)
	first := receive(t, began)
	if _, err := f.Tasks().Takeover(t.Context(), done.ID); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, why); !errors.Is(err, fairlead.ErrFenceLost) {
		t.Errorf("taken over: the context ended with %v", err)
	}
	if second := receive(t, began); second.Fence() <= first.Fence() {
		t.Errorf("the fence went from %d to %d", first.Fence(), second.Fence())
	}
	if task := s.task(done.ID); task.State != wire.TaskRunning {
		t.Errorf("the task is %s, want that nothing of the first attempt counts", task.State)
	}
}

func sdkCancel(t *testing.T, s *taskStack, f *fairlead.Fairlead) {
	name := taskName("cancelled")
	began, why := waitsFor(t, f, name, fairlead.WorkOptions{})
	done, err := f.Tasks().Enqueue(t.Context(), name, nil, fairlead.EnqueueOptions{})
	must(t, err)
	receive(t, began)
	if _, err := f.Tasks().Cancel(t.Context(), done.ID); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, why); !errors.Is(err, wire.ErrCancelled) {
		t.Errorf("cancelled: the context ended with %v", err)
	}
	_, err = fairlead.Await[any](t.Context(), f, done.ID)
	if !errors.Is(err, wire.ErrCancelled) {
		t.Errorf("awaited: %v", err)
	}
	s.wants(done.ID, wire.TaskCancelled)
}

// A worker that stops before it is done leaves its attempts to others at once.
func sdkStops(t *testing.T, s *taskStack, f *fairlead.Fairlead) {
	name := taskName("stopped")
	must(t, f.Tasks().Register(t.Context(), name, fairlead.TaskPolicy{Backoff: time.Millisecond}))
	leaving := sdk(t, s.worker())
	began, _ := waitsFor(t, leaving, name, fairlead.WorkOptions{Lease: time.Minute})
	done, err := f.Tasks().Enqueue(t.Context(), name, nil, fairlead.EnqueueOptions{})
	must(t, err)
	receive(t, began)
	works(t, f, name, fairlead.WorkOptions{}, func(_ context.Context, a *fairlead.Attempt, _ any) (int, error) { return a.Number(), nil })
	leaving.Close()
	if got, err := fairlead.Await[int](t.Context(), f, done.ID); err != nil || got != 2 {
		t.Errorf("attempt %d ended it, %v, want the second", got, err)
	}
}

// The connection breaks while the attempt runs, and comes back.
func sdkReconnect(t *testing.T, s *taskStack, f *fairlead.Fairlead) {
	name := taskName("cut")
	there, err := url.Parse(s.nats)
	must(t, err)
	l := startLink(t, to(there.Host), nil)
	over := *there
	over.Host = l.addr()
	nc := connect(t, over.String())
	worker := sdk(t, nc)
	began, finish := make(chan bool, 10), make(chan bool)
	works(t, worker, name, fairlead.WorkOptions{}, func(context.Context, *fairlead.Attempt, any) (string, error) {
		began <- true
		<-finish
		return "once", nil
	})
	done, err := f.Tasks().Enqueue(t.Context(), name, nil, fairlead.EnqueueOptions{})
	must(t, err)
	receive(t, began)
	l.cut()
	close(finish)
	eventually(t, "the worker's connection is lost", func() (any, bool) { return nc.Status(), !nc.IsConnected() })
	l.restore()
	if got, err := fairlead.Await[string](t.Context(), f, done.ID); err != nil || got != "once" {
		t.Errorf("got %q, %v", got, err)
	}
	if task := s.task(done.ID); task.Attempt != 1 || len(began) > 0 {
		t.Errorf("it took %d attempts, %d more began", task.Attempt, len(began))
	}
}

func sdkJobs(t *testing.T, _ *taskStack, f *fairlead.Fairlead) {
	j := f.Jobs(taskName("mails"))
	_, err := j.EnqueueAll(t.Context(), []any{1, 2, 3}, fairlead.JobOptions{})
	must(t, err)
	jobs, err := j.Claim(t.Context(), fairlead.ClaimOptions{Batch: 2, Wait: time.Second})
	must(t, err)
	if len(jobs) != 2 || string(jobs[0].Payload) != "1" {
		t.Fatalf("claimed %+v", jobs)
	}
	if lost, err := j.Complete(t.Context(), jobs...); err != nil || len(lost) > 0 {
		t.Errorf("completed: lost %v, %v", lost, err)
	}
	if lost, err := j.Complete(t.Context(), jobs[0]); err != nil || len(lost) != 1 {
		t.Errorf("completed again: lost %v, %v", lost, err)
	}
	if n, err := j.Pending(t.Context()); err != nil || n.Count != 1 {
		t.Errorf("%d are pending, %v", n.Count, err)
	}
	if n, err := j.Clear(t.Context()); err != nil || n.Count != 1 {
		t.Errorf("%d were cleared, %v", n.Count, err)
	}
}

func sdkOnce(t *testing.T, _ *taskStack, f *fairlead.Fairlead) {
	key := taskName("once")
	var did atomic.Int32
	results := make(chan string, 10)
	for range 5 {
		go func() {
			got, err := fairlead.Once(t.Context(), f, key, func(context.Context) (string, error) {
				return fmt.Sprint("did ", did.Add(1)), nil
			}, fairlead.OnceOptions{})
			results <- fmt.Sprint(got, " ", err)
		}()
	}
	for range 5 {
		if got := receive(t, results); got != "did 1 <nil>" {
			t.Errorf("got %s", got)
		}
	}
	if was, err := f.ForgetOnce(t.Context(), key); !was || err != nil {
		t.Errorf("forgot %v, %v", was, err)
	}
}
