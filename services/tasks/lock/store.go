package lock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Store keeps entries under compare-and-set. Implementations pass testStore.
type Store interface {
	// Get returns what is newest under a key, [kv.ErrNotFound] where nothing is.
	Get(ctx context.Context, key string) (kv.Entry, error)
	// Put writes a key that has the revision it expects, [kv.ErrConflict] where it has
	// another. Every other error leaves it open whether it was stored. Revisions grow
	// over all keys, and never come back.
	Put(ctx context.Context, w kv.Write) (revision uint64, err error)
	// Watch calls hear with what is stored under a key from then on, in order and one
	// at a time, until stop is called. It may leave things out.
	Watch(key string, hear func(kv.Entry)) (stop func(), err error)
}

// bucket is the Store in JetStream.
type bucket struct {
	*kv.Bucket
	nc     *nats.Conn
	prefix string // of what is published again
}

func openBucket(nc *nats.Conn, ns wire.Namespace) bucket {
	return bucket{Bucket: kv.Open(nc, ns, kv.Locks(ns, 0).Name), nc: nc, prefix: ns.LockChanges("")}
}

// Watch subscribes to what JetStream publishes of a key. The subscription is on
// the server before anything that is written afterwards.
func (b bucket) Watch(key string, hear func(kv.Entry)) (stop func(), err error) {
	sub, err := b.nc.Subscribe(b.prefix+key, func(msg *nats.Msg) {
		if e, ok := kv.Republished(b.prefix, msg); ok {
			// It has whole milliseconds: nothing expires before its time.
			e.At = e.At.Add(time.Millisecond)
			hear(e)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("watch a lock: %w", err)
	}
	return func() {
		_ = sub.Unsubscribe() // it fails only where the connection is closed, and the subscription with it
	}, nil
}

// Memory is a Store in the memory of one process, which ends with it.
type Memory struct {
	*kv.Memory

	mu      sync.Mutex
	watches map[string]map[*watch]struct{} // guarded by mu, which is held while they hear
}

type watch struct{ hear func(kv.Entry) }

// NewMemory returns an empty store, whose entries are stored and end by now.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{Memory: kv.NewMemory(now, 0), watches: map[string]map[*watch]struct{}{}}
}

// Put is as [Store] says.
func (m *Memory) Put(ctx context.Context, w kv.Write) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	revision, err := m.Memory.Put(ctx, w)
	if err != nil || len(m.watches[w.Key]) == 0 {
		return revision, err
	}
	stored, err := m.Get(context.WithoutCancel(ctx), w.Key)
	if errors.Is(err, kv.ErrNotFound) {
		return revision, nil // it has ended
	}
	if err != nil {
		return revision, err
	}
	for one := range m.watches[w.Key] {
		one.hear(stored)
	}
	return revision, nil
}

// Watch is as [Store] says.
func (m *Memory) Watch(key string, hear func(kv.Entry)) (stop func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.watches[key] == nil {
		m.watches[key] = map[*watch]struct{}{}
	}
	one := &watch{hear}
	m.watches[key][one] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if delete(m.watches[key], one); len(m.watches[key]) == 0 {
			delete(m.watches, key)
		}
	}, nil
}
