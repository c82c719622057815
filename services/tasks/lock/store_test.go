package lock

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestStore(t *testing.T) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) { t.Parallel(); testStore(t, NewMemory(time.Now)) })
	t.Run("JetStream", func(t *testing.T) { t.Parallel(); testStore(t, bucketOf(t, natsdev.Test(t).ClientURL())) })
}

// testStore is what every [Store] does, by its comments.
func testStore(t *testing.T, s Store) {
	ctx := t.Context()
	put := func(w kv.Write) uint64 {
		t.Helper()
		revision, err := s.Put(ctx, w)
		must(t, err)
		return revision
	}
	if _, err := s.Get(ctx, "v1.none"); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("nothing there: got %v", err)
	}
	heard := make(chan kv.Entry, 10)
	stop, err := s.Watch("v1.a", func(e kv.Entry) { heard <- e })
	must(t, err)
	one := put(kv.Write{Key: "v1.a", Value: []byte("1"), TTL: time.Hour})
	put(kv.Write{Key: "v1.b", Value: []byte("of another")})
	two := put(kv.Write{Key: "v1.a", Value: []byte("2"), Expect: one, TTL: time.Second})
	if _, err := s.Put(ctx, kv.Write{Key: "v1.a", Value: []byte("3"), Expect: one}); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("an old revision: got %v", err)
	}
	if _, err := s.Put(ctx, kv.Write{Key: "v1.a", Value: []byte("3")}); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("as if there were none: got %v", err)
	}
	for i, want := range []uint64{one, two} {
		if e := receive(t, heard); e.Revision != want || string(e.Value) != fmt.Sprint(i+1) || e.At.IsZero() || e.Key != "v1.a" {
			t.Errorf("heard %+v, want revision %d", e, want)
		}
	}
	e, err := s.Get(ctx, "v1.a")
	if err != nil || e.Revision != two || string(e.Value) != "2" || e.At.IsZero() {
		t.Errorf("got %+v, %v", e, err)
	}
	eventually(t, "it ends by its ttl", func() bool { _, err := s.Get(ctx, "v1.a"); return errors.Is(err, kv.ErrNotFound) })
	three := put(kv.Write{Key: "v1.a", Value: []byte("3")})
	if three <= two {
		t.Errorf("revision %d behind %d", three, two)
	}
	if e := receive(t, heard); e.Revision != three {
		t.Errorf("heard %+v, want revision %d: nothing tells of a ttl", e, three)
	}
	stop()
	four := put(kv.Write{Key: "v1.a", Delete: true, Expect: three})
	if e, err := s.Get(ctx, "v1.a"); err != nil || !e.Deleted || e.Revision != four {
		t.Errorf("deleted: got %+v, %v", e, err)
	}
	put(kv.Write{Key: "v1.a", Value: []byte("5"), Expect: four})
	if len(heard) > 0 {
		t.Errorf("heard %+v behind the stop", <-heard)
	}
}

// Whatever happened to the entry of a lock, of those who then want it at once one
// gets it, and its fence is greater than any before.
func TestALockWhoseEntryIsGone(t *testing.T) {
	t.Parallel()
	url := natsdev.Test(t).ClientURL()
	operator := bucketOf(t, url)
	replicas := []*Locks{startOn(t, url, 1), startOn(t, url, 1), startOn(t, url, 1)}
	ways := map[string]func(key string) error{
		"purged": func(key string) error { _, err := operator.PurgeKeys(t.Context(), key); return err },
		"deleted": func(key string) error {
			_, err := operator.Put(t.Context(), kv.Write{Key: key, Delete: true, Expect: kv.AnyRevision})
			return err
		},
		"deleted for a moment": func(key string) error {
			_, err := operator.Put(t.Context(), kv.Write{Key: key, Delete: true, Expect: kv.AnyRevision, TTL: time.Second})
			return err
		},
		"released": func(string) error { return nil },
	}
	for how, remove := range ways {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			key := "gone " + how
			entry, err := wire.DefaultNamespace.LockEntry(key)
			must(t, err)
			last := wire.LockGrant{}
			for round := range 30 {
				if round > 0 && how == "released" {
					release(t, replicas[round%3], key, last)
				}
				must(t, remove(entry))
				var mu sync.Mutex
				var got []wire.LockGrant
				var all sync.WaitGroup
				for i := range 6 {
					all.Go(func() {
						// What a replica remembers of the lock may be what it was before.
						g, err := replicas[i%3].Acquire(t.Context(), wire.LockAcquire{Key: key, TTL: "1m"})
						if err == nil {
							mu.Lock()
							defer mu.Unlock()
							got = append(got, g)
						}
					})
				}
				all.Wait()
				if len(got) != 1 {
					t.Fatalf("round %d: %d have the lock: %+v", round, len(got), got)
				}
				if got[0].Fence <= last.Fence {
					t.Fatalf("round %d: fence %d behind %d", round, got[0].Fence, last.Fence)
				}
				if last.Fence > 0 && how != "released" {
					_, err := replicas[round%3].Renew(t.Context(), wire.LockRenew{LockRelease: releaseOf(key, last), TTL: "1m"})
					coded(t, err, wire.FailedPrecondition, "")
				}
				last = got[0]
			}
		})
	}
}

// Entries go by themselves, and stay as long as they say something.
func TestEntriesEnd(t *testing.T) {
	t.Parallel()
	url := natsdev.Test(t).ClientURL()
	operator, l := bucketOf(t, url), startOn(t, url, 1)
	began := time.Now()
	g := acquire(t, l, wire.LockAcquire{Key: "k", TTL: "1100ms"})
	eventually(t, "the entry is gone", func() bool {
		_, err := operator.Get(t.Context(), "v1.k")
		return errors.Is(err, kv.ErrNotFound)
	})
	if took := time.Since(began); took < 2900*time.Millisecond {
		t.Errorf("the entry was gone after %s, want 3s", took)
	}
	if next := acquire(t, l, wire.LockAcquire{Key: "k", TTL: "30s"}); next.Fence <= g.Fence {
		t.Errorf("fence %d behind %d", next.Fence, g.Fence)
	}
}

// Without JetStream nobody gets a lock, nor keeps one by asking, and everybody
// hears so soon; when it is there again everything goes on.
func TestJetStreamIsAway(t *testing.T) {
	t.Parallel()
	store := newFlaky(NewMemory(time.Now), 0, 1)
	l := startReplica(t, Config{Store: store})
	g := acquire(t, l, wire.LockAcquire{Key: "k", TTL: "30s"})
	store.away.Store(true)
	for _, do := range []func() error{
		func() error { _, err := l.Acquire(t.Context(), wire.LockAcquire{Key: "new", TTL: "30s"}); return err },
		func() error {
			_, err := l.Renew(t.Context(), wire.LockRenew{LockRelease: releaseOf("k", g), TTL: "30s"})
			return err
		},
		func() error { _, err := l.Release(t.Context(), releaseOf("k", g)); return err },
		func() error { _, err := l.Get(t.Context(), wire.LockKey{Key: "k"}); return err },
		func() error {
			_, err := l.Acquire(t.Context(), wire.LockAcquire{Key: "k", TTL: "30s", Wait: "1m"})
			return err
		},
	} {
		coded(t, do(), wire.Unavailable, "")
	}
	if l.Ready() == nil {
		t.Error("it is ready")
	}
	store.away.Store(false)
	eventually(t, "it is ready", func() bool { return l.Ready() == nil })
	release(t, l, "k", g)
	acquire(t, l, wire.LockAcquire{Key: "new", TTL: "30s", ID: "another"})
}

// A bucket that was deleted is made again.
func TestTheBucketIsDeleted(t *testing.T) {
	t.Parallel()
	url := natsdev.Test(t).ClientURL()
	l, operator := startOn(t, url, 1), bucketOf(t, url)
	acquire(t, l, wire.LockAcquire{Key: "k", TTL: "30s"})
	_, err := operator.nc.Request("$JS.API.STREAM.DELETE.KV_fl_locks", nil, testPatience)
	must(t, err)
	eventually(t, "locks can be had again", func() bool {
		_, err := l.Acquire(t.Context(), wire.LockAcquire{Key: "k", TTL: "30s"})
		return err == nil
	})
}

// An entry that can't be read may be that of a holder: nobody gets the lock.
func TestABrokenEntry(t *testing.T) {
	t.Parallel()
	store := NewMemory(time.Now)
	l := startReplica(t, Config{Store: store})
	revision, err := store.Put(t.Context(), kv.Write{Key: "v1.k", Value: []byte(`{"holder":{"who":""}}`)})
	must(t, err)
	_, err = l.Acquire(t.Context(), wire.LockAcquire{Key: "k", TTL: "30s", Wait: "1s"})
	coded(t, err, wire.Internal, "")
	_, err = l.Get(t.Context(), wire.LockKey{Key: "k"})
	coded(t, err, wire.Internal, "")
	_, err = store.Put(t.Context(), kv.Write{Key: "v1.k", Delete: true, Expect: revision})
	must(t, err)
	acquire(t, l, wire.LockAcquire{Key: "k", TTL: "30s"})
}

// A write that was stored and not acknowledged is found, and answered as what it
// did.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	memory := NewMemory(time.Now)
	deaf := &deafOnce{Store: memory}
	l := startReplica(t, Config{Store: deaf})
	lost := func() { deaf.next.Store(true) }
	lost()
	g := acquire(t, l, wire.LockAcquire{Key: "k", TTL: "30s"})
	lost()
	renewed, err := l.Renew(t.Context(), wire.LockRenew{LockRelease: releaseOf("k", g), TTL: "1m"})
	must(t, err)
	if renewed.Fence != g.Fence || renewed.ExpiresMs < 50_000 {
		t.Errorf("renewed to %+v", renewed)
	}
	waits := later(t.Context(), l, wire.LockAcquire{Key: "k", TTL: "30s", Wait: "1m"})
	eventually(t, "it waits", func() bool { return waiters(t, l, "k") == 1 })
	lost()
	release(t, l, "k", g)
	next := receive(t, waits)
	must(t, next.err)
	if n := deaf.lost.Load(); n != 3 {
		t.Errorf("%d answers were lost, want 3", n)
	}
}

// A replica that only hears of renewals late, or not at all, takes nothing from
// the holder: the write that would is refused.
func TestAReplicaThatHearsNothing(t *testing.T) {
	t.Parallel()
	memory := NewMemory(time.Now)
	a, b := startReplica(t, Config{Store: memory}), startReplica(t, Config{Store: silent{memory}})
	g := acquire(t, a, wire.LockAcquire{Key: "k", TTL: "300ms"})
	defer func() { _, _ = a.Release(t.Context(), releaseOf("k", g)) }()
	waits := later(t.Context(), b, wire.LockAcquire{Key: "k", TTL: "30s", Wait: "1m"})
	for range 10 {
		renewed := time.Now()
		must(t, clock.Sleep(t.Context(), 100*time.Millisecond))
		if _, err := a.Renew(t.Context(), wire.LockRenew{LockRelease: releaseOf("k", g), TTL: "300ms"}); err != nil {
			if time.Since(renewed) < 200*time.Millisecond {
				t.Fatalf("a renewal in time: %v", err)
			}
			return // the machine was too slow for the test
		}
	}
	select {
	case got := <-waits:
		t.Fatalf("the waiter has %+v beside the holder", got)
	default:
	}
	release(t, a, "k", g)
	must(t, receive(t, waits).err)
}

// silent is a store of which nothing is heard.
type silent struct{ Store }

func (silent) Watch(string, func(kv.Entry)) (func(), error) { return func() {}, nil }
