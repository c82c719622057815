package runner

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// insertion is a task that is to be stored, and who is told that it was.
type insertion struct {
	task     store.New
	reserved bool // a place of its lane is kept for it
	at       time.Time
	tell     func(store.Inserted, error)
}

// Enqueue stores a task, and begins it at once where there is a place for it. It
// returns when that is committed. Errors are *wire.Error: INVALID_ARGUMENT,
// RESOURCE_EXHAUSTED when too many wait, UNAVAILABLE when the store does not
// answer: whether the task was stored is not known then, unless `details.outcome`
// is "none".
func (r *Runner) Enqueue(ctx context.Context, task store.New) (store.Inserted, error) {
	type inserted struct {
		store.Inserted
		err error
	}
	done := make(chan inserted, 1)
	r.EnqueueThen(task, func(in store.Inserted, err error) { done <- inserted{in, err} })
	select {
	case out := <-done:
		return out.Inserted, out.err
	case <-ctx.Done():
		return store.Inserted{}, wire.AsError(ctx.Err())
	}
}

// EnqueueThen is [Runner.Enqueue] without waiting: tell is called once, when the
// task is committed or an error is known. It must not block.
func (r *Runner) EnqueueThen(task store.New, tell func(store.Inserted, error)) {
	if err := check(&task); err != nil {
		tell(store.Inserted{}, err)
		return
	}
	in := &insertion{task: task, at: time.Now(), tell: tell}
	in.reserved = r.claimsAtOnce(&task)
	switch {
	case r.inserts.add(in):
	case r.stopped.Load():
		_, _ = r.insert(context.Background(), []*insertion{in}) // the store bounds it; who waits is told
	default:
		r.giveUpPlace(in)
		r.metrics.exhausted.Add(1)
		tell(store.Inserted{}, &wire.Error{Code: wire.ResourceExhausted, Message: "too many tasks wait to be stored", RetryAfter: 250 * time.Millisecond})
	}
}

// check refuses what would keep others from being stored with it, or can't be told
// a worker.
func check(task *store.New) error {
	if err := wire.CheckTaskName("name", task.Name); err != nil {
		return err
	}
	if task.ID == (wire.TaskID{}) {
		task.ID = wire.NewTaskID(time.Now())
	}
	if len(task.Input) == 0 {
		task.Input = []byte("null")
	}
	if len(task.Input) > wire.MaxTaskInput || !wire.ValidJSON(task.Input) {
		return wire.InvalidField("input", "JSON of at most 524288 bytes")
	}
	if !wire.ValidHeaderValue(task.IdempotencyKey) || !utf8.ValidString(task.IdempotencyKey) {
		return wire.InvalidField("idempotencyKey", "UTF-8 without control characters, and no space at either end")
	}
	if !utf8.ValidString(task.UniqueKey) || strings.IndexByte(task.UniqueKey, 0) >= 0 {
		return wire.InvalidField("uniqueKey", "UTF-8 without control characters")
	}
	return nil
}

// claimsAtOnce keeps a place for a task that may begin as a running one.
func (r *Runner) claimsAtOnce(task *store.New) bool {
	now := time.Now()
	if task.Delay > 0 || !task.RunAt.IsZero() {
		return false
	}
	if _, ok := r.owner.held(now); !ok || r.stopping.Load() || !r.informed() {
		return false
	}
	return r.policies.of(task.Name).Concurrency == 0 && r.lanes.reserve(task.Name, now)
}

func (r *Runner) giveUpPlace(in *insertion) {
	if in.reserved {
		in.reserved = false
		r.released(in.task.Name)
	}
}

// insert stores tasks, begins those that were claimed, and answers who waits.
// It never wants to be called again with the same: who waits decides that.
func (r *Runner) insert(ctx context.Context, items []*insertion) ([]*insertion, error) {
	for len(items) > 0 {
		err := r.insertAll(ctx, items)
		var busy *store.BusyError
		if !errors.As(err, &busy) || len(busy.Tasks) == 0 {
			return nil, err
		}
		rest := r.refuseBusy(items, busy)
		if len(rest) == len(items) { // it names none of them
			r.notInserted(0, items, false, away(err))
			return nil, err
		}
		items = rest
	}
	return nil, nil
}

// refuseBusy answers those whose keys somebody wants in a transaction, and returns
// the others: they are not to wait for that.
func (r *Runner) refuseBusy(items []*insertion, busy *store.BusyError) (rest []*insertion) {
	refused := make(map[int]bool, len(busy.Tasks))
	for _, i := range busy.Tasks {
		refused[i] = true
	}
	for i, in := range items {
		if !refused[i] {
			rest = append(rest, in)
			continue
		}
		r.giveUpPlace(in)
		in.tell(store.Inserted{}, away(busy))
	}
	return rest
}

// insertAll is insert in one write. Nobody is answered where it returns a
// [store.BusyError].
func (r *Runner) insertAll(ctx context.Context, items []*insertion) error {
	owner, able := r.able()
	tasks := make([]store.New, len(items))
	claims := false
	for i, in := range items {
		if !able {
			r.giveUpPlace(in)
		}
		tasks[i] = in.task
		tasks[i].Claim = in.reserved
		if in.reserved {
			claims = true
			tasks[i].Deadline = r.timeout(in.task.Name, in.task.Timeout)
		}
	}
	got, err := r.store.Insert(ctx, owner, tasks)
	if busy := (*store.BusyError)(nil); errors.As(err, &busy) && len(busy.Tasks) > 0 {
		return err
	}
	if err != nil {
		r.notInserted(owner, items, claims && !unsent(err), away(err))
		return err
	}
	attempts := make([]*attempt, 0, len(items))
	for i, in := range items {
		if got[i].Running && in.reserved {
			a := r.inserted(owner, &in.task)
			a.asked = in.at
			attempts = append(attempts, a)
			continue
		}
		r.giveUpPlace(in)
		switch {
		case got[i].Existing || !in.task.RunAt.IsZero():
		case in.task.Delay > 0:
			r.alarm.set(in.task.Delay)
		default:
			r.demand(in.task.Name)
			r.wakes.add(in.task.Name)
		}
	}
	r.start(attempts, owner)
	for i, in := range items {
		in.tell(got[i], nil)
	}
	return nil
}

// notInserted answers who waited for a write that failed. What it may have begun
// in spite of that was given to nobody: it goes back.
func (r *Runner) notInserted(owner store.Owner, items []*insertion, doubtful bool, err error) {
	if doubtful {
		r.owner.doubt(owner)
	}
	for _, in := range items {
		if in.reserved && doubtful {
			a := r.inserted(owner, &in.task)
			a.ending, a.Input = true, nil
			r.queueBack(&ending{a: a, back: store.Back{Ref: store.Ref{ID: a.ID, Fence: a.Fence}, Unstarted: true}})
		}
		r.giveUpPlace(in)
		in.tell(store.Inserted{}, err)
	}
}

// inserted is the attempt that a task begins with.
func (r *Runner) inserted(owner store.Owner, task *store.New) *attempt {
	return r.newAttempt(store.Attempt{
		ID: task.ID, Name: task.Name, Fence: 1, Number: 1, Priority: task.Priority, Input: task.Input,
		IdempotencyKey: task.IdempotencyKey, Metadata: task.Metadata, Trace: task.Trace, Timeout: task.Timeout,
	}, owner)
}

// newAttempt returns an attempt that begins now.
func (r *Runner) newAttempt(a store.Attempt, owner store.Owner) *attempt {
	now := time.Now()
	timeout, text := r.timeout(a.Name, a.Timeout), a.ID.String()
	return &attempt{
		Attempt: a, text: text, topic: r.subjects.topic + text, token: r.tokens.Load().of(a.ID, a.Fence), timeout: timeout,
		owner: owner, began: now, deadline: now.Add(timeout), cancel: a.CancelAsked, at: -1,
	}
}

// timeout is that of an attempt: the task's, or that of its name.
func (r *Runner) timeout(name string, own time.Duration) time.Duration {
	return cmp.Or(own, r.policies.of(name).Timeout)
}
