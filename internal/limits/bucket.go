package limits

import (
	"math/bits"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Bucket is what one key has left of a policy: a token bucket that fills by
// itself. The zero value is a full one that nobody has taken from.
//
// It counts in whole shares of a token, as many as the policy's period has ticks:
// each tick gives back as many of them as the period gives tokens. So nothing is
// lost to rounding, however often it is looked at.
type Bucket struct {
	Missing int64 `json:"m,omitempty"` // shares below the capacity, at At
	Share   int64 `json:"s,omitempty"` // shares of a token when Missing was counted
	At      int64 `json:"a,omitempty"` // µs since 1970
	Ban     int64 `json:"b,omitempty"` // µs since 1970 until which nothing is given
}

// Policy is how buckets fill. It is made by [PolicyOf] and not changed.
type Policy struct {
	Capacity int64
	Block    time.Duration // for how long a denial for want of tokens bans; 0: not at all

	refill int64 // tokens per period, and shares per tick
	share  int64 // shares of a token: ticks of a period
	tick   int64 // µs
}

// Verdict is what a bucket says to a request.
type Verdict struct {
	Allowed   bool
	Banned    bool
	Remaining int64 // tokens, rounded down; 0 while banned
	// RetryAfter is when as many tokens will be there, or the ban is over:
	// [wire.Never] where the cost is above the capacity, 0 when allowed.
	RetryAfter time.Duration
	Reset      time.Duration // until the bucket is full and no ban is left
}

// PolicyOf returns the policy of a limit of the rules.
func PolicyOf(l *rules.Limit) Policy {
	p := Policy{Capacity: int64(l.Capacity), Block: l.Block, refill: int64(l.Refill)}
	// The finest tick by which the shares of a whole bucket can be counted.
	const most = 1 << 61
	for _, tick := range [...]time.Duration{time.Microsecond, time.Millisecond, time.Second} {
		p.tick, p.share = tick.Microseconds(), max(int64(l.Per/tick), 1)
		if p.share <= most/p.Capacity {
			break
		}
	}
	return p
}

// Take takes cost tokens, or none where there are not as many. It returns the
// bucket as it is then; where that is the one it was given, nothing need be
// stored. A cost of 0 takes nothing and is allowed unless the key is banned.
func (p *Policy) Take(b Bucket, cost int64, now time.Time) (Bucket, Verdict) {
	v := p.Look(b, cost, now)
	switch {
	case cost == 0:
		return b, v
	case v.Allowed:
		at := p.advance(b, now)
		at.Missing += cost * p.share
		v.Remaining = p.remaining(at)
		v.Reset = p.wait(at.Missing)
		return at, v
	case v.Banned, v.RetryAfter == wire.Never, p.Block == 0:
		return b, v
	}
	banned := p.advance(b, now)
	banned.Ban = banned.At + p.Block.Microseconds()
	return banned, p.Look(banned, cost, now)
}

// Look says what Take would, and takes nothing.
func (p *Policy) Look(b Bucket, cost int64, now time.Time) Verdict {
	b = p.advance(b, now)
	v := Verdict{Remaining: p.remaining(b), Reset: p.wait(b.Missing)}
	if left := b.Ban - max(now.UnixMicro(), b.At); left > 0 {
		ban := time.Duration(left) * time.Microsecond
		v.Banned, v.Remaining, v.RetryAfter, v.Reset = true, 0, ban, max(v.Reset, ban)
	}
	switch {
	case cost > p.Capacity:
		v.RetryAfter = wire.Never
	case v.Banned:
	default:
		short := b.Missing + cost*p.share - p.Capacity*p.share
		if v.Allowed = short <= 0 || cost == 0; !v.Allowed {
			v.RetryAfter = p.wait(short)
		}
	}
	return v
}

// Refund gives tokens back.
func (p *Policy) Refund(b Bucket, cost int64, now time.Time) Bucket {
	b = p.advance(b, now)
	b.Missing -= min(cost, p.Capacity) * p.share
	b.Missing = max(b.Missing, 0)
	return b
}

// Full reports whether the bucket says no more than one that is not there.
func (p *Policy) Full(b Bucket, now time.Time) bool {
	b = p.advance(b, now)
	return b.Missing == 0 && b.Ban <= b.At
}

// Rest is how long the bucket says more than one that is not there.
func (p *Policy) Rest(b Bucket, now time.Time) time.Duration {
	return p.Look(b, 0, now).Reset
}

// advance brings a bucket to now. Time never goes backwards: a clock that is
// behind the bucket's finds it as it was left.
func (p *Policy) advance(b Bucket, now time.Time) Bucket {
	if b.Share != p.share {
		b.Missing, b.Share = rescale(b.Missing, p.share, b.Share), p.share
	}
	b.Missing = min(b.Missing, p.Capacity*p.share)
	ticks := (now.UnixMicro() - b.At) / p.tick
	switch {
	case ticks <= 0:
		return b
	case b.Missing == 0 || ticks > b.Missing/p.refill:
		b.Missing, b.At = 0, now.UnixMicro()
	default:
		b.Missing -= ticks * p.refill
		b.At += ticks * p.tick // what is left of a tick is not lost
	}
	return b
}

// rescale returns n·to/from, rounded up: what is missing never becomes less.
func rescale(n, to, from int64) int64 {
	if n == 0 || from <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(n), uint64(to))
	if hi >= uint64(from) { // more than any bucket holds
		return 1 << 62
	}
	quotient, rest := bits.Div64(hi, lo, uint64(from))
	if rest > 0 {
		quotient++
	}
	return int64(min(quotient, 1<<62))
}

func (p *Policy) remaining(b Bucket) int64 {
	return p.Capacity - (b.Missing+p.share-1)/p.share
}

// Wait is how long the policy takes to give so many tokens back, at most as many
// as a bucket holds.
func (p *Policy) Wait(tokens int64) time.Duration { return p.wait(min(tokens, p.Capacity) * p.share) }

// wait is how long the policy takes to give so many shares back.
func (p *Policy) wait(shares int64) time.Duration {
	const most = 365 * 24 * time.Hour
	ticks := (shares + p.refill - 1) / p.refill
	if ticks > int64(most/time.Microsecond)/p.tick {
		return most
	}
	return time.Duration(ticks*p.tick) * time.Microsecond
}
