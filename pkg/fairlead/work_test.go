package fairlead_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestWorkRunsAnAttempt(t *testing.T) {
	s := startTasks(t)
	hellos := s.listen("fl.svc.tasks.hello")
	attempts := make(chan *fairlead.Attempt, 1)
	var left time.Duration
	w := work(s, "image.resize", fairlead.WorkOptions{Concurrency: 7}, func(ctx context.Context, a *fairlead.Attempt, in order) (map[string]string, error) {
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
		if of, ok := fairlead.AttemptOf(ctx); !ok || of != a || !deadline.Equal(a.Deadline()) {
			t.Errorf("the context is of the attempt %p until %v, want %p until %v", of, deadline, a, a.Deadline())
		}
		attempts <- a
		return map[string]string{"got": fmt.Sprintf("%d <%s>", in.Count, in.Item)}, nil
	})
	there := hello(t, s.next(hellos))
	if len(there.Names) != 1 || there.Names[0] != "image.resize" || there.Slots != 7 || there.Worker == "" || there.Leaving {
		t.Errorf("the worker says %+v", there)
	}
	d := attempt(`{"item":"tea","count":2}`)
	d.fence, d.number = 5, 3
	d.header = nats.Header{"Fl-Task-Metadata": {`{"tenant":"a"}`}, "Fl-Idempotency-Key": {"order-1"}, "traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	s.dispatch("image.resize", d)
	if got, want := said(of(t, s.results, d)), `{"got":"2 <tea>"}`; got != want {
		t.Errorf("the result is %s, want %s", got, want)
	}
	a := receive(t, attempts)
	got := fmt.Sprint(a.ID() == d.id.String(), a.Name(), a.Number(), a.Fence(), a.IdempotencyKey(), a.StepKey("pay"), string(a.Metadata()), a.Header().Get("traceparent")[:6])
	if want := `trueimage.resize35order-1order-1/pay{"tenant":"a"}00-0af`; strings.ReplaceAll(got, " ", "") != want {
		t.Errorf("the attempt is %s, want %s", got, want)
	}
	if left <= 50*time.Second || left > time.Minute {
		t.Errorf("the attempt had %v, want its minute", left)
	}
	if err := a.Progress(1); wire.CodeOf(err) != wire.FailedPrecondition && !errors.Is(err, context.Canceled) {
		t.Errorf("progress behind the end: %v", err)
	}
	must(t, w.Drain(t.Context()))
	for last := there; !last.Leaving; {
		if last = hello(t, s.next(hellos)); last.Worker != there.Worker {
			t.Errorf("the worker calls itself %s, then %s", there.Worker, last.Worker)
		}
	}
}

// The time of an attempt is the shorter one of the task's and the worker's.
func TestTheTimeOfAnAttempt(t *testing.T) {
	s := startTasks(t)
	_, why := until(s, "slow", fairlead.WorkOptions{})
	d := attempt(`1`)
	d.timeout = 50 * time.Millisecond
	s.dispatch("slow", d)
	if err := receive(t, why); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the context ended with %v", err)
	}
	if got, want := said(of(t, s.results, d)), "DEADLINE_EXCEEDED: the deadline passed"; got != want {
		t.Errorf("told %s, want %s", got, want)
	}
	_, why = until(s, "slower", fairlead.WorkOptions{Timeout: 50 * time.Millisecond})
	d = s.dispatch("slower", attempt(`1`))
	if err := receive(t, why); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the context ended with %v", err)
	}
	of(t, s.results, d)
}

func TestWhatAnErrorMeansForTheTask(t *testing.T) {
	s := startTasks(t)
	long := strings.Repeat("é", 4000)
	tests := []struct {
		err  error
		want string
	}{
		{errors.New("disk full"), `INTERNAL: disk full`},
		{errors.New(long), `INTERNAL: ` + long[:4092] + "…"},
		{wire.InvalidField("size", "above 0"), `INVALID_ARGUMENT: size: above 0 {"details":{"field":"size"}}`},
		{fmt.Errorf("ask: %w", wire.Errorf(wire.Unavailable, "away")), `UNAVAILABLE: away`},
		{&wire.Error{Code: wire.Unavailable, Message: "away", RetryAfter: 100 * time.Millisecond}, `UNAVAILABLE: away`},
		{&wire.Error{Code: wire.ResourceExhausted, Message: "slower", RetryAfter: 1500 * time.Millisecond}, `RESOURCE_EXHAUSTED: slower {"retryAfterMs":1500}`},
		{&wire.Error{Code: wire.ResourceExhausted, Message: "too much", RetryAfter: wire.Never}, `RESOURCE_EXHAUSTED: too much retryable=false`},
		{(*wire.Error)(nil), `INTERNAL: a nil *wire.Error, which is an error`},
		{fairlead.NonRetryable(errors.New("no such file")), `INTERNAL: no such file retryable=false`},
		{fairlead.RetryAfter(errors.New("later"), time.Hour), `INTERNAL: later {"retryAfterMs":3600000}`},
		{fairlead.RetryAfter(wire.Errorf(wire.Aborted, "later"), time.Second), `ABORTED: later {"retryAfterMs":1000}`},
	}
	work(s, "failing", fairlead.WorkOptions{}, func(_ context.Context, _ *fairlead.Attempt, i int) (any, error) {
		switch i {
		case -1:
			panic("at the task")
		case -2:
			runtime.Goexit()
		case -3:
			return strings.Repeat("x", wire.MaxTaskInput), nil
		case -4:
			return make(chan int), nil
		}
		return nil, tests[i].err
	})
	for i, test := range tests {
		d := s.dispatch("failing", attempt(fmt.Sprint(i)))
		if got := said(of(t, s.results, d)); got != test.want {
			t.Errorf("%v: told\n     %s\nwant %s", test.want, got, test.want)
		}
	}
	for input, want := range map[string]string{
		"-1":      `INTERNAL: panic: at the task`,
		"-2":      `INTERNAL: the worker's function ended its goroutine`,
		"-3":      `RESOURCE_EXHAUSTED: the result is larger than 512 KB retryable=false`,
		"-4":      `INTERNAL: INVALID_ARGUMENT: result: `,
		`"three"`: `INVALID_ARGUMENT: data: can't be a JSON string {"details":{"field":"data"}}`,
	} {
		d := s.dispatch("failing", attempt(input))
		if got := said(of(t, s.results, d)); !strings.HasPrefix(got, want) {
			t.Errorf("%s: told %s, want %s", input, got, want)
		}
	}
	if log := s.log.String(); !strings.Contains(log, "at the task") || !strings.Contains(log, "work_test.go") {
		t.Errorf("the log says nothing of the panic, or not where: %s", log)
	}
	if fairlead.NonRetryable(nil) != nil || fairlead.RetryAfter(nil, time.Second) != nil {
		t.Error("no error became one")
	}
}

// Nothing that is not from the service is worked on, nor answered.
func TestWorkIgnoresWhatIsNoAttempt(t *testing.T) {
	s := startTasks(t)
	ran := make(chan string, 10)
	work(s, "echo", fairlead.WorkOptions{}, func(_ context.Context, a *fairlead.Attempt, in raw) (raw, error) {
		ran <- a.ID()
		return in, nil
	})
	forged := s.listen("fl.control.user.ann")
	for _, reply := range []string{"", "fl.control.user.ann", "fl.svc.tasks.reply.r1.t_x.1.token", "other.svc.tasks.reply.r1." + wire.NewTaskID(time.Now()).String() + ".1.token"} {
		must(t, s.other.PublishMsg(&nats.Msg{Subject: "fl.task.echo", Reply: reply, Data: []byte(`1`)}))
	}
	d := s.dispatch("echo", attempt(`2`))
	of(t, s.results, d)
	if got := receive(t, ran); got != d.id.String() || len(ran) > 0 {
		t.Errorf("%s was worked on first and %d more, want %s alone", got, len(ran), d.id)
	}
	must(t, s.nc.FlushTimeout(patience))
	must(t, s.other.FlushTimeout(patience))
	if n, _, err := forged.Pending(); err != nil || n > 0 {
		t.Errorf("%d messages went to a forged reply subject, %v", n, err)
	}
}

func TestWorkRunsSoManyAtATime(t *testing.T) {
	s := startTasks(t)
	began, why := until(s, "busy", fairlead.WorkOptions{Concurrency: 2})
	var all []dispatched
	for range 3 {
		all = append(all, s.dispatch("busy", attempt(`1`)))
	}
	running := map[string]bool{receive(t, began).ID(): true, receive(t, began).ID(): true}
	if len(began) > 0 || !running[all[0].id.String()] || !running[all[1].id.String()] {
		t.Errorf("%v run and %d more, want the first two", running, len(began))
	}
	must(t, s.other.Publish(all[1].cancelSubject(), nil))
	if err := receive(t, why); !errors.Is(err, wire.ErrCancelled) {
		t.Errorf("cancelled: the context ended with %v", err)
	}
	if got := receive(t, began).ID(); got != all[2].id.String() {
		t.Errorf("%s runs then, want the third", got)
	}
	if got, want := said(of(t, s.results, all[1])), "CANCELLED: context canceled"; got != want {
		t.Errorf("told %s, want %s", got, want)
	}
}

// A message that comes twice is worked on once; a later attempt of the same task
// says that the earlier one was given up.
func TestTheSameAttemptTwice(t *testing.T) {
	s := startTasks(t)
	began, why := until(s, "twice", fairlead.WorkOptions{})
	d := attempt(`1`)
	d.fence = 2
	s.dispatch("twice", d)
	receive(t, began)
	s.dispatch("twice", d)
	older, newer := d, d
	older.fence, newer.fence = 1, 3
	s.dispatch("twice", older)
	s.dispatch("twice", newer)
	if a := receive(t, began); a.Fence() != 3 {
		t.Errorf("the attempt with fence %d began, want 3", a.Fence())
	}
	if err := receive(t, why); !errors.Is(err, fairlead.ErrFenceLost) {
		t.Errorf("the one before ended with %v, want that its fence is lost", err)
	}
	must(t, s.other.Publish(newer.cancelSubject(), nil))
	receive(t, why)
	of(t, s.results, newer)
	s.dispatch("twice", newer) // it has ended
	last := s.dispatch("twice", attempt(`1`))
	if a := receive(t, began); a.ID() != last.id.String() {
		t.Errorf("fence %d of the old task began", a.Fence())
	}
}

func TestAnAttemptThatWaitedTooLong(t *testing.T) {
	s := startTasks(t)
	began, _ := until(s, "late", fairlead.WorkOptions{Concurrency: 1})
	first := s.dispatch("late", attempt(`1`))
	receive(t, began)
	late := attempt(`1`)
	late.timeout = time.Millisecond
	s.dispatch("late", late)
	last := s.dispatch("late", attempt(`1`))
	time.AfterFunc(20*time.Millisecond, func() { _ = s.other.Publish(first.cancelSubject(), nil) })
	if a := receive(t, began); a.ID() != last.id.String() {
		t.Errorf("%s began, want %s: the one between is out of time", a.ID(), last.id)
	}
}

func TestOptionsOfAWorker(t *testing.T) {
	s := startTasks(t)
	fn := func(context.Context, *fairlead.Attempt, raw) (any, error) { return nil, nil }
	for _, name := range []string{"", "a b", "a.*", "a..b", "1a", ">"} {
		_, err := fairlead.Work(s.f, name, fn, fairlead.WorkOptions{})
		coded(t, err, wire.InvalidArgument)
	}
	for _, lease := range []time.Duration{time.Millisecond, time.Hour} {
		_, err := fairlead.Work(s.f, "a", fn, fairlead.WorkOptions{Lease: lease})
		coded(t, err, wire.InvalidArgument)
	}
	s.f.Close()
	if _, err := fairlead.Work(s.f, "a", fn, fairlead.WorkOptions{}); !errors.Is(err, fairlead.ErrClosed) {
		t.Errorf("behind Close: %v", err)
	}
}

func TestDrainWaitsForAttemptsAndTheirResults(t *testing.T) {
	s := startTasks(t)
	began, finish := make(chan bool, 2), make(chan bool)
	w := work(s, "drained", fairlead.WorkOptions{Concurrency: 1, Lease: shortLease}, func(_ context.Context, _ *fairlead.Attempt, in int) (int, error) {
		began <- true
		<-finish
		return in, nil
	})
	s.answer(acknowledged, nil) // results are not heard
	first, second := s.dispatch("drained", attempt(`1`)), s.dispatch("drained", attempt(`2`))
	receive(t, began)
	drained := make(chan error, 1)
	go func() { drained <- w.Drain(t.Context()) }()
	for range 2 { // both are kept alive meanwhile, the one that waits too
		of(t, s.beats, first)
		of(t, s.beats, second)
	}
	completed := s.serve("fl.svc.tasks.complete", acknowledged)
	close(finish)
	got := map[string]bool{}
	for range 2 {
		var c wire.TaskComplete
		must(t, json.Unmarshal(receive(t, completed).Data, &c))
		if c.Token != "token" || c.Fence != 1 {
			t.Errorf("completed %+v", c)
		}
		got[c.ID+string(c.Result)] = true
	}
	if !got[first.id.String()+"1"] || !got[second.id.String()+"2"] {
		t.Errorf("completed %v, want both", got)
	}
	must(t, receive(t, drained))
}

// A worker that is stopped leaves what it has to others at once.
func TestCloseSaysGoodbye(t *testing.T) {
	s := startTasks(t)
	began, why := until(s, "closed", fairlead.WorkOptions{Concurrency: 1})
	first, second := s.dispatch("closed", attempt(`1`)), s.dispatch("closed", attempt(`1`))
	receive(t, began)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.f.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drained: %v", err)
	}
	if err := receive(t, why); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("the context ended with %v", err)
	}
	heard := map[string]string{}
	for range 2 {
		msg := receive(t, s.beats)
		heard[msg.Subject] = msg.Header.Get("Fl-Task-Lease-Ms")
	}
	for _, d := range []dispatched{first, second} {
		if got := heard[wire.Namespace("fl").TaskReply("r1", d.id, d.fence, "token")]; got != "1" {
			t.Errorf("of %v the last promise is %q ms, want 1", d.id, got)
		}
	}
	if len(began) > 0 || len(s.results) > 0 {
		t.Errorf("%d more began, %d results were told", len(began), len(s.results))
	}
}

// A worker that goes says nothing else any more, however long it takes.
func TestAWorkerThatGoesStaysGoing(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	hellos := s.listen("fl.svc.tasks.hello")
	began, finish := make(chan bool, 1), make(chan bool)
	w := work(s, "going", fairlead.WorkOptions{}, func(context.Context, *fairlead.Attempt, raw) (any, error) {
		began <- true
		<-finish
		return nil, nil
	})
	s.dispatch("going", attempt(`1`))
	receive(t, began)
	drained := make(chan error, 1)
	go func() { drained <- w.Drain(t.Context()) }()
	for !hello(t, s.next(hellos)).Leaving {
	}
	must(t, s.nc.ForceReconnect()) // it says hello again
	if last := hello(t, s.next(hellos)); !last.Leaving {
		t.Errorf("the worker says %+v", last)
	}
	close(finish)
	must(t, receive(t, drained))
}
