package bus

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestOneTraceFromCallerToEndpoint(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	inner := make(chan trace.SpanContext, 2)
	s := serve(t, nc, ServeConfig{Tracer: provider}, Handle("echo", "fl.svc.test.echo", func(ctx context.Context, e echo) (echo, error) {
		inner <- trace.SpanContextFromContext(ctx)
		return e, nil
	}))
	ctx, root := provider.Tracer("test").Start(t.Context(), "root")
	if _, err := Call[echo, echo](ctx, nc, "fl.svc.test.echo", echo{}); err != nil {
		t.Fatal(err)
	}
	root.End()
	if got, want := (await(t, "the request", inner)).TraceID(), root.SpanContext().TraceID(); got != want {
		t.Errorf("trace in the endpoint = %s, want %s", got, want)
	}

	// A worker in another language spells the header as HTTP would.
	msg := nats.NewMsg("fl.svc.test.echo")
	msg.Header["Traceparent"] = []string{parent}
	if _, err := nc.RequestMsg(msg, patience); err != nil {
		t.Fatal(err)
	}
	if got, want := (await(t, "the request", inner)).TraceID().String(), parent[3:35]; got != want {
		t.Errorf("trace in the endpoint = %s, want %s", got, want)
	}

	if err := s.Drain(t.Context()); err != nil { // spans end after the reply
		t.Fatal(err)
	}
	spans := map[trace.SpanKind]sdktrace.ReadOnlySpan{}
	for _, span := range recorder.Ended() {
		if span.SpanContext().TraceID() == root.SpanContext().TraceID() {
			spans[span.SpanKind()] = span
		}
	}
	client, server := spans[trace.SpanKindClient], spans[trace.SpanKindServer]
	if client == nil || server == nil {
		t.Fatalf("spans = %v, want one of the client and one of the server", slices.Collect(maps.Keys(spans)))
	}
	if client.Parent().SpanID() != root.SpanContext().SpanID() || server.Parent().SpanID() != client.SpanContext().SpanID() {
		t.Error("root, client and server span are no chain")
	}
}

func TestCarrier(t *testing.T) {
	c := Carrier{"TRACEPARENT": {"a", "b"}, "Other": {"x"}}
	if got := c.Get("traceparent"); got != "b" {
		t.Errorf("Get = %q, want the last value", got)
	}
	if got := c.Get("tracestate"); got != "" {
		t.Errorf("Get of an absent header = %q", got)
	}
	c.Set("traceparent", parent)
	c.Set("tracestate", "x\r\nFl-User: root")
	if got := slices.Sorted(slices.Values(c.Keys())); !slices.Equal(got, []string{"Other", "traceparent"}) {
		t.Errorf("headers = %v, want one traceparent and no tracestate", got)
	}
	headers := nats.Header{}
	Inject(t.Context(), headers)
	if len(headers) != 0 {
		t.Errorf("wrote %v without a trace", headers)
	}
	ctx := Extract(t.Context(), nats.Header(c))
	Inject(ctx, headers)
	if got := headers["traceparent"]; len(got) != 1 || got[0] != parent {
		t.Errorf("traceparent = %v, want %s", got, parent)
	}
}

// FuzzCarrier: what peers send never panics, and what comes out again is a
// trace context of ours or nothing.
func FuzzCarrier(f *testing.F) {
	f.Add("Traceparent", parent, "tracestate", "a=1,b=2")
	f.Add("traceparent", "00-\r\n", "TRACESTATE", "x")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		in := nats.Header{k1: {v1}, k2: {v2, v1}}
		out := nats.Header{}
		Inject(Extract(context.Background(), in), out)
		for k, v := range out {
			if (k != "traceparent" && k != "tracestate") || len(v) != 1 {
				t.Errorf("wrote %q: %q", k, v)
			}
			for _, b := range []byte(v[0]) {
				if b < 0x20 || b == 0x7f {
					t.Errorf("%s holds a control byte: %q", k, v[0])
				}
			}
		}
	})
}
