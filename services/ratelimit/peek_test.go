package ratelimit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A look shows what was taken before it, by whichever replica.
func TestPeekIsExact(t *testing.T) {
	t.Parallel()
	r := startRig(t, 2)
	r.eventually("the replicas to know each other", func() bool {
		return r.replicas[0].client.Counts().Replicas == 2 && r.replicas[1].client.Counts().Replicas == 2
	})
	for i := range 20 {
		req := wire.LimitRequest{LimitTake: wire.LimitTake{Policy: "large", Key: fmt.Sprint("k", i)}}
		both := wire.LimitRequest{Takes: []wire.LimitTake{req.LimitTake, {Policy: "large", Key: "nobody's"}}}
		for n := int64(1); n <= 6; n++ {
			by := r.replicas[n/2%2]
			if rep, err := by.Decide(t.Context(), req); err != nil || !rep.Allowed {
				t.Fatalf("take %d: got %+v, %v", n, rep, err)
			}
			for j, s := range r.replicas {
				rep, err := s.Peek(t.Context(), req)
				if err != nil || rep.Remaining != 1_000_000-n {
					t.Errorf("replica %d after %d takes: got %d left (%v)", j, n, 1_000_000-rep.Remaining, err)
				}
				if rep, err = s.Peek(t.Context(), both); err != nil || rep.Takes[0].Remaining != 1_000_000-n {
					t.Errorf("replica %d after %d takes, among others: got %+v (%v)", j, n, rep, err)
				}
			}
		}
	}
}

// Looks of many at a time are answered from one read.
func TestPeeksAreGrouped(t *testing.T) {
	r := inMemory()
	k := r.start(t, nil)
	l := slow("p", 10)
	take1(t, k, "k", l, 1)
	held, err := k.hold(soon(t), "k")
	if err != nil {
		t.Fatal(err)
	}
	var wrong atomic.Int64
	var all sync.WaitGroup
	const looks = 100
	for range looks {
		all.Go(func() {
			if out, err := k.consume(soon(t), "k", []take{{l, 1}}, 1, true); err != nil || out.verdicts[0].Remaining != 9 {
				wrong.Add(1)
			}
		})
	}
	until(t, "all wait", func() bool { return k.metrics.waiting.Load() == looks })
	before := k.metrics.reads.Load()
	k.leave(held)
	all.Wait()
	if got := k.metrics.reads.Load() - before; got != 1 || wrong.Load() != 0 {
		t.Errorf("%d looks: %d reads, want 1; %d were wrong", looks, got, wrong.Load())
	}
}

// A look counts as no decision, not even of a limit that refuses nobody.
func TestPeeksAreNotCounted(t *testing.T) {
	r := inMemory()
	k := r.start(t, nil)
	dark := slow("dark", 2)
	dark.Shadow = true
	take1(t, k, "k", dark, 2)
	take1(t, k, "k", dark, 1)
	for range 3 {
		if out, err := k.consume(soon(t), "k", []take{{dark, 1}}, 1, true); err != nil || !out.verdicts[0].Shadowed {
			t.Fatalf("got %+v, %v", out, err)
		}
	}
	if allowed, shadowed := k.metrics.allowed.Load(), k.metrics.shadowed.Load(); allowed != 1 || shadowed != 1 {
		t.Errorf("%d were allowed and %d shadowed, want 1 and 1", allowed, shadowed)
	}
}

// A denial is older than the reset behind it, also of one write.
func TestDenialsAreOlderThanChangesBehindThem(t *testing.T) {
	r := inMemory()
	k := r.start(t, nil)
	l := slow("p", 5)
	take1(t, k, "k", l, 5)
	held, err := k.hold(soon(t), "k")
	if err != nil {
		t.Fatal(err)
	}
	var denied outcome
	var reset uint64
	var all sync.WaitGroup
	all.Go(func() { denied, _ = k.consume(soon(t), "k", []take{{l, 1}}, 1, false) })
	until(t, "the denial waits", func() bool { return k.metrics.waiting.Load() == 1 })
	all.Go(func() { reset, _ = k.reset(soon(t), "k", l) })
	until(t, "the reset waits", func() bool { return k.metrics.waiting.Load() == 2 })
	writes := k.metrics.writes.Load()
	k.leave(held)
	all.Wait()
	if v := denied.verdicts[0]; v.Allowed || v.Revision >= reset || v.Revision == 0 || k.metrics.writes.Load() != writes+1 {
		t.Errorf("got %+v, want denied with a revision below the reset's %d, in one write", v, reset)
	}
}

// Of clears that are heard in another order the newest counts.
func TestClearsOutOfOrder(t *testing.T) {
	r := inMemory()
	k := r.start(t, nil)
	c, err := k.hold(soon(t), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer k.leave(c)
	c.state = state{revision: 150, known: true, epoch: k.epoch.Load()}
	k.forgetAll(200)
	k.forgetAll(100)
	if k.look(c) {
		t.Error("a state of revision 150 counts after a clear of revision 200")
	}
}
