package cron

import (
	"fmt"
	"math/bits"
	"strings"
	"time"
	_ "time/tzdata" // where the system has none

	"github.com/robfig/cron/v3"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	minInterval = time.Second
	maxInterval = 5 * 366 * 24 * time.Hour

	// starBit is what the parser sets, beside the values, in a field that is `*`.
	starBit = 1 << 63
)

// plan says when a schedule ticks.
type plan interface {
	// next returns the first tick after a time, which is a tick or, for the first
	// one, when the schedule was set; zero: there is none for years.
	next(after time.Time) time.Time
	// last returns the newest tick up to now, from being one that is not later.
	last(from, now time.Time) time.Time
}

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// parse reads a spec and the name of its time zone, both as users write them. The
// error is an INVALID_ARGUMENT that names the field.
func parse(spec, tz string) (plan, error) {
	loc, err := zone(tz)
	if err != nil {
		return nil, err
	}
	text := strings.TrimSpace(spec)
	if text == "" || len(text) > wire.MaxCronSpec || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, badSpec(fmt.Sprintf("1-%d characters of ASCII", wire.MaxCronSpec))
	}
	// The parser takes `TZ=` and `CRON_TZ=` at the beginning, and panics for some.
	if strings.Contains(text, "=") {
		return nil, badSpec("without a time zone, which has a field of its own: tz")
	}
	every, isInterval := strings.CutPrefix(text, "@every ")
	d, err := time.ParseDuration(strings.TrimSpace(every))
	if err == nil || isInterval {
		if err != nil || d < minInterval || d > maxInterval || d%time.Millisecond != 0 {
			return nil, badSpec("an interval such as @every 90s, of whole milliseconds, from 1s to five years")
		}
		return interval(d), nil
	}
	parsed, err := parser.Parse(text)
	fields, ok := parsed.(*cron.SpecSchedule)
	if err != nil || !ok {
		return nil, badSpec("five fields such as */5 8-18 * * MON-FRI, one of @yearly @monthly @weekly @daily @hourly, or @every 90s")
	}
	for _, field := range []uint64{fields.Minute, fields.Hour, fields.Dom, fields.Month, fields.Dow} {
		if field&^starBit == 0 {
			return nil, badSpec("at least one value in each field")
		}
	}
	fields.Location = time.UTC // it goes by what clocks show
	p := &calendar{fields: fields, loc: loc, hourly: bits.OnesCount64(fields.Hour&^starBit) == 24}
	if p.next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, badSpec("a day that comes: this one never does")
	}
	return p, nil
}

func badSpec(allowed string) error { return wire.InvalidField("spec", allowed) }

// zone reads the name of a time zone.
func zone(tz string) (*time.Location, error) {
	bad := wire.InvalidField("tz", "the name of a time zone, such as Europe/Paris")
	if tz == "" {
		return time.UTC, nil
	}
	if len(tz) > wire.MaxCronTZ || tz == "Local" {
		return nil, bad
	}
	for _, r := range tz {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/_+-", r)) {
			return nil, bad
		}
	}
	loc, err := time.LoadLocation(tz)
	if err != nil {
		return nil, bad
	}
	return loc, nil
}

// interval ticks each so often.
type interval time.Duration

func (i interval) next(after time.Time) time.Time {
	return after.Truncate(time.Millisecond).Add(time.Duration(i))
}

func (i interval) last(from, now time.Time) time.Time {
	if now.Before(from) {
		return from
	}
	return from.Add(now.Sub(from) / time.Duration(i) * time.Duration(i))
}
