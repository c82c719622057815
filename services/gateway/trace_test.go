package gateway

import (
	"context"
	"net/http"
	"testing"

	"github.com/nats-io/nats.go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/telemetry"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// traced records the gateway's spans in memory. Telemetry is started as the
// standard variables say, so that its tracer is on; nothing is sent.
func traced(t *testing.T) (option, *tracetest.SpanRecorder) {
	t.Helper()
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	tel, err := telemetry.Start(t.Context(), telemetry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	recorder := tracetest.NewSpanRecorder()
	tel.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	return func(_ *Config, deps *Deps, _ *rules.Options) { deps.Trace = tel.Tracer("test") }, recorder
}

// span waits for an ended span of this name and kind below parent, of the same
// trace; the zero parent stands for a root.
func span(t *testing.T, recorder *tracetest.SpanRecorder, name string, kind trace.SpanKind, parent trace.SpanContext) (found sdktrace.ReadOnlySpan) {
	t.Helper()
	eventually(t, "span "+name, func() bool {
		for _, s := range recorder.Ended() {
			if s.Name() == name && s.SpanKind() == kind && s.Parent().SpanID() == parent.SpanID() &&
				(!parent.IsValid() || s.SpanContext().TraceID() == parent.TraceID()) {
				found = s
			}
		}
		return found != nil
	})
	return found
}

func traceparent(s trace.SpanContext) string {
	return "00-" + s.TraceID().String() + "-" + s.SpanID().String() + "-01"
}

// One trace leads from a client's publish over the bus to the fan-out.
func TestPublishIsTracedToTheFanOut(t *testing.T) {
	on, recorder := traced(t)
	r := startGateway(t, natsdev.Test(t), on)
	bus := r.listen("a.b")
	p := r.dial()
	p.hello("")
	p.subscribe(2, "a.b")
	p.send(`{"op":"publish","id":3,"topic":"a.b","data":1,"traceparent":"00-11111111111111111111111111111111-2222222222222222-01"}`)
	published := span(t, recorder, "publish", trace.SpanKindProducer, trace.SpanContext{})
	if got, want := nextMsg(t, bus).Header.Get("traceparent"), traceparent(published.SpanContext()); got != want {
		t.Errorf("traceparent on the bus %q, want %q", got, want)
	}
	span(t, recorder, "deliver", trace.SpanKindConsumer, published.SpanContext())
}

// A worker's trace goes on in the fan-out, in whatever spelling it writes the
// header; a message without one begins none.
func TestWorkersTraceGoesOn(t *testing.T) {
	on, recorder := traced(t)
	r := startGateway(t, natsdev.Test(t), on)
	nc := r.bus()
	p := r.dial()
	conn, _, _ := p.hello("")
	p.subscribe(2, "a.b")
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	for _, name := range []string{"TraceParent", "traceparent"} {
		for subject, spanName := range map[string]string{"fl.topic.a.b": "deliver", "fl.conn." + conn: "deliver direct"} {
			recorder.Reset()
			tell(t, nc, subject, "1") // begins nothing
			if err := nc.PublishMsg(&nats.Msg{Subject: subject, Data: []byte("2"), Header: nats.Header{name: {traceparent(parent)}}}); err != nil {
				t.Fatal(err)
			}
			span(t, recorder, spanName, trace.SpanKindConsumer, parent)
			if n := len(recorder.Ended()); n != 1 {
				t.Errorf("%s: %d spans for two messages of which one had a trace", subject, n)
			}
		}
	}
}

// A call is one span, from the client's frame to its answer, and the worker
// gets it as parent.
func TestCallIsTraced(t *testing.T) {
	on, recorder := traced(t)
	r := startGateway(t, natsdev.Test(t), on)
	parents := make(chan string, 1)
	serveCalls(t, r.bus(), "m.x", func(msg *nats.Msg) {
		if n := len(recorder.Ended()); n != 0 {
			t.Errorf("%d spans ended before the answer", n)
		}
		parents <- msg.Header.Get("traceparent")
		answer(t, msg, "1", nil)
	})
	p := r.dial()
	p.hello("")
	p.send(`{"op":"call","id":2,"method":"m.x"}`)
	p.expect(`{"id":2,"ok":1}`)
	call := span(t, recorder, "call", trace.SpanKindClient, trace.SpanContext{})
	if got, want := await(t, "the call arrives", parents), traceparent(call.SpanContext()); got != want {
		t.Errorf("traceparent %q, want %q", got, want)
	}
	if n := len(call.Attributes()); n != 0 {
		t.Errorf("attributes %v of a call that succeeded", call.Attributes())
	}
	recorder.Reset()
	p.send(`{"op":"call","id":3,"method":"m.nobody"}`)
	p.expectError(3, "UNIMPLEMENTED")
	failed := span(t, recorder, "call", trace.SpanKindClient, trace.SpanContext{})
	if a := failed.Attributes(); len(a) != 1 || a[0].Key != "error.type" || a[0].Value.AsString() != "UNIMPLEMENTED" {
		t.Errorf("attributes %v, want error.type UNIMPLEMENTED", a)
	}
}

// Every call's span ends, however the call does.
func TestEveryCallSpanEnds(t *testing.T) {
	server := natsdev.Test(t)
	on, recorder := traced(t)
	r := startGateway(t, server, on)
	started, _ := cancellable(t, r, "slow")
	p := r.dial()
	p.hello("")
	p.send(`[{"op":"call","id":2,"method":"slow","timeoutMs":20},{"op":"call","id":3,"method":"slow"},{"op":"call","id":4,"method":"slow"}]`)
	for range 3 {
		await(t, "the call arrives", started)
	}
	p.expectError(2, "DEADLINE_EXCEEDED")
	p.send(`{"op":"cancel","ref":3}`)
	p.expectError(3, "CANCELLED")
	p.ws.CloseNow()
	eventually(t, "three spans have ended", func() bool { return len(recorder.Ended()) == 3 })
	q := r.dial()
	q.hello("")
	server.Shutdown()
	q.system("degraded") // which the first lost connection says
	eventually(t, "the connection for requests is lost", func() bool { return !r.g.requests.IsConnected() })
	q.send(`{"op":"call","id":2,"method":"slow"}`)
	q.expectError(2, "UNAVAILABLE")
	eventually(t, "the span of a call that was not sent has ended", func() bool { return len(recorder.Ended()) == 4 })
}

// An HTTP request's trace goes on with what it publishes.
func TestHTTPPublishGoesOnWithTheTrace(t *testing.T) {
	on, recorder := traced(t)
	r := startGateway(t, natsdev.Test(t), on, withHTTPAPI)
	bus := r.listen("a.b")
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	r.wantPosted("/v1/topics/a.b", token(t, auth.Claims{User: "shop", Publish: []string{"a.*"}}), `1`, "traceparent", traceparent(parent))
	published := span(t, recorder, "publish", trace.SpanKindProducer, parent)
	if got, want := nextMsg(t, bus).Header.Get("traceparent"), traceparent(published.SpanContext()); got != want {
		t.Errorf("traceparent on the bus %q, want %q", got, want)
	}
	if status, _ := r.post("/v1/topics/a.b", "", `1`, "traceparent", traceparent(parent)); status != http.StatusUnauthorized {
		t.Errorf("status %d, want 401", status)
	}
}
