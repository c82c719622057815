package ratelimit

import (
	"time"

	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
)

// rate is by what a policy's bucket was counted when it was stored. The zero value
// is of one that an earlier release stored: it counts as if its policy never changed.
type rate struct {
	Capacity int           `json:"c,omitempty"`
	Refill   int           `json:"r,omitempty"`
	Per      time.Duration `json:"p,omitempty"` // in ns
}

func rateOf(l *rules.Limit) rate { return rate{l.Capacity, l.Refill, l.Per} }

const (
	maxTokens = 1_000_000_000        // of a capacity or refill, as the rules have it
	maxPer    = 366 * 24 * time.Hour // the same
)

// valid reports whether there can be a limit with the rate, or it is the zero value.
func (r rate) valid() bool {
	return r == rate{} || r.Capacity > 0 && r.Capacity <= maxTokens && r.Refill > 0 && r.Refill <= maxTokens && r.Per > 0 && r.Per <= maxPer
}

// changes says from when limits count as they do, by their names: those that were
// another rate before. It is not changed.
type changes map[string]time.Time

// counted returns what a limit's bucket has when all of its time before the limit
// changed is counted by the rate that it had. Where it is not known when that was,
// it is now: by the time that somebody else knows it, nothing is counted twice.
func (e *entry) counted(l *rules.Limit, c changes, now time.Time) limits.Bucket {
	h := e.find(l.Name)
	switch {
	case h == nil:
		return limits.Bucket{}
	case h.rate == rate{} || h.rate == rateOf(l):
		return h.Bucket
	}
	until := now
	if since, ok := c[l.Name]; ok && since.Before(now) {
		until = since
	}
	was := limits.PolicyOf(&rules.Limit{Capacity: h.rate.Capacity, Refill: h.rate.Refill, Per: h.rate.Per})
	return was.Refund(h.Bucket, 0, until)
}

// adjust has a bucket count on by its limit as it is, and last as long as it has to
// by that. It reports whether there was one that did not, and that says anything.
func (e *entry) adjust(l *rules.Limit, c changes, now time.Time) bool {
	h := e.find(l.Name)
	if h == nil || h.rate == rateOf(l) {
		return false
	}
	policy := limits.PolicyOf(l)
	b := policy.Refund(e.counted(l, c, now), 0, now)
	if h.full <= now.UnixMicro() && policy.Full(b, now) { // as by the rate that it had
		return false
	}
	e.put(l, &policy, b, now)
	return true
}
