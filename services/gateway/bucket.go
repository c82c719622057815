package gateway

import (
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// bucket is what one key has left of a limit: a token bucket that fills by
// itself. The zero value is a full one that nobody has taken from.
type bucket struct {
	missing float64   // tokens below the limit's capacity, at `at`
	at      time.Time // of the last take
	banned  time.Time // until then nothing is given
}

// take takes cost tokens, or none where there are not as many. wait is then how
// long until there will be; [wire.Never] where there never can be.
func (b *bucket) take(l *rules.Limit, cost int, now time.Time) (wait time.Duration, ok bool) {
	if now.Before(b.at) { // clocks that go back give nothing twice
		now = b.at
	}
	b.missing, b.at = b.missingAt(l, now), now
	if cost > l.Capacity {
		return wire.Never, false
	}
	if short := b.missing + float64(cost) - float64(l.Capacity); short > 0 {
		wait = refill(l, short)
		if l.Block > 0 && !now.Before(b.banned) {
			b.banned = now.Add(l.Block)
		}
	}
	if wait = max(wait, b.banned.Sub(now)); wait > 0 {
		return wait, false
	}
	b.missing += float64(cost)
	return 0, true
}

// full reports whether the bucket says no more than one that is not there.
func (b *bucket) full(l *rules.Limit, now time.Time) bool {
	return b.missingAt(l, now) == 0 && !now.Before(b.banned)
}

// sooner reports whether the bucket is rather to be forgotten than another.
func (b *bucket) sooner(other *bucket, now time.Time) bool {
	if banned, too := now.Before(b.banned), now.Before(other.banned); banned != too {
		return too
	}
	return b.at.Before(other.at)
}

func (b *bucket) missingAt(l *rules.Limit, now time.Time) float64 {
	back := now.Sub(b.at).Seconds() * float64(l.Refill) / l.Per.Seconds()
	return min(max(0, b.missing-back), float64(l.Capacity))
}

// refill is how long a limit takes to give so many tokens back.
func refill(l *rules.Limit, tokens float64) time.Duration {
	const most = 365 * 24 * time.Hour // beyond which no duration is certain to fit
	// Rounded up: whoever comes back then finds them.
	return time.Duration(min(tokens*float64(l.Per)/float64(l.Refill), float64(most))) + 1
}
