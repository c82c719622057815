package cron

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestSpecsThatAreNone(t *testing.T) {
	for _, c := range []struct{ spec, tz, field string }{
		{"", "", "spec"}, {"* * * *", "", "spec"}, {"* * * * * *", "", "spec"}, {"60 * * * *", "", "spec"},
		{"TZ=0", "", "spec"}, {"TZ=0 * * * * *", "", "spec"}, {"CRON_TZ=Europe/Paris 0 0 * * *", "", "spec"}, {" TZ=UTC 0 0 * * *", "", "spec"},
		{"0 0 30 2 *", "", "spec"}, {"0 0 31 4,6,9,11 *", "", "spec"}, {", * * * *", "", "spec"}, {"* * , * *", "", "spec"},
		{"@every", "", "spec"}, {"@every 0s", "", "spec"}, {"@every 999ms", "", "spec"}, {"@every -1h", "", "spec"}, {"@every 1500ms1us", "", "spec"},
		{"@every 90000h", "", "spec"}, {"500ms", "", "spec"}, {"@reboot", "", "spec"}, {"@every day", "", "spec"},
		{strings.Repeat("0,", 128) + "0 * * * *", "", "spec"}, {"0 0 * * *\x00", "", "spec"}, {"0 ０ * * *", "", "spec"},
		{"* * * * *", "Local", "tz"}, {"* * * * *", "Nowhere/Land", "tz"}, {"* * * * *", "../../etc/passwd", "tz"},
		{"* * * * *", "/etc/localtime", "tz"}, {"* * * * *", strings.Repeat("a", 65), "tz"}, {"* * * * *", "Europe/Paris\x00", "tz"},
	} {
		_, err := parse(c.spec, c.tz)
		var coded *wire.Error
		if !errors.As(err, &coded) || coded.Code != wire.InvalidArgument || coded.Details["field"] != c.field {
			t.Errorf("parse(%q, %q) = %v, want INVALID_ARGUMENT of %s", c.spec, c.tz, err, c.field)
		}
	}
}

// ticks returns the first n after a time.
func ticks(p plan, after time.Time, n int) (list []string) {
	for range n {
		if after = p.next(after); after.IsZero() {
			return append(list, "none")
		}
		list = append(list, at(after))
	}
	return list
}

func TestTicks(t *testing.T) {
	for _, c := range []struct{ name, spec, tz, after, want string }{
		{"every five minutes", "*/5 * * * *", "", "2026-01-01T00:03:00Z", "2026-01-01T00:05:00Z 2026-01-01T00:10:00Z"},
		{"a tick is after itself", "0 * * * *", "", "2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z"},
		{"names", "0 8 * JAN mon-fri", "", "2026-01-02T09:00:00Z", "2026-01-05T08:00:00Z"},
		{"day of month or of week", "0 0 13 * 5", "", "2026-02-01T00:00:00Z", "2026-02-06T00:00:00Z 2026-02-13T00:00:00Z"},
		{"a leap day over a year that has none", "0 0 29 2 *", "", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"},
		{"hourly", "@hourly", "", "2026-01-01T00:00:01Z", "2026-01-01T01:00:00Z"},
		{"an interval", "@every 90s", "", "2026-01-01T00:00:00.25Z", "2026-01-01T00:01:30.25Z 2026-01-01T00:03:00.25Z"},
		{"a bare interval", "1h30m", "Europe/Paris", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"},
		{"a zone", "30 9 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", "2026-01-01T04:00:00Z"},
		{"skipped by clocks: when they are set", "30 2 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z 2026-03-30T00:30:00Z"},
		{"several skipped by clocks: once", "*/20 2 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z 2026-03-30T00:00:00Z"},
		{"shown twice by clocks: the first", "30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z 2026-10-26T01:30:00Z"},
		{"shown twice, from between", "30 2 * * *", "Europe/Paris", "2026-10-25T00:45:00Z", "2026-10-26T01:30:00Z"},
		{"shown twice, from the second time", "*/30 2 * * *", "Europe/Paris", "2026-10-25T01:10:00Z", "2026-10-26T01:00:00Z"},
		{"every hour, clocks are set forward", "30 * * * *", "Europe/Paris", "2026-03-29T00:00:00Z", "2026-03-29T00:30:00Z 2026-03-29T01:30:00Z 2026-03-29T02:30:00Z"},
		{"every hour, clocks are set back", "30 * * * *", "Europe/Paris", "2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z 2026-10-25T01:30:00Z 2026-10-25T02:30:00Z"},
		{"the change itself is a tick", "0 * * * *", "Europe/Paris", "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z 2026-03-29T02:00:00Z"},
		{"set back by half an hour", "15 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00:00Z", "2026-04-04T14:15:00Z 2026-04-04T15:45:00Z 2026-04-04T16:45:00Z"},
		{"midnight that clocks skip", "0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", "2026-09-06T04:00:00Z 2026-09-07T03:00:00Z"},
		{"a day that a zone skipped", "0 12 * * *", "Pacific/Apia", "2011-12-29T23:00:00Z", "2011-12-30T10:00:00Z 2011-12-30T22:00:00Z"},
	} {
		p, err := parse(c.spec, c.tz)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		want := strings.Fields(c.want)
		if got := strings.Join(ticks(p, at3339(t, c.after), len(want)), " "); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// In every zone, over the changes of some years, ticks come one after the other,
// and a daily one once for each day that clocks show.
func TestTicksOverChanges(t *testing.T) {
	begin, end := at3339(t, "2026-01-15T00:00:00Z"), at3339(t, "2027-01-15T00:00:00Z")
	for _, tz := range []string{"Europe/Paris", "America/Santiago", "Africa/Casablanca", "Australia/Lord_Howe"} {
		for _, spec := range []string{"30 2 * * *", "0 0 * * *", "*/20 1-3 * * *", "0 * * * *"} {
			p, err := parse(spec, tz)
			if err != nil {
				t.Fatal(err)
			}
			days, n := map[string]int{}, 0
			loc, err := time.LoadLocation(tz)
			if err != nil {
				t.Fatal(err)
			}
			for tick := p.next(begin); tick.Before(end); tick = p.next(tick) {
				next := p.next(tick)
				if !next.After(tick) || n%7 == 0 && !p.last(begin, next.Add(-time.Second)).Equal(tick) {
					t.Fatalf("%s in %s: after %s comes %s, before which the last was %s", spec, tz, tick, next, p.last(begin, next.Add(-time.Second)))
				}
				days[tick.In(loc).Format(time.DateOnly)]++
				n++
			}
			hours := int(end.Sub(begin) / time.Hour)
			if spec == "0 * * * *" && (n < hours-2 || n > hours+2) {
				t.Errorf("%s in %s: %d ticks in %d hours", spec, tz, n, hours)
			}
			for day, n := range days {
				if n > 1 && strings.HasSuffix(spec, "* * *") && (spec[:4] == "30 2" || spec[:3] == "0 0") {
					t.Errorf("%s in %s: %d ticks on %s", spec, tz, n, day)
				}
			}
			if want := hours / 24; len(days) < want-1 || len(days) > want+1 {
				t.Errorf("%s in %s: ticks on %d days of %d", spec, tz, len(days), want)
			}
		}
	}
}

func TestTurns(t *testing.T) {
	every := func(spec string) plan {
		p, err := parse(spec, "")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		name, spec, due, now string
		missed               wire.CronMissed
		fire                 int
		last, next           string // of fire; "" for none
		skipped              bool
	}{
		{"on time", "* * * * *", "12:00:00", "12:00:00.004", wire.CronMissedSkip, 1, "12:00:00", "12:01:00", false},
		{"late, and skipped", "0 * * * *", "12:00:00", "12:01:01", wire.CronMissedSkip, 0, "", "13:00:00", true},
		{"late, once", "0 * * * *", "12:00:00", "12:59:59", wire.CronMissedOnce, 1, "12:00:00", "13:00:00", false},
		{"several, skip: the newest is on time", "* * * * *", "12:00:00", "12:05:30", wire.CronMissedSkip, 1, "12:05:00", "12:06:00", true},
		{"several, once", "* * * * *", "12:00:00", "12:05:30", wire.CronMissedOnce, 1, "12:05:00", "12:06:00", true},
		{"several, all", "* * * * *", "12:00:00", "12:05:30", wire.CronMissedAll, 6, "12:05:00", "12:06:00", false},
		{"an interval keeps its ticks", "@every 90s", "12:00:01", "12:10:00", wire.CronMissedAll, 7, "12:09:01", "12:10:31", false},
		{"an interval, skip", "@every 7m", "12:00:01", "12:10:00", wire.CronMissedSkip, 0, "", "12:14:01", true},
		{"too many, all", "@every 1s", "00:00:00", "12:00:00", wire.CronMissedAll, 1000, "00:16:39", "12:00:01", true},
		{"due this moment", "@every 1s", "12:00:00", "12:00:00", wire.CronMissedSkip, 1, "12:00:00", "12:00:01", false},
	} {
		day := "2026-01-01T"
		got := take(every(c.spec), at3339(t, day+c.due+"Z"), at3339(t, day+c.now+"Z"), c.missed)
		last := ""
		if n := len(got.fire); n > 0 {
			last = got.fire[n-1].Format(time.TimeOnly)
		}
		if len(got.fire) != c.fire || last != c.last || got.next.Format(time.TimeOnly) != c.next || got.skipped != c.skipped {
			t.Errorf("%s: got %d up to %s, next %s, skipped %v; want %d up to %s, next %s, skipped %v", c.name,
				len(got.fire), last, got.next.Format(time.TimeOnly), got.skipped, c.fire, c.last, c.next, c.skipped)
		}
	}
}

// A replica that was away for long finds what to do without walking over all ticks.
func TestTurnAfterYears(t *testing.T) {
	for _, spec := range []string{"* * * * *", "*/5 3 * * *", "0 0 1 1 *", "@every 1s"} {
		p, err := parse(spec, "America/New_York")
		if err != nil {
			t.Fatal(err)
		}
		due := p.next(at3339(t, "2016-01-01T00:00:00Z"))
		now := at3339(t, "2026-07-01T12:00:30Z")
		got := take(p, due, now, wire.CronMissedOnce)
		if len(got.fire) != 1 || got.fire[0].After(now) || !got.next.After(now) || !p.next(got.fire[0]).Equal(got.next) {
			t.Errorf("%s: got %+v", spec, got)
		}
	}
}

func FuzzSpec(f *testing.F) {
	for _, seed := range []string{"*/5 8-18 * * MON-FRI", "@every 90s", "@hourly", "TZ=0", "CRON_TZ=UTC * * * * *", "0 0 30 2 *", ", , , , ,", "0 0 29 2 *", "1-5/2,7 */7 ? * 0"} {
		f.Add(seed, "Europe/Paris", int64(1_790_000_000))
	}
	f.Fuzz(func(t *testing.T, spec, tz string, unix int64) {
		p, err := parse(spec, tz)
		if err != nil {
			var coded *wire.Error
			if !errors.As(err, &coded) || coded.Code != wire.InvalidArgument {
				t.Fatalf("parse(%q, %q): %v, want INVALID_ARGUMENT", spec, tz, err)
			}
			return
		}
		from := time.Unix(unix%(1<<32), 0).UTC()
		for range 3 {
			next := p.next(from)
			if !next.After(from) {
				t.Fatalf("%q in %q: after %s comes %s", spec, tz, from, next)
			}
			if turn := take(p, next, next.Add(time.Second), wire.CronMissedAll); len(turn.fire) == 0 || !turn.next.After(next) {
				t.Fatalf("%q in %q at %s: %+v", spec, tz, next, turn)
			}
			from = next
		}
	})
}
