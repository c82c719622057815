package bus

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// meters are the metrics of a service's endpoints. No label is a subject that
// peers choose: their number is that of endpoints and codes.
type meters struct {
	requests metric.Int64Counter
	duration metric.Float64Histogram
	refusals metric.Int64Counter
}

func newMeters(provider metric.MeterProvider) (meters, error) {
	meter := provider.Meter(scope)
	var m meters
	var err error
	if m.requests, err = meter.Int64Counter("fairlead_bus_requests_total",
		metric.WithDescription("Requests answered, by service, endpoint and code (OK or an error code).")); err != nil {
		return m, fmt.Errorf("make metrics: %w", err)
	}
	if m.duration, err = meter.Float64Histogram("fairlead_bus_request_duration_seconds",
		metric.WithDescription("Time from a request's arrival to its reply."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)); err != nil {
		return m, fmt.Errorf("make metrics: %w", err)
	}
	if m.refusals, err = meter.Int64Counter("fairlead_bus_replies_refused_total",
		metric.WithDescription("Requests dropped because their reply subject is none that may be answered.")); err != nil {
		return m, fmt.Errorf("make metrics: %w", err)
	}
	return m, nil
}

func (m meters) request(service, endpoint, code string, took time.Duration) {
	ctx := context.Background()
	who := []attribute.KeyValue{attribute.String("service", service), attribute.String("endpoint", endpoint)}
	m.duration.Record(ctx, took.Seconds(), metric.WithAttributes(who...))
	m.requests.Add(ctx, 1, metric.WithAttributes(append(who, attribute.String("code", code))...))
}

func (m meters) refused(service string) {
	m.refusals.Add(context.Background(), 1, metric.WithAttributes(attribute.String("service", service)))
}
