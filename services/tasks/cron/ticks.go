package cron

import (
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// onTime is how late a tick is not missed, unless the next one is due too.
const onTime = time.Minute

// turn is what is to be done about a schedule of which ticks are due.
type turn struct {
	fire    []time.Time // oldest first
	skipped bool        // there were others that are not fired
	next    time.Time   // the first tick after now; zero: there is none
}

// take says what is to be done when it is now, and the next tick was to be at due.
func take(p plan, due, now time.Time, missed wire.CronMissed) turn {
	newest := p.last(due, now)
	t := turn{next: p.next(newest), skipped: newest.After(due)}
	switch missed {
	case wire.CronMissedAll:
		for tick := due; !tick.IsZero() && !tick.After(newest); tick = p.next(tick) {
			if len(t.fire) == wire.MaxCronMissed {
				return t
			}
			t.fire = append(t.fire, tick)
		}
		t.skipped = false
	case wire.CronMissedOnce:
		t.fire = []time.Time{newest}
	default:
		if now.Sub(newest) <= onTime {
			t.fire = []time.Time{newest}
		} else {
			t.skipped = true
		}
	}
	return t
}
