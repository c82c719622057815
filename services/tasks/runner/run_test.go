package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

func TestAnAttemptIsOneMessageAndItsReplyTheResult(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("resize")
	id := r.enqueue(p, "resize", func(n *store.New) {
		n.Metadata = []byte(`{"a": "ü"}`)
		n.Timeout = 30 * time.Second
		n.Trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	})
	msg := await(t, "the attempt", attempts)
	if got, want := string(msg.Data), `{"n":1}`; got != want {
		t.Errorf("input %s, want %s", got, want)
	}
	for header, want := range map[string]string{
		wire.HeaderTaskID: id.String(), wire.HeaderTaskAttempt: "1", wire.HeaderTaskFence: "1", wire.HeaderTaskTimeout: "30000",
		wire.HeaderIdempotencyKey: id.String(), wire.HeaderTaskMetadata: `{"a": "ü"}`,
		wire.HeaderTaskCancel: "fl.cancel." + id.String() + "-1", wire.HeaderTrace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	} {
		if got := msg.Header.Get(header); got != want && len(msg.Header[header]) == 0 || len(msg.Header[header]) > 0 && msg.Header[header][0] != want {
			t.Errorf("header %s: %q, want %q", header, msg.Header[header], want)
		}
	}
	waiting, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ended := make(chan *wire.Task, 2)
	for range 2 {
		go func() {
			task, err := p.Await(waiting, id)
			if err != nil {
				t.Error(err)
			}
			ended <- task
		}()
	}
	eventually(t, "both to wait", func() bool { p.waiters.mu.Lock(); defer p.waiters.mu.Unlock(); return len(p.waiters.byID[id]) == 2 })
	r.reply(msg, `{"ok":true}`)
	for range 2 {
		task := await(t, "the end", ended)
		if task.State != wire.TaskCommitted || string(task.Result) != `{"ok":true}` || task.Attempt != 1 || task.Fence != 1 {
			t.Errorf("awaited %+v", task)
		}
	}
	task, err := p.Get(waiting, id)
	if err != nil || task.State != wire.TaskCommitted || string(task.Result) != `{"ok":true}` {
		t.Errorf("Get = %+v, %v", task, err)
	}
	if _, err := p.Get(waiting, wire.NewTaskID(time.Now())); !errors.Is(err, wire.ErrNotFound) {
		t.Errorf("Get of an unknown one: %v, want NOT_FOUND", err)
	}
	eventually(t, "its place to be free", func() bool { return p.table.count() == 0 && inFlight(p, "resize") == 0 })
	if got := p.tap.count("Claim"); got != 0 {
		t.Errorf("%d claims, want 0: it began as a running one", got)
	}
}

func inFlight(p *replica, name string) int {
	p.lanes.mu.Lock()
	defer p.lanes.mu.Unlock()
	if l := p.lanes.byName[name]; l != nil {
		return l.inFlight
	}
	return 0
}

func TestWhoWatchesATaskHearsItsStatesAndProgress(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("film")
	topic, err := r.nc.SubscribeSync("fl.topic.task.>")
	if err != nil {
		t.Fatal(err)
	}
	events, err := r.nc.SubscribeSync("fl.event.task.*.film")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	id := r.enqueue(p, "film")
	msg := await(t, "the attempt", attempts)
	next := func(sub *nats.Subscription) *nats.Msg {
		t.Helper()
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	expect := func(event, body string) {
		t.Helper()
		m := next(topic)
		if got := m.Header[wire.HeaderEvent]; len(got) != 1 || got[0] != event || string(m.Data) != body || m.Subject != "fl.topic.task."+id.String() {
			t.Errorf("on %s: %s %s, want %s %s", m.Subject, got, m.Data, event, body)
		}
	}
	begin := fmt.Sprintf(`{"id":"%s","name":"film","state":`, id)
	expect("running", begin+`"running","attempt":1}`)
	for i := range 20 { // more than are told
		r.beat(msg, 0, fmt.Sprintf(`{"percent":%d}`, i))
	}
	seen, last := 0, ""
	for last != `{"percent":19}` {
		m := next(topic)
		var body struct{ Progress json.RawMessage }
		if err := json.Unmarshal(m.Data, &body); err != nil || m.Header[wire.HeaderEvent][0] != "progress" {
			t.Fatalf("%s %s: %v", m.Header, m.Data, err)
		}
		last = string(body.Progress)
		seen++
	}
	if seen > 5 {
		t.Errorf("%d of 20 were told, want 5 at most: they came within a second", seen)
	}
	if task, err := p.Get(t.Context(), id); err != nil || string(task.Progress) != `{"percent":19}` {
		t.Errorf("Get: %+v, %v, want the last progress", task, err)
	}
	r.reply(msg, `[1]`)
	expect("committed", begin+`"committed","attempt":1,"result":[1]}`)
	for _, want := range []string{"fl.event.task.running.film", "fl.event.task.committed.film"} {
		if m := next(events); m.Subject != want {
			t.Errorf("event %s %s, want %s", m.Subject, m.Data, want)
		}
	}
}

func TestAResultThatCannotBeStoredFailsTheTask(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("bad")
	register(t, p, store.Policy{Name: "bad", MaxAttempts: 5})
	for _, body := range []string{`no json`, "\"\xff\"", `"` + string(make([]byte, wire.MaxTaskInput)) + `"`} {
		id := r.enqueue(p, "bad")
		r.reply(await(t, "the attempt", attempts), body)
		task := r.until(id, wire.TaskFailed)
		if task.Error == nil || task.Error.Code != wire.InvalidArgument || task.Attempt != 1 || task.Error.Message[:7] != "result:" {
			t.Errorf("failed with %+v after %d attempts, want INVALID_ARGUMENT that names the result after 1", task.Error, task.Attempt)
		}
	}
	id := r.enqueue(p, "bad")
	r.reply(await(t, "the attempt", attempts), "")
	if task := r.until(id, wire.TaskCommitted); string(task.Result) != "null" {
		t.Errorf("result %s of an empty reply, want null", task.Result)
	}
}

func TestAFailureIsTriedAgainAsItsWorkerAndThePolicySay(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("flaky")
	register(t, p, store.Policy{Name: "flaky", MaxAttempts: 3})
	id := r.enqueue(p, "flaky")
	var last int64
	for n := range 3 {
		msg := await(t, "an attempt", attempts)
		if got, want := msg.Header[wire.HeaderTaskAttempt][0], fmt.Sprint(n+1); got != want || fenceOf(msg) <= last {
			t.Errorf("attempt %s with fence %d after %d, want attempt %s with a greater fence", got, fenceOf(msg), last, want)
		}
		last = fenceOf(msg)
		r.fail(msg, wire.Errorf(wire.Unavailable, "no"))
	}
	if task := r.until(id, wire.TaskFailed); task.Failures != 3 || task.Error.Code != wire.Unavailable {
		t.Errorf("%d failures, %+v, want 3, UNAVAILABLE", task.Failures, task.Error)
	}

	id = r.enqueue(p, "flaky")
	msg := await(t, "an attempt", attempts)
	reply := nats.NewMsg(msg.Reply)
	wire.ErrorHeader(reply.Header, wire.Errorf("MINE", "no"))
	reply.Header[wire.HeaderRetryable] = []string{"false"}
	if err := r.nc.PublishMsg(reply); err != nil {
		t.Fatal(err)
	}
	if task := r.until(id, wire.TaskFailed); task.Failures != 1 || task.Error.Code != wire.Internal || string(task.Error.Details) != `{"code":"MINE"}` {
		t.Errorf("%d failures, %+v, want 1, INTERNAL with the code in its details", task.Failures, task.Error)
	}
}

func TestNoWorkerBurnsNoAttemptAndDoesNotSpin(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	running, err := r.nc.SubscribeSync("fl.event.task.running.nobody")
	if err != nil {
		t.Fatal(err)
	}
	ids := []wire.TaskID{r.enqueue(p, "nobody")}
	eventually(t, "the name to be parked", func() bool { _, parked := p.lanes.counts(); return parked == 1 })
	for range 4 {
		ids = append(ids, r.enqueue(p, "nobody"))
	}
	eventually(t, "two probes", func() bool { return p.metrics.unserved.Load() == 3 })
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if told, _, _ := running.Pending(); told > 1 { // before it was known that nobody is there
		t.Errorf("it was told %d times that a task runs that nobody took", told)
	}
	if got := p.tap.count("Claim"); got != 2 {
		t.Errorf("%d claims while nobody was there, want 2: one for each probe", got)
	}
	for _, id := range ids {
		if task := r.task(id); task.Attempt > 1 || task.State == wire.TaskPending && task.Attempt != 0 || task.Crashes+task.Failures > 0 {
			t.Errorf("a task that nobody took: %+v", task)
		}
	}
	r.worker("nobody", func(msg *nats.Msg) { _ = msg.Respond([]byte("1")) })
	p.Hello(wire.TaskHello{Names: []string{"nobody"}})
	for _, id := range ids {
		if task := r.until(id, wire.TaskCommitted); task.Attempt != 1 {
			t.Errorf("committed by attempt %d, want 1", task.Attempt)
		}
	}
}

func TestAWorkerThatSaysNothingIsFoundByAProbe(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	id := r.enqueue(p, "late")
	eventually(t, "the name to be parked", func() bool { _, parked := p.lanes.counts(); return parked == 1 })
	r.worker("late", func(msg *nats.Msg) { _ = msg.Respond([]byte("1")) })
	r.until(id, wire.TaskCommitted)
	eventually(t, "the name not to be parked", func() bool { _, parked := p.lanes.counts(); return parked == 0 })
}

func TestAPromiseThatIsBrokenIsALostWorker(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("dies")
	register(t, p, store.Policy{Name: "dies", MaxCrashes: 1})
	id := r.enqueue(p, "dies")
	first := await(t, "an attempt", attempts)
	cancels, err := r.nc.SubscribeSync(first.Header[wire.HeaderTaskCancel][0])
	if err != nil {
		t.Fatal(err)
	}
	r.beat(first, 100*time.Millisecond, "")
	second := await(t, "the next attempt", attempts)
	if fenceOf(second) <= fenceOf(first) {
		t.Errorf("fence %d after %d, want a greater one", fenceOf(second), fenceOf(first))
	}
	if _, err := cancels.NextMsg(patience); err != nil {
		t.Errorf("the first worker was not told: %v", err)
	}
	// What the first says now is refused, and changes nothing.
	err = p.Complete(t.Context(), wire.TaskComplete{TaskAttempt: attemptOf(first), Result: []byte("1")})
	var refused *wire.Error
	if !errors.As(err, &refused) || refused.Code != wire.FailedPrecondition || refused.Details["fence"] != fenceOf(second) || refused.Details["state"] != "running" {
		t.Errorf("a late result: %v %v, want FAILED_PRECONDITION with what is", err, refused)
	}
	if err := p.Heartbeat(t.Context(), wire.TaskHeartbeat{TaskAttempt: attemptOf(first)}); !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Errorf("a late heartbeat: %v, want FAILED_PRECONDITION", err)
	}
	r.beat(second, 100*time.Millisecond, "")
	task := r.until(id, wire.TaskDead)
	if task.Crashes != 2 || task.Error.Code != wire.Aborted || task.Failures != 0 {
		t.Errorf("dead: %+v, want 2 crashes and ABORTED", task)
	}
}

func TestAnAttemptThatIsTooSlowFails(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("slow")
	register(t, p, store.Policy{Name: "slow", Timeout: 400 * time.Millisecond})
	id := r.enqueue(p, "slow")
	r.beat(await(t, "an attempt", attempts), 0, `1`) // it was there
	if task := r.until(id, wire.TaskFailed); task.Error.Code != wire.DeadlineExceeded || task.Failures != 1 || task.Crashes != 0 {
		t.Errorf("failed: %+v, want DEADLINE_EXCEEDED and 1 failure", task)
	}
}

func TestASilentNameIsNotFlooded(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("stuck") // takes all, says nothing
	register(t, p, store.Policy{Name: "stuck", Timeout: 300 * time.Millisecond, MaxCrashes: 100})
	for range 3 * leastCap {
		r.enqueue(p, "stuck")
	}
	eventually(t, "the lane to be narrow", func() bool {
		p.lanes.mu.Lock()
		defer p.lanes.mu.Unlock()
		return p.lanes.byName["stuck"].narrow == 1
	})
	if got := len(attempts); got > 3*leastCap {
		t.Errorf("%d attempts were sent, want %d at most", got, 3*leastCap)
	}
	// Who answers is given more again.
	eventually(t, "all to be committed", func() bool {
		for len(attempts) > 0 {
			r.reply(<-attempts, "1")
		}
		return p.metrics.committed.Load() == 3*leastCap
	})
}

func TestABoundOnTheAttemptsOfANameHoldsOverAllReplicas(t *testing.T) {
	r := newRig(t)
	a, b := r.replica(), r.replica()
	register(t, a, store.Policy{Name: "few", Concurrency: 2})
	eventually(t, "the other to know", func() bool { return b.Policy("few").Concurrency == 2 })
	var running, most atomic.Int64
	for range 4 {
		nc := r.connect("worker")
		if _, err := nc.QueueSubscribe("fl.task.few", "workers", func(msg *nats.Msg) {
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			r.nc.Flush()
			running.Add(-1)
			_ = msg.Respond([]byte("1"))
		}); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	var ids []wire.TaskID
	for i := range 40 {
		ids = append(ids, r.enqueue([]*replica{a, b}[i%2], "few"))
	}
	for _, id := range ids {
		r.until(id, wire.TaskCommitted)
	}
	if got := most.Load(); got > 2 {
		t.Errorf("%d ran at a time, want 2 at most", got)
	}
}

func TestWhoSaysHowMuchItTakesIsGivenAsMuch(t *testing.T) {
	r := newRig(t)
	p := r.replica()
	attempts := r.attempts("wide")
	p.Hello(wire.TaskHello{Names: []string{"wide"}, Worker: "w1", Slots: 40})
	p.Hello(wire.TaskHello{Names: []string{"wide"}, Worker: "w2", Slots: 10})
	for range 60 {
		r.enqueue(p, "wide")
	}
	eventually(t, "50 attempts", func() bool { return len(attempts) == 50 })
	p.Hello(wire.TaskHello{Names: []string{"wide"}, Worker: "w1", Leaving: true})
	for range 30 { // 20 are left of 50, which is more than there are places
		r.reply(<-attempts, "1")
	}
	eventually(t, "30 committed", func() bool { return p.metrics.committed.Load() == 30 })
	if got := len(attempts); got != 20 {
		t.Errorf("%d attempts wait for a worker, want 20: nothing new", got)
	}
}
