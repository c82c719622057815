package cron

import (
	"time"

	"github.com/robfig/cron/v3"
)

// calendar ticks by what clocks show in a time zone. Where they are set forward, a
// time that they skip counts as when they are set. Where they are set back, a
// time that they show twice counts as the first. Only a schedule that ticks in
// every hour just goes on: it has its ticks in each hour that passes, and none in
// one that does not.
type calendar struct {
	fields *cron.SpecSchedule // in UTC: of what clocks show
	loc    *time.Location
	hourly bool // it ticks in every hour
}

const (
	// searches bounds how far a tick is looked for: each is of five years, and
	// between two 29ths of February may be eight.
	searches = 2
	// changes bounds how many changes of a zone lie before the next tick, shown how
	// many ticks clocks skip or repeat at one of them.
	changes, shown = 1000, 2 * 24 * 60
)

// shows returns what a clock shows then, as a time in UTC.
func (c *calendar) shows(at time.Time) time.Time {
	_, offset := at.In(c.loc).Zone()
	return at.UTC().Add(time.Duration(offset) * time.Second)
}

// after returns the next time that clocks show, in UTC; zero: there is none.
func (c *calendar) after(wall time.Time) time.Time {
	limit := wall
	for range searches {
		if t := c.fields.Next(limit); !t.IsZero() {
			return t
		}
		limit = limit.AddDate(4, 0, 0)
	}
	return time.Time{}
}

func (c *calendar) next(after time.Time) time.Time {
	if c.hourly {
		return c.nextOfEveryHour(after)
	}
	wall := c.shows(after)
	for range shown {
		if wall = c.after(wall); wall.IsZero() {
			break
		}
		if t := c.instant(wall); t.After(after) {
			return t
		}
	}
	return time.Time{}
}

// nextOfEveryHour looks in each stretch of time in which the zone stays the same.
func (c *calendar) nextOfEveryHour(after time.Time) time.Time {
	wall := c.shows(after)
	for range changes {
		_, offset := after.In(c.loc).Zone()
		_, end := after.In(c.loc).ZoneBounds()
		if wall = c.after(wall); wall.IsZero() {
			break
		}
		t := wall.Add(-time.Duration(offset) * time.Second)
		if end.IsZero() || t.Before(end) {
			return t
		}
		after = end
		wall = c.shows(end).Add(-time.Nanosecond) // the end itself may be a tick
	}
	return time.Time{}
}

// instant returns when clocks show a time first, or skip it.
func (c *calendar) instant(wall time.Time) time.Time {
	y, m, d := wall.Date()
	t := time.Date(y, m, d, wall.Hour(), wall.Minute(), wall.Second(), 0, c.loc)
	start, end := t.ZoneBounds()
	switch shown := c.shows(t); {
	case shown.After(wall): // t is after the change, by as much
		return start.UTC()
	case shown.Before(wall):
		return end.UTC()
	}
	if !start.IsZero() {
		_, before := start.Add(-time.Nanosecond).Zone()
		if first := wall.Add(-time.Duration(before) * time.Second); first.Before(start) {
			return first
		}
	}
	return t.UTC()
}

// spans are how far back it is looked for the newest tick: first where there are
// few.
var spans = [...]time.Duration{time.Hour, 25 * time.Hour, 32 * 24 * time.Hour, 367 * 24 * time.Hour, maxInterval}

func (c *calendar) last(from, now time.Time) time.Time {
	newest := from
	for _, span := range spans {
		begin := now.Add(-span)
		if !begin.After(from) {
			begin = from
		}
		for t := c.next(begin); !t.IsZero() && !t.After(now); t = c.next(t) {
			newest = t
		}
		if newest.After(from) || begin.Equal(from) {
			break
		}
	}
	return newest
}
