package telemetry

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// On hot paths a metric is an atomic that its owner adds to; the instruments
// here read it when somebody scrapes. The read functions are called from
// another goroutine and must not block.

var validMetric = regexp.MustCompile(`^fairlead(_[a-z0-9]+){3,}$`)

// Counter exports a number that only grows. name is
// fairlead_<service>_<noun>_total, with a unit before _total where it has one.
func Counter(meter metric.Meter, name, description string, read func() int64) error {
	return CounterBy(meter, name, description, "", func(observe func(string, int64)) { observe("", read()) })
}

// CounterBy exports several counters under one name, told apart by a label:
// read calls observe once for each value of the label. The values are of a
// small fixed set (codes, policies), never topics, users or connections.
func CounterBy(meter metric.Meter, name, description, label string, read func(observe func(value string, n int64))) error {
	if err := checkMetric(name, true); err != nil {
		return err
	}
	_, err := meter.Int64ObservableCounter(name, metric.WithDescription(description), metric.WithInt64Callback(callback(label, read)))
	if err != nil {
		return fmt.Errorf("make metric %s: %w", name, err)
	}
	return nil
}

// CounterOf is [CounterBy] for several labels, whose values observe gets in
// their order.
func CounterOf(meter metric.Meter, name, description string, labels []string, read func(observe func(n int64, values ...string))) error {
	if err := checkMetric(name, true); err != nil {
		return err
	}
	_, err := meter.Int64ObservableCounter(name, metric.WithDescription(description), metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
		read(func(n int64, values ...string) {
			attributes := make([]attribute.KeyValue, len(labels))
			for i, label := range labels {
				attributes[i] = attribute.String(label, values[i])
			}
			o.Observe(n, metric.WithAttributes(attributes...))
		})
		return nil
	}))
	if err != nil {
		return fmt.Errorf("make metric %s: %w", name, err)
	}
	return nil
}

// Gauge exports a number that goes up and down. name is
// fairlead_<service>_<noun>_<unit>.
func Gauge(meter metric.Meter, name, description string, read func() int64) error {
	return GaugeBy(meter, name, description, "", func(observe func(string, int64)) { observe("", read()) })
}

// GaugeBy is to [Gauge] what [CounterBy] is to [Counter].
func GaugeBy(meter metric.Meter, name, description, label string, read func(observe func(value string, n int64))) error {
	if err := checkMetric(name, false); err != nil {
		return err
	}
	_, err := meter.Int64ObservableGauge(name, metric.WithDescription(description), metric.WithInt64Callback(callback(label, read)))
	if err != nil {
		return fmt.Errorf("make metric %s: %w", name, err)
	}
	return nil
}

func callback(label string, read func(observe func(value string, n int64))) metric.Int64Callback {
	return func(_ context.Context, o metric.Int64Observer) error {
		read(func(value string, n int64) {
			if label == "" {
				o.Observe(n)
				return
			}
			o.Observe(n, metric.WithAttributes(attribute.String(label, value)))
		})
		return nil
	}
}

// checkMetric keeps names as documentation and dashboards expect them.
func checkMetric(name string, total bool) error {
	if !validMetric.MatchString(name) || strings.HasSuffix(name, "_total") != total {
		return fmt.Errorf("metric name %q: must be fairlead_<service>_<noun>_<unit>, and end in _total only as a counter", name)
	}
	return nil
}
