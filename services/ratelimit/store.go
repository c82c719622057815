package ratelimit

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Store is the bucket that the service keeps what keys have left in.
type Store interface {
	// Get returns what the leader has under a key, kv.ErrNotFound where nothing. An
	// entry that says that the key was deleted is returned too.
	Get(ctx context.Context, key string) (kv.Entry, error)
	// Put writes one key if it has the revision that the write expects, else
	// kv.ErrConflict. Any other error leaves open whether it was written. The
	// write's value is the caller's again when it returns.
	Put(ctx context.Context, w kv.Write) (revision uint64, err error)
	// PutAll writes several keys, all or none. Their revisions follow one
	// another, up to the one that is returned.
	PutAll(ctx context.Context, writes []kv.Write) (revision uint64, err error)
	// Purge removes everything.
	Purge(ctx context.Context) (purged int, err error)
	// Keys calls yield for every key that was there when it began and still is,
	// until yield returns false.
	Keys(ctx context.Context, yield func(key string) bool) error
}

// bucket is a Store in JetStream.
type bucket struct{ *kv.Bucket }

var (
	_ Store = bucket{}
	_ Store = (*memory)(nil)
)

// newStore returns the bucket of limits, which need not be there yet.
func newStore(nc *nats.Conn, ns wire.Namespace) Store {
	return bucket{kv.Open(nc, ns, kv.Limits(0).Name)}
}
