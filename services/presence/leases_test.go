package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// blocked is a store that takes no writes while it is told so.
type blocked struct {
	*memory
	away atomic.Bool
}

func (b *blocked) Put(ctx context.Context, w kv.Write) (uint64, error) {
	if b.away.Load() {
		return 0, errors.New("away")
	}
	return b.memory.Put(ctx, w)
}

// gatewayLease stores a gateway's lease and returns its revision.
func gatewayLease(t *testing.T, store Store, id string, epoch uint64, ttl time.Duration) uint64 {
	t.Helper()
	value, err := json.Marshal(wire.GatewayLease{Epoch: epoch, LeaseMs: leaseTime.Milliseconds()})
	if err != nil {
		t.Fatal(err)
	}
	revision, err := store.Put(t.Context(), kv.Write{Key: wire.EscapeToken(id), Value: value, Expect: kv.AnyRevision, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// A lease is live until it expires; when it was renewed last, and with what,
// stays known. Its epoch is the revision that made it.
func TestLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &blocked{memory: newMemory(time.Now)}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		l := newLeases(store, "r1", time.Now)
		if _, live, _ := l.of("a gateway"); !live || l.mine("a gateway") || l.ready() {
			t.Error("who knows nothing yet takes nobody for dead, nor for its own")
		}
		done := make(chan struct{})
		go func() { l.run(ctx); close(done) }()
		made := gatewayLease(t, store, "a gateway", 0, leaseTime)
		synctest.Wait()
		held, live, at := l.of("a gateway")
		if !live || held.epoch != made || held.LeaseMs != leaseTime.Milliseconds() || !at.Equal(time.Now()) {
			t.Errorf("got %+v, live %v, renewed %s", held, live, at)
		}
		time.Sleep(5 * time.Second)
		gatewayLease(t, store, "a gateway", made, leaseTime)
		synctest.Wait()
		renewed := time.Now()
		if held, live, at := l.of("a gateway"); !live || held.epoch != made || !at.Equal(renewed) || len(l.all()) != 1 || l.size() != 1 {
			t.Errorf("renewed: got %+v, live %v, at %s", held, live, at)
		}
		time.Sleep(leaseTime + 2*time.Second)
		synctest.Wait()
		if held, live, at := l.of("a gateway"); live || held.epoch != made || !at.Equal(renewed) || len(l.all()) != 0 {
			t.Errorf("expired: got %+v, live %v, renewed %s, want %s", held, live, at, renewed)
		}
		again := gatewayLease(t, store, "a gateway", 0, leaseTime)
		synctest.Wait()
		if held, live, _ := l.of("a gateway"); !live || held.epoch != again {
			t.Errorf("made anew: got %+v, live %v, want epoch %d", held, live, again)
		}
		if held, live, _ := l.of("unheard"); live || held.LeaseMs != defaultLease.Milliseconds() {
			t.Errorf("never seen: got %+v, live %v", held, live)
		}
		stop()
		<-done
	})
}

// The replica knows how long every write of its own has succeeded: a lapse within
// that time is the gateway's own.
func TestWritable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &blocked{memory: newMemory(time.Now)}
		ctx, stop := context.WithCancel(t.Context())
		l := newLeases(store, "r1", time.Now)
		if l.writableFor() != 0 {
			t.Error("before the first write")
		}
		done := make(chan struct{})
		go func() { l.run(ctx); close(done) }()
		time.Sleep(30 * time.Second)
		if got := l.writableFor(); got != 30*time.Second {
			t.Errorf("got %s, want 30s", got)
		}
		store.away.Store(true)
		time.Sleep(replicaRenew + time.Millisecond)
		if got := l.writableFor(); got != 0 {
			t.Errorf("away: got %s", got)
		}
		time.Sleep(time.Minute)
		store.away.Store(false)
		time.Sleep(replicaRenew + time.Millisecond)
		if got := l.writableFor(); got > replicaRenew {
			t.Errorf("back a moment ago: got %s", got)
		}
		stop()
		<-done
		if e, err := store.Get(context.Background(), replicaPrefix+"r1"); err != nil || !e.Deleted {
			t.Errorf("the replica's lease outlives it: %+v %v", e, err)
		}
	})
}

// Every gateway is looked after by exactly one of the replicas, and by another
// when that one is gone.
func TestGatewaysAreSharedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory(time.Now)
		ctx, stop := context.WithCancel(t.Context())
		type replica struct {
			*leases
			stop context.CancelFunc
			done chan struct{}
		}
		var replicas []replica
		for i := range 3 {
			own, halt := context.WithCancel(ctx)
			r := replica{newLeases(store, fmt.Sprintf("replica-%d-of-three", i), time.Now), halt, make(chan struct{})}
			go func() { r.run(own); close(r.done) }()
			replicas = append(replicas, r)
		}
		synctest.Wait()
		shares := func(of []replica) map[int]int {
			out := map[int]int{}
			for g := range 90 {
				owners := 0
				for i, r := range of {
					if r.mine(fmt.Sprintf("gateway-number-%02d-of-many", g)) {
						owners++
						out[i]++
					}
				}
				if owners != 1 {
					t.Errorf("g%d has %d replicas", g, owners)
				}
			}
			return out
		}
		if got := shares(replicas); len(got) != 3 {
			t.Errorf("shares: %v, want some for each", got)
		}
		replicas[1].stop()
		<-replicas[1].done
		synctest.Wait()
		shares([]replica{replicas[0], replicas[2]})
		stop()
		<-replicas[0].done
		<-replicas[2].done
	})
}
