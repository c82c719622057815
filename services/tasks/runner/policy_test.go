package runner

import (
	"math"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

func TestWhatFollowsAFailure(t *testing.T) {
	yes, no := true, false
	p := store.Policy{MaxAttempts: 4, Backoff: time.Second, Factor: 2, MaxBackoff: 3 * time.Second, Jitter: 0.5, Final: []wire.Code{wire.Aborted}}
	for _, test := range []struct {
		name     string
		failures int
		e        wire.TaskError
		random   float64
		want     verdict
	}{
		{"the first", 0, wire.TaskError{Code: wire.Internal}, 0, verdict{true, time.Second}},
		{"twice as long", 1, wire.TaskError{Code: wire.Internal}, 0, verdict{true, 2 * time.Second}},
		{"no longer than", 2, wire.TaskError{Code: wire.Internal}, 0, verdict{true, 3 * time.Second}},
		{"as often as", 3, wire.TaskError{Code: wire.Internal}, 0, verdict{}},
		{"jitter", 0, wire.TaskError{Code: wire.Internal}, 0.5, verdict{true, 750 * time.Millisecond}},
		{"final", 0, wire.TaskError{Code: wire.NotFound}, 0, verdict{}},
		{"final by policy", 0, wire.TaskError{Code: wire.Aborted}, 0, verdict{}},
		{"final, but the worker says otherwise", 0, wire.TaskError{Code: wire.NotFound, Retryable: &yes}, 0, verdict{true, time.Second}},
		{"the worker's word, as often as", 3, wire.TaskError{Code: wire.Internal, Retryable: &yes, RetryAfterMs: 5}, 0, verdict{}},
		{"not retryable, it says", 0, wire.TaskError{Code: wire.Internal, Retryable: &no}, 0, verdict{}},
		{"its time", 2, wire.TaskError{Code: wire.Internal, RetryAfterMs: 7}, 0.9, verdict{true, 7 * time.Millisecond}},
		{"a time for ever", 0, wire.TaskError{Code: wire.Internal, RetryAfterMs: math.MaxInt64}, 0, verdict{true, math.MaxInt64 / time.Millisecond * time.Millisecond}},
	} {
		if got := afterFailure(&p, test.failures, &test.e, test.random); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
	for _, code := range []wire.Code{wire.InvalidArgument, wire.FailedPrecondition, wire.Unimplemented, wire.PermissionDenied, wire.NotFound} {
		if afterFailure(&p, 0, &wire.TaskError{Code: code}, 0).again {
			t.Errorf("%s is tried again", code)
		}
	}
	if once := defaultPolicy("x"); afterFailure(&once, 0, &wire.TaskError{Code: wire.Internal}, 0).again {
		t.Error("a name that nobody registered is tried again")
	}
}

func TestWhatFollowsALostWorker(t *testing.T) {
	p := defaultPolicy("x")
	for crashes, again := range []bool{true, true, true, false, false} {
		if got := afterCrash(&p, crashes, 0); got.again != again {
			t.Errorf("after %d crashes before: %+v, want again %v", crashes, got, again)
		}
	}
	p.MaxCrashes = 0
	if afterCrash(&p, 0, 0).again {
		t.Error("no crash is allowed, and one is tried again")
	}
}

func TestBackoffStaysInItsBounds(t *testing.T) {
	for _, p := range []store.Policy{
		{Backoff: time.Second, Factor: 10, MaxBackoff: time.Minute, Jitter: 1},
		{Backoff: time.Second, Factor: 1e300, MaxBackoff: time.Minute},
		{Backoff: math.MaxInt64, Factor: 2},
		{Backoff: time.Second, Factor: math.Inf(1), MaxBackoff: time.Minute, Jitter: 7},
		{Backoff: 0, Factor: math.Inf(1), MaxBackoff: time.Minute},
		{Backoff: time.Second, Factor: -3, MaxBackoff: time.Minute, Jitter: -1},
	} {
		most := p.MaxBackoff
		if most == 0 {
			most = 365 * 24 * time.Hour
		}
		for before := range 2000 {
			for _, random := range []float64{0, 0.5, 0.999999} {
				if got := backoff(&p, before, random); got < 0 || got > most {
					t.Fatalf("%+v after %d: %s", p, before, got)
				}
			}
		}
	}
}
