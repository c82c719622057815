package jobs

import (
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"

	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// metrics count what the replica did.
type metrics struct {
	enqueued, writes                     atomic.Int64
	claims, claimed                      atomic.Int64
	completed, failed, lost, dead, looks atomic.Int64
}

// Observe exports the replica's figures. No label names a queue.
func (s *Service) Observe(meter metric.Meter) error {
	m := &s.metrics
	return errors.Join(
		telemetry.Counter(meter, "fairlead_tasks_jobs_enqueued_total", "Jobs that were stored.", m.enqueued.Load),
		telemetry.Counter(meter, "fairlead_tasks_job_writes_total", "Writes that stored them: by these it is seen how many a write carries.", m.writes.Load),
		telemetry.Counter(meter, "fairlead_tasks_job_claims_total", "Looks into a queue by claims.", m.claims.Load),
		telemetry.Counter(meter, "fairlead_tasks_jobs_claimed_total", "Jobs that were claimed.", m.claimed.Load),
		telemetry.CounterBy(meter, "fairlead_tasks_jobs_ended_total", "Claimed jobs by what was said of them; lost: by one who had them no longer, so that it did not count.", "end",
			func(observe func(string, int64)) {
				observe("complete", m.completed.Load())
				observe("fail", m.failed.Load())
				observe("lost", m.lost.Load())
			}),
		telemetry.Counter(meter, "fairlead_tasks_jobs_dead_total", "Jobs that were moved to the queue of the dead.", m.dead.Load),
		telemetry.Counter(meter, "fairlead_tasks_job_looks_total", "Looks for what is due, for claims that wait.", m.looks.Load),
		telemetry.Gauge(meter, "fairlead_tasks_job_waiters_count", "Claims that wait for a job.", s.lines.waiting),
	)
}
