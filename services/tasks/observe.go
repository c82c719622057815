package tasks

import (
	"errors"
	"sync/atomic"

	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// metrics are figures of what this package itself does.
type metrics struct {
	cleanErrors atomic.Int64
	due, oldest atomic.Int64 // tasks; s
}

// observe exports the replica's figures. No label names a task or a key.
func (s *Service) observe() error {
	if s.deps.Meter == nil {
		return nil
	}
	meter := s.deps.Meter.Meter("fairlead/tasks")
	var errs []error
	counter := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Counter(meter, "fairlead_tasks_"+name, help, read))
	}
	gauge := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Gauge(meter, "fairlead_tasks_"+name, help, read))
	}
	m := &s.metrics
	gauge("tasks_due", "Tasks that could run, at most 100,000; counted every ten seconds.", m.due.Load)
	gauge("oldest_due_seconds", "For how long the oldest of them could have run.", m.oldest.Load)
	counter("clean_errors_total", "Times that what is kept no longer could not be removed.", m.cleanErrors.Load)
	gauge("postgres_connections_open", "Connections to Postgres that are open.", func() int64 { return int64(s.pool.Stat().TotalConns()) })
	errs = append(errs, telemetry.GaugeBy(meter, "fairlead_tasks_breaker_state",
		"Whether Postgres is asked: 0 healthy, 1 probing, 2 broken.", "what",
		func(observe func(string, int64)) { observe("postgres", int64(s.postgres.breaker.State())) }))
	return errors.Join(append(errs, s.runner.Observe(meter), s.parts.observe(meter))...)
}
