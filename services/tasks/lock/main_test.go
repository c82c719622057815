package lock

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestMain(m *testing.M) {
	var ignored []goleak.Option
	for _, name := range natsdev.Lingering() { // of the embedded NATS server
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}

// testPatience bounds every wait of a test: it only runs out where one fails.
const testPatience = 20 * time.Second

// onBoth runs a test on both stores. replica returns one more replica of the same
// locks.
func onBoth(t *testing.T, test func(t *testing.T, replica func() *Locks)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		// Its clock is not that of the replicas.
		store := NewMemory(func() time.Time { return time.Now().Add(-time.Hour) })
		test(t, func() *Locks { return startReplica(t, Config{Store: store}) })
	})
	t.Run("JetStream", func(t *testing.T) {
		t.Parallel()
		url := natsdev.Test(t).ClientURL()
		test(t, func() *Locks { return startOn(t, url, 1) })
	})
}

// startOn runs a replica on a NATS server, with a connection of its own.
func startOn(t *testing.T, url string, replicas int) *Locks {
	t.Helper()
	nc, err := bus.Connect(t.Context(), bus.Config{URL: url}, bus.Hooks{})
	must(t, err)
	t.Cleanup(nc.Close)
	return startReplica(t, Config{NATS: nc, Replicas: replicas})
}

func startReplica(t *testing.T, cfg Config) *Locks {
	t.Helper()
	l, stop := runReplica(t, cfg)
	t.Cleanup(stop)
	return l
}

// runReplica runs a replica until it is stopped, which may be done again.
func runReplica(t *testing.T, cfg Config) (l *Locks, stop func()) {
	t.Helper()
	cfg.Namespace = wire.DefaultNamespace
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	l, err := New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	eventually(t, "the replica is ready", func() bool { return l.Ready() == nil })
	return l, stop
}

// bucketOf returns the store of the locks on a server, as somebody else sees it.
func bucketOf(t *testing.T, url string) bucket {
	t.Helper()
	nc, err := bus.Connect(t.Context(), bus.Config{URL: url}, bus.Hooks{})
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	must(t, kv.Ensure(t.Context(), js, wire.DefaultNamespace, kv.Locks(wire.DefaultNamespace, 1)))
	return openBucket(nc, wire.DefaultNamespace)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(testPatience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(testPatience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// coded fails the test unless an error has a code, and an outcome where one is named.
func coded(t *testing.T, err error, code wire.Code, outcome string) {
	t.Helper()
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got the error %v, want %s", err, code)
	}
	if outcome != "" && e.Details["outcome"] != outcome {
		t.Errorf("got the outcome %v of %v, want %s", e.Details["outcome"], err, outcome)
	}
}

func acquire(t *testing.T, l *Locks, req wire.LockAcquire) wire.LockGrant {
	t.Helper()
	g, err := l.Acquire(t.Context(), req)
	must(t, err)
	return g
}

func releaseOf(key string, g wire.LockGrant) wire.LockRelease {
	return wire.LockRelease{Key: key, Fence: g.Fence, Token: g.Token}
}

func release(t *testing.T, l *Locks, key string, g wire.LockGrant) {
	t.Helper()
	_, err := l.Release(t.Context(), releaseOf(key, g))
	must(t, err)
}

// answered is what an acquire came to.
type answered struct {
	wire.LockGrant
	err error
}

// later acquires in the background.
func later(ctx context.Context, l *Locks, req wire.LockAcquire) <-chan answered {
	got := make(chan answered, 1)
	go func() {
		g, err := l.Acquire(ctx, req)
		got <- answered{g, err}
	}()
	return got
}

func waiters(t *testing.T, l *Locks, key string) int {
	t.Helper()
	s, err := l.Get(t.Context(), wire.LockKey{Key: key})
	must(t, err)
	return s.Waiters
}
