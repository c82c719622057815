package presence

import (
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"

	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// askFigures count what became of asks.
type askFigures struct {
	answered, offline, timeouts, failed, refused, invalid atomic.Int64
	dropped, late, probes                                 atomic.Int64

	duration metric.Float64Histogram // nil: not measured
}

// observe exports what became of asks.
func (a *asker) observe(meter metric.Meter, counter, gauge func(name, help string, read func() int64)) error {
	f := &a.figures
	gauge("asks_pending", "Asks without an answer.", func() int64 { return int64(a.size()) })
	counter("ask_late_replies_total", "Answers of clients to asks that were over.", f.late.Load)
	counter("ask_probes_total", "Times that the gateways were asked where a user is.", f.probes.Load)
	counter("asks_dropped_total", "Asks without a reply subject, or with one outside _INBOX.", f.dropped.Load)
	var err error
	if f.duration, err = meter.Float64Histogram("fairlead_presence_ask_duration_seconds",
		metric.WithDescription("Time from an ask's arrival to its answer, by result."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60)); err != nil {
		return fmt.Errorf("make metrics: %w", err)
	}
	return telemetry.CounterBy(meter, "fairlead_presence_asks_total", "Asks answered, by result.", "result", func(observe func(string, int64)) {
		observe("ok", f.answered.Load())
		observe("offline", f.offline.Load())
		observe("timeout", f.timeouts.Load())
		observe("error", f.failed.Load())
		observe("refused", f.refused.Load())
		observe("invalid", f.invalid.Load())
	})
}
