package ratelimit

import (
	"math"
	"time"

	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// take is what is wanted of a policy's bucket.
type take struct {
	limit *rules.Limit
	cost  int64 // 0 takes nothing
}

// action is what a request does.
type action uint8

const (
	consuming action = iota
	peeking          // consuming that takes nothing
	refunding        // gives the cost of the one take back
	resetting        // fills the bucket, ends its ban
	banning          // keeps the key from the policy
	unbanning        // ends a ban, the bucket stays
	dropping         // takes a policy out, where it is in
	adjusting        // has policies that changed count on, where they are in
)

// request is something that one key is asked for.
type request struct {
	action action
	// takes are of one key. All but consuming, looking and adjusting have one,
	// dropping none.
	takes []take
	// n is how many times the takes are wanted, each time all or none.
	n      int64
	id     string        // of a refund
	ban    time.Duration // for how long
	policy string        // that is dropped
	// changes are of limits, where a bucket may be counted by what they were.
	changes changes
}

// outcome is what became of takes.
type outcome struct {
	// verdicts are of each take: of the last time that they were wanted. Where one
	// is denied none were given, and those of the others say what they would have
	// been by themselves.
	verdicts []wire.LimitVerdict
	granted  int64 // times of n
}

// answer is what a request is answered.
type answer struct {
	outcome
	remaining int64     // after a refund
	until     time.Time // the end of a ban
	changed   bool      // something was written
	bans      int64     // that began
	shadowed  int64     // times that were given without tokens
	revision  uint64    // of the entry
	err       error
}

// decide does what a request asks of an entry. A time before that of a bucket is
// the bucket's: it never goes back. It depends on nothing else, and changes nothing else. Where it says
// that nothing changed, the entry says what it said.
func (e *entry) decide(r *request, now time.Time) (a answer) {
	if r.action == resetting && e.broken != nil {
		*e = entry{}
	}
	if e.broken != nil {
		return answer{err: errCorrupt}
	}
	switch r.action {
	case consuming, peeking:
		return e.consume(r, now)
	case refunding:
		return e.refund(r, now)
	case resetting:
		e.drop(r.takes[0].limit.Name)
	case banning:
		limit := r.takes[0].limit
		policy := limits.PolicyOf(limit)
		b := policy.Refund(e.counted(limit, r.changes, now), 0, now)
		a.until = time.UnixMicro(max(now.UnixMicro(), b.At)).Add(r.ban)
		b.Ban = a.until.UnixMicro()
		e.put(limit, &policy, b, now)
	case unbanning:
		limit := r.takes[0].limit
		policy := limits.PolicyOf(limit)
		b := policy.Refund(e.counted(limit, r.changes, now), 0, now)
		b.Ban = 0
		e.put(limit, &policy, b, now)
	case dropping:
		a.changed = e.drop(r.policy)
		return a
	case adjusting:
		for i := range r.takes {
			a.changed = e.adjust(r.takes[i].limit, r.changes, now) || a.changed
		}
		return a
	}
	// Written even where nothing was there: what was said before has an older
	// revision then.
	a.changed = true
	return a
}

// put stores a policy's bucket, and from when it need not be.
func (e *entry) put(l *rules.Limit, p *limits.Policy, b limits.Bucket, now time.Time) {
	e.set(held{l.Name, b, rateOf(l), max(now.UnixMicro(), b.At) + p.Rest(b, now).Microseconds()})
}

// wanted is a take while it is decided.
type wanted struct {
	limit  *rules.Limit
	policy limits.Policy
	bucket limits.Bucket
	cost   int64 // of all takes of the same policy
	times  int64 // that the bucket gives as much
	same   int   // the first take of the same policy
}

// consume takes n times what is wanted, as far as it goes. Takes of the same n
// cost the same, so how often it goes is one division.
func (e *entry) consume(r *request, now time.Time) (a answer) {
	var few [4]wanted
	all := few[:0]
	granted := r.n
	for i, t := range r.takes {
		w := wanted{limit: t.limit, cost: t.cost, same: i}
		for j := range all {
			if first := &all[j]; first.same == j && first.limit.Name == t.limit.Name {
				w.same = j
				first.cost = sum(first.cost, t.cost)
			}
		}
		all = append(all, w)
	}
	for i := range all {
		w := &all[i]
		if w.same != i {
			continue
		}
		w.policy, w.bucket = limits.PolicyOf(w.limit), e.counted(w.limit, r.changes, now)
		switch v := w.policy.Look(w.bucket, w.cost, now); {
		case !v.Allowed:
		case w.cost == 0:
			w.times = r.n
		default:
			w.times = min(r.n, v.Remaining/w.cost)
		}
		if !w.limit.Shadow {
			granted = min(granted, w.times)
		}
	}
	a.granted = granted
	a.verdicts = make([]wire.LimitVerdict, len(all))
	for i := range all {
		w := &all[i]
		if w.same != i {
			a.verdicts[i] = a.verdicts[w.same]
			continue
		}
		v, b := w.take(r, granted, now)
		if r.action == consuming {
			a.shadowed += max(granted-w.times, 0)
		}
		if b != w.bucket {
			e.put(w.limit, &w.policy, b, now)
			a.changed = true
			if b.Ban > w.bucket.Ban {
				a.bans++
			}
		}
		a.verdicts[i] = w.verdict(v)
	}
	return a
}

// take takes what is granted, and says what became of the last time.
func (w *wanted) take(r *request, granted int64, now time.Time) (v limits.Verdict, b limits.Bucket) {
	b = w.bucket
	given := min(granted, w.times) // a shadow takes where it can
	whole := given == r.n
	if r.action == peeking {
		after := b
		if !whole && given > 0 {
			after, _ = w.policy.Take(b, w.cost*given, now)
		}
		return w.policy.Look(after, w.cost, now), b
	}
	if given > 0 {
		if b, v = w.policy.Take(b, w.cost*given, now); whole {
			return v, b
		}
	}
	if len(r.takes) == 1 && !w.limit.Shadow {
		b, v = w.policy.Take(b, w.cost, now) // which may ban the key
		return v, b
	}
	return w.policy.Look(b, w.cost, now), b
}

// verdict is what is answered of a take.
func (w *wanted) verdict(v limits.Verdict) wire.LimitVerdict {
	out := wire.LimitVerdict{
		Allowed: v.Allowed, Banned: v.Banned, Remaining: v.Remaining, Limit: w.policy.Capacity,
		ResetMs: int64(wire.RetryAfterOf(v.Reset)), Version: w.limit.Version(),
	}
	if !v.Allowed {
		if w.limit.Shadow {
			out.Allowed, out.Shadowed = true, true
		} else {
			out.RetryAfterMs = wire.RetryAfterOf(v.RetryAfter)
		}
	}
	return out
}

// refund gives a cost back, unless it was.
func (e *entry) refund(r *request, now time.Time) (a answer) {
	t := r.takes[0]
	policy := limits.PolicyOf(t.limit)
	b := e.counted(t.limit, r.changes, now)
	id := refundID(t.limit.Name, r.id)
	e.forgetRefunds(now)
	switch {
	case e.refunded(id):
	case len(e.refunds) >= maxRefunds:
		wait := time.UnixMicro(e.refunds[0].At).Add(refundMemory).Sub(now)
		return answer{err: &wire.Error{Code: wire.ResourceExhausted, Message: "too many refunds of a key in a minute", RetryAfter: max(wait, time.Millisecond)}}
	default:
		b = policy.Refund(b, t.cost, now)
		e.put(t.limit, &policy, b, now)
		e.refunds = append(e.refunds, refundedOnce{id, now.UnixMicro()})
		a.changed = true
	}
	a.remaining = policy.Look(b, 0, now).Remaining
	return a
}

// sum adds costs. What is too much for a number is too much for a bucket.
func sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
