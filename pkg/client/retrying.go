package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// retryLeast and retryMost bound what many who were refused together wait at
	// random beyond what they were told.
	retryLeast = 100 * time.Millisecond
	retryMost  = 10 * time.Second
)

// Retry does fn, and where a limit or an overload refuses it, waits for as long
// as the server says, a little at random on top, and does it again, until ctx
// ends:
//
//	err := client.Retry(ctx, func(ctx context.Context) error {
//		_, err := c.Publish(ctx, "chat.lobby", "message", data, client.PublishOptions{})
//		return err
//	})
//
// That is RESOURCE_EXHAUSTED, and UNAVAILABLE where certainly nothing was done
// ([RetryAfter] has the rule). Every other error it returns as it is. Where the
// next attempt would come after the deadline of ctx it returns the refusal at
// once; where ctx ends meanwhile, ctx's error as a [*wire.Error], joined with the
// refusal. Of several that wait at once none keeps its place.
func Retry(ctx context.Context, fn func(ctx context.Context) error) error {
	for attempt := 0; ; attempt++ {
		err := fn(ctx)
		told, ok := RetryAfter(err)
		if !ok {
			return err
		}
		wait := told + time.Duration(rand.Float64()*float64(spread(told, attempt)))
		if end, ok := ctx.Deadline(); ok && time.Until(end) < wait {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(wire.AsError(ctx.Err()), err)
		}
	}
}

// RetryAfter returns when the server wants what failed with err to be asked
// again. false: asking again does not help, as with [wire.Never], or might do
// something twice, as wherever the outcome is unknown.
func RetryAfter(err error) (time.Duration, bool) {
	var e *wire.Error
	if !errors.As(err, &e) || e == nil || e.RetryAfter < 0 {
		return 0, false
	}
	switch outcome := e.Details["outcome"]; e.Code {
	case wire.ResourceExhausted: // a limit refuses before anything is done
		if outcome == "unknown" {
			return 0, false
		}
	case wire.Unavailable: // of a backend that is away only the one who said so knows
		if outcome != "none" {
			return 0, false
		}
	default:
		return 0, false
	}
	ms, _, _ := e.RetryAfterMs() // what stands for none
	return time.Duration(ms) * time.Millisecond, true
}

// spread is how much longer than told an attempt may wait: twice as much with
// each one, so that of many who wait for few tokens ever fewer ask.
func spread(told time.Duration, attempt int) time.Duration {
	bound := max(told, retryLeast)
	if doubled := bound << min(attempt, 20); doubled > 0 && doubled>>min(attempt, 20) == bound {
		return min(doubled, retryMost)
	}
	return retryMost
}
