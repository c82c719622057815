package runner

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// readEvery is how often the tasks that somebody waits for are read, whatever was
// heard of them.
const readEvery = 5 * time.Second

// waiters are those who wait for the end of a task.
type waiters struct {
	mu   sync.Mutex // guards byID
	byID map[wire.TaskID][]chan *wire.Task
}

func newWaiters() *waiters { return &waiters{byID: map[wire.TaskID][]chan *wire.Task{}} }

// add returns where the task comes when it has ended, and what ends the waiting.
func (w *waiters) add(id wire.TaskID) (<-chan *wire.Task, func()) {
	ch := make(chan *wire.Task, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byID[id] = append(w.byID[id], ch)
	return ch, func() { w.remove(id, ch) }
}

func (w *waiters) remove(id wire.TaskID, ch chan *wire.Task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.byID[id]
	for i, other := range all {
		if other == ch {
			all[i] = all[len(all)-1]
			all[len(all)-1] = nil
			all = all[:len(all)-1]
			break
		}
	}
	if len(all) == 0 {
		delete(w.byID, id)
	} else {
		w.byID[id] = all
	}
}

func (w *waiters) has(id wire.TaskID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.byID[id]) > 0
}

// deliver tells who waits for a task that it has ended.
func (w *waiters) deliver(id wire.TaskID, task *wire.Task) {
	if task != nil && task.State.Ended() {
		w.deliverBy(id, func() *wire.Task { return task })
	}
}

// deliverBy is deliver for a task that is only made if somebody waits.
func (w *waiters) deliverBy(id wire.TaskID, task func() *wire.Task) {
	w.mu.Lock()
	all := w.byID[id]
	delete(w.byID, id)
	w.mu.Unlock()
	if len(all) == 0 {
		return
	}
	ended := task()
	for _, ch := range all {
		ch <- ended // of capacity 1, and taken out above
	}
}

func (w *waiters) ids() []wire.TaskID {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := make([]wire.TaskID, 0, len(w.byID))
	for id := range w.byID {
		ids = append(ids, id)
	}
	return ids
}

func (w *waiters) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.byID)
}

// reading is a task that somebody wants to read, or to have read for who waits.
type reading struct {
	id    wire.TaskID
	whole bool      // with its input
	done  chan read // of capacity 1; nil: for who waits
}

type read struct {
	task *wire.Task
	err  error
}

// readAll reads what several ask for at once.
func (r *Runner) readAll(ctx context.Context, items []*reading) ([]*reading, error) {
	whole := slices.DeleteFunc(slices.Clone(items), func(x *reading) bool { return !x.whole })
	others := slices.DeleteFunc(slices.Clone(items), func(x *reading) bool { return x.whole })
	return nil, errors.Join(r.readSome(ctx, whole, r.store.Get), r.readSome(ctx, others, r.store.Peek)) // who asked asks again
}

// readSome reads tasks one way, and tells who asked.
func (r *Runner) readSome(ctx context.Context, items []*reading, get func(context.Context, []wire.TaskID) ([]*wire.Task, error)) error {
	if len(items) == 0 {
		return nil
	}
	ids := make([]wire.TaskID, len(items))
	for i, x := range items {
		ids[i] = x.id
	}
	tasks, err := get(ctx, ids)
	for i, x := range items {
		var out read
		switch {
		case err != nil:
			out.err = away(err)
		case tasks[i] == nil:
			out.err = wire.Errorf(wire.NotFound, "no such task")
		default:
			out.task = tasks[i]
		}
		if x.done != nil {
			x.done <- out
		} else {
			r.waiters.deliver(x.id, out.task)
		}
	}
	return err
}

// read reads one task, together with what others read: without its input, unless it
// is to be whole.
func (r *Runner) read(ctx context.Context, id wire.TaskID, whole bool) (*wire.Task, error) {
	x := &reading{id: id, whole: whole, done: make(chan read, 1)}
	switch {
	case r.reads.add(x):
	case r.stopped.Load():
		_, _ = r.readAll(ctx, []*reading{x}) // x is told
	default:
		r.metrics.exhausted.Add(1)
		return nil, &wire.Error{Code: wire.ResourceExhausted, Message: "too many tasks are being read", RetryAfter: 250 * time.Millisecond}
	}
	select {
	case out := <-x.done:
		return out.task, out.err
	case <-ctx.Done():
		return nil, wire.AsError(ctx.Err())
	}
}

// Get returns a task as it is, with the progress that was heard last; NOT_FOUND
// where there is none, UNAVAILABLE while the store is away.
func (r *Runner) Get(ctx context.Context, id wire.TaskID) (*wire.Task, error) {
	task, err := r.read(ctx, id, true)
	if err != nil {
		return nil, err
	}
	return r.withProgress(id, task), nil
}

func (r *Runner) withProgress(id wire.TaskID, task *wire.Task) *wire.Task {
	if a := r.table.get(id); a != nil && a.Fence == task.Fence && task.State == wire.TaskRunning {
		if progress := r.board.latest(a); progress != nil {
			task.Progress = progress
		}
	}
	return task
}

// lastWait bounds the read of a task when its waiting is over.
const lastWait = time.Second

// Await returns a task when it has ended, or as it is when ctx does. Errors are
// those of [Runner.Get]; the task comes without its input. A task that it returns is also another's: it is not to
// be changed.
func (r *Runner) Await(ctx context.Context, id wire.TaskID) (*wire.Task, error) {
	ended, forget := r.waiters.add(id)
	defer forget()
	var last *wire.Task
	// What this replica runs was there a moment ago, and its end is told here.
	if r.table.get(id) == nil {
		task, err := r.read(ctx, id, false)
		switch {
		case err == nil && task.State.Ended():
			return task, nil
		case err != nil && ctx.Err() == nil:
			return nil, err
		}
		last = task
	}
	select {
	case task := <-ended:
		return task, nil
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWait)
	defer cancel()
	task, err := r.read(bounded, id, false)
	switch {
	case err == nil:
		return r.withProgress(id, task), nil
	case last != nil && !errors.Is(err, wire.ErrNotFound):
		return last, nil
	}
	return nil, err
}

// rereads reads what somebody waits for, whatever was heard of it.
func (r *Runner) rereads(ctx context.Context) {
	for ids := r.waiters.ids(); len(ids) > 0 && ctx.Err() == nil; ids = ids[min(len(ids), mostRows):] {
		some := ids[:min(len(ids), mostRows)]
		tasks, err := r.store.Peek(ctx, some)
		if err != nil {
			return
		}
		for i, task := range tasks {
			r.waiters.deliver(some[i], task)
		}
	}
}

// every calls fn again and again until ctx ends, a pause apart.
func every(ctx context.Context, pause time.Duration, fn func(context.Context)) {
	for clock.Sleep(ctx, pause) == nil {
		fn(ctx)
	}
}
