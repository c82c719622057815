package presence

import (
	"context"
	"log/slog"

	"github.com/fairlead-io/fairlead/internal/kv"
)

// Store is a bucket that the service keeps state in.
type Store interface {
	// Get returns what is stored under a key, kv.ErrNotFound where nothing. An
	// entry that says that the key was deleted is returned too.
	Get(ctx context.Context, key string) (kv.Entry, error)
	// Put writes one key if it has the revision that the write expects, else
	// kv.ErrConflict. Any other error leaves open whether it was written.
	Put(ctx context.Context, w kv.Write) (revision uint64, err error)
	// PutAll writes several keys, all or none. Their revisions follow one
	// another, up to the one that is returned.
	PutAll(ctx context.Context, writes []kv.Write) (revision uint64, err error)
	// Purge removes everything.
	Purge(ctx context.Context) (purged int, err error)
	// Follow calls begin for a view, what begin returned for every entry that is
	// there and for every change, in order, and ready when the view is whole; and
	// so again, whenever a view may have missed something, until ctx is done.
	Follow(ctx context.Context, begin func() func(kv.Entry), ready func())
}

// bucket is a Store in JetStream.
type bucket struct {
	*kv.Bucket            // what is read and written
	feed       *kv.Bucket // the same on the connection that views are fed by
	log        *slog.Logger
}

func (b bucket) Follow(ctx context.Context, begin func() func(kv.Entry), ready func()) {
	f := kv.Follower{Bucket: b.feed, Begin: begin, Ready: ready, Log: b.log}
	f.Run(ctx)
}
