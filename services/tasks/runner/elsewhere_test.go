package runner

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// A heartbeat that comes to another replica keeps the attempt of a living
// supervisor alive.
func TestASignOfLifeReachesTheSupervisor(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(), r.replica()
	eventually(t, "b to know of a", func() bool { return b.live.alive(a.cfg.ID, time.Now()) })
	attempts := r.attempts("work")
	id := r.enqueue(a, "work")
	msg := await(t, "the attempt", attempts)
	began := time.Now()
	for i := 0; time.Since(began) < 1500*time.Millisecond; i++ {
		beat := wire.TaskHeartbeat{TaskAttempt: attemptOf(msg), LeaseMs: 400, Progress: []byte(`{"far":true}`)}
		if err := b.Heartbeat(t.Context(), beat); err != nil {
			t.Fatalf("heartbeat %d: %v", i, err)
		}
		eventually(t, "a to hear it", func() bool { return string(a.board.latest(a.table.get(id))) == `{"far":true}` })
		tick := time.NewTimer(100 * time.Millisecond)
		<-tick.C
	}
	if len(attempts) > 0 {
		t.Error("the attempt was given up though its worker was heard")
	}
	if err := b.Complete(t.Context(), wire.TaskComplete{TaskAttempt: attemptOf(msg), Result: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	r.until(id, wire.TaskCommitted)
	eventually(t, "the place at a to be free", func() bool { return inFlight(a, "work") == 0 && a.table.count() == 0 })
}

// What fails by way of another replica is tried again as the policy says.
func TestAFailureMayBeToldToAnyReplica(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(), r.replica()
	register(t, a, store.Policy{Name: "work", MaxAttempts: 2})
	eventually(t, "b to know the policy", func() bool { return b.Policy("work").MaxAttempts == 2 })
	attempts := r.attempts("work")
	id := r.enqueue(a, "work")
	for range 2 {
		msg := await(t, "an attempt", attempts)
		fail := wire.TaskFail{TaskAttempt: attemptOf(msg), Error: wire.TaskError{Code: wire.Internal, Message: "no\x00pe"}}
		if err := b.Fail(t.Context(), fail); err != nil {
			t.Fatal(err)
		}
	}
	if task := r.until(id, wire.TaskFailed); task.Failures != 2 || task.Error.Message != "nope" {
		t.Errorf("%+v, want 2 failures", task)
	}
}

// Who waits at one replica hears of what another commits, at once.
func TestAnEndIsHeardAtEveryReplica(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(), r.replica()
	eventually(t, "a to know of b", func() bool { return a.live.alive(b.cfg.ID, time.Now()) })
	attempts := r.attempts("work")
	id := r.enqueue(a, "work")
	msg := await(t, "the attempt", attempts)
	ended := make(chan *wire.Task, 1)
	go func() {
		task, err := b.Await(context.Background(), id)
		if err != nil {
			t.Error(err)
		}
		ended <- task
	}()
	eventually(t, "b to have read it", func() bool { return b.waiters.has(id) && b.tap.count("Get") > 0 })
	began := time.Now()
	r.reply(msg, "5")
	task := await(t, "the end", ended)
	if string(task.Result) != "5" || task.CreatedAt.IsZero() {
		t.Errorf("awaited %+v", task)
	}
	if took := time.Since(began); took > readEvery-time.Second {
		t.Errorf("heard after %s: that was by looking", took)
	}
}

// A task that has not ended when the wait is over is returned as it is.
func TestAWaitEnds(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	id := r.enqueue(p, "work", func(n *store.New) { n.Delay = time.Hour })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if task, err := p.Await(ctx, id); err != nil || task.State != wire.TaskPending {
		t.Errorf("Await = %+v, %v, want the task as it is", task, err)
	}
	if p.waiters.count() != 0 {
		t.Errorf("%d still wait", p.waiters.count())
	}
	if _, err := p.Await(t.Context(), wire.NewTaskID(t0)); !errors.Is(err, wire.ErrNotFound) {
		t.Errorf("Await of an unknown one: %v, want NOT_FOUND", err)
	}
	p.tap.die()
	if _, err := p.Await(t.Context(), id); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("Await without a store: %v, want UNAVAILABLE", err)
	}
}

// A worker ends its attempt in a transaction of its own, or who fenced it off was
// not heard: the supervisor finds out, and who waits is told.
func TestAnEndOfWhichNobodyToldIsFound(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("work")
	own, fenced := r.enqueue(p, "work"), r.enqueue(p, "work")
	for range 2 {
		await(t, "an attempt", attempts)
	}
	if _, err := r.memory.End(t.Context(), []store.End{{Ref: store.Ref{ID: own, Fence: 1}, State: wire.TaskCommitted, Result: []byte("9"), Retention: time.Hour}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.memory.Takeover(t.Context(), fenced); err != nil {
		t.Fatal(err)
	}
	ended := make(chan *wire.Task, 1)
	go func() { task, _ := p.Await(context.Background(), own); ended <- task }()
	eventually(t, "somebody to wait", func() bool { return p.waiters.has(own) })
	p.table.mu.Lock()
	for _, a := range p.table.byID {
		a.began = a.began.Add(-recheckEvery) // long ago
	}
	p.table.mu.Unlock()
	p.recheck(t.Context())
	if task := await(t, "the end", ended); string(task.Result) != "9" {
		t.Errorf("awaited %+v", task)
	}
	if a := p.table.get(own); a != nil {
		t.Error("the attempt that was committed is supervised still")
	}
	r.reply(await(t, "the next attempt of the other", attempts), "1")
	r.until(fenced, wire.TaskCommitted)
	eventually(t, "all places to be free", func() bool { return inFlight(p, "work") == 0 && p.table.count() == 0 })
}

// Nobody who does not know its token ends an attempt.
func TestAForgedReplyCountsForNothing(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(), r.replica()
	attempts := r.attempts("work")
	id := r.enqueue(a, "work")
	msg := await(t, "the attempt", attempts)
	for _, replica := range []string{a.cfg.ID, b.cfg.ID, "nobody"} {
		forged := &nats.Msg{Reply: wire.DefaultNamespace.TaskReply(replica, id, 1, "aaaaaaaaaaaaaaaaaaaaaaaaaa")}
		r.reply(forged, `"forged"`)
	}
	if err := b.Complete(t.Context(), wire.TaskComplete{TaskAttempt: wire.TaskAttempt{ID: id.String(), Fence: 1, Token: "x"}}); !errors.Is(err, wire.ErrPermissionDenied) {
		t.Errorf("Complete with a wrong token: %v, want PERMISSION_DENIED", err)
	}
	eventually(t, "them to be counted", func() bool { return a.metrics.forged.Load()+b.metrics.forged.Load() >= 4 })
	r.reply(msg, `"right"`)
	if task := r.until(id, wire.TaskCommitted); string(task.Result) != `"right"` {
		t.Errorf("result %s", task.Result)
	}
}

// A reply in whose place somebody wants an answer on a subject that is not an inbox
// lends nobody the replica's rights.
func TestAnAnswerGoesToInboxesOnly(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("work")
	stolen, err := r.nc.SubscribeSync("fl.topic.secret")
	if err != nil {
		t.Fatal(err)
	}
	id := r.enqueue(p, "work")
	msg := await(t, "the attempt", attempts)
	if err := r.nc.PublishRequest(msg.Reply, "fl.topic.secret", []byte("1")); err != nil {
		t.Fatal(err)
	}
	r.until(id, wire.TaskCommitted)
	eventually(t, "the answer to be refused", func() bool { return p.cfg.Guard.Refused() == 1 })
	if n, _, _ := stolen.Pending(); n != 0 {
		t.Error("an answer was published to a topic")
	}
}

// Steps are stored once, and only by the attempt that counts.
func TestAStepIsStoredOnce(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("work")
	id := r.enqueue(p, "work")
	first := await(t, "an attempt", attempts)
	step := func(msg *nats.Msg, result string) (wire.TaskStepped, error) {
		req := wire.TaskStep{TaskAttempt: attemptOf(msg), Step: "charge"}
		if result != "" {
			req.Result = []byte(result)
		}
		return p.Step(t.Context(), req)
	}
	if got, err := step(first, ""); err != nil || got.Done {
		t.Errorf("looked: %+v, %v, want nothing", got, err)
	}
	for _, result := range []string{"1", "2"} {
		if got, err := step(first, result); err != nil || string(got.Result) != "1" || !got.Done {
			t.Errorf("stored %s: %+v, %v, want the first", result, got, err)
		}
	}
	if _, err := p.Takeover(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	second := await(t, "the next attempt", attempts)
	if _, err := step(first, "3"); !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Errorf("by the attempt that was given up: %v, want FAILED_PRECONDITION", err)
	}
	if got, err := step(second, ""); err != nil || string(got.Result) != "1" {
		t.Errorf("the next attempt: %+v, %v, want what the first stored", got, err)
	}
	r.reply(second, "1")
	r.until(id, wire.TaskCommitted)
}
