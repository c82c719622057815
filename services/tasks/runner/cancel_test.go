package runner

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

func TestATaskIsCancelledInEveryState(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("work")
	register(t, p, store.Policy{Name: "work", MaxAttempts: 10})

	waits := r.enqueue(p, "work", func(n *store.New) { n.Delay = time.Hour })
	if task, err := p.Cancel(t.Context(), waits); err != nil || task.State != wire.TaskCancelled {
		t.Errorf("Cancel of one that waits: %+v, %v", task, err)
	}

	// One whose worker fails when it is told: not tried again.
	fails := r.enqueue(p, "work")
	msg := await(t, "an attempt", attempts)
	told, err := r.nc.SubscribeSync(msg.Header[wire.HeaderTaskCancel][0])
	if err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if task, err := p.Cancel(t.Context(), fails); err != nil || task.State != wire.TaskRunning || !task.CancelAsked {
		t.Errorf("Cancel of one that runs: %+v, %v", task, err)
	}
	if _, err := told.NextMsg(patience); err != nil {
		t.Errorf("its worker was not told: %v", err)
	}
	r.fail(msg, wire.Errorf(wire.Unavailable, "stopped"))
	r.until(fails, wire.TaskCancelled)

	// The same with an error after which nothing would have been tried again.
	final := r.enqueue(p, "work")
	msg = await(t, "an attempt", attempts)
	if _, err := p.Cancel(t.Context(), final); err != nil {
		t.Fatal(err)
	}
	r.fail(msg, wire.Errorf(wire.InvalidArgument, "stopped"))
	r.until(final, wire.TaskCancelled)

	// One whose worker commits all the same: that stays.
	wins := r.enqueue(p, "work")
	msg = await(t, "an attempt", attempts)
	if _, err := p.Cancel(t.Context(), wins); err != nil {
		t.Fatal(err)
	}
	r.reply(msg, "1")
	r.until(wins, wire.TaskCommitted)
	if _, err := p.Cancel(t.Context(), wins); !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Errorf("Cancel of a committed one: %v, want FAILED_PRECONDITION", err)
	}

	// One whose worker does nothing: ended after the grace, and its late result is
	// refused.
	ignores := r.enqueue(p, "work")
	msg = await(t, "an attempt", attempts)
	waiting := make(chan *wire.Task, 1)
	go func() { task, _ := p.Await(context.Background(), ignores); waiting <- task }()
	if _, err := p.Cancel(t.Context(), ignores); err != nil {
		t.Fatal(err)
	}
	if task := await(t, "its end", waiting); task.State != wire.TaskCancelled {
		t.Errorf("awaited %+v", task)
	}
	if err := p.Complete(t.Context(), wire.TaskComplete{TaskAttempt: attemptOf(msg), Result: []byte("1")}); !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Errorf("a result after the end: %v, want FAILED_PRECONDITION", err)
	}
	eventually(t, "all places to be free", func() bool { return inFlight(p, "work") == 0 })
	if len(attempts) != 0 {
		t.Errorf("%d attempts of what was cancelled", len(attempts))
	}

	// One that was cancelled may begin again.
	if _, err := p.Retry(t.Context(), ignores); err != nil {
		t.Fatal(err)
	}
	again := await(t, "the attempt", attempts)
	if fenceOf(again) <= fenceOf(msg) {
		t.Errorf("fence %d after %d", fenceOf(again), fenceOf(msg))
	}
	r.reply(again, "1")
	r.until(ignores, wire.TaskCommitted)
}

// A flagged attempt is lost, or flagged by another replica than its own.
func TestAFlaggedAttemptIsNeverTriedAgain(t *testing.T) {
	r := newRig(t)
	grace := func(c *Config) { c.CancelGrace = time.Minute }
	a, b := r.replica(grace), r.replica(grace)
	attempts := r.attempts("work")
	register(t, a, store.Policy{Name: "work", MaxAttempts: 10})
	lost := r.enqueue(a, "work")
	r.beat(await(t, "an attempt", attempts), 50*time.Millisecond, "")
	if _, err := b.Cancel(t.Context(), lost); err != nil && !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Fatal(err)
	}
	r.until(lost, wire.TaskCancelled)

	final := r.enqueue(a, "work")
	msg := await(t, "an attempt", attempts)
	if _, err := b.Cancel(t.Context(), final); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a to know", func() bool { return a.table.flagged(a.table.get(final)) })
	r.fail(msg, wire.Errorf(wire.NotFound, "stopped"))
	r.until(final, wire.TaskCancelled)
	if len(attempts) != 0 {
		t.Errorf("%d attempts of what was cancelled", len(attempts))
	}
}

func TestATakeoverFencesOffTheAttemptAtOnce(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(), r.replica()
	attempts := r.attempts("work")
	id := r.enqueue(a, "work")
	first := await(t, "an attempt", attempts)
	if _, err := b.Takeover(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	second := await(t, "the next attempt", attempts)
	if fenceOf(second) <= fenceOf(first) {
		t.Errorf("fence %d after %d", fenceOf(second), fenceOf(first))
	}
	r.reply(first, `"late"`)
	if err := a.Complete(t.Context(), wire.TaskComplete{TaskAttempt: attemptOf(first), Result: []byte(`"late"`)}); !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Errorf("a late result: %v, want FAILED_PRECONDITION", err)
	}
	r.reply(second, `"right"`)
	if task := r.until(id, wire.TaskCommitted); string(task.Result) != `"right"` {
		t.Errorf("result %s", task.Result)
	}
	if _, err := a.Takeover(t.Context(), id); !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Errorf("Takeover of a committed one: %v, want FAILED_PRECONDITION", err)
	}
}
