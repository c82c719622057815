package integration

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

// One trace leads from a client's publish through its gateway to the fan-out of
// every gateway, and from a call through the worker to what the worker
// publishes.
func TestOneTraceLeadsThroughGatewaysAndWorker(t *testing.T) {
	t.Parallel()
	spans := startCollector(t)
	natsURL := natsdev.Test(t).ClientURL()
	s := &stack{t: t, nats: natsURL}
	for _, name := range []string{"gateway-a", "gateway-b"} {
		s.add("OTEL_EXPORTER_OTLP_ENDPOINT="+spans.url, "OTEL_EXPORTER_OTLP_PROTOCOL=http/json", "OTEL_METRICS_EXPORTER=none",
			"OTEL_BSP_SCHEDULE_DELAY=20", "OTEL_SERVICE_NAME="+name)
	}
	ann, bob := s.as(0, "ann"), s.as(1, "bob")
	worker := s.worker()
	atBob, atAnn, onBus := subscribe(t, bob, "trace.room"), subscribe(t, ann, "trace.room"), listen(t, worker, "fl.topic.trace.room")

	publish(t, ann, "trace.room", `1`)
	expect(t, atBob, "", `1`)
	expect(t, atAnn, "", `1`)
	root := spans.find(t, "gateway-a", "publish", "", "")
	if root.ParentSpanID != "" {
		t.Errorf("the publish has parent %s, want none", root.ParentSpanID)
	}
	for _, service := range []string{"gateway-a", "gateway-b"} {
		spans.find(t, service, "deliver", root.TraceID, root.SpanID)
	}
	header := hear(t, onBus).Header.Get("traceparent")
	if want := "00-" + root.TraceID + "-" + root.SpanID + "-01"; header != want {
		t.Errorf("traceparent on the bus: got %q, want %q", header, want)
	}

	_, err := worker.Subscribe("fl.call.trace.work", func(m *nats.Msg) {
		event := nats.NewMsg("fl.topic.trace.room")
		event.Header.Set("TraceParent", m.Header.Get("traceparent")) // the worker goes on with it, in its own spelling
		event.Data = []byte(`2`)
		if err := worker.PublishMsg(event); err != nil {
			t.Errorf("publish: %v", err)
		}
		if err := m.Respond([]byte(`"done"`)); err != nil {
			t.Errorf("respond: %v", err)
		}
	})
	must(t, err)
	flush(t, worker)
	_, err = ann.Call(within(t), "trace.work", nil, client.CallOptions{})
	must(t, err)
	expect(t, atBob, "", `2`)
	call := spans.find(t, "gateway-a", "call", "", "")
	if call.TraceID == root.TraceID {
		t.Error("the call is in the publish's trace, want one of its own")
	}
	spans.find(t, "gateway-b", "deliver", call.TraceID, call.SpanID)
}

// Without a collector there is no header and no span: nothing to pay for.
func TestWithoutACollectorNothingIsTraced(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1)
	onBus := listen(t, s.worker(), "fl.topic.trace.off")
	publish(t, s.as(0, "ann"), "trace.off", `1`)
	if header := hear(t, onBus).Header.Get("traceparent"); header != "" {
		t.Errorf("traceparent on the bus: got %q, want none", header)
	}
}

type span struct {
	service                             string
	TraceID, SpanID, ParentSpanID, Name string
}

// collector receives OTLP over HTTP, in JSON.
type collector struct {
	url string

	mu    sync.Mutex
	spans []span
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := c.take(r); err != nil {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{}`)
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *collector) take(r *http.Request) error {
	var export struct {
		ResourceSpans []struct {
			Resource struct {
				Attributes []struct {
					Key   string
					Value struct{ StringValue string }
				}
			}
			ScopeSpans []struct{ Spans []span }
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&export); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range export.ResourceSpans {
		service := ""
		for _, a := range resource.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.StringValue
			}
		}
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				s.service = service
				s.TraceID, s.SpanID, s.ParentSpanID = strings.ToLower(s.TraceID), strings.ToLower(s.SpanID), strings.ToLower(s.ParentSpanID)
				c.spans = append(c.spans, s)
			}
		}
	}
	return nil
}

func (c *collector) all() []span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// find waits for a span of a service; trace and parent may be left open.
func (c *collector) find(t *testing.T, service, name, trace, parent string) (found span) {
	t.Helper()
	eventually(t, name+" of "+service+" in trace "+trace+" below "+parent, func() (any, bool) {
		all := c.all()
		i := slices.IndexFunc(all, func(s span) bool {
			return s.service == service && s.Name == name && (trace == "" || s.TraceID == trace) && (parent == "" || s.ParentSpanID == parent)
		})
		if i >= 0 {
			found = all[i]
		}
		return all, i >= 0
	})
	return found
}
