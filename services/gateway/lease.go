package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// lease says that the gateway lives: one entry of a bucket, which expires unless
// it is renewed. It has a NATS connection of its own, so that nothing else the
// gateway does can delay it.
type lease struct {
	nc       *nats.Conn
	bucket   *kv.Bucket
	key      string
	length   time.Duration
	replicas int
	ns       wire.Namespace
	log      *slog.Logger
	// digests are those of what the gateway has stored.
	digests func() (presence, registry wire.PresenceDigest)
	// anew is called with the epoch when the lease was made anew: what was said
	// in another epoch counts no more.
	anew func(epoch uint64)
	kick chan struct{} // has an element when it is to be renewed at once

	mu       sync.Mutex
	epoch    uint64 // guarded by mu, like the two below; 0 before there is a lease
	revision uint64
	held     chan struct{} // closed when there is a lease
	made     bool          // the bucket is there; of run only

	halt, done chan struct{} // the first ends run, the second says that it has ended
}

func newLease(nc *nats.Conn, cfg *Config, id string, log *slog.Logger) *lease {
	return &lease{
		nc: nc, bucket: kv.Open(nc, cfg.Namespace, "gateways"), key: wire.EscapeToken(id), length: cfg.GatewayLease,
		replicas: cfg.Replicas, ns: cfg.Namespace, log: log, kick: make(chan struct{}, 1), held: make(chan struct{}),
		halt: make(chan struct{}), done: make(chan struct{}),
	}
}

// current returns the epoch of the lease, 0 while there is none.
func (l *lease) current() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// run keeps the lease until ctx is done, or final is called.
func (l *lease) run(ctx context.Context) {
	defer close(l.done)
	said := ""
	for ctx.Err() == nil {
		wait := l.length / 3
		if err := l.renew(ctx, false, l.length); err != nil && ctx.Err() == nil {
			wait = max(l.length/20, 50*time.Millisecond)
			if err.Error() != said {
				said = err.Error()
				l.log.Info("the gateway's lease can't be renewed", "err", err)
			}
		} else {
			said = ""
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-l.halt:
			timer.Stop()
			return
		case <-timer.C:
		case <-l.kick:
		}
		timer.Stop()
	}
}

// again renews the lease at once.
func (l *lease) again() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// renew makes the lease, or renews it. Only run and final call it, never both
// at a time.
func (l *lease) renew(ctx context.Context, last bool, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, max(l.length/3, time.Second))
	defer cancel()
	if !l.made {
		js, err := jetstream.New(l.nc)
		if err == nil {
			err = kv.Ensure(ctx, js, l.ns, kv.Gateways(l.replicas))
		}
		if err != nil {
			return err
		}
		l.made = true
	}
	l.mu.Lock()
	epoch, expect := l.epoch, l.revision
	l.mu.Unlock()
	for range 4 {
		said := wire.GatewayLease{Epoch: epoch, LeaseMs: l.length.Milliseconds(), Final: last}
		if expect == 0 {
			said.Epoch = 0
		}
		said.Presence, said.Registry = l.digests()
		value, err := json.Marshal(said)
		if err != nil {
			return fmt.Errorf("encode the lease: %w", err)
		}
		revision, err := l.bucket.Put(ctx, kv.Write{Key: l.key, Value: value, Expect: expect, TTL: ttl})
		if err == nil {
			l.hold(revision, said.Epoch)
			return nil
		}
		if !errors.Is(err, kv.ErrConflict) {
			l.made = false // the bucket may be gone
			return err
		}
		// It expired, or the answer to an earlier write was lost.
		e, err := l.bucket.Get(ctx, l.key)
		var have wire.GatewayLease
		switch {
		case errors.Is(err, kv.ErrNotFound):
			expect, epoch = 0, 0
		case err != nil:
			return err
		case e.Deleted || json.Unmarshal(e.Value, &have) != nil:
			if revision, err = l.bucket.Put(ctx, kv.Write{Key: l.key, Value: first(value), Expect: e.Revision, TTL: ttl}); err == nil {
				l.hold(revision, 0)
				return nil
			}
			if !errors.Is(err, kv.ErrConflict) {
				return err
			}
		default:
			expect, epoch = e.Revision, have.Epoch
			if epoch == 0 {
				epoch = e.Revision
			}
		}
	}
	return errors.New("somebody else writes the gateway's lease")
}

// first is a lease's value in the revision that makes it: without an epoch,
// since that is the revision.
func first(value []byte) []byte {
	var said wire.GatewayLease
	if json.Unmarshal(value, &said) != nil {
		return value
	}
	said.Epoch = 0
	if b, err := json.Marshal(said); err == nil {
		return b
	}
	return value
}

// hold notes what was written; epoch is 0 where it made the lease.
func (l *lease) hold(revision, epoch uint64) {
	if epoch == 0 {
		epoch = revision
	}
	l.mu.Lock()
	changed := l.epoch != epoch
	if l.epoch == 0 {
		close(l.held)
	}
	l.epoch, l.revision = epoch, revision
	l.mu.Unlock()
	if changed {
		l.anew(epoch)
	}
}

// final says that the gateway goes, and that whoever has not come back within
// ttl does not; with nobody left to come back there is no lease any more. It is
// called once.
func (l *lease) final(ctx context.Context, ttl time.Duration) {
	close(l.halt)
	<-l.done
	if l.current() == 0 || !l.nc.IsConnected() {
		return
	}
	if ttl == 0 {
		l.mu.Lock()
		expect := l.revision
		l.mu.Unlock()
		// Where it can't be written the lease runs out.
		_, _ = l.bucket.Put(ctx, kv.Write{Key: l.key, Expect: expect, Delete: true})
		return
	}
	if err := l.renew(ctx, true, max(ttl, time.Second)); err != nil {
		l.log.Info("the gateway's last word did not reach NATS", "err", err)
	}
}

// openLease makes the connection of the lease.
func (g *Service) openLease() error {
	cfg := g.deps.NATS
	cfg.Name = "fairlead-gateway-lease " + g.id
	nc, err := bus.Connect(g.connectContext, cfg, bus.Hooks{OnReconnect: func() {
		if l := g.leaseOf.Load(); l != nil {
			l.again() // it may have run out meanwhile
		}
	}})
	if err != nil {
		return err
	}
	l := newLease(nc, &g.cfg, g.id, g.log)
	l.digests, l.anew = g.roster.digests, g.anew
	g.lease = l
	g.leaseOf.Store(l)
	return nil
}

// anew has everything said again that was said in an earlier epoch.
func (g *Service) anew(epoch uint64) {
	g.log.Info("lease", "epoch", epoch)
	g.roster.repeat()
	g.reassertGroups()
	g.rooms.questionAll()
	g.cursors.refresh(true)
}
