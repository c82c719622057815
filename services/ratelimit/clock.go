package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
)

const (
	leasePrefix = "r." // begins the keys of the replicas' leases; entries begin with their version
	leaseLife   = 10 * time.Second
	leaseEvery  = 2 * time.Second
	// leaseWait bounds one write of the lease and its reading back: what takes
	// longer tells nothing of the time.
	leaseWait = 2 * time.Second
	// leaseRetry is the pause after a lease that could not be written, and before a
	// sample that contradicts the estimate is checked by another one.
	leaseRetry = 100 * time.Millisecond
	// leaseSoon is the shortest time from one lease to the next.
	leaseSoon = 20 * time.Millisecond

	// maxDisagreement is by how much the time may be unknown: a limit gives at most
	// what it refills in it too early.
	maxDisagreement = 250 * time.Millisecond
	// drift is by how much two clocks may part per second. Quartz stays within
	// 100 µs, and what disciplines a server's clock moves it by up to 500.
	drift = 600 * time.Microsecond
)

// sample is what one write of the lease says: at some moment from sent to stored,
// on the monotonic clock, the server's was at.
type sample struct {
	sent, stored time.Duration // since the replica began
	at           time.Time
}

// estimate is by how much the server's clock is ahead of the one that shows the
// begin of the replica as 1970, and how well that is known.
type estimate struct {
	ahead time.Duration // in the middle
	err   time.Duration // either way, when it was taken
	taken time.Duration // since the replica began
}

func (s sample) estimate() estimate {
	took := max(s.stored-s.sent, 0)
	return estimate{ahead: s.at.Sub(time.Unix(0, 0)) - s.sent - took/2, err: took/2 + time.Nanosecond, taken: s.stored}
}

// errAt is how well the estimate is known later.
func (e estimate) errAt(now time.Duration) time.Duration {
	return e.err + time.Duration(max(now-e.taken, 0).Seconds()*float64(drift))
}

// offset keeps the best estimate of the server's clock from the samples. The zero
// value knows nothing.
type offset struct {
	best   estimate
	known  bool
	doubts *estimate // the newest sample contradicts best by more than is tolerated
}

// take adds a sample. One that says something else than those before, by more
// than their errors explain, moves the clock when it is a small step; a large
// one has to be confirmed by the next sample, and until then the clock is in
// doubt. So neither a single odd answer nor a server whose clock was set moves
// it unseen.
func (o *offset) take(s sample) {
	next := s.estimate()
	if next.err > maxDisagreement {
		return
	}
	apart := func(e estimate) time.Duration {
		return max(next.ahead-e.ahead, e.ahead-next.ahead) - next.err - e.errAt(next.taken)
	}
	switch {
	case !o.known:
		o.best, o.known = next, true
	case apart(o.best) <= 0: // they agree: the one that knows better counts
		if next.err <= o.best.errAt(next.taken) {
			o.best = next
		}
		o.doubts = nil
	case apart(o.best) <= maxDisagreement, o.doubts != nil && apart(*o.doubts) <= maxDisagreement:
		o.best, o.doubts = next, nil
	default:
		o.doubts = &next
	}
}

// at returns the server's time, and an error where it is not known well enough.
func (o *offset) at(now time.Duration) (time.Time, error) {
	switch {
	case !o.known:
		return time.Time{}, errors.New("the server's time is not known yet")
	case o.doubts != nil:
		return time.Time{}, errors.New("the server's clock was set")
	case o.best.errAt(now) > maxDisagreement:
		return time.Time{}, fmt.Errorf("the server's time is known only to %s", o.best.errAt(now).Round(time.Millisecond))
	}
	return o.time(now), nil
}

func (o *offset) time(now time.Duration) time.Time {
	return time.Unix(0, 0).Add(o.best.ahead + now)
}

// leaseStore is what the lease is written to.
type leaseStore interface {
	Put(ctx context.Context, w kv.Write) (revision uint64, err error)
	Get(ctx context.Context, key string) (kv.Entry, error)
}

// serverClock tells the time of the NATS server: the replica writes a lease of
// its own, and reads when the server says that it stored it.
type serverClock struct {
	store leaseStore
	key   string
	// elapsed is monotonic: a local clock that is wrong, or set, changes nothing.
	elapsed func() time.Duration

	mu     sync.Mutex
	offset offset // guarded by mu

	failures atomic.Int64  // to write the lease, in a row
	wake     chan struct{} // has a lease written now
}

func newServerClock(store leaseStore, id string, elapsed func() time.Duration) *serverClock {
	return &serverClock{store: store, key: leasePrefix + id, elapsed: elapsed, wake: make(chan struct{}, 1)}
}

// elapsedSince returns a monotonic clock that begins now.
func elapsedSince() func() time.Duration {
	began := time.Now()
	return func() time.Duration { return time.Since(began) }
}

// now returns the server's time, even where it is known badly: ready tells. It is
// the zero time as long as it is not known at all.
func (c *serverClock) now() time.Time {
	elapsed := c.elapsed()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.offset.known {
		return time.Time{}
	}
	return c.offset.time(elapsed)
}

// ready returns nil where the server's time is known well enough to count by it.
func (c *serverClock) ready() error {
	elapsed := c.elapsed()
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.offset.at(elapsed)
	return err
}

// err is how well the server's time is known; maxDisagreement where not at all.
func (c *serverClock) err() time.Duration {
	elapsed := c.elapsed()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.offset.known {
		return maxDisagreement
	}
	return c.offset.best.errAt(elapsed)
}

// lost reports whether leases can't be written any more, and nothing else either.
// A single one may be lost to a leader that changes.
func (c *serverClock) lost() bool { return c.failures.Load() > 1 }

// run writes leases until ctx is done, then takes the last one back.
func (c *serverClock) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	began, first := c.elapsed()-leaseSoon, true // began: the last one
	for {
		select {
		case <-ctx.Done():
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseWait)
			defer cancel()
			// Where it can't be written the lease ends by itself.
			_, _ = c.store.Put(bounded, kv.Write{Key: c.key, Expect: kv.AnyRevision, Delete: true, TTL: leaseLife})
			return
		case <-timer.C:
		case <-c.wake:
			if clock.Sleep(ctx, began+leaseSoon-c.elapsed()) != nil {
				continue
			}
		}
		began = c.elapsed()
		pause := leaseEvery
		if _, err := c.renew(ctx); err != nil {
			c.failures.Add(1)
			pause = leaseRetry
		} else if first || c.ready() != nil {
			first, pause = false, leaseRetry // the first one may have waited for the bucket
		}
		timer.Reset(pause)
	}
}

// renew writes the lease, learns from it what time it is, and returns its
// revision.
func (c *serverClock) renew(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, leaseWait)
	defer cancel()
	sent := c.elapsed()
	revision, err := c.store.Put(ctx, kv.Write{Key: c.key, Value: []byte("{}"), Expect: kv.AnyRevision, TTL: leaseLife})
	stored := c.elapsed()
	if err != nil {
		return 0, fmt.Errorf("write the lease: %w", err)
	}
	entry, err := c.store.Get(ctx, c.key)
	if err != nil {
		return 0, fmt.Errorf("read the lease: %w", err)
	}
	c.failures.Store(0)
	if entry.Revision != revision { // another renewal was quicker
		return revision, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset.take(sample{sent: sent, stored: stored, at: entry.At})
	return revision, nil
}

// look has the time looked at again now, since something is wrong.
func (c *serverClock) look() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
