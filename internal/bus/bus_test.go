package bus

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test: what takes longer has failed.
const patience = 10 * time.Second

func connect(t *testing.T, s *natsdev.Server, hooks Hooks) *nats.Conn {
	t.Helper()
	nc, err := Connect(t.Context(), Config{URL: s.ClientURL(), Name: t.Name()}, hooks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func serve(t *testing.T, nc *nats.Conn, cfg ServeConfig, endpoints ...Endpoint) *Served {
	t.Helper()
	s, err := Serve(nc, Service{Name: "fairlead-test", Version: "1.2.3", Description: "for a test"}, cfg, endpoints...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Drain(ctx); err != nil {
			t.Errorf("drain at the end of the test: %v", err)
		}
	})
	if nc.IsConnected() {
		if err := s.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// await receives from ch, or fails the test.
func await[T any](t *testing.T, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("waited %s for %s", patience, what)
	}
	return v
}

// eventually polls until ok, or fails the test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// logLines is a logger whose output a test can read.
type logLines struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logLines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

type echo struct {
	Text string `json:"text"`
	N    int    `json:"n,omitempty"`
}

func echoing(ctx context.Context, e echo) (echo, error) { return e, ctx.Err() }
