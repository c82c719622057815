package lock

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestALockHasOneHolder(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, replica func() *Locks) {
		a, b := replica(), replica()
		one := acquire(t, a, wire.LockAcquire{Key: "orders/1 é", TTL: "30s"})
		if one.Fence == 0 || one.Token == "" || one.ExpiresMs <= 25_000 || one.ExpiresMs > 30_000 {
			t.Errorf("got the grant %+v", one)
		}
		_, err := b.Acquire(t.Context(), wire.LockAcquire{Key: "orders/1 é", TTL: "30s"})
		coded(t, err, wire.DeadlineExceeded, "none")
		s, err := b.Get(t.Context(), wire.LockKey{Key: "orders/1 é"})
		must(t, err)
		if !s.Held || s.Fence != one.Fence || s.Waiters != 0 || s.ExpiresMs <= 0 || s.ExpiresMs > 30_000 {
			t.Errorf("got the state %+v, want it held by %d", s, one.Fence)
		}
		renewed, err := b.Renew(t.Context(), wire.LockRenew{LockRelease: releaseOf("orders/1 é", one), TTL: "1m"})
		must(t, err)
		if renewed.Fence != one.Fence || renewed.Token != one.Token || renewed.ExpiresMs < 50_000 {
			t.Errorf("renewed to %+v, want the fence and token of %+v", renewed, one)
		}
		release(t, a, "orders/1 é", one)
		release(t, b, "orders/1 é", one) // said again
		s, err = a.Get(t.Context(), wire.LockKey{Key: "orders/1 é"})
		must(t, err)
		if s.Held || s.Fence != 0 {
			t.Errorf("got the state %+v, want it free", s)
		}
		two := acquire(t, b, wire.LockAcquire{Key: "orders/1 é", TTL: "30s"})
		if two.Fence <= one.Fence || two.Token == one.Token {
			t.Errorf("the second grant is %+v, the first was %+v", two, one)
		}
		_, err = a.Release(t.Context(), releaseOf("orders/1 é", one))
		must(t, err) // the same release: nothing of the second holder's
		_, err = a.Renew(t.Context(), wire.LockRenew{LockRelease: releaseOf("orders/1 é", one), TTL: "1m"})
		coded(t, err, wire.FailedPrecondition, "")
		if s, err = a.Get(t.Context(), wire.LockKey{Key: "orders/1 é"}); err != nil || s.Fence != two.Fence {
			t.Errorf("got the state %+v, %v; want the second holder's", s, err)
		}
	})
}

// A token of another, or a fence of another, is worth nothing.
func TestOnlyTheHolderRenewsAndReleases(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, replica func() *Locks) {
		l := replica()
		g := acquire(t, l, wire.LockAcquire{Key: "k", TTL: "30s"})
		other := acquire(t, l, wire.LockAcquire{Key: "other", TTL: "30s"})
		for _, wrong := range []wire.LockRelease{
			{Key: "k", Fence: g.Fence, Token: other.Token}, {Key: "k", Fence: g.Fence + 1, Token: g.Token},
			{Key: "other", Fence: g.Fence, Token: g.Token}, {Key: "none", Fence: g.Fence, Token: g.Token},
		} {
			_, err := l.Release(t.Context(), wrong)
			coded(t, err, wire.FailedPrecondition, "")
			_, err = l.Renew(t.Context(), wire.LockRenew{LockRelease: wrong, TTL: "1s"})
			coded(t, err, wire.FailedPrecondition, "")
		}
		release(t, l, "k", g)
	})
}

// A ttl counts in milliseconds, and nothing brings a lock back that has expired.
func TestALockExpires(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, replica func() *Locks) {
		a, b := replica(), replica()
		began := time.Now()
		one := acquire(t, a, wire.LockAcquire{Key: "k", TTL: "200ms"})
		var two wire.LockGrant
		eventually(t, "another one has the lock", func() bool {
			var err error
			two, err = b.Acquire(t.Context(), wire.LockAcquire{Key: "k", TTL: "30s"}) // not in line
			return err == nil
		})
		if took := time.Since(began); took < 200*time.Millisecond {
			t.Errorf("another one had it after %s", took)
		}
		if two.Fence <= one.Fence {
			t.Errorf("fences %d, %d", one.Fence, two.Fence)
		}
		_, err := a.Renew(t.Context(), wire.LockRenew{LockRelease: releaseOf("k", one), TTL: "200ms"})
		coded(t, err, wire.FailedPrecondition, "")
		_, err = a.Release(t.Context(), releaseOf("k", one))
		coded(t, err, wire.FailedPrecondition, "")
		if s, err := a.Get(t.Context(), wire.LockKey{Key: "k"}); err != nil || s.Fence != two.Fence {
			t.Errorf("got %+v, %v: the first holder's release hurt the second", s, err)
		}
	})
}

// Who waits has the lock of a holder that died as soon as it expires, in whichever
// replica.
func TestAWaiterFollowsAHolderThatDied(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, replica func() *Locks) {
		a, b := replica(), replica()
		best := time.Hour
		for i := range 6 {
			began := time.Now()
			key := fmt.Sprint("k", i)
			acquire(t, a, wire.LockAcquire{Key: key, TTL: "200ms"})
			acquire(t, []*Locks{a, b}[i%2], wire.LockAcquire{Key: key, TTL: "30s", Wait: "1m"})
			took := time.Since(began)
			if took < 200*time.Millisecond {
				t.Errorf("the waiter had it after %s", took)
			}
			best = min(best, took)
		}
		if best > time.Second {
			t.Errorf("it took a waiter %s at best, of a lock of 200ms", best)
		}
	})
}

// What has expired is lost though nobody else wants it, in every replica.
func TestAnExpiredLockIsNotRenewed(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, replica func() *Locks) {
		for i, l := range []*Locks{replica(), replica()} {
			first := replica()
			key := fmt.Sprint("k", i)
			g := acquire(t, first, wire.LockAcquire{Key: key, TTL: "50ms"})
			eventually(t, "it is free", func() bool {
				s, err := l.Get(t.Context(), wire.LockKey{Key: key})
				return err == nil && !s.Held
			})
			_, err := l.Renew(t.Context(), wire.LockRenew{LockRelease: releaseOf(key, g), TTL: "1s"})
			coded(t, err, wire.FailedPrecondition, "")
		}
	})
}

// Waiters have the lock in the order in which they came, over two replicas, and
// those who gave up meanwhile are skipped.
func TestWaitersAreServedInOrder(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, replica func() *Locks) {
		replicas := []*Locks{replica(), replica()}
		holder := acquire(t, replicas[0], wire.LockAcquire{Key: "k", TTL: "30s"})
		const many = 100
		impatient := func(i int) bool { return i%10 == 3 }
		waits := make([]<-chan answered, many)
		short, over := context.WithCancel(t.Context())
		defer over()
		for i := range many {
			ctx := t.Context()
			if impatient(i) {
				ctx = short
			}
			waits[i] = later(ctx, replicas[i%2], wire.LockAcquire{Key: "k", TTL: "30s", Wait: "1m"})
			last := int64(i/2 + 1)
			eventually(t, "it stands in line", func() bool {
				c := replicas[i%2].known("k")
				return replicas[i%2].metrics.waiters.Load() == last && len(c.entry.line) == i+1
			})
		}
		over()
		for i, w := range waits {
			if impatient(i) && receive(t, w).err == nil {
				t.Fatalf("waiter %d had no patience, and the lock", i)
			}
		}
		for i, w := range waits {
			if impatient(i) {
				continue
			}
			release(t, replicas[(i/3)%2], "k", holder)
			next := receive(t, w) // nobody else releases: were it not this one's turn, nothing came
			must(t, next.err)
			if next.Fence <= holder.Fence {
				t.Fatalf("waiter %d has the fence %d behind %d", i, next.Fence, holder.Fence)
			}
			holder = next.LockGrant
		}
		if n := waiters(t, replicas[0], "k"); n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

// known is what a replica knows of a lock, without asking.
func (l *Locks) known(key string) state {
	entry, err := l.cfg.Namespace.LockEntry(key)
	if err != nil {
		panic(err)
	}
	c := l.cell(entry)
	defer l.leave(c)
	return c.current()
}

// A request that is asked again is the same wait and the same grant.
func TestAnIDHasOnePlaceAndOneGrant(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, replica func() *Locks) {
		a, b := replica(), replica()
		req := wire.LockAcquire{Key: "k", TTL: "30s", ID: "mine"}
		one := acquire(t, a, req)
		for _, l := range []*Locks{a, b} {
			if again := acquire(t, l, req); again.Fence != one.Fence || again.Token != one.Token || again.ExpiresMs > 30_000 {
				t.Errorf("asked again: %+v, want %+v", again, one)
			}
		}
		// The second in line asks again, in another replica, behind the third.
		second, third := wire.LockAcquire{Key: "k", TTL: "30s", Wait: "20s", ID: "second"}, wire.LockAcquire{Key: "k", TTL: "30s", Wait: "20s", ID: "third"}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		left := later(ctx, a, second)
		eventually(t, "the second waits", func() bool { return waiters(t, b, "k") == 1 })
		waits := later(t.Context(), b, third)
		eventually(t, "the third waits", func() bool { return waiters(t, b, "k") == 2 })
		cancel()
		coded(t, receive(t, left).err, wire.DeadlineExceeded, "unknown")
		again := later(t.Context(), b, second)
		release(t, b, "k", one)
		got := receive(t, again)
		must(t, got.err)
		if got.Fence <= one.Fence {
			t.Errorf("fences %d, %d", one.Fence, got.Fence)
		}
		release(t, a, "k", got.LockGrant)
		must(t, receive(t, waits).err)
	})
}

// Who is not there any more when the turn comes has the lock until it expires;
// who left the line has it never.
func TestWaitersThatLeave(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, replica func() *Locks) {
		a, b := replica(), replica()
		one := acquire(t, a, wire.LockAcquire{Key: "k", TTL: "30s"})
		left := later(t.Context(), a, wire.LockAcquire{Key: "k", TTL: "30s", Wait: "50ms"})
		coded(t, receive(t, left).err, wire.DeadlineExceeded, "none")
		if n := waiters(t, b, "k"); n != 0 {
			t.Errorf("%d wait, want nobody", n)
		}
		ctx, cancel := context.WithCancel(t.Context()) // without an id: nobody can ask again
		defer cancel()
		gone := later(ctx, b, wire.LockAcquire{Key: "k", TTL: "30s", Wait: "20s"})
		eventually(t, "it waits", func() bool { return waiters(t, a, "k") == 1 })
		cancel()
		coded(t, receive(t, gone).err, wire.DeadlineExceeded, "")
		if n := waiters(t, a, "k"); n != 0 {
			t.Errorf("%d wait, want nobody", n)
		}
		// With an id it says by asking without a wait that it has gone, also to the
		// request that still waits.
		old := later(t.Context(), b, wire.LockAcquire{Key: "k", TTL: "30s", Wait: "20s", ID: "y"})
		eventually(t, "it waits", func() bool { return waiters(t, a, "k") == 1 })
		_, err := a.Acquire(t.Context(), wire.LockAcquire{Key: "k", TTL: "30s", ID: "y"})
		coded(t, err, wire.DeadlineExceeded, "none")
		coded(t, receive(t, old).err, wire.Aborted, "")
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		gone = later(ctx, b, wire.LockAcquire{Key: "k", TTL: "30s", Wait: "20s", ID: "x"})
		eventually(t, "it waits", func() bool { return waiters(t, a, "k") == 1 })
		cancel()
		receive(t, gone)
		_, err = a.Acquire(t.Context(), wire.LockAcquire{Key: "k", TTL: "30s", ID: "x"})
		coded(t, err, wire.DeadlineExceeded, "none")
		if n := waiters(t, a, "k"); n != 0 {
			t.Errorf("%d wait, want nobody", n)
		}
		release(t, a, "k", one)
	})
}

// A replica that stops sends those who wait to another, where they have their
// places; it still renews and releases.
func TestAReplicaStops(t *testing.T) {
	t.Parallel()
	store := NewMemory(time.Now)
	a, stop := runReplica(t, Config{Store: store})
	defer stop()
	b := startReplica(t, Config{Store: store})
	one := acquire(t, a, wire.LockAcquire{Key: "k", TTL: "30s"})
	req := wire.LockAcquire{Key: "k", TTL: "30s", Wait: "20s", ID: "second"}
	second := later(t.Context(), a, req)
	eventually(t, "the second waits", func() bool { return waiters(t, b, "k") == 1 })
	third := later(t.Context(), b, wire.LockAcquire{Key: "k", TTL: "30s", Wait: "20s"})
	eventually(t, "the third waits", func() bool { return waiters(t, b, "k") == 2 })
	stop()
	coded(t, receive(t, second).err, wire.Unavailable, "unknown")
	_, err := a.Acquire(t.Context(), req)
	coded(t, err, wire.Unavailable, "none")
	second = later(t.Context(), b, req)
	eventually(t, "it is asked for", func() bool { return b.metrics.waiters.Load() == 2 })
	release(t, a, "k", one)
	got := receive(t, second)
	must(t, got.err)
	release(t, a, "k", got.LockGrant)
	must(t, receive(t, third).err)
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	l := startReplica(t, Config{Store: NewMemory(time.Now)})
	long := make([]byte, 300)
	for i := range long {
		long[i] = 'x'
	}
	ok := wire.LockRelease{Key: "k", Fence: 1, Token: "t"}
	for _, test := range []struct {
		field string
		do    func() error
	}{
		{"key", func() error { _, err := l.Acquire(t.Context(), wire.LockAcquire{TTL: "1s"}); return err }},
		{"key", func() error {
			_, err := l.Acquire(t.Context(), wire.LockAcquire{Key: string(long), TTL: "1s"})
			return err
		}},
		{"key", func() error { _, err := l.Get(t.Context(), wire.LockKey{Key: "a\nb"}); return err }},
		{"ttl", func() error { _, err := l.Acquire(t.Context(), wire.LockAcquire{Key: "k"}); return err }},
		{"ttl", func() error { _, err := l.Acquire(t.Context(), wire.LockAcquire{Key: "k", TTL: "49ms"}); return err }},
		{"ttl", func() error { _, err := l.Acquire(t.Context(), wire.LockAcquire{Key: "k", TTL: "25h"}); return err }},
		{"ttl", func() error { _, err := l.Renew(t.Context(), wire.LockRenew{LockRelease: ok, TTL: "30"}); return err }},
		{"wait", func() error {
			_, err := l.Acquire(t.Context(), wire.LockAcquire{Key: "k", TTL: "1s", Wait: "-1s"})
			return err
		}},
		{"wait", func() error {
			_, err := l.Acquire(t.Context(), wire.LockAcquire{Key: "k", TTL: "1s", Wait: "11m"})
			return err
		}},
		{"id", func() error {
			_, err := l.Acquire(t.Context(), wire.LockAcquire{Key: "k", TTL: "1s", ID: string(long)})
			return err
		}},
		{"fence", func() error { _, err := l.Release(t.Context(), wire.LockRelease{Key: "k", Token: "t"}); return err }},
		{"token", func() error { _, err := l.Release(t.Context(), wire.LockRelease{Key: "k", Fence: 1}); return err }},
	} {
		err := test.do()
		coded(t, err, wire.InvalidArgument, "")
		if got := wire.AsError(err).Details["field"]; got != test.field {
			t.Errorf("%v names the field %v, want %s", err, got, test.field)
		}
	}
}
