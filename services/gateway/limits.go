package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/internal/breaker"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// decideWithin is how long an operation waits for the ratelimit service.
	decideWithin = 50 * time.Millisecond
	// A replica may not have read rules that the gateway has: it is asked again,
	// unless that was of no use lately.
	unreadAgain = 5 * time.Millisecond
	unreadRest  = time.Second
)

// decider is the ratelimit service, or what stands for it.
type decider interface {
	// Remembered answers what it was denied lately, without a question.
	Remembered(a limits.Ask) (limits.Answer, bool)
	Consume(ctx context.Context, a limits.Ask, n int64) (limits.Answer, error)
	ConsumeAll(ctx context.Context, asks []limits.Ask) (granted bool, _ []limits.Answer, _ error)
}

// limiter has operations take from the limits of the rules. The ratelimit service
// decides; while it does not, the limit's failMode does.
type limiter struct {
	service decider              // set before anything is taken
	counts  func() limits.Counts // of its client
	guard   *breaker.Breaker     // of the service; nil: it is always asked
	up      func() bool          // NATS is there: silence is the service's
	tell    func(*taker, limits.Ask, limits.Answer)
	locals  *locals
	bursts  *bursts
	outage  outage
	pulse   *pulse
	// unread is until when (ns since 1970) a limit that the service does not know
	// is not waited for.
	unread atomic.Int64

	granted    atomic.Int64
	refused    atomic.Int64
	shadowed   atomic.Int64                      // would have been refused, but for the limit's `shadow`
	remembered atomic.Int64                      // of those refused: the service was not asked
	undecided  [rules.FailLocal + 1]atomic.Int64 // by failMode
}

func newLimiter(log *slog.Logger, up func() bool, tell func(*taker, limits.Ask, limits.Answer)) *limiter {
	return &limiter{up: up, tell: tell, locals: newLocals(), bursts: newBursts(), outage: outage{log: log}, pulse: newPulse()}
}

// take takes what is asked n times, each by itself, and returns how many times it
// was there. The error is why it was not more often.
func (l *limiter) take(ctx context.Context, by *taker, a limits.Ask, n int64) (granted int64, _ *wire.Error) {
	if a.Cost > int64(a.Limit.Capacity) { // as a sum may be; there is nothing to ask
		return l.outcome(by, a, n, shadow(a.Limit, limits.Answer{Verdict: limits.Verdict{RetryAfter: wire.Never}}, n))
	}
	answer, known := l.service.Remembered(a) // also while nobody can be asked
	if known {
		return l.outcome(by, a, n, answer)
	}
	if err := l.ask(ctx, func(ctx context.Context) (cached bool, err error) {
		answer, err = l.service.Consume(ctx, a, n)
		return answer.Cached, err
	}); err != nil {
		if gone(ctx) {
			return 0, l.undecidedOf(a.Limit, err)
		}
		l.undecided[a.Limit.FailMode].Add(n)
		switch {
		case a.Limit.FailMode == rules.FailLocal:
			answer = l.locals.take(a, n, time.Now())
		case a.Limit.FailMode == rules.FailOpen, a.Limit.Shadow: // which refuses nobody
			return n, nil
		default:
			return 0, l.undecidedOf(a.Limit, err)
		}
	}
	return l.outcome(by, a, n, answer)
}

// outcome counts an answer and makes it what the operation hears.
func (l *limiter) outcome(by *taker, a limits.Ask, n int64, answer limits.Answer) (granted int64, _ *wire.Error) {
	if answer.Shadowed {
		answer.Granted = n
		l.shadowed.Add(1)
		l.exceeded(by, a, answer)
	}
	l.granted.Add(answer.Granted)
	if answer.Granted >= n {
		return n, nil
	}
	l.refused.Add(n - answer.Granted)
	if answer.Cached { // it was told to wait, and does not
		l.remembered.Add(n)
		by.hurries()
	}
	l.exceeded(by, a, answer)
	return answer.Granted, refusedBy(a, answer)
}

// takeAll takes all of several asks, of different buckets, or none of them.
func (l *limiter) takeAll(ctx context.Context, by *taker, asks []limits.Ask) *wire.Error {
	for _, a := range asks {
		if len(asks) == 1 || a.Cost > int64(a.Limit.Capacity) && !a.Limit.Shadow {
			_, err := l.take(ctx, by, a, 1)
			return err
		}
	}
	var granted bool
	var answers []limits.Answer
	if err := l.ask(ctx, func(ctx context.Context) (_ bool, err error) {
		granted, answers, err = l.service.ConsumeAll(ctx, asks)
		return slices.ContainsFunc(answers, func(a limits.Answer) bool { return a.Cached }), err
	}); err != nil {
		if gone(ctx) {
			return l.undecidedOf(asks[0].Limit, err)
		}
		var counted []limits.Ask
		for _, a := range asks {
			l.undecided[a.Limit.FailMode].Add(1)
			switch {
			case a.Limit.FailMode == rules.FailLocal:
				counted = append(counted, a)
			case a.Limit.FailMode == rules.FailOpen, a.Limit.Shadow:
			default:
				return l.undecidedOf(a.Limit, err)
			}
		}
		asks = counted
		granted, answers = l.locals.takeAll(asks, time.Now())
	}
	worst := -1
	for i := range answers {
		switch {
		case granted: // counts what a limit with `shadow` let pass, too
			l.outcome(by, asks[i], 1, answers[i])
		case !answers[i].Allowed && (worst < 0 || longer(answers[i].RetryAfter, answers[worst].RetryAfter)):
			worst = i
		}
	}
	if granted {
		return nil
	}
	_, err := l.outcome(by, asks[max(worst, 0)], 1, answers[max(worst, 0)])
	return err
}

// longer reports whether a wait is longer than another; never is the longest.
func longer(d, than time.Duration) bool { return than >= 0 && (d < 0 || d > than) }

// gone reports whether who asked has gone: what nobody waits for is not done, and
// says nothing about the service.
func gone(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

// ask puts a question to the service, within the time that an operation has for
// it. cached says that the answer is not the service's.
func (l *limiter) ask(ctx context.Context, question func(context.Context) (cached bool, _ error)) error {
	if err := ctx.Err(); err != nil {
		return wire.AsError(err)
	}
	var pass breaker.Pass
	if l.guard != nil {
		var err error
		if pass, err = l.guard.Allow(); err != nil {
			l.outage.failed(err, time.Now())
			return err
		}
	}
	began, hurried := l.pulse.now(), hurried(ctx)
	within, cancel := context.WithTimeout(ctx, decideWithin)
	defer cancel()
	var cached bool
	var err error
	for {
		cached, err = question(within)
		if err == nil || wire.CodeOf(err) != wire.NotFound || time.Now().UnixNano() < l.unread.Load() {
			break
		}
		if clock.Sleep(within, unreadAgain) != nil {
			if !hurried && !gone(ctx) {
				l.unread.Store(time.Now().Add(unreadRest).UnixNano())
			}
			break
		}
	}
	pass.Done(l.judge(began, hurried, cached, err, gone(ctx)))
	return err
}

// judge says what a question tells about the service, and notes it. Silence to
// one is nothing while others are answered: that one may have come behind more
// than there was time for.
func (l *limiter) judge(began time.Duration, hurried, cached bool, err error, gone bool) breaker.Outcome {
	code := wire.CodeOf(err)
	switch {
	case cached, err != nil && gone:
		return breaker.Neither
	case err == nil:
		l.pulse.answered()
		l.outage.succeeded()
		return breaker.Success
	case code == wire.DeadlineExceeded && l.up() && !l.pulse.silent(began, hurried):
		l.outage.total.Add(1)
		return breaker.Neither
	}
	l.outage.failed(err, time.Now())
	switch failed := code == wire.Unavailable || code == wire.DeadlineExceeded; {
	case !l.up():
	case !failed:
		l.pulse.answered()
		return breaker.Success
	case l.pulse.fails(began):
		return breaker.Failure
	}
	return breaker.Neither
}

// exceeded tells of the first refusal of a burst.
func (l *limiter) exceeded(by *taker, a limits.Ask, answer limits.Answer) {
	if l.bursts.begins(a.Limit.Name, a.Key, time.Now()) {
		l.tell(by, a, answer)
	}
}

// refusedBy is what a client hears that a limit refuses.
func refusedBy(a limits.Ask, answer limits.Answer) *wire.Error {
	e := &wire.Error{
		Code: wire.ResourceExhausted, Message: "the limit " + a.Limit.Name + " is used up", RetryAfter: answer.RetryAfter,
		Details: map[string]any{"limit": a.Limit.Name, "cost": a.Cost, "capacity": a.Limit.Capacity},
	}
	switch {
	case a.Cost > int64(a.Limit.Capacity):
		e.Message = "the cost is above the capacity of the limit " + a.Limit.Name
	case answer.Banned:
		e.Message = "banned by the limit " + a.Limit.Name
	}
	if answer.RetryAfter != wire.Never {
		e.Details["remaining"] = answer.Remaining
	}
	return e
}

// undecidedOf is what it hears of a limit that nobody decided about, because of
// err.
func (l *limiter) undecidedOf(limit *rules.Limit, err error) *wire.Error {
	what, text := "ratelimit", "the ratelimit service did not decide about the limit "+limit.Name
	if !l.up() {
		what, text = "nats", "NATS is away: nobody can decide about the limit "+limit.Name
	}
	e := unavailable(text).With("limit", limit.Name).With("what", what)
	if known := wire.AsError(err); known.Code == wire.Unavailable {
		e.RetryAfter = max(known.RetryAfter, 0)
	}
	return e
}
