package gateway

import (
	"errors"

	"go.opentelemetry.io/otel/metric"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// observe exports what the limits of the rules did.
func (l *limiter) observe(meter metric.Meter) error {
	var errs []error
	counter := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Counter(meter, "fairlead_gateway_"+name, help, read))
	}
	gauge := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Gauge(meter, "fairlead_gateway_"+name, help, read))
	}
	counter("rate_grants_total", "Operations that had what they take from a limit of the rules.", l.granted.Load)
	counter("rate_refusals_total", "Operations refused by a limit of the rules.", l.refused.Load)
	counter("rate_remembered_total", "Of those refused, the ones about which the ratelimit service was not asked again.", l.remembered.Load)
	counter("rate_shadows_total", "Times that a limit with `shadow` let pass what it would have refused.", l.shadowed.Load)
	counter("rate_failures_total", "Questions that the ratelimit service did not decide in time, or was not asked since it is away.", l.outage.total.Load)
	errs = append(errs, telemetry.CounterBy(meter, "fairlead_gateway_rate_undecided_total",
		"Operations about which the ratelimit service did not decide, by the limit's failMode.", "fail_mode", func(observe func(string, int64)) {
			for _, mode := range []rules.FailMode{rules.FailClosed, rules.FailOpen, rules.FailLocal} {
				observe(mode.String(), l.undecided[mode].Load())
			}
		}))
	counter("rate_requests_total", "Requests to the ratelimit service.", func() int64 { return l.counts().Asked })
	counter("rate_folded_total", "Questions that went with an earlier one in the same request.", func() int64 { return l.counts().Folded })
	counter("rate_fallbacks_total", "Requests that another replica than the preferred one had to be asked.", func() int64 { return l.counts().Fallbacks })
	counter("rate_dropped_total", "Refusals, replicas and questions for which there was no room.", func() int64 { return l.counts().Dropped })
	gauge("rate_questions_waiting", "Questions to the ratelimit service without an answer.", func() int64 { return l.counts().Waiting })
	gauge("rate_refusals_held", "Refusals that are remembered, for at most 5 s.", func() int64 { return l.counts().Denials })
	gauge("rate_replicas_heard", "Replicas of the ratelimit service that say that they are there.", func() int64 { return l.counts().Replicas })
	gauge("rate_buckets", "Keys counted in this gateway, for limits with failMode local.", func() int64 { return int64(l.locals.size()) })
	counter("rate_buckets_forgotten_total", "Those that had to make room for others before they were full again.", l.locals.forgotten.Load)
	gauge("rate_bursts", "Keys whose burst of refusals is remembered.", l.bursts.size)
	counter("rate_bursts_untold_total", "Bursts that began without an event, since too many were going on.", l.bursts.missed)
	return errors.Join(errs...)
}
