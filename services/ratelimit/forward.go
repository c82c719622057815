package ratelimit

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// forwardWait bounds how long the replica that prefers a key may take, when its
// caller has more time than twice that.
const forwardWait = time.Second

// forward has the replica decide that prefers the key, where that is another one.
// ok is false where this one has to; then the error says what became of the other
// one, if it was asked. Should it have decided without being heard, the key is
// charged twice: never too little.
func (s *Service) forward(ctx context.Context, a asked) (_ wire.LimitVerdict, ok bool, _ error) {
	// What is above the capacity is denied by whoever is asked, without a write.
	if a.cost > int64(a.limit.Capacity) || s.client.Mine(a.key) {
		return wire.LimitVerdict{}, false, nil
	}
	wait := forwardWait
	if until, ok := ctx.Deadline(); ok {
		wait = min(wait, has(time.Until(until))/2)
	}
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	answer, err := s.client.Consume(bounded, limits.Ask{Limit: a.limit, Key: a.key, Cost: a.cost}, a.n)
	if err != nil {
		s.metrics.forwardsFailed.Add(1)
		return wire.LimitVerdict{}, false, err
	}
	s.metrics.forwarded.Add(1)
	verdict := wire.LimitVerdict{
		Allowed: answer.Allowed, Remaining: answer.Remaining, Limit: int64(a.limit.Capacity), ResetMs: int64(wire.RetryAfterOf(answer.Reset)),
		Banned: answer.Banned, Shadowed: answer.Shadowed, Granted: answer.Granted, Revision: answer.Revision, Version: answer.Version,
	}
	if !verdict.Allowed {
		verdict.RetryAfterMs = wire.RetryAfterOf(answer.RetryAfter)
	}
	return verdict, true, nil
}
