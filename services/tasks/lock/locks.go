package lock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Config is what a replica's locks need.
type Config struct {
	// NATS writes the bucket and hears of its changes. It stays the caller's.
	NATS      *nats.Conn
	Namespace wire.Namespace
	Replicas  int          // of the bucket; 0 is 1
	ID        string       // of the replica; made up when empty
	Log       *slog.Logger // nil: nothing is logged
	// Store is where locks are kept; in JetStream when nil.
	Store Store
}

// Locks are the locks as one replica of the tasks service keeps them. Its methods
// may be called concurrently.
type Locks struct {
	cfg   Config
	store Store
	time  serverTime

	made     atomic.Bool  // the bucket is there
	failures atomic.Int64 // of the store, in a row
	used     atomic.Bool  // since the time was last looked at
	metrics  metrics

	mu       sync.Mutex
	cells    map[string]*cell // guarded by mu, with the next two
	stopping bool
	stopped  chan struct{} // closed once nobody may wait here any more
	tending  sync.WaitGroup
}

const (
	// patience bounds what one request does with the store.
	patience = 2 * time.Second
	// failuresToRest is after how many failures in a row the store is only asked
	// whether it is there again.
	failuresToRest = 2
	retryPause     = 250 * time.Millisecond
	bucketEvery    = 10 * time.Second
	// cellIdle is how long what is known of a lock is kept unused, and maxCells of how
	// many at most.
	cellIdle = 10 * time.Second
	maxCells = 1 << 16
)

// New returns the locks of a replica, which answer at once; [Locks.Run] makes the
// bucket and keeps the time.
func New(cfg Config) (*Locks, error) {
	if cfg.NATS == nil && cfg.Store == nil {
		return nil, errors.New("locks: neither a connection nor a store")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ID == "" {
		cfg.ID = nuid.Next()
	}
	l := &Locks{cfg: cfg, store: cfg.Store, cells: map[string]*cell{}, stopped: make(chan struct{})}
	if l.store == nil {
		l.store = openBucket(cfg.NATS, cfg.Namespace)
	} else {
		l.made.Store(true)
	}
	l.time.store, l.time.key = l.store, stampPrefix+wire.EscapeToken(cfg.ID)
	return l, nil
}

// Run keeps what the locks need until ctx is done. Then those who wait are
// answered UNAVAILABLE, so that they ask another replica, in which they have the
// same place; it returns when nobody waits any more. Renewals and releases are
// answered also after that.
func (l *Locks) Run(ctx context.Context) error {
	var work sync.WaitGroup
	if l.cfg.Store == nil {
		js, err := jetstream.New(l.cfg.NATS)
		if err != nil {
			return fmt.Errorf("locks: jetstream: %w", err)
		}
		work.Go(func() { l.make(ctx, js) })
	}
	work.Go(func() { l.keepTime(ctx) })
	work.Go(func() { l.sweep(ctx) })
	<-ctx.Done()
	l.mu.Lock()
	if !l.stopping {
		l.stopping = true
		close(l.stopped)
	}
	l.mu.Unlock()
	work.Wait()
	l.tending.Wait()
	return nil
}

// Ready returns nil where locks can be had here.
func (l *Locks) Ready() error {
	switch {
	case !l.made.Load():
		return errors.New("the bucket of locks is not there yet")
	case l.resting():
		return errors.New("the bucket of locks can't be written")
	}
	return nil
}

// resting reports whether the store failed so often that it is not asked.
func (l *Locks) resting() bool { return l.failures.Load() >= failuresToRest }

// make makes the bucket, as soon as JetStream lets it, and again should it be
// deleted.
func (l *Locks) make(ctx context.Context, js jetstream.JetStream) {
	said := ""
	for ctx.Err() == nil {
		pause := bucketEvery
		if err := kv.Ensure(ctx, js, l.cfg.Namespace, kv.Locks(l.cfg.Namespace, l.cfg.Replicas)); err == nil {
			l.made.Store(true)
			said = ""
		} else {
			pause = retryPause
			if err.Error() != said && ctx.Err() == nil {
				said = err.Error()
				l.cfg.Log.Warn("the bucket of locks is not there yet", "err", err)
			}
		}
		for waited := time.Duration(0); waited < pause; waited += retryPause {
			if clock.Sleep(ctx, retryPause) != nil || l.resting() {
				break
			}
		}
	}
}

// keepTime has the time looked at while locks are used, and looks whether a store
// that failed is there again.
func (l *Locks) keepTime(ctx context.Context) {
	last := time.Time{}
	for clock.Sleep(ctx, retryPause) == nil {
		failing := l.failures.Load() > 0
		if !failing && (time.Since(last) < stampEvery || !l.used.Swap(false)) {
			continue
		}
		last = time.Now()
		if err := l.stamp(ctx, last); err != nil && ctx.Err() == nil && !failing {
			l.cfg.Log.Warn("the bucket of locks does not answer", "err", err)
		}
	}
}

// stamp has the time looked at, unless it was since asked.
func (l *Locks) stamp(ctx context.Context, asked time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := l.time.stamp(ctx, asked)
	l.answered(err)
	return err
}

// answered notes whether the store answered.
func (l *Locks) answered(err error) {
	switch {
	case err == nil, errors.Is(err, kv.ErrConflict), errors.Is(err, kv.ErrNotFound):
		l.failures.Store(0)
	case errors.Is(err, context.Canceled):
	default:
		l.failures.Add(1)
	}
}

// sweep forgets locks that nobody asked for, for a while.
func (l *Locks) sweep(ctx context.Context) {
	for clock.Sleep(ctx, cellIdle/2) == nil {
		l.mu.Lock()
		for key, c := range l.cells {
			if c.users == 0 && time.Since(c.left) > cellIdle {
				delete(l.cells, key)
			}
		}
		l.mu.Unlock()
	}
}

// cell returns what is known of a lock. Whoever gets it calls leave.
func (l *Locks) cell(key string) *cell {
	l.used.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cells[key]
	if c == nil {
		c = newCell(key)
		l.cells[key] = c
	}
	c.users++
	return c
}

func (l *Locks) leave(c *cell) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.users--; c.users > 0 {
		return
	}
	c.left = time.Now()
	if len(l.cells) > maxCells {
		delete(l.cells, c.key)
	}
}
