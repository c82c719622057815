package lock

import (
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"

	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// metrics count what the replica did.
type metrics struct {
	granted, waited    atomic.Int64 // acquired at once; behind a wait
	waitedMs           atomic.Int64
	timeouts, crowded  atomic.Int64 // not acquired: somebody else had it; the line was full
	renewed, released  atomic.Int64
	lost               atomic.Int64 // renewals and releases of who is not the holder
	expired, handed    atomic.Int64 // holders whose time was over; locks handed to the next
	conflicts, waiters atomic.Int64
}

// Observe exports the replica's figures. No label names a key.
func (l *Locks) Observe(meter metric.Meter) error {
	var errs []error
	counter := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Counter(meter, "fairlead_tasks_lock_"+name, help, read))
	}
	gauge := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Gauge(meter, "fairlead_tasks_lock_"+name, help, read))
	}
	m := &l.metrics
	errs = append(errs, telemetry.CounterBy(meter, "fairlead_tasks_lock_acquires_total", "Requests for locks, by what became of them.", "outcome",
		func(observe func(string, int64)) {
			observe("granted", m.granted.Load())
			observe("waited", m.waited.Load())
			observe("timeout", m.timeouts.Load())
			observe("full", m.crowded.Load())
		}))
	counter("waited_milliseconds_total", "Time that those waited who got a lock behind a wait.", m.waitedMs.Load)
	counter("renewals_total", "Renewals of locks.", m.renewed.Load)
	counter("releases_total", "Releases of locks, those that were said again among them.", m.released.Load)
	counter("losses_total", "Renewals and releases refused since the lock was lost.", m.lost.Load)
	counter("expirations_total", "Locks found here whose holder's time was over.", m.expired.Load)
	counter("handovers_total", "Locks given to the next in line by this replica's writes.", m.handed.Load)
	counter("conflicts_total", "Writes decided again since another replica had changed the lock.", m.conflicts.Load)
	gauge("waiters", "Requests that stand in line in this replica.", m.waiters.Load)
	gauge("keys", "Locks that this replica has in memory.", func() int64 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return int64(len(l.cells))
	})
	return errors.Join(errs...)
}
