package limits

import (
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/internal/rules"
)

// anyPolicy draws a policy such as rules may have, small ones often.
func anyPolicy(t *rapid.T) Policy {
	count := rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, 1_000_000_000), rapid.Just(1_000_000_000))
	per := rapid.OneOf(
		rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour, 365 * 24 * time.Hour}),
		rapid.Map(rapid.Int64Range(1000, (365*24*time.Hour).Microseconds()), func(us int64) time.Duration { return time.Duration(us) * time.Microsecond }),
	)
	return PolicyOf(&rules.Limit{Capacity: count.Draw(t, "capacity"), Refill: count.Draw(t, "refill"), Per: per.Draw(t, "per")})
}

// anyStep draws how long to the next request: in the measure of the policy, so
// that something comes back meanwhile, but not everything.
func anyStep(t *rapid.T, p *Policy) time.Duration {
	whole := p.wait(p.Capacity * p.share)
	return time.Duration(rapid.Int64Range(0, int64(whole/3)+2000).Draw(t, "step"))
}

// spare returns by how many shares a whole bucket and what comes back in so long
// is more than what was granted.
func spare(p *Policy, granted *big.Int, from, to time.Time) *big.Int {
	share := big.NewInt(p.share)
	all := new(big.Int).Mul(big.NewInt(p.Capacity), share)
	back := new(big.Int).Mul(big.NewInt((to.UnixMicro()-from.UnixMicro())/p.tick), big.NewInt(p.refill))
	all.Add(all, back)
	return all.Sub(all, new(big.Int).Mul(granted, share))
}

// Whatever is asked and when, also by a clock that goes back, never more is
// granted than a full bucket holds and comes back meanwhile.
func TestNeverMoreThanCapacityAndRefill(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		b, now, first, latest := Bucket{}, start, start, start
		granted := new(big.Int)
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			step := anyStep(t, &p)
			if rapid.IntRange(0, 9).Draw(t, "back") == 0 {
				step = -step
			}
			if now = now.Add(step); now.After(latest) {
				latest = now
			} else if now.Before(first) {
				first = now
			}
			cost := min(p.Capacity, rapid.OneOf(rapid.Int64Range(0, 5), rapid.Int64Range(0, p.Capacity)).Draw(t, "cost"))
			before := b
			after, v := p.Take(b, cost, now)
			if v.Allowed {
				granted.Add(granted, big.NewInt(cost))
			} else if after != before {
				t.Fatalf("a denial changed the bucket: %+v to %+v", before, after)
			}
			if v.Remaining < 0 || v.Remaining > p.Capacity || v.Allowed == (v.RetryAfter != 0) {
				t.Fatalf("got %+v", v)
			}
			b = after
		}
		if left := spare(&p, granted, first, latest); left.Sign() < 0 {
			t.Fatalf("%+v granted %s in %s: too much by %s shares of %d", p, granted, latest.Sub(first), left, p.share)
		}
	})
}

// Who takes all there is again and again, before the bucket is full, gets what
// the policy says, to the last share of a token: nothing is lost to rounding, however often it
// asks.
func TestNeverLessThanRefill(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		b, v := p.Take(Bucket{}, p.Capacity, start)
		if !v.Allowed {
			t.Fatal("a full bucket does not give what it holds")
		}
		granted, now := big.NewInt(p.Capacity), start
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			now = now.Add(anyStep(t, &p))
			if p.Full(b, now) { // what comes back to a full bucket is nobody's
				return
			}
			left := p.Look(b, 1, now).Remaining
			if left == 0 {
				continue
			}
			if b, v = p.Take(b, left, now); !v.Allowed || v.Remaining != 0 {
				t.Fatalf("%d were left, and got %+v", left, v)
			}
			granted.Add(granted, big.NewInt(left))
		}
		left := spare(&p, granted, start, now)
		if has := p.Capacity*p.share - p.advance(b, now).Missing; left.Cmp(big.NewInt(has)) != 0 {
			t.Fatalf("%+v granted %s in %s: %d shares are left, want %s", p, granted, now.Sub(start), has, left)
		}
	})
}

// Looks and denials between the takes change nothing of what is granted, nor
// does it matter whether a bucket is looked at by one policy or by another
// between.
func TestLooksAndDenialsChangeNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, other := anyPolicy(t), anyPolicy(t)
		quiet, asked, now := Bucket{}, Bucket{}, start
		for range rapid.IntRange(1, 40).Draw(t, "requests") {
			for range rapid.IntRange(0, 3).Draw(t, "looks") {
				now = now.Add(anyStep(t, &p) / 4)
				left := p.Look(asked, 0, now).Remaining
				_ = other.Look(asked, 1, now)
				asked, _ = p.Take(asked, 0, now)
				asked, _ = p.Take(asked, left+1, now)
				asked, _ = p.Take(asked, p.Capacity+1, now)
			}
			cost := min(p.Capacity, rapid.Int64Range(1, 5).Draw(t, "cost"))
			var a, b Verdict
			quiet, a = p.Take(quiet, cost, now)
			asked, b = p.Take(asked, cost, now)
			if a != b || quiet != asked {
				t.Fatalf("got %+v with looks between, %+v without", b, a)
			}
		}
	})
}

// A policy that changes and changes back gives nothing for it.
func TestAChangeOfPolicyGivesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, q := anyPolicy(t), anyPolicy(t)
		q.Capacity = p.Capacity // a smaller one forgets what is beyond it
		q = PolicyOf(&rules.Limit{Capacity: int(q.Capacity), Refill: int(q.refill), Per: time.Duration(q.share*q.tick) * time.Microsecond})
		missing := rapid.Int64Range(1, p.Capacity*p.share).Draw(t, "missing")
		b := Bucket{Missing: missing, Share: p.share, At: start.UnixMicro()}
		for range 10 {
			b = q.Refund(b, 0, start) // counted in the other's shares
			b = p.Refund(b, 0, start)
		}
		if b.Missing < missing {
			t.Fatalf("%+v to %+v and back: %d shares are missing, %d before", p, q, b.Missing, missing)
		}
	})
}
