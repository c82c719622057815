package lock

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
)

// errNoAnswer is an answer of the store that does not arrive.
var errNoAnswer = errors.New("no answer")

// flaky is a store as it is behind a bad network: some writes are stored and not
// acknowledged, some requests never arrive, some take a while, and some of what
// it publishes is not heard.
type flaky struct {
	Store
	often int          // one in so many; 0: never
	away  atomic.Bool  // nothing gets through
	lost  atomic.Int64 // answers of writes that were stored

	mu     sync.Mutex
	random *rand.Rand // guarded by mu
}

func newFlaky(store Store, often int, seed uint64) *flaky {
	return &flaky{Store: store, often: often, random: rand.New(rand.NewPCG(seed, 1))}
}

func (f *flaky) unlucky() (which int, unlucky bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.random.IntN(3), f.often > 0 && f.random.IntN(f.often) == 0
}

func (f *flaky) Put(ctx context.Context, w kv.Write) (uint64, error) {
	which, unlucky := f.unlucky()
	switch {
	case f.away.Load() || unlucky && which == 0:
		return 0, errNoAnswer
	case unlucky && which == 1:
		if _, err := f.Store.Put(ctx, w); err == nil {
			f.lost.Add(1)
		}
		return 0, errNoAnswer
	case unlucky:
		if err := clock.Sleep(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return f.Store.Put(ctx, w)
}

func (f *flaky) Get(ctx context.Context, key string) (kv.Entry, error) {
	if _, unlucky := f.unlucky(); f.away.Load() || unlucky {
		return kv.Entry{}, errNoAnswer
	}
	return f.Store.Get(ctx, key)
}

func (f *flaky) Watch(key string, hear func(kv.Entry)) (func(), error) {
	return f.Store.Watch(key, func(e kv.Entry) {
		if _, unlucky := f.unlucky(); !f.away.Load() && !unlucky {
			hear(e)
		}
	})
}

// naive is a store that reads and writes in place of comparing, as one would who
// believes that nobody comes between.
type naive struct{ Store }

func (n naive) Put(ctx context.Context, w kv.Write) (uint64, error) {
	e, err := n.Get(ctx, w.Key)
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return 0, err
	}
	if w.Expect != kv.AnyRevision && w.Expect != e.Revision {
		return 0, kv.ErrConflict
	}
	if err := clock.Sleep(ctx, time.Millisecond); err != nil {
		return 0, err
	}
	w.Expect = kv.AnyRevision
	return n.Store.Put(ctx, w)
}

// deafOnce is a store whose answer to the next write of a lock is lost.
type deafOnce struct {
	Store
	next atomic.Bool
	lost atomic.Int64
}

func (d *deafOnce) Put(ctx context.Context, w kv.Write) (uint64, error) {
	revision, err := d.Store.Put(ctx, w)
	if err == nil && w.Expect != kv.AnyRevision && d.next.CompareAndSwap(true, false) {
		d.lost.Add(1)
		return 0, errNoAnswer
	}
	return revision, err
}
