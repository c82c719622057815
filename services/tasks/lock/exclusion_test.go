package lock

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// hold is what somebody did who had a lock, as they saw it.
type hold struct {
	key      string
	fence    uint64
	from, to time.Time // they knew that they had it
	// asked is before they asked for it.
	asked time.Time
}

// history is what all did who had locks, and what they did to what the locks
// protect.
type history struct {
	mu       sync.Mutex
	holds    []hold
	greatest map[string]uint64 // fence that the resource of a key has seen
	stale    []string          // writes that it had to refuse though their writer had the lock
}

func (h *history) add(one hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holds = append(h.holds, one)
}

// write is a write to what a lock protects, by somebody who knows that they have it.
func (h *history) write(key string, fence uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.greatest == nil {
		h.greatest = map[string]uint64{}
	}
	if fence < h.greatest[key] {
		h.stale = append(h.stale, fmt.Sprintf("%s: a write with fence %d behind one with %d", key, fence, h.greatest[key]))
	}
	h.greatest[key] = max(h.greatest[key], fence)
}

// wrongs returns what can't be: two who had a lock at a time, a fence that two
// had, or one that did not grow.
func (h *history) wrongs() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	wrongs := slices.Clone(h.stale)
	slices.SortFunc(h.holds, func(a, b hold) int {
		return cmp.Or(strings.Compare(a.key, b.key), a.from.Compare(b.from))
	})
	for i := 1; i < len(h.holds); i++ {
		a, b := h.holds[i-1], h.holds[i]
		if a.key != b.key {
			continue
		}
		if b.fence <= a.fence {
			wrongs = append(wrongs, fmt.Sprintf("%s: fence %d behind %d", a.key, b.fence, a.fence))
		}
		if b.from.Before(a.to) {
			wrongs = append(wrongs, fmt.Sprintf("%s: %d and %d had it together for %s", a.key, a.fence, b.fence, a.to.Sub(b.from)))
		}
	}
	return wrongs
}

// contend has many clients take few locks over some replicas, for as many rounds
// each. A client goes by the rule of a holder: it has the lock until a tenth of the
// ttl before it ends, counted from before it asked, and asks again where the grant
// took longer.
func contend(t *testing.T, replicas []*Locks, clients, rounds int, ttl time.Duration) *history {
	t.Helper()
	h := &history{}
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			c := contender{t: t, replicas: replicas, ttl: ttl, h: h, random: rand.New(rand.NewPCG(uint64(i), 7))}
			for n := range rounds {
				c.round(fmt.Sprint("k", c.random.IntN(2)), fmt.Sprint(i, "-", n))
			}
		})
	}
	all.Wait()
	return h
}

type contender struct {
	t        *testing.T
	replicas []*Locks
	ttl      time.Duration
	h        *history
	random   *rand.Rand
}

func (c *contender) any() *Locks { return c.replicas[c.random.IntN(len(c.replicas))] }

func (c *contender) round(key, id string) {
	asked := time.Now()
	g, sent, ok := c.acquire(key, id)
	if !ok {
		return
	}
	deadline := sent.Add(c.ttl - c.ttl/10)
	if time.Until(deadline) < c.ttl/2 {
		if deadline, ok = c.renew(key, g); !ok {
			return
		}
	}
	one := hold{key: key, fence: g.Fence, asked: asked, from: time.Now()}
	for n := c.random.IntN(4); n > 0 && time.Now().Before(deadline); n-- {
		c.h.write(key, g.Fence)
		c.sleep(time.Duration(c.random.IntN(int(c.ttl / 16))))
		if time.Until(deadline) < c.ttl/3 {
			next, ok := c.renew(key, g)
			if !ok {
				break
			}
			deadline = next
		}
	}
	one.to = time.Now()
	if deadline.Before(one.to) {
		one.to = deadline
	}
	if one.from.Before(one.to) {
		c.h.add(one)
	}
	switch c.random.IntN(8) {
	case 0: // dies
	default:
		_, _ = c.any().Release(c.t.Context(), releaseOf(key, g))
	}
}

func (c *contender) acquire(key, id string) (g wire.LockGrant, sent time.Time, ok bool) {
	for range 20 {
		ctx, cancel := context.WithTimeout(c.t.Context(), testPatience)
		sent = time.Now()
		g, err := c.any().Acquire(ctx, wire.LockAcquire{Key: key, TTL: c.ttl.String(), Wait: "10s", ID: id})
		cancel()
		if err == nil {
			return g, sent, true
		}
		c.sleep(10 * time.Millisecond)
	}
	return g, sent, false
}

func (c *contender) renew(key string, g wire.LockGrant) (deadline time.Time, ok bool) {
	for range 3 {
		sent := time.Now()
		if _, err := c.any().Renew(c.t.Context(), wire.LockRenew{LockRelease: releaseOf(key, g), TTL: c.ttl.String()}); err == nil {
			return sent.Add(c.ttl - c.ttl/10), true
		}
	}
	return deadline, false
}

func (c *contender) sleep(d time.Duration) {
	_ = clock.Sleep(c.t.Context(), d) // it ends early only with the test
}

func (h *history) check(t *testing.T, least int) {
	t.Helper()
	wrongs := h.wrongs()
	for _, w := range wrongs[:min(len(wrongs), 10)] {
		t.Error(w)
	}
	if n := len(h.holds); n < least {
		t.Errorf("only %d had a lock, want %d at least", n, least)
	}
}

// Never have two a lock at a time, with a ttl so short that it runs out all the
// time, holders that die, and a store that loses what it is asked and what it
// answers.
func TestNeverTwoHolders(t *testing.T) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		store := NewMemory(time.Now)
		var replicas []*Locks
		var stores []*flaky
		for i := range 3 {
			stores = append(stores, newFlaky(store, 10, uint64(i)))
			replicas = append(replicas, startReplica(t, Config{Store: stores[i]}))
		}
		contend(t, replicas, 16, 10, 200*time.Millisecond).check(t, 60)
		if stores[0].lost.Load() == 0 {
			t.Error("no answer was lost")
		}
	})
	t.Run("JetStream", func(t *testing.T) {
		t.Parallel()
		url := natsdev.Test(t).ClientURL()
		contend(t, []*Locks{startOn(t, url, 1), startOn(t, url, 1), startOn(t, url, 1)}, 16, 10, 200*time.Millisecond).check(t, 70)
	})
}

// On three nodes the leader of the bucket changes all the while.
func TestNeverTwoHoldersInACluster(t *testing.T) {
	t.Parallel()
	nodes := natsdev.Cluster(t, 3)
	var replicas []*Locks
	for range 3 {
		replicas = append(replicas, startOn(t, nodes.URL(), 3))
	}
	ctx, cancel := context.WithCancel(t.Context())
	changed := make(chan int)
	go func() {
		n := 0
		for clock.Sleep(ctx, 500*time.Millisecond) == nil {
			if leader := nodes.Leader("KV_fl_locks"); leader != nil && leader.StepDown("KV_fl_locks") == nil {
				n++
			}
		}
		changed <- n
	}()
	h := contend(t, replicas, 8, 6, 400*time.Millisecond)
	cancel()
	if n := <-changed; n == 0 {
		t.Error("the leader never changed")
	}
	h.check(t, 20)
}

// The check is worth something: with a store that does not compare it finds two
// holders.
func TestTheCheckNoticesTwoHolders(t *testing.T) {
	t.Parallel()
	store := naive{NewMemory(time.Now)}
	replicas := []*Locks{startReplica(t, Config{Store: store}), startReplica(t, Config{Store: store})}
	for range 20 {
		if h := contend(t, replicas, 8, 5, 200*time.Millisecond); len(h.wrongs()) > 0 {
			return
		}
	}
	t.Error("two replicas that do not compare were never found out")
}
