package presence

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// replicaPrefix begins the keys of the replicas' own leases; no gateway's id
	// has a dot.
	replicaPrefix = "presence."
	replicaLease  = 10 * time.Second
	replicaRenew  = 2 * time.Second
)

// lease is a gateway's, as it stands in the bucket.
type lease struct {
	wire.GatewayLease
	epoch    uint64
	revision uint64
}

// renewal is the last that was seen of a gateway.
type renewal struct {
	lease
	at time.Time // by our clock
}

// defaultLease is that of gateways of which none was seen.
const defaultLease = 10 * time.Second

// leases tells which gateways live. The replica has a lease of its own beside
// theirs: by renewing it, it sees whether JetStream can be written at all.
type leases struct {
	store Store
	id    string
	now   func() time.Time

	mu       sync.Mutex
	view     *leaseView // guarded by mu, like all below; nil before the first is whole
	building *leaseView
	seen     map[string]renewal
	writable time.Time // since when every renewal of ours has succeeded; zero: the last did not
}

type leaseView struct {
	gateways map[string]lease
	replicas map[string]struct{}
}

func newLeases(store Store, id string, now func() time.Time) *leases {
	return &leases{store: store, id: id, now: now, seen: map[string]renewal{}}
}

// run follows the leases, and renews the replica's own, until ctx is done.
func (l *leases) run(ctx context.Context) {
	var renewing sync.WaitGroup
	renewing.Go(func() { l.renew(ctx) })
	defer renewing.Wait()
	l.store.Follow(ctx, func() func(kv.Entry) {
		l.mu.Lock()
		defer l.mu.Unlock()
		v := &leaseView{gateways: map[string]lease{}, replicas: map[string]struct{}{}}
		l.building = v
		return func(e kv.Entry) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.apply(v, e)
		}
	}, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.view = l.building
		for id := range l.seen { // only those whose sections may still be there are asked for
			if _, live := l.view.gateways[id]; !live && l.now().Sub(l.seen[id].at) > time.Hour {
				delete(l.seen, id)
			}
		}
	})
}

func (l *leases) apply(v *leaseView, e kv.Entry) {
	if id, ok := strings.CutPrefix(e.Key, replicaPrefix); ok {
		if e.Deleted {
			delete(v.replicas, id)
		} else {
			v.replicas[id] = struct{}{}
		}
		return
	}
	id, err := wire.UnescapeToken(e.Key)
	if err != nil {
		return
	}
	if e.Deleted {
		delete(v.gateways, id)
		return
	}
	held := lease{revision: e.Revision}
	if json.Unmarshal(e.Value, &held.GatewayLease) != nil {
		return
	}
	if held.epoch = held.Epoch; held.epoch == 0 {
		held.epoch = e.Revision
	}
	if l.view == nil || l.view.gateways[id].revision != held.revision {
		l.seen[id] = renewal{held, l.now()}
	}
	v.gateways[id] = held
}

func (l *leases) ready() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.view != nil
}

func (l *leases) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.view == nil {
		return 0
	}
	return len(l.view.gateways)
}

// of returns a gateway's lease, the last one if it is not live any more, and
// when it was last renewed; a gateway that was never seen to renew counts as
// having done so when it was first asked for.
func (l *leases) of(gateway string) (held lease, live bool, renewed time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.view == nil {
		return lease{}, true, l.now()
	}
	_, live = l.view.gateways[gateway]
	last, ok := l.seen[gateway]
	if !ok {
		last = renewal{lease{GatewayLease: wire.GatewayLease{LeaseMs: defaultLease.Milliseconds()}}, l.now()}
		l.seen[gateway] = last
	}
	return last.lease, live, last.at
}

// all returns every live lease.
func (l *leases) all() map[string]lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]lease{}
	if l.view != nil {
		for id, held := range l.view.gateways {
			out[id] = held
		}
	}
	return out
}

// writableFor returns how long JetStream has taken every write of ours.
func (l *leases) writableFor() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writable.IsZero() {
		return 0
	}
	return l.now().Sub(l.writable)
}

// mine reports whether this replica is the one that looks after a gateway: of
// those that live, that with the greatest hash.
func (l *leases) mine(gateway string) bool {
	weigh := func(replica string) uint64 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(replica + "\x00" + gateway)) // a hash takes everything
		return h.Sum64()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.view == nil {
		return false
	}
	ours := weigh(l.id)
	for id := range l.view.replicas {
		if id != l.id && weigh(id) > ours {
			return false
		}
	}
	return true
}

// renew keeps the replica's own lease until ctx is done.
func (l *leases) renew(ctx context.Context) {
	key := replicaPrefix + l.id
	for ctx.Err() == nil {
		bounded, cancel := context.WithTimeout(ctx, replicaRenew)
		_, err := l.store.Put(bounded, kv.Write{Key: key, Value: []byte("{}"), Expect: kv.AnyRevision, TTL: replicaLease})
		cancel()
		l.mu.Lock()
		switch {
		case err != nil:
			l.writable = time.Time{}
		case l.writable.IsZero():
			l.writable = l.now()
		}
		l.mu.Unlock()
		if clock.Sleep(ctx, replicaRenew) != nil {
			break
		}
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), replicaRenew)
	defer cancel()
	// Where it can't be written the lease ends by itself.
	_, _ = l.store.Put(bounded, kv.Write{Key: key, Expect: kv.AnyRevision, Delete: true})
}
