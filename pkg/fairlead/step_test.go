package fairlead_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

type charge struct {
	ID string `json:"id"`
}

// keepSteps stands for the store of steps; it is asked for one at a time.
func (s *taskService) keepSteps() <-chan *nats.Msg {
	kept := map[string]json.RawMessage{}
	return s.serve("fl.svc.tasks.step", func(msg *nats.Msg) *nats.Msg {
		var req wire.TaskStep
		must(s.t, json.Unmarshal(msg.Data, &req))
		key := req.ID + " " + req.Step
		if kept[key] == nil && req.Result != nil {
			kept[key] = req.Result
		}
		data, err := json.Marshal(wire.TaskStepped{Done: kept[key] != nil, Result: kept[key]})
		must(s.t, err)
		return &nats.Msg{Data: data}
	})
}

func TestARetryResumesBehindItsSteps(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	asked := s.keepSteps()
	charged, mailed := make(chan string, 10), make(chan bool, 10)
	work(s, "order", fairlead.WorkOptions{}, func(ctx context.Context, a *fairlead.Attempt, _ raw) (string, error) {
		paid, err := fairlead.Step(ctx, "charge", func(context.Context) (charge, error) {
			charged <- a.StepKey("charge")
			return charge{"c1"}, nil
		})
		if err != nil {
			return "", err
		}
		_, err = fairlead.Step(ctx, "mail", func(context.Context) (any, error) {
			mailed <- true
			if a.Number() == 1 {
				return nil, errors.New("no mail today")
			}
			return nil, nil
		})
		return paid.ID, err
	})
	d := s.dispatch("order", attempt(`1`))
	if got, want := said(of(t, s.results, d)), "INTERNAL: no mail today"; got != want {
		t.Errorf("first: told %s, want %s", got, want)
	}
	if got, want := string(receive(t, asked).Data), `{"id":"`+d.id.String()+`","fence":1,"token":"token","step":"charge","result":{"id":"c1"}}`; got != want {
		t.Errorf("first: asked %s, want %s: nothing can be stored before", got, want)
	}
	d.number, d.fence = 2, 2
	s.dispatch("order", d)
	if got, want := said(of(t, s.results, d)), `"c1"`; got != want {
		t.Errorf("second: told %s, want %s", got, want)
	}
	if got, want := receive(t, charged), d.id.String()+"/charge"; got != want || len(charged) > 0 || len(mailed) != 2 {
		t.Errorf("charged with %s and %d times more, mailed %d times, want %s, once and twice", got, len(charged), len(mailed), want)
	}
	for _, want := range []string{`"step":"charge"}`, `"step":"mail"}`, `"step":"mail","result":null}`} {
		if got := string(receive(t, asked).Data); !strings.HasSuffix(got, want) {
			t.Errorf("second: asked %s, want %s", got, want)
		}
	}
}

// A step is stored once there is somebody who stores it; what was stored first
// counts.
func TestAStepIsStoredUntilItIsAnswered(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	tries := 0
	s.serve("fl.svc.tasks.step", func(msg *nats.Msg) *nats.Msg {
		if tries++; tries < 3 {
			return refusal("UNAVAILABLE", "postgres is away", `{}`)(msg)
		}
		return body(`{"done":true,"result":{"id":"first"}}`)(msg)
	})
	work(s, "order", fairlead.WorkOptions{}, func(ctx context.Context, _ *fairlead.Attempt, _ raw) (charge, error) {
		return fairlead.Step(ctx, "charge", func(context.Context) (charge, error) { return charge{"second"}, nil })
	})
	if got, want := said(of(t, s.results, s.dispatch("order", attempt(`1`)))), `{"id":"first"}`; got != want {
		t.Errorf("told %s, want %s", got, want)
	}
}

func TestAStepOfALostFence(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	s.serve("fl.svc.tasks.step", fenceLost)
	cause, returned := make(chan error, 1), make(chan error, 1)
	work(s, "order", fairlead.WorkOptions{}, func(ctx context.Context, _ *fairlead.Attempt, _ raw) (any, error) {
		_, err := fairlead.Step(ctx, "charge", func(context.Context) (charge, error) { return charge{}, nil })
		cause <- context.Cause(ctx)
		returned <- err
		return nil, err
	})
	s.dispatch("order", attempt(`1`))
	if err := receive(t, returned); !errors.Is(err, fairlead.ErrFenceLost) {
		t.Errorf("the step returned %v", err)
	}
	if err := receive(t, cause); !errors.Is(err, fairlead.ErrFenceLost) {
		t.Errorf("the context ended with %v", err)
	}
	must(t, s.f.Drain(t.Context()))
	if len(s.results) > 0 {
		t.Errorf("told %s", said(<-s.results))
	}
}

func TestStepsThatCannotBe(t *testing.T) {
	s := startTasks(t)
	if _, err := fairlead.Step(t.Context(), "charge", func(context.Context) (int, error) { return 1, nil }); err == nil {
		t.Error("a step outside of an attempt was done")
	}
	work(s, "order", fairlead.WorkOptions{}, func(ctx context.Context, _ *fairlead.Attempt, name string) (int, error) {
		return fairlead.Step(ctx, name, func(context.Context) (int, error) {
			t.Errorf("the step %q ran", name)
			return 1, nil
		})
	})
	for _, name := range []string{"", strings.Repeat("x", fairlead.MaxStep+1)} {
		if got := said(of(t, s.results, s.dispatch("order", attempt(`"`+name+`"`)))); !strings.HasPrefix(got, "INVALID_ARGUMENT: step: ") {
			t.Errorf("%d bytes: told %s", len(name), got)
		}
	}
}
