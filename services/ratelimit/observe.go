package ratelimit

import (
	"errors"
	"sync/atomic"

	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// metrics count what the replica did.
type metrics struct {
	allowed, denied, banned, shadowed atomic.Int64 // decisions
	bans                              atomic.Int64
	refunds, changes                  atomic.Int64
	adjusted, adjusting               atomic.Int64 // keys; ms that the last walk over them took

	writes, conflicts, recognised atomic.Int64 // writes of the bucket
	decided                       atomic.Int64 // takes that a write carried
	reads                         atomic.Int64
	expired, refused              atomic.Int64 // takes whose caller had given up; that found a line full
	cells, waiting                atomic.Int64

	forwarded, forwardsFailed atomic.Int64
	publishErrors             atomic.Int64
}

// observe exports the replica's figures. No label names a policy or a key.
func (s *Service) observe() error {
	if s.deps.Meter == nil {
		return nil
	}
	meter := s.deps.Meter.Meter("fairlead/ratelimit")
	var errs []error
	counter := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Counter(meter, "fairlead_ratelimit_"+name, help, read))
	}
	gauge := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Gauge(meter, "fairlead_ratelimit_"+name, help, read))
	}
	m := &s.metrics
	errs = append(errs, telemetry.CounterBy(meter, "fairlead_ratelimit_takes_total", "Takes decided, by what became of them.", "verdict",
		func(observe func(string, int64)) {
			observe("allowed", m.allowed.Load())
			observe("denied", m.denied.Load())
			observe("banned", m.banned.Load())
			observe("shadowed", m.shadowed.Load())
		}))
	counter("bans_total", "Bans that began, by a denial or by hand.", m.bans.Load)
	counter("refunds_total", "Refunds that gave something back.", m.refunds.Load)
	counter("changes_total", "Changes by reset, ban, unban, refund and clear that were told to everybody.", m.changes.Load)
	counter("keys_adjusted_total", "Keys whose buckets were brought to what a limit is since the rules changed.", m.adjusted.Load)
	counter("writes_total", "Writes of the bucket that were stored.", m.writes.Load)
	counter("takes_written_total", "Takes that those writes decided: by them it is seen how many a write carries.", m.decided.Load)
	counter("write_conflicts_total", "Writes that were decided again since the key had changed.", m.conflicts.Load)
	counter("writes_recognised_total", "Writes whose acknowledgement was lost, and that were found stored.", m.recognised.Load)
	counter("reads_total", "Reads of a key from the bucket.", m.reads.Load)
	counter("takes_expired_total", "Takes dropped undecided since their caller had given up.", m.expired.Load)
	counter("takes_refused_total", "Takes refused since too many were waiting.", m.refused.Load)
	counter("forwards_total", "Requests handed to the replica that prefers their key.", m.forwarded.Load)
	counter("forward_failures_total", "Those that it did not answer, so that this replica decided.", m.forwardsFailed.Load)
	counter("publish_errors_total", "Changes and announcements that did not reach NATS.", m.publishErrors.Load)
	gauge("keys_held", "Keys whose state is in memory.", m.cells.Load)
	gauge("adjustment_milliseconds", "How long the last walk over the keys took after limits changed.", m.adjusting.Load)
	gauge("takes_waiting", "Takes that wait for a write or a read.", m.waiting.Load)
	gauge("clock_error_microseconds", "How well the time of the NATS server is known.", func() int64 { return s.clock.err().Microseconds() })
	return errors.Join(errs...)
}
