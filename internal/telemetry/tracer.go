package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// off is the one span of all tracers that are off: boxing it each time would
// allocate.
var off trace.Span = noop.Span{}

// Tracer starts spans on hot paths. When traces are off, Start returns its
// context as it is and allocates nothing; an OpenTelemetry no-op tracer makes a
// context and a slice of options each time. The zero value is off.
type Tracer struct {
	tracer trace.Tracer // nil: off
}

// Tracer returns the tracer for a part of the program, such as
// "fairlead/gateway".
func (t *Telemetry) Tracer(scope string) Tracer {
	if !t.tracing {
		return Tracer{}
	}
	return Tracer{t.TracerProvider.Tracer(scope)}
}

// On reports whether spans are recorded: whoever computes attributes for a span
// asks first.
func (t Tracer) On() bool { return t.tracer != nil }

// Start begins a span that the caller ends. Off, it returns ctx and a span that
// records nothing.
func (t Tracer) Start(ctx context.Context, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	if t.tracer == nil {
		return ctx, off
	}
	return t.tracer.Start(ctx, name, trace.WithSpanKind(kind))
}
