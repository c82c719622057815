package bus

import (
	"context"
	"fmt"
	"sync"
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

	labels *sync.Map // of labelled to labels: made once, they cost more than what they label
}

// labelled is what requests are told apart by, and labels how.
type (
	labelled struct{ service, endpoint, code string }
	labels   struct {
		requests []metric.AddOption
		duration []metric.RecordOption
	}
)

func newMeters(provider metric.MeterProvider) (meters, error) {
	meter := provider.Meter(scope)
	m := meters{labels: &sync.Map{}}
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
	of := labelled{service, endpoint, code}
	known, ok := m.labels.Load(of)
	if !ok {
		known, _ = m.labels.LoadOrStore(of, of.labels())
	}
	l := known.(*labels) //nolint:errcheck,forcetypeassert // nothing else is stored
	m.duration.Record(ctx, took.Seconds(), l.duration...)
	m.requests.Add(ctx, 1, l.requests...)
}

func (of labelled) labels() *labels {
	who := []attribute.KeyValue{attribute.String("service", of.service), attribute.String("endpoint", of.endpoint)}
	duration := attribute.NewSet(who...)
	requests := attribute.NewSet(append(who, attribute.String("code", of.code))...)
	return &labels{
		requests: []metric.AddOption{metric.WithAttributeSet(requests)},
		duration: []metric.RecordOption{metric.WithAttributeSet(duration)},
	}
}

func (m meters) refused(service string) {
	m.refusals.Add(context.Background(), 1, metric.WithAttributes(attribute.String("service", service)))
}
