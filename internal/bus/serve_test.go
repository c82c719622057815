package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestCallAnswers(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	serve(t, nc, ServeConfig{}, Handle("echo", "fl.svc.test.echo", echoing))
	got, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.echo", echo{Text: "<a & b>", N: 7})
	if want := (echo{Text: "<a & b>", N: 7}); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// TestWorkerFormats sends what other tools send: an empty body, fields we do
// not know, raw bytes that must come back as they were.
func TestWorkerFormats(t *testing.T) {
	type raw struct {
		Data json.RawMessage `json:"data,omitempty"`
	}
	nc := connect(t, natsdev.Test(t), Hooks{})
	serve(t, nc, ServeConfig{}, Handle("raw", "fl.svc.test.raw", func(_ context.Context, r raw) (raw, error) { return r, nil }))
	tests := []struct{ name, request, want string }{
		{"empty body", ``, `{}`},
		{"spaces", " \n", `{}`},
		{"unknown fields", `{"data":1,"new":[{}]}`, `{"data":1}`},
		{"nothing is escaped", `{"data":"<b>&"}`, `{"data":"<b>&"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			msg, err := nc.Request("fl.svc.test.raw", []byte(tt.request), patience)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(msg.Data); got != tt.want || len(msg.Header) > 0 {
				t.Errorf("reply = %s %v, want %s", got, msg.Header, tt.want)
			}
		})
	}
}

func TestWrongFieldIsNamed(t *testing.T) {
	type inner struct {
		Order int `json:"order"`
	}
	type req struct {
		Topic string    `json:"topic"`
		Limit uint8     `json:"limit"`
		Conns []inner   `json:"conns"`
		TTL   hourOnly  `json:"ttl"`
		Until time.Time `json:"until"`
	}
	nc := connect(t, natsdev.Test(t), Hooks{})
	serve(t, nc, ServeConfig{}, Handle("x", "fl.svc.test.x", func(context.Context, req) (struct{}, error) { return struct{}{}, nil }))
	tests := []struct{ request, field string }{
		{`{"topic":1}`, "topic"},
		{`{"limit":300}`, "limit"},
		{`{"limit":-1}`, "limit"},
		{`{"conns":[{"order":"first"}]}`, "conns.order"},
		{`{"ttl":"2h"}`, "ttl"},
		{`{"until":"tomorrow"}`, "until"},
		{`[]`, "request"},
		{`{"topic":`, "request"},
		{`{} {}`, "request"},
		{"{\"topic\":\"\xff\"}", "request"},
	}
	for _, tt := range tests {
		t.Run(tt.request, func(t *testing.T) {
			msg, err := nc.Request("fl.svc.test.x", []byte(tt.request), patience)
			if err != nil {
				t.Fatal(err)
			}
			e := replyError(msg.Header, msg.Data)
			if !errors.Is(e, wire.ErrInvalidArgument) || e.Details["field"] != tt.field || !strings.HasPrefix(e.Message, tt.field+":") {
				t.Errorf("got %v %v, want INVALID_ARGUMENT for %q", e, e.Details, tt.field)
			}
		})
	}
}

// hourOnly is a type that decodes itself.
type hourOnly struct{}

func (*hourOnly) UnmarshalText(b []byte) error {
	if string(b) != "1h" {
		return errors.New("must be 1h")
	}
	return nil
}

func TestErrorsRoundTrip(t *testing.T) {
	type ask struct{ Code wire.Code }
	lines := &logLines{}
	nc := connect(t, natsdev.Test(t), Hooks{})
	given := map[wire.Code]error{
		wire.NotFound:          fmt.Errorf("look it up: %w", wire.Errorf(wire.NotFound, "no such user")),
		wire.ResourceExhausted: &wire.Error{Code: wire.ResourceExhausted, Message: "slow down", RetryAfter: 1500 * time.Millisecond},
		wire.Unavailable:       &wire.Error{Code: wire.Unavailable, Message: "not ever", RetryAfter: wire.Never},
		wire.Aborted:           wire.Errorf(wire.Aborted, "lost the race").With("seq", "7"),
		wire.Internal:          errors.New("secret cause"),
		wire.DeadlineExceeded:  fmt.Errorf("wait: %w", context.DeadlineExceeded),
		wire.InvalidArgument:   wire.Errorf(wire.InvalidArgument, "bad\r\nNats-Service-Error-Code: OK"),
	}
	serve(t, nc, ServeConfig{Log: lines.logger()}, Handle("fail", "fl.svc.test.fail", func(_ context.Context, a ask) (struct{}, error) {
		return struct{}{}, given[a.Code]
	}))
	for code := range given {
		t.Run(string(code), func(t *testing.T) {
			_, err := Call[ask, struct{}](t.Context(), nc, "fl.svc.test.fail", ask{code})
			if !errors.Is(err, &wire.Error{Code: code}) {
				t.Fatalf("got %v, want %s", err, code)
			}
			got, want := wire.AsError(err), wire.AsError(given[code])
			gotMs, gotNull, gotThere := got.RetryAfterMs()
			wantMs, wantNull, wantThere := want.RetryAfterMs()
			if gotMs != wantMs || gotNull != wantNull || gotThere != wantThere {
				t.Errorf("retryAfterMs = %d %v %v, want %d %v %v", gotMs, gotNull, gotThere, wantMs, wantNull, wantThere)
			}
			if !reflect.DeepEqual(got.Details, want.Details) {
				t.Errorf("details = %v, want %v", got.Details, want.Details)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the cause left the process: %v", err)
			}
		})
	}
	if got := lines.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "secret cause") {
		t.Errorf("log = %q, want one line, with the cause of INTERNAL", got)
	}
}

func TestPanicIsInternal(t *testing.T) {
	lines := &logLines{}
	nc := connect(t, natsdev.Test(t), Hooks{})
	serve(t, nc, ServeConfig{Log: lines.logger(), Workers: 1}, Handle("panic", "fl.svc.test.panic", func(_ context.Context, e echo) (echo, error) {
		if e.N == 0 {
			panic("broken")
		}
		return e, nil
	}))
	for range 3 { // more than there are workers: a panic must give its slot back
		if _, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.panic", echo{}); !errors.Is(err, wire.ErrInternal) {
			t.Errorf("got %v, want INTERNAL", err)
		}
	}
	if _, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.panic", echo{N: 1}); err != nil {
		t.Errorf("after the panics: %v", err)
	}
	if got := lines.String(); !strings.Contains(got, "broken") || !strings.Contains(got, "serve_test.go") {
		t.Errorf("log = %q, want the panic with its stack", got)
	}
}

func TestSlowRequestsRunConcurrently(t *testing.T) {
	const n = 20
	nc := connect(t, natsdev.Test(t), Hooks{})
	var arrived sync.WaitGroup
	arrived.Add(n)
	serve(t, nc, ServeConfig{}, Handle("slow", "fl.svc.test.slow", func(_ context.Context, e echo) (echo, error) {
		arrived.Done()
		arrived.Wait() // nobody is answered before all are in
		return e, nil
	}))
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.slow", echo{})
			errs <- err
		}()
	}
	for range n {
		if err := await(t, "a reply", errs); err != nil {
			t.Error(err)
		}
	}
}

func TestFullPoolRefusesAtOnce(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	started, release := make(chan struct{}, 2), make(chan struct{})
	serve(t, nc, ServeConfig{Workers: 2},
		Handle("slow", "fl.svc.test.slow", func(_ context.Context, e echo) (echo, error) {
			started <- struct{}{}
			<-release
			return e, nil
		}),
		Handle("other", "fl.svc.test.other", echoing))
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.slow", echo{})
			errs <- err
		}()
	}
	await(t, "the first request", started)
	await(t, "the second request", started)

	_, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.slow", echo{})
	if !errors.Is(err, wire.ErrResourceExhausted) {
		t.Errorf("third request: %v, want RESOURCE_EXHAUSTED", err)
	}
	if _, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.other", echo{}); err != nil {
		t.Errorf("another endpoint: %v, want an answer", err)
	}
	close(release)
	for range 2 {
		if err := await(t, "a reply", errs); err != nil {
			t.Errorf("a request that had a worker: %v", err)
		}
	}
}

func TestDeadlines(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	deadlines := make(chan time.Duration, 1)
	e := Handle("d", "fl.svc.test.d", func(ctx context.Context, _ struct{}) (struct{}, error) {
		d, _ := ctx.Deadline()
		deadlines <- time.Until(d)
		return struct{}{}, nil
	})
	e.Timeout = time.Minute
	patientOne := e
	patientOne.Name, patientOne.Subject, patientOne.LeastTime = "least", "fl.svc.test.least", 30*time.Second
	serve(t, nc, ServeConfig{}, e, patientOne)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := Call[struct{}, struct{}](ctx, nc, "fl.svc.test.d", struct{}{}); err != nil {
		t.Fatal(err)
	}
	if got := <-deadlines; got > 20*time.Second || got < 10*time.Second {
		t.Errorf("time for the request = %s, want the caller's 20s", got)
	}
	if _, err := nc.Request("fl.svc.test.d", nil, patience); err != nil {
		t.Fatal(err)
	}
	if got := <-deadlines; got > time.Minute || got < 50*time.Second {
		t.Errorf("time for a request without deadline = %s, want the endpoint's 1m", got)
	}

	late := nats.NewMsg("fl.svc.test.d")
	late.Header.Set(wire.HeaderDeadline, "1000")
	msg, err := nc.RequestMsg(late, patience)
	if err != nil {
		t.Fatal(err)
	}
	if got := replyError(msg.Header, msg.Data); !errors.Is(got, wire.ErrDeadlineExceeded) {
		t.Errorf("a request that is too late: %v, want DEADLINE_EXCEEDED", got)
	}
	select {
	case <-deadlines:
		t.Error("a request that is too late was worked on")
	default:
	}

	// A host whose clock is ahead works on what seems to be too late to it.
	for _, header := range []string{"1000", strconv.FormatInt(time.Now().Add(time.Second).UnixMilli(), 10)} {
		late := nats.NewMsg("fl.svc.test.least")
		late.Header.Set(wire.HeaderDeadline, header)
		msg, err := nc.RequestMsg(late, patience)
		if err != nil {
			t.Fatal(err)
		}
		if got := replyError(msg.Header, msg.Data); got != nil {
			t.Fatalf("a deadline nearer than the least time: %v", got)
		}
		if got := <-deadlines; got > 30*time.Second || got < 20*time.Second {
			t.Errorf("time for a request with a deadline nearer than the least time = %s, want 30s", got)
		}
	}
}

func TestReplyTooLarge(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	serve(t, nc, ServeConfig{}, Handle("big", "fl.svc.test.big", func(context.Context, struct{}) (echo, error) {
		return echo{Text: strings.Repeat("x", 2<<20)}, nil
	}))
	if _, err := Call[struct{}, echo](t.Context(), nc, "fl.svc.test.big", struct{}{}); !errors.Is(err, wire.ErrInternal) {
		t.Errorf("got %v, want INTERNAL", err)
	}
}

func TestEveryoneAnswers(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	all := Handle("all", "fl.svc.test.all", echoing)
	all.Everyone = true
	for range 2 {
		serve(t, nc, ServeConfig{}, all, Handle("one", "fl.svc.test.one", echoing))
	}
	inbox := make(chan *nats.Msg, 8)
	sub, err := nc.ChanSubscribe("_INBOX.t", inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	for _, subject := range []string{"fl.svc.test.one", "fl.svc.test.all"} {
		if err := nc.PublishRequest(subject, "_INBOX.t", []byte(`{"text":"`+subject+`"}`)); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]int{}
	for range 3 {
		got[string(await(t, "a reply", inbox).Data)]++
	}
	want := map[string]int{`{"text":"fl.svc.test.one"}`: 1, `{"text":"fl.svc.test.all"}`: 2}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("replies = %v, want %v", got, want)
	}
}

func TestMetrics(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	s := serve(t, nc, ServeConfig{Meter: provider}, Handle("echo", "fl.svc.test.echo", echoing))
	for _, body := range []string{`{}`, `{}`, `[]`} {
		if _, err := nc.Request("fl.svc.test.echo", []byte(body), patience); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.PublishRequest("fl.svc.test.echo", "fl.topic.x", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Drain(t.Context()); err != nil { // counting comes after replying
		t.Fatal(err)
	}
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, m := range data.ScopeMetrics[0].Metrics {
		switch points := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range points.DataPoints {
				code, _ := p.Attributes.Value("code")
				got[m.Name+" "+code.AsString()] = p.Value
			}
		case metricdata.Histogram[float64]:
			got[m.Name] = int64(points.DataPoints[0].Count)
		}
	}
	want := map[string]int64{
		"fairlead_bus_requests_total OK":               2,
		"fairlead_bus_requests_total INVALID_ARGUMENT": 1,
		"fairlead_bus_replies_refused_total ":          1,
		"fairlead_bus_request_duration_seconds":        3,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("metrics = %v, want %v", got, want)
	}
}

func TestServeRefusesMistakes(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	before := nc.NumSubscriptions()
	ok := Handle("a", "fl.svc.test.a", echoing)
	tests := []struct {
		name      string
		service   string
		endpoints []Endpoint
	}{
		{"service name", "a b", nil},
		{"endpoint name", "s", []Endpoint{Handle("a b", "fl.x", echoing)}},
		{"same name twice", "s", []Endpoint{ok, ok}},
		{"bad subject", "s", []Endpoint{ok, Handle("b", "fl..x", echoing)}},
		{"no function", "s", []Endpoint{{Name: "a", Subject: "fl.x"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Serve(nc, Service{Name: tt.service}, ServeConfig{}, tt.endpoints...); err == nil {
				t.Error("no error")
			}
			eventually(t, "no subscription left", func() bool { return nc.NumSubscriptions() == before })
		})
	}
}
