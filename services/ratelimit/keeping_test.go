package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// patient bounds every wait: it only runs out where a test fails.
const patient = 30 * time.Second

// keeping is keepers on one store, by a clock that stands still unless time is
// made to pass.
type keeping struct {
	*keeper // the first
	all     []*keeper
	store   Store

	mu sync.Mutex
	at time.Time // guarded by mu
}

func (r *keeping) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

// pass moves the clock, also back.
func (r *keeping) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = r.at.Add(d)
}

// inMemory returns a keeping whose store ends entries by its clock.
func inMemory() *keeping {
	r := &keeping{at: time.UnixMilli(1_800_000_000_000)}
	r.store = newMemory(r.now)
	return r
}

// inJetStream returns a keeping on the bucket as the service makes it.
func inJetStream(t testing.TB, url string, replicas int) *keeping {
	t.Helper()
	nc, err := bus.Connect(context.Background(), bus.Config{URL: url, Name: "test"}, bus.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Ensure(context.Background(), js, wire.DefaultNamespace, kv.Limits(replicas)); err != nil {
		t.Fatal(err)
	}
	return &keeping{store: newStore(nc, wire.DefaultNamespace), at: time.UnixMilli(1_800_000_000_000)}
}

// start runs another keeper on the store, or on what via makes of it.
func (r *keeping) start(t testing.TB, via func(Store) Store) *keeper {
	t.Helper()
	store := r.store
	if via != nil {
		store = via(store)
	}
	k := newKeeper(keeperConfig{Store: store, ID: fmt.Sprintf("replica%d", len(r.all)), Now: r.now, Metrics: &metrics{}})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { k.run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	if r.keeper == nil {
		r.keeper = k
	}
	r.all = append(r.all, k)
	return k
}

// limitOf is a limit of the rules: so many tokens, of which refill come back per a
// time.
func limitOf(name string, capacity, refill int, per time.Duration) *rules.Limit {
	return &rules.Limit{Name: name, Capacity: capacity, Refill: refill, Per: per}
}

// slow gives nothing back while a test runs.
func slow(name string, capacity int) *rules.Limit { return limitOf(name, capacity, 1, 24*time.Hour) }

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	t.Cleanup(cancel)
	return ctx
}

// take1 consumes cost of one policy by a keeper.
func take1(t testing.TB, k *keeper, key string, l *rules.Limit, cost int64) wire.LimitVerdict {
	t.Helper()
	out, err := k.consume(soon(t), key, []take{{l, cost}}, 1, false)
	if err != nil {
		t.Fatalf("consume %d of %s of %s: %v", cost, l.Name, key, err)
	}
	return out.verdicts[0]
}

func expectGiven(t testing.TB, what string, v wire.LimitVerdict, remaining int64) {
	t.Helper()
	if !v.Allowed || v.Remaining != remaining || v.RetryAfterMs != 0 || v.Banned || v.Shadowed {
		t.Errorf("%s: got %+v, want allowed with %d left", what, v, remaining)
	}
}

// expectDenied wants a denial; a retry below 0 is never.
func expectDenied(t testing.TB, what string, v wire.LimitVerdict, remaining int64, retry wire.RetryAfterMs) {
	t.Helper()
	if v.Allowed || v.Remaining != remaining || v.RetryAfterMs != retry {
		t.Errorf("%s: got %+v, want denied with %d left for %dms", what, v, remaining, retry)
	}
}

// hooked is a store of which a test changes what its calls do. A hook that is nil
// changes nothing.
type hooked struct {
	Store
	get func(ctx context.Context, key string) (kv.Entry, error)
	put func(ctx context.Context, writes []kv.Write) (uint64, error)
}

func (h *hooked) Get(ctx context.Context, key string) (kv.Entry, error) {
	if h.get != nil {
		return h.get(ctx, key)
	}
	return h.Store.Get(ctx, key)
}

func (h *hooked) Put(ctx context.Context, w kv.Write) (uint64, error) {
	return h.PutAll(ctx, []kv.Write{w})
}

func (h *hooked) PutAll(ctx context.Context, writes []kv.Write) (uint64, error) {
	if h.put != nil {
		return h.put(ctx, writes)
	}
	return h.Store.PutAll(ctx, writes)
}

// via returns a hooked store for [keeping.start].
func via(hooks ...func(*hooked)) func(Store) Store {
	return func(s Store) Store {
		h := &hooked{Store: s}
		for _, hook := range hooks {
			hook(h)
		}
		return h
	}
}

// eachStore runs a test on both stores.
func eachStore(t *testing.T, test func(*testing.T, *keeping)) {
	t.Run("memory", func(t *testing.T) { t.Parallel(); test(t, inMemory()) })
	t.Run("JetStream", func(t *testing.T) {
		t.Parallel()
		test(t, inJetStream(t, natsdev.Test(t).ClientURL(), 1))
	})
}

// expectLeft wants that so many tokens of a key are stored.
func expectLeft(t *testing.T, r *keeping, what, key string, l *rules.Limit, want int64) {
	t.Helper()
	stored, err := r.store.Get(soon(t), entryPrefix+wire.EscapeToken(key))
	if errors.Is(err, kv.ErrNotFound) {
		stored.Value = []byte(`{"buckets":{}}`)
	} else if err != nil {
		t.Fatal(err)
	}
	e, policy := decodeEntry(stored.Value), limits.PolicyOf(l)
	if v := policy.Look(e.bucket(l.Name), 0, r.now()); e.broken != nil || v.Remaining != want {
		t.Errorf("%s: %d are left in %s, want %d", what, v.Remaining, stored.Value, want)
	}
}

func await[T any](t *testing.T, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patient):
		t.Fatalf("waited %s for %s", patient, what)
	}
	return v
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patient); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s until %s", patient, what)
		}
		_ = clock.Sleep(t.Context(), time.Millisecond)
	}
}
