package bus

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// begun is a request whose work goes on.
type begun struct {
	e      echo
	answer func(echo, error)
}

func laterEndpoint(subject string) (Endpoint, chan begun) {
	all := make(chan begun, 16)
	return HandleLater("later", subject, func(_ context.Context, e echo, answer func(echo, error)) {
		if e.Text == "panic" {
			panic("broken")
		}
		all <- begun{e, answer}
	}), all
}

func calling(t *testing.T, nc *nats.Conn, subject string, e echo) <-chan error {
	t.Helper()
	replied := make(chan error, 1)
	go func() {
		got, err := Call[echo, echo](t.Context(), nc, subject, e)
		if err == nil && got != e {
			err = errors.New("another's answer")
		}
		replied <- err
	}()
	return replied
}

// Requests are answered in any order, each its own caller, once, and hold a slot
// each until then.
func TestLaterAnswers(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	e, all := laterEndpoint("fl.svc.test.later")
	serve(t, nc, ServeConfig{Workers: 2}, e)
	first := calling(t, nc, e.Subject, echo{N: 1})
	a := await(t, "the first", all)
	second := calling(t, nc, e.Subject, echo{N: 2})
	b := await(t, "the second", all)
	if _, err := Call[echo, echo](t.Context(), nc, e.Subject, echo{N: 3}); !errors.Is(err, wire.ErrResourceExhausted) {
		t.Errorf("third of two: got %v, want RESOURCE_EXHAUSTED", err)
	}
	b.answer(b.e, nil)
	b.answer(echo{}, errors.New("a second time"))
	if err := await(t, "the second's answer", second); err != nil {
		t.Errorf("second: %v", err)
	}
	a.answer(echo{}, wire.Errorf(wire.NotFound, "none"))
	if err := await(t, "the first's answer", first); !errors.Is(err, wire.ErrNotFound) {
		t.Errorf("first: got %v, want NOT_FOUND", err)
	}
	for range 3 { // more than there are slots: each is given back
		if err := await(t, "an answer", calling(t, nc, e.Subject, echo{Text: "panic"})); !errors.Is(err, wire.ErrInternal) {
			t.Errorf("panic: got %v, want INTERNAL", err)
		}
	}
	msg, err := nc.Request(e.Subject, []byte(`{"n":"x"}`), patience)
	if err != nil {
		t.Fatal(err)
	}
	if got := replyError(msg.Header, msg.Data); !errors.Is(got, wire.ErrInvalidArgument) {
		t.Errorf("a wrong field: got %v, want INVALID_ARGUMENT", got)
	}
}

// Who is not answered in time hears that, and the work's own answer is nobody's.
func TestLaterIsTooLate(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	e, all := laterEndpoint("fl.svc.test.later")
	e.Timeout = 100 * time.Millisecond
	s := serve(t, nc, ServeConfig{Workers: 1}, e)
	for range 2 {
		replied := calling(t, nc, e.Subject, echo{})
		a := await(t, "the request", all)
		if err := await(t, "the answer", replied); !errors.Is(err, wire.ErrDeadlineExceeded) {
			t.Errorf("got %v, want DEADLINE_EXCEEDED", err)
		}
		a.answer(a.e, nil)
	}
	past := nats.NewMsg(e.Subject)
	past.Header.Set(wire.HeaderDeadline, "1000")
	msg, err := nc.RequestMsg(past, patience)
	if err != nil {
		t.Fatal(err)
	}
	if got := replyError(msg.Header, msg.Data); !errors.Is(got, wire.ErrDeadlineExceeded) || len(all) > 0 {
		t.Errorf("a request that comes too late: got %v, want DEADLINE_EXCEEDED and no work", got)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Errorf("drain: %v", err)
	}
}

// A drain waits for what goes on, and ends it when it runs out of time.
func TestLaterAndDrain(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	e, all := laterEndpoint("fl.svc.test.later")
	s, err := Serve(nc, Service{Name: "s"}, ServeConfig{}, e)
	if err != nil {
		t.Fatal(err)
	}
	waits, ends := calling(t, nc, e.Subject, echo{N: 1}), calling(t, nc, e.Subject, echo{N: 2})
	for range 2 {
		if a := await(t, "a request", all); a.e.N == 1 {
			defer time.AfterFunc(10*time.Millisecond, func() { a.answer(a.e, nil) }).Stop()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain: got %v, want that time ran out", err)
	}
	if err := await(t, "the answer", waits); err != nil {
		t.Errorf("answered meanwhile: %v", err)
	}
	if err := await(t, "the answer", ends); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("not answered: got %v, want UNAVAILABLE", err)
	}
}
