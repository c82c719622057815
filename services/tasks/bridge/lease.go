package bridge

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
)

// A listener and those who wait for its place agree on these. The order is what
// makes it one at a time: a session stops to publish before anybody ends it.
const (
	// beatEvery is how often a session says that it is there, and tries to get the
	// channels that it has not.
	beatEvery = 500 * time.Millisecond
	// statementTimeout bounds each statement, on both sides.
	statementTimeout = 1500 * time.Millisecond
	// trustFor is how long a session is believed to hold its locks, from when it
	// asked for what Postgres answered last.
	trustFor = 2 * time.Second
	// staleAfter is when others end a session that Postgres has not heard.
	staleAfter = 2500 * time.Millisecond
	// watchEvery is how often they look.
	watchEvery = time.Second
	// idleTimeout is when Postgres itself ends it, where it can: 14 and later.
	idleTimeout = 4 * time.Second
)

// lease is how long what a session has heard may be published. A lease that has
// run out may be renewed: a session that answers again has had its locks all the
// time. One that was ended may not.
type lease struct {
	until atomic.Int64 // nanoseconds since origin
	over  atomic.Bool
}

// origin makes monotonic time a number.
var origin = time.Now()

// renew extends the lease: Postgres has answered what was sent at asked.
func (l *lease) renew(asked time.Time) { l.until.Store(int64(asked.Add(trustFor).Sub(origin))) }

// end ends it for good.
func (l *lease) end() { l.over.Store(true) }

func (l *lease) ended() bool { return l.over.Load() }

func (l *lease) holds(now time.Time) bool {
	return int64(now.Sub(origin)) < l.until.Load() && !l.over.Load()
}

// await returns once the lease holds; false where it, or ctx, has ended.
func (l *lease) await(ctx context.Context) bool {
	for !l.holds(time.Now()) {
		if l.ended() || clock.Sleep(ctx, leasePause) != nil {
			return false
		}
	}
	return true
}

const leasePause = 10 * time.Millisecond
