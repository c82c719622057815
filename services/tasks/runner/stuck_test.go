package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// goesOn waits until an attempt that nobody works on any more is given up or ended.
func (r *rig) goesOn(id wire.TaskID, fence int64) *wire.Task {
	r.Helper()
	var task *wire.Task
	eventually(r, "the task to go on", func() bool {
		task = r.task(id)
		return task.State != wire.TaskRunning || task.Fence != fence
	})
	return task
}

// orphan is an attempt whose owner has no lease any more.
func (r *rig) orphan(timeout time.Duration) wire.TaskID {
	r.Helper()
	gone, err := r.memory.Join(r.Context(), "gone", time.Nanosecond)
	if err != nil {
		r.Fatal(err)
	}
	task := store.New{ID: wire.NewTaskID(time.Now()), Name: "late", Input: []byte("1"), Claim: true, Deadline: timeout}
	if _, err := r.memory.Insert(r.Context(), gone, []store.New{task}); err != nil {
		r.Fatal(err)
	}
	return task.ID
}

// once loses one answer of a call, after it was made.
func (t *tap) loseOne(call string) (lost *atomic.Bool) {
	lost = new(atomic.Bool)
	t.onAnswer(func(c string) error {
		if c == call && lost.CompareAndSwap(false, true) {
			return errAway
		}
		return nil
	})
	return lost
}

// A replica that took attempts over and was not told so supervises them all the same.
func TestTheAnswerOfOrphansIsLost(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	lost := p.tap.loseOne("Orphans")
	id := r.orphan(100 * time.Millisecond)
	eventually(t, "the answer to be lost", lost.Load)
	r.goesOn(id, 1)
}

func TestTheAnswerOfAdoptIsLost(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	var lost *atomic.Bool
	p.tap.on(func(call string) error { // the sweep comes later
		if call == "Orphans" && !lost.Load() {
			return errors.Join(errAway, wire.Errorf(wire.Unavailable, "away").With("outcome", "none"))
		}
		return nil
	})
	lost = p.tap.loseOne("Adopt")
	id := r.orphan(500 * time.Millisecond)
	// The worker is heard once and dies then.
	err := p.Heartbeat(t.Context(), wire.TaskHeartbeat{TaskAttempt: wire.TaskAttempt{ID: id.String(), Fence: 1, Token: p.tokens.Load().of(id, 1)}})
	if err == nil || !lost.Load() {
		t.Fatalf("Heartbeat: %v, and the answer was lost: %v", err, lost.Load())
	}
	r.goesOn(id, 1)
}

// The time of an attempt is over while the store is away, and the replica has
// another number when it is back.
func TestAnOutcomeOfAFormerNumber(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("work")
	id := r.enqueue(p, "work", func(n *store.New) { n.Timeout = 300 * time.Millisecond })
	await(t, "the attempt", attempts)
	old := p.owner.current()
	p.tap.on(func(call string) error {
		if call == "Back" && p.owner.current() == old {
			return errAway
		}
		return nil
	})
	eventually(t, "it to be given up in memory", func() bool { return p.backs.depth() == 1 })
	p.owner.doubt(old)
	if task := r.goesOn(id, 1); task.Crashes != 1 {
		t.Errorf("%d crashes, want 1", task.Crashes)
	}
}

// An attempt that is the replica's, and of which it knows nothing, is taken up.
func TestAStrayIsTakenUp(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	task := store.New{ID: wire.NewTaskID(time.Now()), Name: "work", Input: []byte("1"), Claim: true, Deadline: 100 * time.Millisecond}
	if _, err := r.memory.Insert(t.Context(), p.owner.current(), []store.New{task}); err != nil {
		t.Fatal(err)
	}
	r.goesOn(task.ID, 1)

	var s strays
	a, b := store.Ref{ID: task.ID, Fence: 1, Owner: 1}, store.Ref{ID: task.ID, Fence: 2, Owner: 1}
	for i, step := range []struct {
		owner   store.Owner
		missing []store.Ref
		want    int
	}{
		{1, []store.Ref{a}, 0}, {1, []store.Ref{a, b}, 1}, {1, nil, 0}, {1, []store.Ref{b}, 0}, {2, []store.Ref{b}, 0}, {2, []store.Ref{b}, 1},
	} {
		if got := s.next(step.owner, step.missing); len(got) != step.want {
			t.Errorf("step %d: %d strays, want %d", i+1, len(got), step.want)
		}
	}
}

// Who asks the replica that ended a task is told what every other one says.
func TestOneTruthOfWhatEnded(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("work")
	for what, end := range map[string]func(*nats.Msg){
		"committed": func(msg *nats.Msg) { r.reply(msg, `"done"`) },
		"failed":    func(msg *nats.Msg) { r.fail(msg, wire.Errorf(wire.InvalidArgument, "no")) },
		"cancelled": func(msg *nats.Msg) {
			if _, err := p.Cancel(t.Context(), taskOf(t, msg)); err != nil {
				t.Error(err)
			}
			r.fail(msg, wire.Errorf(wire.Unavailable, "cancelled"))
		},
	} {
		id := r.enqueue(p, "work", func(n *store.New) { n.UniqueKey, n.Metadata = what, []byte(`{"a":1}`) })
		awaited := make(chan *wire.Task, 1)
		go func() {
			task, err := p.Await(t.Context(), id)
			if err != nil {
				t.Error(err)
			}
			awaited <- task
		}()
		msg := await(t, "the attempt", attempts)
		eventually(t, "it to be waited for", func() bool { return p.waiters.has(id) })
		end(msg)
		got, want := await(t, "the end", awaited), r.task(id)
		want.Input = nil // who waits for the end knows it
		if got.FinishedAt.IsZero() || got.StartedAt.IsZero() {
			t.Errorf("%s: started %s, finished %s", what, got.StartedAt, got.FinishedAt)
		}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if string(a) != string(b) || string(want.State) != what {
			t.Errorf("%s is told as\n%s, and read as\n%s", what, a, b)
		}
	}
}

func taskOf(t *testing.T, msg *nats.Msg) wire.TaskID {
	t.Helper()
	id, err := wire.ParseTaskID("id", msg.Header.Get(wire.HeaderTaskID))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// busy is a store in which somebody writes to every task in a transaction, for a
// while.
type busy struct {
	store.Store
	left atomic.Int32 // writes that find it so
}

func (b *busy) outcomes(n int) []store.Outcome {
	if b.left.Add(-1) < 0 {
		return nil
	}
	out := make([]store.Outcome, n)
	for i := range out {
		out[i].Busy = true
	}
	return out
}

func (b *busy) End(ctx context.Context, ends []store.End) ([]store.Outcome, error) {
	if out := b.outcomes(len(ends)); out != nil {
		return out, nil
	}
	return b.Store.End(ctx, ends)
}

func (b *busy) Back(ctx context.Context, backs []store.Back) ([]store.Outcome, error) {
	if out := b.outcomes(len(backs)); out != nil {
		return out, nil
	}
	return b.Store.Back(ctx, backs)
}

// What somebody writes to in a transaction is written when that is over, though it
// takes longer than anything is tried otherwise.
func TestABusyTask(t *testing.T) {
	t.Run("its time is over", func(t *testing.T) {
		r := newRig(t)
		b := &busy{Store: r.memory}
		b.left.Store(2)
		p := r.replica(func(c *Config) { c.Store.(*tap).Store = b })
		attempts := r.attempts("work")
		id := r.enqueue(p, "work", func(n *store.New) { n.Timeout = 200 * time.Millisecond })
		await(t, "the attempt", attempts)
		if task := r.goesOn(id, 1); task.Crashes != 1 || b.left.Load() >= 0 {
			t.Errorf("%d crashes, %d writes left, want 1 and none", task.Crashes, b.left.Load())
		}
	})
	t.Run("its worker replies", func(t *testing.T) {
		r := newRig(t)
		b := &busy{Store: r.memory}
		b.left.Store(mostTries + 1)
		p := r.replica(func(c *Config) { c.Store.(*tap).Store = b })
		attempts := r.attempts("work")
		id := r.enqueue(p, "work")
		r.reply(await(t, "the attempt", attempts), `"done"`)
		if task := r.until(id, wire.TaskCommitted); string(task.Result) != `"done"` || b.left.Load() >= 0 {
			t.Errorf("result %s, writes left %d", task.Result, b.left.Load())
		}
	})
}

// busyKeys is a store in which somebody wants a key in a transaction.
type busyKeys struct {
	store.Store
	key  string
	gate chan struct{} // inserts begin when it is closed
}

func (b *busyKeys) Insert(ctx context.Context, o store.Owner, tasks []store.New) ([]store.Inserted, error) {
	<-b.gate
	busy := &store.BusyError{}
	for i := range tasks {
		if tasks[i].IdempotencyKey == b.key {
			busy.Tasks = append(busy.Tasks, i)
		}
	}
	if len(busy.Tasks) > 0 {
		return nil, busy
	}
	return b.Store.Insert(ctx, o, tasks)
}

// Who wants a key that somebody wants in a transaction is told so; the others are
// stored, and the replica knows what it has.
func TestABusyKey(t *testing.T) {
	r := newRig(t)
	b := &busyKeys{Store: r.memory, key: "busy", gate: make(chan struct{})}
	p := r.replica(func(c *Config) { c.Store.(*tap).Store = b })
	before := p.owner.losses()
	bounded, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	errs := make(chan error, 20)
	var group sync.WaitGroup
	for i := range cap(errs) {
		group.Go(func() {
			task := store.New{Name: "work", Input: []byte("1")}
			if i%2 == 1 {
				task.IdempotencyKey = "busy"
			}
			_, err := p.Enqueue(bounded, task)
			if refused := wire.AsError(err); i%2 == 1 && err != nil && refused.Code == wire.Aborted && refused.RetryAfter == time.Second {
				err = nil
			} else if i%2 == 1 {
				err = errors.Join(errors.New("a busy key was not refused"), err)
			}
			errs <- err
		})
	}
	eventually(t, "all to wait", func() bool { return p.inserts.depth() == cap(errs) })
	close(b.gate)
	group.Wait()
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	counts, err := r.memory.Counts(t.Context(), "work")
	if err != nil || counts.Total != int64(cap(errs)/2) {
		t.Errorf("%d tasks, %v, want %d", counts.Total, err, cap(errs)/2)
	}
	if got := p.owner.losses(); got != before {
		t.Errorf("the number was given up %d times for a write that stored nothing", got-before)
	}
}

// What is postponed comes after its time, whatever is written meanwhile, and is
// counted all the while.
func TestABatchPostpones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *batch[int]
		var mu sync.Mutex
		at := map[int]time.Duration{}
		began := time.Now()
		b = newBatch(quiet, "test", 10, func(_ context.Context, items []int) ([]int, error) {
			mu.Lock()
			defer mu.Unlock()
			for _, i := range items {
				if _, again := at[i]; i == 7 && !again {
					at[i] = 0
					b.postpone(i)
					continue
				}
				at[i] = time.Since(began)
			}
			return nil, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range flushers {
			group.Go(func() { b.run(ctx) })
		}
		b.add(7)
		synctest.Wait()
		b.add(8)
		synctest.Wait()
		if got := b.depth(); got != 1 {
			t.Errorf("%d wait, want 1", got)
		}
		if !b.empty(ctx) {
			t.Error("not empty")
		}
		if at[7] != laterBy || at[8] != 0 {
			t.Errorf("written after %v, want 7 after %s and 8 at once", at, laterBy)
		}
		cancel()
		group.Wait()
		b.postpone(9)
		if rest := b.close(); len(rest) != 1 || rest[0] != 9 {
			t.Errorf("closed with %v, want 9", rest)
		}
	})
}

// Writes that fail are told of when that begins, when they fail otherwise, and when
// they succeed again: not each time.
func TestTroubleIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var failing error
		fail := func(err error) {
			mu.Lock()
			failing = err
			mu.Unlock()
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		var out bytes.Buffer
		b := newBatch(slog.New(slog.NewTextHandler(&out, nil)), "end tasks", 10, func(_ context.Context, items []int) ([]int, error) {
			mu.Lock()
			defer mu.Unlock()
			if failing != nil {
				return items, failing
			}
			return nil, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range flushers {
			group.Go(func() { b.run(ctx) })
		}
		b.add(1)
		synctest.Wait()
		failing = errAway
		b.add(2)
		b.add(3)
		fail(errAway)
		fail(errors.New("something else"))
		fail(nil)
		b.add(4) // nothing has failed for a while
		synctest.Wait()
		cancel()
		group.Wait()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		for i, want := range []string{`"writes fail"`, `"something else"`, `"writes succeed again"`} {
			if len(lines) != 3 || !strings.Contains(lines[i], want) || !strings.Contains(lines[i], `level=WARN`) ||
				!strings.Contains(lines[i], `operation="end tasks"`) || !strings.Contains(lines[i], "waiting=") {
				t.Fatalf("logged:\n%s\nwant three lines, %d with %s", out.String(), i+1, want)
			}
		}
	})
}
