package client_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func refusal(code wire.Code, after time.Duration, outcome string) *wire.Error {
	e := &wire.Error{Code: code, Message: "refused", RetryAfter: after}
	if outcome != "" {
		e = e.With("outcome", outcome)
	}
	return e
}

func TestRetryWaitsAsItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refusals := []error{
			refusal(wire.ResourceExhausted, 300*time.Millisecond, ""),
			refusal(wire.Unavailable, time.Second, "none"),
			refusal(wire.ResourceExhausted, time.Hour, "none"),
		}
		var at []time.Duration
		began := time.Now()
		err := client.Retry(t.Context(), func(context.Context) error {
			at = append(at, time.Since(began))
			if n := len(at); n <= len(refusals) {
				return refusals[n-1]
			}
			return nil
		})
		if err != nil || len(at) != 4 {
			t.Fatalf("got %v after attempts at %v, want the fourth to be done", err, at)
		}
		for i, b := range []struct{ least, most time.Duration }{
			{300 * time.Millisecond, 600 * time.Millisecond}, {time.Second, 3 * time.Second}, {time.Hour, time.Hour + 10*time.Second},
		} {
			if wait := at[i+1] - at[i]; wait < b.least || wait > b.most {
				t.Errorf("wait %d: got %v, want from %v to %v", i, wait, b.least, b.most)
			}
		}
	})
}

// What never helps, or might do something twice, is done once.
func TestRetryReturnsWhatItMustNotRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, final := range []error{
			nil,
			refusal(wire.ResourceExhausted, wire.Never, "none"),
			refusal(wire.ResourceExhausted, time.Second, "unknown"),
			refusal(wire.Unavailable, time.Second, "unknown"),
			refusal(wire.Unavailable, time.Second, ""),
			refusal(wire.Aborted, time.Second, "none"),
			refusal(wire.DeadlineExceeded, time.Second, "none"),
			refusal(wire.PermissionDenied, 0, ""),
			errors.New("something else"),
			(*wire.Error)(nil),
		} {
			attempts, began := 0, time.Now()
			err := client.Retry(t.Context(), func(context.Context) error {
				attempts++
				return final
			})
			if err != final || attempts != 1 || time.Since(began) != 0 {
				t.Errorf("%v: got %v after %d attempts and %v, want it at once", final, err, attempts, time.Since(began))
			}
		}
	})
}

func TestRetryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hour := refusal(wire.ResourceExhausted, time.Hour, "")
		busy := func(context.Context) error { return hour }
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := client.Retry(ctx, busy); err != error(hour) || time.Since(began) != 0 {
			t.Errorf("a wait beyond the deadline: got %v after %v, want the refusal at once", err, time.Since(began))
		}
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		time.AfterFunc(time.Second, cancel)
		err := client.Retry(ctx, busy)
		if !errors.Is(err, wire.ErrCancelled) || !errors.Is(err, hour) || time.Since(began) != time.Second {
			t.Errorf("cancelled: got %v after %v, want CANCELLED and the refusal after a second", err, time.Since(began))
		}
	})
}

// An error that says nothing of when has its code's pause.
func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		err  error
		want time.Duration
		ok   bool
	}{
		{refusal(wire.ResourceExhausted, 0, ""), 100 * time.Millisecond, true},
		{refusal(wire.ResourceExhausted, 1500*time.Microsecond, ""), 2 * time.Millisecond, true},
		{errors.Join(errors.New("publish"), refusal(wire.Unavailable, time.Second, "none")), time.Second, true},
		{nil, 0, false},
	} {
		if got, ok := client.RetryAfter(c.err); got != c.want || ok != c.ok {
			t.Errorf("%v: got %v %t, want %v %t", c.err, got, ok, c.want, c.ok)
		}
	}
}
