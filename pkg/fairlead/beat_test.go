package fairlead_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestHeartbeats(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	began, why := until(s, "beating", fairlead.WorkOptions{Concurrency: 1, Lease: shortLease})
	running, waiting := s.dispatch("beating", attempt(`1`)), s.dispatch("beating", attempt(`1`))
	receive(t, began)
	for _, d := range []dispatched{running, waiting} {
		msg := of(t, s.beats, d)
		if got := msg.Header.Get("Fl-Task-Lease-Ms"); got != "1500" || msg.Reply == "" || len(msg.Data) > 0 {
			t.Errorf("a beat promises %q ms, to be answered on %q, with %q", got, msg.Reply, msg.Data)
		}
	}
	for range 5 { // more than a lease
		of(t, s.beats, running)
	}
	if len(why) > 0 {
		t.Fatalf("the context ended with %v", <-why)
	}
	s.answer(func(msg *nats.Msg) *nats.Msg {
		if _, id, _, _, _ := wire.Namespace("fl").ParseTaskReply(msg.Subject); id == running.id {
			return fenceLost(msg)
		}
		return acknowledged(msg)
	}, acknowledged)
	if err := receive(t, why); !errors.Is(err, fairlead.ErrFenceLost) || !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Errorf("given up: the context ended with %v", err)
	}
	if a := receive(t, began); a.ID() != waiting.id.String() {
		t.Errorf("%s runs then, want the one that waited", a.ID())
	}
	if len(s.results) > 0 {
		t.Errorf("told %s of an attempt that was given up", said(<-s.results))
	}
	// One that waits is given up too.
	third := s.dispatch("beating", attempt(`1`))
	s.answer(fenceLost, acknowledged)
	of(t, s.beats, third)
	receive(t, why)
	s.answer(acknowledged, acknowledged)
	last := s.dispatch("beating", attempt(`1`))
	for {
		a := receive(t, began)
		if a.ID() == last.id.String() {
			break
		}
		if a.ID() == third.id.String() { // it was faster: then it is cancelled here
			receive(t, why)
		}
	}
}

// Where nothing is acknowledged for a lease the attempt may be somebody else's.
func TestALeaseThatNobodyAcknowledges(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	_, why := until(s, "silent", fairlead.WorkOptions{Lease: shortLease})
	s.answer(nil, acknowledged)
	d := s.dispatch("silent", attempt(`1`))
	of(t, s.beats, d)
	if err := receive(t, why); !errors.Is(err, fairlead.ErrFenceLost) {
		t.Errorf("the context ended with %v", err)
	}
	for { // and it says that it ends
		if of(t, s.beats, d).Header.Get("Fl-Task-Lease-Ms") == "1" {
			break
		}
	}
	if len(s.results) > 0 {
		t.Errorf("told %s", said(<-s.results))
	}
}

// The work that was done counts where nobody has given it up.
func TestAResultBehindASilentLease(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	work(s, "stubborn", fairlead.WorkOptions{Lease: shortLease}, func(ctx context.Context, _ *fairlead.Attempt, in raw) (raw, error) {
		<-ctx.Done()
		return in, nil
	})
	s.answer(nil, acknowledged)
	d := s.dispatch("stubborn", attempt(`7`))
	if got := said(of(t, s.results, d)); got != "7" {
		t.Errorf("told %s, want 7", got)
	}
}

// The service says by itself that an attempt was given up.
func TestAnAttemptThatIsGivenUp(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	began, why := until(s, "given", fairlead.WorkOptions{})
	for reason, want := range map[string]error{"takeover": fairlead.ErrFenceLost, "lost": fairlead.ErrFenceLost, "timeout": fairlead.ErrFenceLost, "cancelled": wire.ErrCancelled} {
		d := s.dispatch("given", attempt(`1`))
		receive(t, began)
		must(t, s.other.Publish(d.cancelSubject(), []byte(`{"reason":"`+reason+`"}`)))
		if err := receive(t, why); !errors.Is(err, want) {
			t.Errorf("%s: the context ended with %v, want %v", reason, err, want)
		}
	}
}

func TestProgressIsCoalesced(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	const steps = 200
	done := make(chan time.Duration, 1)
	finish := make(chan bool)
	work(s, "counting", fairlead.WorkOptions{}, func(_ context.Context, a *fairlead.Attempt, _ raw) (any, error) {
		if err := a.Progress(make(chan int)); !errors.Is(err, wire.ErrInvalidArgument) {
			t.Errorf("progress that is no JSON: %v", err)
		}
		if err := a.Progress(make([]int, wire.MaxTaskProgress)); !errors.Is(err, wire.ErrInvalidArgument) {
			t.Errorf("progress that is too large: %v", err)
		}
		began := time.Now()
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for i := range steps {
			must(t, a.Progress(map[string]int{"done": i + 1}))
			<-tick.C
		}
		done <- time.Since(began)
		<-finish
		return nil, nil
	})
	d := s.dispatch("counting", attempt(`1`))
	last := fmt.Sprintf(`{"done":%d}`, steps)
	n := 0
	for {
		msg := of(t, s.beats, d)
		n++
		if msg.Header.Get("Fl-Task-Lease-Ms") != "10000" {
			t.Errorf("progress promises %q ms", msg.Header.Get("Fl-Task-Lease-Ms"))
		}
		if string(msg.Data) == last {
			break
		}
	}
	close(finish)
	if took := receive(t, done); n < 2 || n > 2+int(took/(200*time.Millisecond)) {
		t.Errorf("%d progresses were sent in %v, want at most five a second", n, took)
	}
}
