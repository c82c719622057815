package fairlead

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// MaxStep is the longest name of a step, in bytes.
const MaxStep = 128

// Step does a part of a task once: fn's result is stored with the task, and a
// later attempt gets it from there without fn being called. It is for functions of
// [Work], with their context or one made of it.
//
//	charge, err := fairlead.Step(ctx, "charge", func(ctx context.Context) (Charge, error) {
//		return pay(ctx, in.Amount, a.StepKey("charge"))
//	})
//
// A step has a name of 1 to 128 bytes that is its own within the task, and a
// result of at most 512 KB of JSON, which is read into T from where it is
// stored, also the first time.
//
// What is promised: once Step has returned without an error, fn is called in no
// later attempt. A worker that dies after fn had its effect and before the result
// is stored leaves a later attempt to call fn again: give [Attempt.StepKey] as
// the idempotency key to whoever fn asks, and the effect happens once. Of two
// attempts at the same time the result that was stored first counts, for both.
//
// An error of fn is returned as it is, and nothing is stored. While the service
// does not answer, Step asks again until the context ends. It is [ErrFenceLost]
// where the attempt was given up; the context has ended with it then.
func Step[T any](ctx context.Context, name string, fn func(ctx context.Context) (T, error)) (T, error) {
	var stored, none T
	a, ok := AttemptOf(ctx)
	if !ok {
		return none, fmt.Errorf("step %s: %w", name, errors.New("the context is none of an attempt"))
	}
	if name == "" || len(name) > MaxStep {
		return none, fmt.Errorf("step: %w", wire.InvalidField("step", "1-"+strconv.Itoa(MaxStep)+" bytes"))
	}
	if a.earlier(name) {
		was, err := a.step(ctx, name, nil)
		if err != nil {
			return none, fmt.Errorf("step %s: %w", name, err)
		}
		if was.Done {
			return stored, readStep(name, was.Result, &stored)
		}
	}
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	result, err := fn(ctx)
	if err != nil {
		return none, err
	}
	data, err := encodeResult(result)
	if err != nil {
		return none, fmt.Errorf("step %s: %w", name, err)
	}
	was, err := a.step(ctx, name, data)
	if err != nil {
		return none, fmt.Errorf("step %s: %w", name, err)
	}
	return stored, readStep(name, was.Result, &stored)
}

// earlier reports whether a step may be stored already: in the first attempt only
// what this one has stored can be.
func (a *Attempt) earlier(step string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.fence > 1 || a.steps[step]
	if a.steps == nil {
		a.steps = map[string]bool{}
	}
	a.steps[step] = true
	return was
}

// step stores a result, or looks for one, until it is answered.
func (a *Attempt) step(ctx context.Context, name string, result []byte) (wire.TaskStepped, error) {
	req := wire.TaskStep{TaskAttempt: a.said(), Step: name, Result: result}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		again := a.w.reconnect()
		once, cancel := context.WithTimeout(ctx, answerWithin)
		release := context.AfterFunc(again, cancel)
		was, err := service[wire.TaskStepped](once, a.w.f, "tasks", "step", req)
		release()
		cancel()
		var e *wire.Error
		switch {
		case err == nil:
			return was, nil
		case a.gaveUp(err):
			a.lose(true)
			return was, ErrFenceLost
		case ctx.Err() != nil:
			return was, context.Cause(ctx)
		case !errors.As(err, &e) || final(e.Code) || e.Code == wire.FailedPrecondition:
			return was, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-again.Done():
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return was, context.Cause(ctx)
		}
	}
}

func readStep(name string, data []byte, v any) error {
	if raw, ok := v.(*json.RawMessage); ok {
		*raw = data
		return nil
	}
	if raw, ok := v.(*[]byte); ok {
		*raw = data
		return nil
	}
	if len(data) == 0 { // null
		return nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("step %s: read the stored result: %w", name, err)
	}
	return nil
}
