package bus

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

func ask[T any](t *testing.T, nc *nats.Conn, subject string) (v T, raw map[string]any) {
	t.Helper()
	msg, err := nc.Request(subject, nil, patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	if err := errors.Join(json.Unmarshal(msg.Data, &v), json.Unmarshal(msg.Data, &raw)); err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return v, raw
}

func TestDiscovery(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	s := serve(t, nc, ServeConfig{}, Handle("cron.set", "fl.svc.test.cron.set", echoing))
	for _, body := range []string{`{}`, `[]`} {
		if _, err := nc.Request("fl.svc.test.cron.set", []byte(body), patience); err != nil {
			t.Fatal(err)
		}
	}
	ping, _ := ask[micro.Ping](t, nc, "$SRV.PING")
	if ping.Name != "fairlead-test" || ping.ID != s.ID() || ping.Version != "1.2.3" || ping.Type != micro.PingResponseType {
		t.Errorf("ping = %+v", ping)
	}
	info, _ := ask[micro.Info](t, nc, "$SRV.INFO.fairlead-test")
	if len(info.Endpoints) != 1 || info.Description != "for a test" {
		t.Fatalf("info = %+v", info)
	}
	e := info.Endpoints[0]
	const want = `{"properties":{"n":{"type":"integer"},"text":{"type":"string"}},"required":["text"],"type":"object"}`
	if e.Name != "cron-set" || e.Subject != "fl.svc.test.cron.set" || e.QueueGroup != micro.DefaultQueueGroup || e.Metadata["request"] != want {
		t.Errorf("endpoint = %+v", e)
	}
	eventually(t, "the counts", func() bool { return s.Stats().Endpoints[0].NumRequests == 2 })
	stats, _ := ask[micro.Stats](t, nc, "$SRV.STATS.fairlead-test."+s.ID())
	got := stats.Endpoints[0]
	if got.NumRequests != 2 || got.NumErrors != 1 || got.ProcessingTime <= 0 || got.AverageProcessingTime <= 0 ||
		!strings.HasPrefix(got.LastError, "INVALID_ARGUMENT") {
		t.Errorf("stats = %+v", got)
	}
}

// TestDiscoveryLooksLikeMicro compares with a real micro service: the same
// fields in each answer, so the same tools read them.
func TestDiscoveryLooksLikeMicro(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	serve(t, nc, ServeConfig{}, Handle("echo", "fl.svc.test.echo", echoing))
	theirs, err := micro.AddService(connect(t, natsdev.Test(t), Hooks{}), micro.Config{Name: "theirs", Version: "1.0.0",
		Endpoint: &micro.EndpointConfig{Subject: "x", Handler: micro.HandlerFunc(func(micro.Request) {})}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := theirs.Stop(); err != nil {
			t.Error(err)
		}
	}()
	info, stats := object{}, object{}
	for _, tt := range []struct {
		from any
		to   *object
	}{{theirs.Info(), &info}, {theirs.Stats(), &stats}} {
		data, err := encode(tt.from)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, tt.to); err != nil {
			t.Fatal(err)
		}
	}
	_, gotInfo := ask[micro.Info](t, nc, "$SRV.INFO")
	_, gotStats := ask[micro.Stats](t, nc, "$SRV.STATS")
	for _, tt := range []struct{ got, want map[string]any }{{gotInfo, info}, {gotStats, stats}} {
		sameKeys(t, tt.got, tt.want)
		sameKeys(t, tt.got["endpoints"].([]any)[0].(map[string]any), tt.want["endpoints"].([]any)[0].(map[string]any))
		if tt.got["type"] != tt.want["type"] {
			t.Errorf("type = %v, want %v", tt.got["type"], tt.want["type"])
		}
	}
}

func sameKeys(t *testing.T, got, want map[string]any) {
	t.Helper()
	g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))
	if !slices.Equal(g, w) {
		t.Errorf("fields = %v, want %v", g, w)
	}
}
