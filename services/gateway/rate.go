package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	maxBuckets  = 100_000 // keys whose use is remembered
	evictSample = 32      // looked at to make room for another
)

// rates counts what keys take from the limits of the rules, in this gateway
// alone.
type rates struct {
	mu      sync.Mutex
	buckets map[rateKey]*bucket
	most    int

	refused   atomic.Int64
	shadowed  atomic.Int64 // would have been refused, but for the limit's `shadow`
	forgotten atomic.Int64 // buckets that made room though they were not full
}

type rateKey struct{ limit, key string }

func newRates() *rates { return &rates{buckets: map[rateKey]*bucket{}, most: maxBuckets} }

// take takes what an operation costs, or says why it may not have it.
func (r *rates) take(set *rules.Set, take rules.Take, key func(*rules.Limit) string, now time.Time) *wire.Error {
	if take.Limit == "" {
		return nil
	}
	limit := set.Limit(take.Limit)
	if limit == nil { // the reader of the rules refuses such a rule
		return nil
	}
	wait, ok := r.spend(set, limit, take.Cost, rateKey{limit.Name, key(limit)}, now)
	switch {
	case ok:
		return nil
	case limit.Shadow:
		r.shadowed.Add(1)
		return nil
	}
	r.refused.Add(1)
	return (&wire.Error{Code: wire.ResourceExhausted, Message: "the limit " + limit.Name + " is used up", RetryAfter: wait}).With("limit", limit.Name)
}

func (r *rates) spend(set *rules.Set, limit *rules.Limit, cost int, key rateKey, now time.Time) (wait time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.buckets[key]
	if b == nil {
		if len(r.buckets) >= r.most {
			r.evict(set, now)
		}
		b = &bucket{}
		r.buckets[key] = b
	}
	return b.take(limit, cost, now)
}

// evict makes room for one: it drops the full buckets among a few, which say
// nothing, else the one that was used least recently, a banned one last. The
// caller holds r.mu.
func (r *rates) evict(set *rules.Set, now time.Time) {
	var oldest rateKey
	var least *bucket
	seen, dropped := 0, false
	for key, b := range r.buckets {
		limit := set.Limit(key.limit)
		if limit == nil || b.full(limit, now) {
			delete(r.buckets, key)
			dropped = true
		} else if least == nil || b.sooner(least, now) {
			oldest, least = key, b
		}
		if seen++; seen == evictSample {
			break
		}
	}
	if !dropped {
		delete(r.buckets, oldest)
		r.forgotten.Add(1)
	}
}

func (r *rates) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.buckets)
}

// rateKeyOf returns whose bucket of a limit an operation of the connection takes
// from. name is what it is about: its topic, its method. A call gives no key, so
// `given` is the user's.
func (c *connection) rateKeyOf(limit *rules.Limit, name string) string {
	switch id := c.identity.Load(); {
	case limit.Key == rules.KeyConnection:
		return "c" + c.id
	case limit.Key == rules.KeyTopic:
		return "t" + name
	case limit.Key == rules.KeyAddress || id == nil || id.Anonymous:
		return "a" + LimitKey(c.address).String()
	default:
		return "u" + id.User
	}
}
