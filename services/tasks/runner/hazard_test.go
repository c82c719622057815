package runner

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// A replica dies while a worker works: what the worker says at the end is committed
// by another one, and nothing is done twice.
func TestWhatAWorkerSaysOutlivesTheReplicaThatAsked(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(), r.replica()
	attempts := r.attempts("report")
	id := r.enqueue(a, "report")
	msg := await(t, "the attempt", attempts)
	eventually(t, "b to know of a", func() bool { return b.live.alive(a.cfg.ID, time.Now()) })
	r.kill(a)
	r.reply(msg, `"done"`) // b holds a copy: it takes a for alive
	task := r.until(id, wire.TaskCommitted)
	if string(task.Result) != `"done"` || task.Attempt != 1 || task.Fence != 1 || len(attempts) != 0 {
		t.Errorf("%+v, %d more attempts, want the result of the first, and none", task, len(attempts))
	}
	if got := b.metrics.heldUsed.Load(); got != 1 {
		t.Errorf("%d copies used, want 1", got)
	}
	id = r.enqueue(b, "report")
	r.reply(await(t, "an attempt", attempts), `2`)
	r.until(id, wire.TaskCommitted)
}

// A replica dies: the attempts of workers that are heard go on under another one,
// and those of which nothing is heard begin again when their time is over. Neither
// counts as a crash of a worker.
func TestTheAttemptsOfADeadReplicaAreAdopted(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(), r.replica()
	register(t, a, store.Policy{Name: "long", Timeout: 6 * time.Second})
	eventually(t, "b to know the policy", func() bool { return b.Policy("long").Timeout == 6*time.Second })
	attempts := r.attempts("long")
	heard := r.enqueue(a, "long", func(n *store.New) { n.Timeout = time.Minute })
	silent := r.enqueue(a, "long")
	msgs := map[string]*nats.Msg{}
	for range 2 {
		msg := await(t, "an attempt", attempts)
		msgs[msg.Header.Get(wire.HeaderTaskID)] = msg
	}
	began := time.Now()
	r.kill(a)
	beating, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		every(beating, 100*time.Millisecond, func(context.Context) { r.beat(msgs[id(heard)], time.Second, "") })
	})
	defer group.Wait()
	defer stop()
	eventually(t, "b to have both", func() bool { return b.table.get(heard) != nil && b.table.get(silent) != nil })
	again := await(t, "the silent one again", attempts)
	if got := again.Header.Get(wire.HeaderTaskID); got != id(silent) || time.Since(began) < 4*time.Second {
		t.Errorf("%s began again after %s, want the silent one, when its time was over", got, time.Since(began))
	}
	if task := r.task(silent); task.Crashes != 0 || task.Failures != 0 {
		t.Errorf("the silent one: %+v, want no crash and no failure: its replica died", task)
	}
	stop()
	group.Wait()
	r.reply(msgs[id(heard)], `1`)
	if task := r.until(heard, wire.TaskCommitted); task.Attempt != 1 || task.Fence != 1 {
		t.Errorf("the one that was heard: %+v, want its first attempt to be committed", task)
	}
	eventually(t, "the place of the heard one to be free", func() bool { return b.table.get(heard) == nil })
}

func id(of wire.TaskID) string { return of.String() }

// A replica can't hear NATS while its lease holds: it gives its attempts away
// instead of taking their workers for lost.
func TestAReplicaThatIsCutFromNATSGivesItsAttemptsAway(t *testing.T) {
	r := newRig(t)
	lease := func(c *Config) { c.OwnerLease = 6 * time.Second } // longer than the cut takes
	a, b := r.replica(lease), r.replica(lease)
	attempts := r.attempts("work")
	id := r.enqueue(a, "work")
	msg := await(t, "the attempt", attempts)
	r.beat(msg, 500*time.Millisecond, "")
	eventually(t, "the promise to be heard", func() bool { _, _, first := a.table.beat(id, 1, sign{}, time.Now()); return !first })
	a.nats.Close() // its lease goes on: the store is there
	beating, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		every(beating, 100*time.Millisecond, func(context.Context) { r.beat(msg, 500*time.Millisecond, "") })
	})
	defer group.Wait()
	defer stop()
	eventually(t, "b to have it", func() bool { return b.table.get(id) != nil })
	stop()
	group.Wait()
	r.reply(msg, "1")
	if task := r.until(id, wire.TaskCommitted); task.Attempt != 1 || task.Fence != 1 || task.Crashes != 0 {
		t.Errorf("%+v, want the first attempt committed", task)
	}
}

// NATS goes away and comes back: nobody could be heard meanwhile, so nobody is taken
// for lost, and what a worker says afterwards counts.
func TestNobodyIsLostWhileNATSIsAway(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("work")
	id := r.enqueue(p, "work")
	msg := await(t, "the attempt", attempts)
	r.beat(msg, 300*time.Millisecond, "")
	eventually(t, "the promise to be heard", func() bool { _, _, first := p.table.beat(id, 1, sign{}, time.Now()); return !first })
	if err := r.server.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all to be connected again", func() bool { return r.nc.IsConnected() && p.Ready() == nil })
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	waiting := r.enqueue(p, "other")
	reply, err := r.nc.Request(msg.Reply, []byte("1"), patience)
	if err != nil || len(reply.Header) > 0 {
		t.Errorf("the worker was told %v, %v, want success", reply, err)
	}
	if task := r.task(id); task.State != wire.TaskCommitted || task.Fence != 1 || task.Crashes != 0 {
		t.Errorf("%+v, want the first attempt committed", task)
	}
	r.worker("other", func(msg *nats.Msg) { _ = msg.Respond([]byte("1")) })
	p.Hello(wire.TaskHello{Names: []string{"other"}})
	r.until(waiting, wire.TaskCommitted)
}

// A replica stands still past its lease, another adopts, then the first goes on: its
// own clock must not give up what is not its own any more.
func TestAReplicaThatStoodStillGivesUpNothingOfOthers(t *testing.T) {
	r := newRig(t)
	a := r.replica()
	b := r.replica()
	attempts := r.attempts("work")
	id := r.enqueue(a, "work")
	msg := await(t, "the attempt", attempts)
	a.tap.die() // its lease runs out; it hears nothing of that
	eventually(t, "b to adopt it", func() bool { return b.table.get(id) != nil })
	held := a.table.get(id)
	if held == nil {
		t.Fatal("a does not know of the attempt any more")
	}
	a.tap.on(nil)
	// Its timer, as it fires before it has looked at its lease.
	a.giveUp(expired{attempt: held, outOfTime: outOfTime{over: true}, owner: held.owner})
	eventually(t, "a to have written that", func() bool { return a.tap.count("Back") > 0 && a.backs.depth() == 0 })
	if task := r.task(id); task.State != wire.TaskRunning || task.Fence != 1 {
		t.Errorf("%+v, want it to run on with fence 1", task)
	}
	eventually(t, "a to be an owner again", func() bool { return a.Ready() == nil })
	r.beat(msg, 0, `{"x":1}`) // its reply subject is a's
	eventually(t, "b to hear what a can't keep", func() bool {
		held := b.table.get(id)
		return held != nil && string(b.board.latest(held)) == `{"x":1}`
	})
	r.reply(msg, "1")
	if task := r.until(id, wire.TaskCommitted); task.Fence != 1 || task.Crashes != 0 {
		t.Errorf("%+v, want the first attempt committed", task)
	}
	eventually(t, "both to have forgotten it", func() bool { return a.table.get(id) == nil && b.table.get(id) == nil })
}

// Rows that are written for an owner after its lease was over are found by the
// sweep, however late.
func TestRowsThatAreWrittenLateAreFound(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	gone, err := r.memory.Join(t.Context(), "gone", time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "its lease to be over", func() bool {
		return errors.Is(r.memory.Renew(t.Context(), gone, time.Millisecond), store.ErrOwner)
	})
	attempts := r.attempts("late")
	eventually(t, "a look that found nothing", func() bool { return p.tap.count("Orphans") > 1 })
	task := store.New{ID: wire.NewTaskID(time.Now()), Name: "late", Input: []byte("1"), Claim: true, Deadline: 100 * time.Millisecond}
	if _, err := r.memory.Insert(t.Context(), gone, []store.New{task}); err != nil {
		t.Fatal(err)
	}
	msg := await(t, "an attempt", attempts)
	if fenceOf(msg) < 2 {
		t.Errorf("fence %d, want a greater one than that of the row", fenceOf(msg))
	}
	r.reply(msg, "1")
	if task := r.until(task.ID, wire.TaskCommitted); task.Crashes != 0 {
		t.Errorf("%+v, want no crash", task)
	}
}

// The lease is over when an insert that claims commits: nothing is dispatched, and
// the task waits unharmed.
func TestWhatIsClaimedTooLateIsNotDispatched(t *testing.T) {
	for _, call := range []string{"Insert", "Claim"} {
		t.Run(call, func(t *testing.T) {
			r := newRig(t)
			p := r.replica()
			attempts := r.attempts("work")
			var id wire.TaskID
			var once sync.Once
			p.tap.onAnswer(func(made string) error {
				if made == call {
					once.Do(func() { // the replica stood still for long
						p.owner.mu.Lock()
						p.owner.until = time.Now().Add(-time.Second)
						p.owner.mu.Unlock()
					})
				}
				return nil
			})
			if call == "Claim" {
				id = r.enqueue(p, "work", func(n *store.New) { n.Delay = 50 * time.Millisecond })
			} else {
				id = r.enqueue(p, "work")
			}
			msg := await(t, "an attempt", attempts)
			if got := msg.Header[wire.HeaderTaskAttempt][0]; got != "1" || fenceOf(msg) < 2 {
				t.Errorf("attempt %s with fence %d, want 1 with a greater fence: the first was not sent", got, fenceOf(msg))
			}
			r.reply(msg, "1")
			if task := r.until(id, wire.TaskCommitted); task.Attempt != 1 || task.Crashes != 0 {
				t.Errorf("%+v, want attempt 1", task)
			}
		})
	}
}

// The answer of a write that claims is lost: what it may have written is not left
// running for ever under a living owner.
func TestAnInsertOfWhichTheAnswerIsLostIsNotLeftRunning(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("work")
	before := p.owner.current()
	var once sync.Once
	p.tap.onAnswer(func(call string) (err error) {
		if call == "Insert" {
			once.Do(func() { err = errAway })
		}
		return err
	})
	_, err := p.Enqueue(t.Context(), store.New{ID: wire.NewTaskID(time.Now()), Name: "work"})
	var coded *wire.Error
	if !errors.As(err, &coded) || coded.Code != wire.Unavailable || coded.Details["what"] != "postgres" {
		t.Fatalf("Enqueue: %v, want UNAVAILABLE that names postgres", err)
	}
	msg := await(t, "an attempt", attempts)
	r.reply(msg, "1")
	id, _ := wire.ParseTaskID("id", msg.Header.Get(wire.HeaderTaskID))
	if task := r.until(id, wire.TaskCommitted); task.Attempt != 1 || fenceOf(msg) < 2 {
		t.Errorf("%+v, want attempt 1 with a greater fence", task)
	}
	eventually(t, "a new number", func() bool { now := p.owner.current(); return now != 0 && now != before })
}

// The same of a claim: nobody knows what was claimed. It is nobody's then, and
// found; its time is over as that of any attempt.
func TestAClaimOfWhichTheAnswerIsLostIsNotLeftRunning(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	register(t, p, store.Policy{Name: "work", Timeout: 200 * time.Millisecond})
	attempts := r.attempts("work")
	var once sync.Once
	p.tap.onAnswer(func(call string) (err error) {
		if call == "Claim" {
			once.Do(func() { err = errAway })
		}
		return err
	})
	id := r.enqueue(p, "work", func(n *store.New) { n.Delay = 20 * time.Millisecond })
	r.reply(await(t, "an attempt", attempts), "1")
	if task := r.until(id, wire.TaskCommitted); task.Crashes != 0 {
		t.Errorf("%+v, want no crash", task)
	}
}

// A reply comes twice, to its supervisor and to another replica, and again by its
// worker who saw no answer: it is committed once, and every asker is told so.
func TestAReplyThatIsHeardManyTimesIsCommittedOnce(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(), r.replica()
	attempts := r.attempts("work")
	eventually(t, "both to know of one another", func() bool {
		return a.live.alive(b.cfg.ID, time.Now()) && b.live.alive(a.cfg.ID, time.Now())
	})
	ends, err := r.nc.SubscribeSync("fl.event.task.committed.work")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		id := r.enqueue(a, "work")
		msg := await(t, "the attempt", attempts)
		var group sync.WaitGroup
		for n := range 4 {
			group.Go(func() {
				reply, err := r.nc.Request(msg.Reply, []byte("1"), patience)
				if err != nil || wire.HeaderValue(reply.Header, wire.HeaderErrorCode) != "" {
					t.Errorf("reply %d: %v %v", n, reply, err)
				}
			})
			group.Go(func() {
				if err := []*replica{a, b}[n%2].Complete(t.Context(), wire.TaskComplete{TaskAttempt: attemptOf(msg), Result: []byte("1")}); err != nil {
					t.Errorf("Complete %d: %v", n, err)
				}
			})
		}
		group.Wait()
		if task := r.task(id); task.State != wire.TaskCommitted || task.Fence != 1 {
			t.Errorf("task %d: %+v", i, task)
		}
	}
	eventually(t, "no copy to be held", func() bool { return a.held.count()+b.held.count() == 0 })
	if got := a.metrics.committed.Load() + b.metrics.committed.Load(); got != 20 {
		t.Errorf("%d committed, want 20", got)
	}
	if n, _, err := ends.Pending(); err != nil || n < 20 {
		t.Errorf("%d events, %v, want 20 at least", n, err)
	}
	// What failed before it was committed does not take that back.
	if err := a.Fail(t.Context(), wire.TaskFail{TaskAttempt: attemptOf(&nats.Msg{Header: nats.Header{}})}); !errors.Is(err, wire.ErrInvalidArgument) {
		t.Errorf("Fail without an id: %v, want INVALID_ARGUMENT", err)
	}
}

// The store goes away while attempts run: what workers say waits in memory, and is
// committed when it is back; requests fail fast meanwhile, nothing is claimed.
func TestOutcomesWaitForTheStore(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("work")
	var ids []wire.TaskID
	for range leastCap {
		ids = append(ids, r.enqueue(p, "work"))
	}
	p.tap.die()
	for range ids {
		r.reply(await(t, "an attempt", attempts), "1")
	}
	eventually(t, "all to wait", func() bool { return p.ends.depth() == len(ids) })
	began := time.Now()
	if _, err := p.Enqueue(t.Context(), store.New{Name: "work"}); !errors.Is(err, wire.ErrUnavailable) || time.Since(began) > 2*time.Second {
		t.Errorf("Enqueue: %v after %s, want UNAVAILABLE fast", err, time.Since(began))
	}
	eventually(t, "the lease to be over", func() bool { return p.Ready() != nil })
	p.tap.on(nil)
	for _, id := range ids {
		if task := r.until(id, wire.TaskCommitted); task.Fence != 1 {
			t.Errorf("%+v, want fence 1", task)
		}
	}
	id := r.enqueue(p, "work")
	r.reply(await(t, "an attempt", attempts), "1")
	r.until(id, wire.TaskCommitted)
	eventually(t, "all places to be free", func() bool { return inFlight(p, "work") == 0 && p.table.count() == 0 })
}

// The store's answer to a commit is lost: it is asked again, and who waits is told
// once it is known.
func TestACommitOfWhichTheAnswerIsLostIsKnownInTheEnd(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("work")
	var lost atomic.Int64
	p.tap.onAnswer(func(call string) error {
		if call == "End" && lost.Add(1) == 1 {
			return errAway
		}
		return nil
	})
	id := r.enqueue(p, "work")
	msg := await(t, "the attempt", attempts)
	ended := make(chan *wire.Task, 1)
	go func() {
		task, err := p.Await(context.Background(), id)
		if err != nil {
			t.Error(err)
		}
		ended <- task
	}()
	eventually(t, "somebody to wait", func() bool { return p.waiters.has(id) })
	reply, err := r.nc.Request(msg.Reply, []byte("7"), patience)
	if err != nil || len(reply.Header) > 0 {
		t.Errorf("the worker was told %v, %v, want success", reply, err)
	}
	if task := await(t, "the end", ended); task.State != wire.TaskCommitted || string(task.Result) != "7" {
		t.Errorf("awaited %+v", task)
	}
}

// A planned stop restarts no attempt: others take them over at once, and commit
// what their workers say.
func TestAReplicaThatStopsHandsItsAttemptsOver(t *testing.T) {
	r := newRig(t)
	lease := func(c *Config) { c.OwnerLease = 6 * time.Second }
	a, b := r.replica(lease), r.replica(lease)
	attempts := r.attempts("work")
	var msgs []*nats.Msg
	var ids []wire.TaskID
	for range 8 {
		ids = append(ids, r.enqueue(a, "work"))
		msgs = append(msgs, await(t, "an attempt", attempts))
	}
	a.stop()
	if _, err := a.Enqueue(t.Context(), store.New{Name: "other"}); err != nil {
		t.Errorf("Enqueue at a replica that has stopped: %v, want it stored: the request was taken", err)
	}
	for _, msg := range msgs[:4] {
		r.reply(msg, "1")
	}
	for _, id := range ids[:4] {
		r.until(id, wire.TaskCommitted)
	}
	eventually(t, "b to have the others", func() bool { return b.table.count() == 4 })
	for i, msg := range msgs[4:] {
		reply, err := r.nc.Request(msg.Reply, []byte("1"), patience)
		if err != nil || len(reply.Header) > 0 {
			t.Errorf("reply: %v, %v", reply, err)
		}
		if task := r.task(ids[4+i]); task.State != wire.TaskCommitted || task.Attempt != 1 || task.Fence != 1 {
			t.Errorf("%+v, want attempt 1 committed", task)
		}
	}
	if len(attempts) != 0 {
		t.Errorf("%d attempts began again", len(attempts))
	}
}
