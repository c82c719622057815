package cron

import (
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"

	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// metrics count what the replica did.
type metrics struct {
	fired, skipped, failures, refused atomic.Int64
	schedules                         atomic.Int64
}

// Observe exports the replica's figures. No label names a schedule.
func (s *Service) Observe(meter metric.Meter) error {
	m := &s.metrics
	return errors.Join(
		telemetry.Counter(meter, "fairlead_tasks_cron_fired_total", "Ticks of schedules for which this replica has enqueued the task.", m.fired.Load),
		telemetry.Counter(meter, "fairlead_tasks_cron_skipped_total", "Times that this replica moved a schedule on over ticks that were missed.", m.skipped.Load),
		telemetry.Counter(meter, "fairlead_tasks_cron_failures_total", "Times that a due schedule could not be fired.", m.failures.Load),
		telemetry.Counter(meter, "fairlead_tasks_cron_refused_total", "Schedules refused since there are as many as there may be.", m.refused.Load),
		telemetry.Gauge(meter, "fairlead_tasks_cron_schedules_count", "Schedules that are set, counted each minute.", m.schedules.Load),
	)
}
