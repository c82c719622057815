package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The HTTP exporter keeps its idle connections.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// start starts telemetry with these OTEL_* variables and ends it with the test.
func start(t *testing.T, cfg Config, env map[string]string) *Telemetry {
	t.Helper()
	for _, name := range []string{"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		t.Setenv(name, env[name])
	}
	tel, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Shutdown(context.Background()) })
	return tel
}

func scrape(t *testing.T, tel *Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	Admin(tel, &Checks{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

func TestMetricsHaveTheNamesTheyWereGiven(t *testing.T) {
	tel := start(t, Config{}, nil)
	meter := tel.MeterProvider.Meter("fairlead/test")
	err := errors.Join(
		Counter(meter, "fairlead_gateway_frames_in_total", "Frames.", func() int64 { return 7 }),
		Gauge(meter, "fairlead_gateway_queued_out_bytes", "Bytes.", func() int64 { return -3 }),
		CounterBy(meter, "fairlead_gateway_closes_by_code_total", "Closes.", "code", func(observe func(string, int64)) {
			observe("1000", 1)
			observe("4401", 2)
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	page := scrape(t, tel)
	for _, want := range []string{
		"\nfairlead_gateway_frames_in_total", " 7\n", "\nfairlead_gateway_queued_out_bytes", " -3\n",
		`code="4401"`, "\ngo_goroutines ", "\nprocess_cpu_seconds_total ",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("/metrics lacks %q:\n%s", want, page)
		}
	}
	if strings.Contains(page, "_total_total") || strings.Contains(page, "_bytes_bytes") {
		t.Errorf("/metrics has a suffix twice:\n%s", page)
	}
	for _, bad := range []string{"frames_total", "fairlead_gateway_frames", "fairlead_gateway_Frames_total", "fairlead_frames_total"} {
		if Counter(meter, bad, "", func() int64 { return 0 }) == nil {
			t.Errorf("counter %s was taken", bad)
		}
	}
	if Gauge(meter, "fairlead_gateway_open_total", "", func() int64 { return 0 }) == nil {
		t.Error("a gauge that ends in _total was taken")
	}
}

// TestSpansArriveAtACollector speaks OTLP to a receiver of the test's own. It
// looks for the bytes of the names: a decoder would be one more dependency.
func TestSpansArriveAtACollector(t *testing.T) {
	var mu sync.Mutex
	got := map[string][]byte{}
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		got[r.URL.Path] = append(got[r.URL.Path], body...)
	}))
	defer collector.Close()
	tel := start(t, Config{ServiceName: "fairlead-under-test"}, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL})
	if !tel.Tracing() {
		t.Fatal("tracing is off")
	}
	_, span := tel.Tracer("fairlead/test").Start(t.Context(), "a span of the test", trace.SpanKindProducer)
	id := span.SpanContext().TraceID()
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range [][]byte{[]byte("a span of the test"), []byte("fairlead-under-test"), id[:]} {
		if !bytes.Contains(got["/v1/traces"], want) {
			t.Errorf("the collector lacks %q: got %d bytes", want, len(got["/v1/traces"]))
		}
	}
	if len(got["/v1/metrics"]) == 0 {
		t.Error("no metrics arrived")
	}
}

func TestTracingIsOffUnlessAskedFor(t *testing.T) {
	tel := start(t, Config{}, nil)
	tracer := tel.Tracer("fairlead/test")
	if tel.Tracing() || tracer.On() {
		t.Error("tracing is on")
	}
	if n := testing.AllocsPerRun(100, func() {
		_, span := tracer.Start(context.Background(), "publish", trace.SpanKindProducer)
		span.End()
	}); n != 0 {
		t.Errorf("a span costs %v allocations when tracing is off", n)
	}
}

func TestWrongSettingsNameTheirVariable(t *testing.T) {
	for variable, start := range map[string]func() error{
		"FAIRLEAD_LOG_LEVEL":  func() error { _, err := Start(t.Context(), Config{LogLevel: "loud"}); return err },
		"FAIRLEAD_LOG_FORMAT": func() error { _, err := Start(t.Context(), Config{LogFormat: "xml"}); return err },
		"OTEL_TRACES_EXPORTER": func() error {
			t.Setenv("OTEL_TRACES_EXPORTER", "zipkin")
			_, err := Start(t.Context(), Config{})
			return err
		},
	} {
		var e *ConfigError
		if err := start(); !errors.As(err, &e) || e.Variable != variable {
			t.Errorf("%s: got %v", variable, err)
		}
		t.Setenv("OTEL_TRACES_EXPORTER", "")
	}
}

func TestLogLinesCarryTheTrace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	tel := start(t, Config{LogTo: out}, map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
	ctx, span := tel.Tracer("fairlead/test").Start(t.Context(), "op", trace.SpanKindInternal)
	defer span.End()
	tel.Log.InfoContext(ctx, "with")
	tel.Log.Info("without")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	var with, without map[string]any
	if err := errors.Join(json.Unmarshal([]byte(lines[0]), &with), json.Unmarshal([]byte(lines[1]), &without)); err != nil {
		t.Fatal(err)
	}
	if with["trace_id"] != span.SpanContext().TraceID().String() || with["span_id"] != span.SpanContext().SpanID().String() {
		t.Errorf("got %v", with)
	}
	if _, ok := without["trace_id"]; ok {
		t.Errorf("got %v", without)
	}
}

func TestReadiness(t *testing.T) {
	var checks Checks
	ask := func() (int, string) {
		w := httptest.NewRecorder()
		checks.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	if code, body := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("without checks: %d %s", code, body)
	}
	reason := errors.New("nats: not connected")
	checks.Add("gateway", func(context.Context) error { return reason })
	checks.Add("tasks", func(context.Context) error { return nil })
	if code, body := ask(); code != http.StatusServiceUnavailable || body != `{"ready":false,"checks":[{"name":"gateway","ready":false,"reason":"nats: not connected"},{"name":"tasks","ready":true}]}` {
		t.Errorf("one not ready: %d %s", code, body)
	}
	reason = nil
	if code, body := ask(); code != http.StatusOK || !strings.HasPrefix(body, `{"ready":true`) {
		t.Errorf("all ready: %d %s", code, body)
	}
}

// Who scrapes and asks no /readyz sees the same.
func TestReadinessIsMeasured(t *testing.T) {
	tel := start(t, Config{}, nil)
	var checks Checks
	admin := Admin(tel, &checks)
	away := error(Degraded("archive: behind"))
	checks.Add("gateway", func(context.Context) error { return errors.New("nats: not connected") })
	checks.Add("replay", func(context.Context) error { return away })
	scraped := func(want ...string) {
		t.Helper()
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		for _, line := range want {
			if !strings.Contains(w.Body.String(), "\nfairlead_process_checks_"+line+"\n") {
				t.Errorf("/metrics lacks %q:\n%s", line, w.Body)
			}
		}
	}
	scraped(`ready{check="gateway"} 0`, `ready{check="replay"} 1`, `degraded{check="gateway"} 0`, `degraded{check="replay"} 1`)
	away = nil
	scraped(`degraded{check="replay"} 0`)
}

func TestProfilesAreForThisMachine(t *testing.T) {
	tel := start(t, Config{}, nil)
	admin := Admin(tel, &Checks{})
	for _, c := range []struct {
		name, remote, host, forwarded string
		want                          int
	}{
		{"local", "127.0.0.1:5000", "127.0.0.1:9090", "", http.StatusOK},
		{"local, IPv6", "[::1]:5000", "localhost:9090", "", http.StatusOK},
		{"remote", "10.0.0.7:5000", "127.0.0.1:9090", "", http.StatusForbidden},
		{"a name rebound to this machine", "127.0.0.1:5000", "evil.example:9090", "", http.StatusForbidden},
		{"through a proxy", "127.0.0.1:5000", "127.0.0.1:9090", "10.0.0.7", http.StatusForbidden},
	} {
		r := httptest.NewRequest(http.MethodGet, "/debug/pprof/cmdline", nil)
		r.RemoteAddr, r.Host = c.remote, c.host
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s: got %d, want %d", c.name, w.Code, c.want)
		}
	}
}

func TestServerBoundsWhatAPeerMaySend(t *testing.T) {
	server := Server("", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), slog.New(slog.DiscardHandler))
	if server.ReadHeaderTimeout <= 0 || server.ReadTimeout <= 0 || server.IdleTimeout <= 0 || server.ReadHeaderTimeout > 10*time.Second {
		t.Errorf("timeouts: %+v", server)
	}
	ts := httptest.NewUnstartedServer(nil)
	ts.Config = server
	ts.Start()
	defer ts.Close()
	for size, want := range map[int]int{8 << 10: http.StatusOK, 21 << 10: http.StatusRequestHeaderFieldsTooLarge} {
		req, err := http.NewRequest(http.MethodGet, ts.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Long", strings.Repeat("x", size))
		res, err := ts.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%d bytes of headers: got %d, want %d", size, res.StatusCode, want)
		}
	}
}

func BenchmarkTracerOff(b *testing.B) {
	var tracer Tracer
	b.ReportAllocs()
	for b.Loop() {
		_, span := tracer.Start(context.Background(), "publish", trace.SpanKindProducer)
		span.End()
	}
}
