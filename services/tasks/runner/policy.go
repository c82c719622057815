package runner

import (
	"math"
	"slices"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// defaultPolicy is how the tasks of a name run that nobody has registered.
func defaultPolicy(name string) store.Policy {
	return store.Policy{
		Name: name, Timeout: time.Minute, MaxAttempts: 1, Backoff: time.Second, Factor: 2,
		MaxBackoff: time.Minute, Jitter: 0.1, MaxCrashes: 3,
	}
}

// verdict is what follows an attempt that did not commit.
type verdict struct {
	again bool          // another one, else the task has ended
	after time.Duration // not sooner
}

// final are the codes after which no attempt follows, whatever the policy: the
// next one would be told the same.
var final = []wire.Code{wire.InvalidArgument, wire.FailedPrecondition, wire.Unimplemented, wire.PermissionDenied, wire.NotFound}

// afterFailure says what follows an attempt that ended with e, when so many had
// failed before it. random is from [0, 1).
func afterFailure(p *store.Policy, failures int, e *wire.TaskError, random float64) verdict {
	retryable := !slices.Contains(final, e.Code) && !slices.Contains(p.Final, e.Code)
	if e.Retryable != nil {
		retryable = *e.Retryable
	}
	if !retryable || failures+1 >= max(p.MaxAttempts, 1) {
		return verdict{}
	}
	if e.RetryAfterMs > 0 {
		return verdict{again: true, after: time.Duration(min(e.RetryAfterMs, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond}
	}
	return verdict{again: true, after: backoff(p, failures, random)}
}

// afterCrash says what follows an attempt whose worker was lost, when so many had
// been before it.
func afterCrash(p *store.Policy, crashes int, random float64) verdict {
	if crashes+1 > p.MaxCrashes {
		return verdict{}
	}
	return verdict{again: true, after: backoff(p, crashes, random)}
}

// longestWait bounds a wait for which nobody has set a bound.
const longestWait = 365 * 24 * time.Hour

// backoff is the wait before the next attempt after so many earlier ones went
// wrong beside the last.
func backoff(p *store.Policy, before int, random float64) time.Duration {
	wait := float64(p.Backoff) * math.Pow(max(p.Factor, 1), float64(before))
	most := float64(longestWait)
	if p.MaxBackoff > 0 {
		most = min(most, float64(p.MaxBackoff))
	}
	if !(wait < most) { // also where it is no number
		wait = most
	}
	wait -= wait * min(max(p.Jitter, 0), 1) * random
	return time.Duration(max(wait, 0))
}
