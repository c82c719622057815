package cron

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ErrFull says that there are as many schedules as there may be.
var ErrFull = errors.New("there are too many schedules")

// Schedule is what is kept of one. Its defaults are filled in.
type Schedule struct {
	Name, Spec, TZ string
	Task           string
	Input          []byte // JSON
	Missed         wire.CronMissed
	Paused         bool
	Priority       int
	Timeout        time.Duration // 0: that of the task's name
	NextAt, LastAt time.Time     // LastAt is zero where none was fired
	// Revision is another one whenever a schedule of this name is set.
	Revision int64
}

// Found is what is due.
type Found struct {
	Due []Schedule
	Now time.Time     // by the store's clock
	In  time.Duration // until the first tick that is not due yet; negative: there is none
}

// Fire moves a schedule on.
type Fire struct {
	Name     string
	Revision int64
	Due      time.Time // where it was found
	Next     time.Time // where it goes
	Ticks    []time.Time
}

// Store keeps schedules. Times are by its own clock. Every method may be called
// concurrently and by any number of replicas.
type Store interface {
	// Set stores a schedule, in place of the one of that name. next returns the first
	// tick after now; it counts unless there is a schedule that is not paused and has
	// the same spec and time zone, which goes on where it is. [ErrFull] where it were
	// one more than most.
	Set(ctx context.Context, s Schedule, most int, next func(now time.Time) time.Time) (Schedule, error)
	// List returns schedules by name, those behind a name.
	List(ctx context.Context, after string, limit int) ([]Schedule, error)
	// Delete removes a schedule, and reports whether it was there.
	Delete(ctx context.Context, name string) (bool, error)
	// Due returns up to limit schedules of which a tick is due, the longest first.
	Due(ctx context.Context, limit int) (Found, error)
	// Fire moves each schedule on that is still where it was found and whose time
	// has come, and enqueues a task for each of the ticks, all at once. It returns
	// the indices of those that it has moved; others have moved the rest, or they
	// were set or removed.
	Fire(ctx context.Context, fires []Fire) ([]int, error)
	// Count says how many schedules there are.
	Count(ctx context.Context) (int64, error)
}

// uniqueKey is that of the task of a tick.
func uniqueKey(name string, tick time.Time) string { return name + "@" + at(tick) }

// at writes a tick.
func at(tick time.Time) string { return tick.UTC().Format(time.RFC3339Nano) }
