package idem

import (
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"

	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// metrics count what the replica was asked.
type metrics struct {
	acquired, pending, hits, mismatches atomic.Int64
	commits, aborts, lost               atomic.Int64
	expired                             atomic.Int64
}

// Observe exports the replica's figures.
func (s *Service) Observe(meter metric.Meter) error {
	m := &s.metrics
	return errors.Join(
		telemetry.CounterBy(meter, "fairlead_tasks_idem_acquires_total", "Requests for the slot of an idempotency key, by what was found.", "found",
			func(observe func(string, int64)) {
				observe("acquired", m.acquired.Load())
				observe("pending", m.pending.Load())
				observe("done", m.hits.Load())
				observe("mismatch", m.mismatches.Load())
			}),
		telemetry.CounterBy(meter, "fairlead_tasks_idem_ends_total", "Slots that were ended by who had them, or by who did not have them any more (lost: refused).", "end",
			func(observe func(string, int64)) {
				observe("commit", m.commits.Load())
				observe("abort", m.aborts.Load())
				observe("lost", m.lost.Load())
			}),
		telemetry.Counter(meter, "fairlead_tasks_idem_expired_total", "Expired slots that this replica has removed from Postgres.", m.expired.Load),
	)
}
