package bus

import (
	"context"
	"strings"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Carrier lets OpenTelemetry read and write the trace context in NATS headers.
// Names are read without regard to case, since client libraries differ, and the
// last value counts; they are written as the W3C spells them, `traceparent` and
// `tracestate`, which HTTP-like canonicalization would not. A Carrier to be
// written to must not be nil.
type Carrier nats.Header

var _ propagation.TextMapCarrier = Carrier(nil)

// Get returns the last value of the header; "" where there is none.
func (c Carrier) Get(key string) string { return wire.HeaderValue(c, key) }

// Set replaces the header in whatever spelling it is there. A value that could
// end the header is not written.
func (c Carrier) Set(key, value string) {
	if !wire.ValidHeaderValue(value) {
		return
	}
	for k := range c {
		if k != key && strings.EqualFold(k, key) {
			delete(c, k)
		}
	}
	c[key] = []string{value}
}

// Keys lists the names of all headers.
func (c Carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

// propagator is W3C trace context and nothing else: baggage would let a client
// plant headers in workers.
type propagator = propagation.TraceContext

// Inject writes the trace of ctx into headers, which must not be nil. Without
// a trace it writes nothing.
func Inject(ctx context.Context, headers nats.Header) {
	propagator{}.Inject(ctx, Carrier(headers))
}

// Extract returns ctx with the trace that the headers carry, if they do.
func Extract(ctx context.Context, headers nats.Header) context.Context {
	if len(headers) == 0 {
		return ctx
	}
	return propagator{}.Extract(ctx, Carrier(headers))
}
