package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Every write ends by itself, when it says no more than an entry that is not
// there, and a moment later. None is without a condition.
func TestEveryWriteEnds(t *testing.T) {
	r := inMemory()
	var mu sync.Mutex
	var last []time.Duration
	k := r.start(t, via(func(h *hooked) {
		h.put = func(ctx context.Context, writes []kv.Write) (uint64, error) {
			mu.Lock()
			last = last[:0]
			for _, w := range writes {
				last = append(last, w.TTL)
				if w.Expect == kv.AnyRevision || w.Delete {
					t.Errorf("a write without a condition: %+v", w)
				}
			}
			mu.Unlock()
			return h.Store.PutAll(ctx, writes)
		}
	}))
	expect := func(what string, want ...time.Duration) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if fmt.Sprint(last) != fmt.Sprint(want) {
			t.Errorf("%s: got a TTL of %v, want %v", what, last, want)
		}
		last = last[:0]
	}
	ctx := soon(t)
	l := limitOf("p", 5, 2, time.Second)
	take1(t, k, "k", l, 5)
	expect("full in 2.5s", 8*time.Second)
	take1(t, k, "k", l, 1)
	expect("a denial")
	take1(t, k, "k", limitOf("longer", 5, 1, time.Minute), 1)
	expect("the longest of two", 65*time.Second)
	if _, _, err := k.ban(ctx, "banned", l, 90*time.Second); err != nil {
		t.Fatal(err)
	}
	expect("a ban", 95*time.Second)
	if _, err := k.unban(ctx, "banned", l); err != nil {
		t.Fatal(err)
	}
	expect("the end of a ban", 5*time.Second)
	if _, err := k.reset(ctx, "k", l); err != nil {
		t.Fatal(err)
	}
	expect("a reset of one of two", 65*time.Second)
	if _, _, _, err := k.refund(ctx, "refund", l, 1, "id"); err != nil {
		t.Fatal(err)
	}
	expect("a refund, which is remembered", 65*time.Second)
	blocking := limitOf("blocking", 1, 1, time.Second)
	blocking.Block = 20 * time.Second
	take1(t, k, "blocked", blocking, 1)
	expect("full in 1s", 6*time.Second)
	take1(t, k, "blocked", blocking, 1)
	expect("a denial that bans", 25*time.Second)
	if _, _, err := k.consumeAll(ctx, []keyed{{"m1", take{l, 5}}, {"m2", take{blocking, 1}}}); err != nil {
		t.Fatal(err)
	}
	expect("two keys", 8*time.Second, 6*time.Second)
	r.pass(2 * time.Minute)
	if left := r.store.(*memory).Entries(); len(left) != 0 {
		t.Errorf("%d entries are left: %+v", len(left), left[0])
	}
	expectGiven(t, "when all has ended", take1(t, k, "k", l, 1), 4)
}

// Whoever gave up while he waited is not charged, nor does he keep anybody else.
func TestWhoGaveUpIsNotCharged(t *testing.T) {
	r := inMemory()
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	k := r.start(t, via(func(h *hooked) {
		h.put = func(ctx context.Context, writes []kv.Write) (uint64, error) {
			once.Do(func() { close(blocked); <-release })
			return h.Store.PutAll(ctx, writes)
		}
	}))
	l := slow("p", 10)
	answers := make(chan error, 3)
	consume := func(ctx context.Context) {
		go func() {
			_, err := k.consume(ctx, "k", []take{{l, 1}}, 1, false)
			answers <- err
		}()
	}
	consume(soon(t))
	await(t, "the first write", blocked)
	gone, give := context.WithCancel(soon(t))
	consume(gone)
	until(t, "the second waits", func() bool { return k.metrics.waiting.Load() == 1 })
	give()
	if err := await(t, "who gave up", answers); !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: got %v", err)
	}
	consume(soon(t))
	until(t, "the third waits", func() bool { return k.metrics.waiting.Load() == 2 })
	close(release)
	for range 2 {
		if err := await(t, "the others", answers); err != nil {
			t.Error(err)
		}
	}
	expectLeft(t, r, "what two took", "k", l, 8)
	if got := k.metrics.expired.Load(); got != 1 {
		t.Errorf("%d had given up, want 1", got)
	}
}

// No more wait for one key, and no more keys are held, than there is room for.
func TestRoomIsBounded(t *testing.T) {
	r := inMemory()
	release := make(chan struct{})
	store := via(func(h *hooked) {
		h.put = func(ctx context.Context, writes []kv.Write) (uint64, error) {
			select {
			case <-release:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			return h.Store.PutAll(ctx, writes)
		}
	})(r.store)
	k := newKeeper(keeperConfig{Store: store, ID: "small", Now: r.now, Metrics: &metrics{}, Cells: shards, Waiting: 3})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { k.run(ctx) })
	defer func() { stop(); running.Wait() }()
	l := slow("p", 10)
	answers := make(chan error, 8)
	consume := func(key string) {
		go func() {
			_, err := k.consume(soon(t), key, []take{{l, 1}}, 1, false)
			answers <- err
		}()
	}
	consume("k")
	until(t, "the first is decided", func() bool { return k.metrics.cells.Load() == 1 && k.metrics.waiting.Load() == 0 })
	// It may not have joined yet: who comes after it waits in any case.
	for i := range 3 {
		consume("k")
		until(t, "another waits", func() bool { return k.metrics.waiting.Load() >= int64(i) })
	}
	until(t, "three wait", func() bool { return k.metrics.waiting.Load() == 3 })
	if _, err := k.consume(soon(t), "k", []take{{l, 1}}, 1, false); wire.CodeOf(err) != wire.ResourceExhausted {
		t.Errorf("the fourth who waits: got %v", err)
	}
	same := ""
	for i := 0; same == ""; i++ {
		if key := fmt.Sprint("other", i); k.shard(key) == k.shard("k") {
			same = key
		}
	}
	if _, err := k.consume(soon(t), same, []take{{l, 1}}, 1, false); wire.CodeOf(err) != wire.ResourceExhausted {
		t.Errorf("a key beyond those that are held: got %v", err)
	}
	if got := k.metrics.refused.Load(); got != 2 {
		t.Errorf("%d were refused, want 2", got)
	}
	close(release)
	for range 4 {
		if err := await(t, "those who waited", answers); err != nil {
			t.Error(err)
		}
	}
	for i := range 3 * shards {
		// Who was answered last may be in use for a moment still.
		until(t, "there is room for another key", func() bool {
			_, err := k.consume(soon(t), fmt.Sprint("one", i), []take{{l, 1}}, 1, false)
			return err == nil
		})
	}
	if got := k.metrics.cells.Load(); got > shards {
		t.Errorf("%d keys are held, want at most %d", got, shards)
	}
	expectLeft(t, r, "a key that was evicted", "k", l, 6)
	until(t, "it is held again", func() bool {
		out, err := k.consume(soon(t), "k", []take{{l, 1}}, 1, false)
		return err == nil && out.verdicts[0].Remaining == 5
	})
}

// What waits when the replica stops is answered.
func TestStopAnswers(t *testing.T) {
	r := inMemory()
	k := newKeeper(keeperConfig{Store: r.store, ID: "a", Now: r.now, Metrics: &metrics{}})
	answered := make(chan error, 1)
	go func() {
		_, err := k.consume(soon(t), "k", []take{{slow("p", 1), 1}}, 1, false)
		answered <- err
	}()
	until(t, "it waits", func() bool { return k.metrics.waiting.Load() == 1 })
	k.line.close() // as run does, before a flusher has it
	over, stop := context.WithCancel(context.Background())
	stop()
	k.run(over)
	if err := await(t, "an answer", answered); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("got %v, want %s", err, wire.Unavailable)
	}
	if _, err := k.consume(soon(t), "k", []take{{slow("p", 1), 1}}, 1, false); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("after it stopped: got %v, want %s", err, wire.Unavailable)
	}
}

// A refund is refused where as many are remembered as there is room for.
func TestRefundsAreBounded(t *testing.T) {
	r := inMemory()
	k := r.start(t, nil)
	l := slow("p", 1000)
	take1(t, k, "k", l, 1000)
	for i := range maxRefunds {
		if remaining, _, _, err := k.refund(soon(t), "k", l, 1, fmt.Sprint(i)); err != nil || remaining != int64(i+1) {
			t.Fatalf("refund %d: got %d (%v)", i, remaining, err)
		}
	}
	r.pass(10 * time.Second)
	_, _, _, err := k.refund(soon(t), "k", l, 1, "one more")
	if e := wire.AsError(err); e.Code != wire.ResourceExhausted || e.RetryAfter != 50*time.Second {
		t.Errorf("got %v, want %s for 50s", err, wire.ResourceExhausted)
	}
	r.pass(50 * time.Second)
	if _, _, first, err := k.refund(soon(t), "k", l, 1, "one more"); err != nil || !first {
		t.Errorf("a minute later: got %v", err)
	}
}
