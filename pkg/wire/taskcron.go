package wire

import (
	"encoding/json"
	"time"
)

const (
	// MaxCronName is the longest name of a schedule, in bytes.
	MaxCronName = 128
	// MaxCronSpec bounds a schedule's spec, in bytes.
	MaxCronSpec = 256
	// MaxCronTZ bounds the name of a time zone, in bytes.
	MaxCronTZ = 64
	// MaxCrons is how many schedules there may be.
	MaxCrons = 10_000
	// MaxCronMissed is how many missed ticks [CronMissedAll] makes up for at a
	// time, the oldest first; later ones are skipped.
	MaxCronMissed = 1000
)

// CronMissed says what becomes of ticks that nobody fired when they were due: a
// tick is missed when the next one is due too, or a minute has passed.
type CronMissed string

// What may become of missed ticks.
const (
	CronMissedSkip CronMissed = "skip" // nothing: the default
	CronMissedOnce CronMissed = "once" // the newest one is fired for all of them
	CronMissedAll  CronMissed = "all"  // each is fired, up to [MaxCronMissed]
)

// Known reports whether m is a policy.
func (m CronMissed) Known() bool {
	return m == CronMissedSkip || m == CronMissedOnce || m == CronMissedAll
}

// Schedules of tasks, as JSON.
type (
	// TaskCron is a schedule: at each of its ticks a task is enqueued, exactly one
	// over all replicas.
	TaskCron struct {
		Name string `json:"name"` // as that of a task
		// Spec is five fields (minute, hour, day of month, month, day of week),
		// @yearly, @monthly, @weekly, @daily or @hourly, or an interval: "@every 90s",
		// "90s". The ticks of an interval are counted from when it was set.
		Spec string `json:"spec"`
		// TZ is the time zone of the spec, such as Europe/Paris; UTC when empty. A time
		// that its clocks skip counts as when they do; one that they show twice, as the
		// first, unless the spec fires in every hour.
		TZ    string          `json:"tz,omitempty"`
		Task  string          `json:"task"`            // the task's name
		Input json.RawMessage `json:"input,omitempty"` // null when absent
		// Missed is skip when empty.
		Missed CronMissed `json:"missed,omitempty"`
		// Paused keeps it from firing. What is missed meanwhile is skipped.
		Paused   bool   `json:"paused,omitempty"`
		Priority int    `json:"priority,omitempty"` // as of [TaskEnqueue]
		Timeout  string `json:"timeout,omitempty"`
	}

	// TaskCronState is a schedule as it is now.
	TaskCronState struct {
		TaskCron
		// NextAt is the next tick, by the clock of Postgres; while it is paused, that
		// which it stopped before.
		NextAt time.Time `json:"nextAt"`
		// LastAt is the last tick that was fired.
		LastAt time.Time `json:"lastAt,omitzero"`
	}

	// TaskCronList asks for a page of schedules, by name.
	TaskCronList struct {
		Limit  int    `json:"limit,omitempty"` // 1000 when 0, at most that
		Cursor string `json:"cursor,omitempty"`
	}

	// TaskCronPage answers a [TaskCronList].
	TaskCronPage struct {
		Schedules []TaskCronState `json:"schedules"`
		Cursor    string          `json:"cursor,omitempty"` // of the next page; "" after the last
	}

	// TaskCronName names a schedule.
	TaskCronName struct {
		Name string `json:"name"`
	}

	// TaskCronDeleted says whether there was such a schedule.
	TaskCronDeleted struct {
		Deleted bool `json:"deleted"`
	}
)

// CronMetadata is the metadata of the tasks of a schedule.
type CronMetadata struct {
	Cron string `json:"cron"` // the schedule's name
	At   string `json:"at"`   // the tick, RFC 3339
}
