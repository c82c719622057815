package runner

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/fairlead-io/fairlead/internal/telemetry"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// metrics count what the replica did.
type metrics struct {
	claimed, dispatched, adopted       atomic.Int64
	committed, failed, cancelled, dead atomic.Int64 // tasks
	retried, given                     atomic.Int64 // attempts after which the task waits
	killed, timeouts, lost, unheard    atomic.Int64
	unserved, refused, forged          atomic.Int64
	exhausted, publishErrors           atomic.Int64
	heldUsed, heldDropped              atomic.Int64

	latency metric.Float64Histogram // from enqueue to dispatch; nil: nobody looks
}

// started notes that an attempt was dispatched.
func (m *metrics) started(a *attempt) {
	m.dispatched.Add(1)
	if m.latency != nil && !a.asked.IsZero() {
		m.latency.Record(context.Background(), time.Since(a.asked).Seconds())
	}
}

// back counts an attempt after which another one follows.
func (m *metrics) back(b *store.Back) {
	if b.Unstarted {
		m.given.Add(1)
	} else {
		m.retried.Add(1)
	}
}

// Observe exports the replica's figures. It is to be called before Run. No label
// names a task, or a name of tasks.
func (r *Runner) Observe(meter metric.Meter) error {
	var errs []error
	counter := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Counter(meter, "fairlead_tasks_"+name, help, read))
	}
	gauge := func(name, help string, read func() int) {
		errs = append(errs, telemetry.Gauge(meter, "fairlead_tasks_"+name, help, func() int64 { return int64(read()) }))
	}
	m := &r.metrics
	errs = append(errs, r.observeEnds(meter), r.observeLost(meter), r.observeBatches(meter))
	counter("attempts_claimed_total", "Attempts claimed of tasks that waited.", m.claimed.Load)
	counter("attempts_dispatched_total", "Attempts handed to NATS.", m.dispatched.Load)
	counter("attempts_adopted_total", "Running attempts taken over from replicas that were gone.", m.adopted.Load)
	counter("attempts_unserved_total", "Attempts that nobody took: no worker serves their name.", m.unserved.Load)
	counter("replies_refused_total", "What workers said of attempts that had been given up.", m.refused.Load)
	counter("replies_forged_total", "Replies and requests without the token of their attempt.", m.forged.Load)
	counter("requests_exhausted_total", "Requests and outcomes refused since too many were waiting.", m.exhausted.Load)
	counter("copies_committed_total", "Copies of replies that were kept for a supervisor who did not commit them.", m.heldUsed.Load)
	counter("copies_dropped_total", "Copies of replies not kept since there were too many.", m.heldDropped.Load)
	counter("publish_errors_total", "Messages that NATS refused.", m.publishErrors.Load)
	counter("leases_lost_total", "Times at which the replica gave up its number as an owner.", r.owner.losses)
	gauge("attempts_running_count", "Attempts that this replica supervises.", r.table.count)
	gauge("waiters_pending_count", "Tasks whose end somebody waits for here.", r.waiters.count)
	gauge("copies_held_count", "Copies of replies that are kept for their supervisors.", r.held.count)
	counter("names_evicted_total", "Names of tasks forgotten since others needed the room: tasks of theirs wait, and nobody serves them.", func() int64 { _, n := r.lanes.probed(); return n })
	counter("probes_total", "Tries with one task whether somebody serves its name by now.", func() int64 { n, _ := r.lanes.probed(); return n })
	gauge("names_known_count", "Names of tasks of which the replica knows something.", func() int { known, _ := r.lanes.counts(); return known })
	gauge("names_parked_count", "Names of tasks that no worker serves.", func() int { _, parked := r.lanes.counts(); return parked })
	var err error
	m.latency, err = meter.Float64Histogram("fairlead_tasks_start_seconds", metric.WithUnit("s"),
		metric.WithDescription("Time from the request for a task to the dispatch of its first attempt, of those that began at once."),
		metric.WithExplicitBucketBoundaries(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5))
	if err != nil {
		errs = append(errs, fmt.Errorf("make metric fairlead_tasks_start_seconds: %w", err))
	}
	return errors.Join(errs...)
}

func (r *Runner) observeEnds(meter metric.Meter) error {
	m := &r.metrics
	return telemetry.CounterBy(meter, "fairlead_tasks_outcomes_total", "Outcomes of attempts that were stored, by the state of the task then; given_back: nobody had taken it.", "state",
		func(observe func(string, int64)) {
			observe(string(wire.TaskCommitted), m.committed.Load())
			observe(string(wire.TaskFailed), m.failed.Load())
			observe(string(wire.TaskCancelled), m.cancelled.Load()+m.killed.Load())
			observe(string(wire.TaskDead), m.dead.Load())
			observe(string(wire.TaskPending), m.retried.Load())
			observe("given_back", m.given.Load())
		})
}

func (r *Runner) observeLost(meter metric.Meter) error {
	m := &r.metrics
	return telemetry.CounterBy(meter, "fairlead_tasks_silences_total", "Attempts given up since nothing more was expected of them.", "reason",
		func(observe func(string, int64)) {
			observe("timeout", m.timeouts.Load())
			observe("worker_lost", m.lost.Load())
			observe("unheard", m.unheard.Load())
		})
}

func (r *Runner) observeBatches(meter metric.Meter) error {
	written := func(observe func(string, func() (int64, int64), func() int)) {
		observe("insert", r.inserts.figures, r.inserts.depth)
		observe("end", r.ends.figures, r.ends.depth)
		observe("back", r.backs.figures, r.backs.depth)
		observe("look", r.looks.figures, r.looks.depth)
		observe("read", r.reads.figures, r.reads.depth)
	}
	return errors.Join(
		telemetry.CounterBy(meter, "fairlead_tasks_rows_total", "Rows that were written or read together with others.", "of", func(observe func(string, int64)) {
			written(func(of string, figures func() (int64, int64), _ func() int) { n, _ := figures(); observe(of, n) })
		}),
		telemetry.CounterBy(meter, "fairlead_tasks_batches_total", "Statements by which they were.", "of", func(observe func(string, int64)) {
			written(func(of string, figures func() (int64, int64), _ func() int) { _, n := figures(); observe(of, n) })
		}),
		telemetry.GaugeBy(meter, "fairlead_tasks_rows_waiting", "Rows that are still to be written or read.", "of", func(observe func(string, int64)) {
			written(func(of string, _ func() (int64, int64), depth func() int) { observe(of, int64(depth())) })
		}),
		telemetry.GaugeBy(meter, "fairlead_tasks_waiting_bytes", "About how many bytes those are.", "of", func(observe func(string, int64)) {
			observe("insert", int64(r.inserts.held()))
			observe("end", int64(r.ends.held()))
			observe("back", int64(r.backs.held()))
			observe("look", int64(r.looks.held()))
		}),
	)
}
