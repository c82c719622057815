package idem

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Slots is the bucket in which slots are kept. Each ends by itself: the bucket
// counts its time in whole seconds, rounded up, so that a slot is there for up to
// a second longer than was asked.
func Slots(replicas int) kv.Config {
	return kv.Config{Name: "dedupe", Description: "Work that is done once for a key", Replicas: replicas, NoMarkers: true}
}

// Bucket is a [Store] in a key-value bucket of JetStream.
type Bucket struct {
	bucket *kv.Bucket
	now    func() time.Time // only for how long others are told to wait
}

// NewBucket returns the store of the bucket [Slots], which is there by then.
func NewBucket(nc *nats.Conn, ns wire.Namespace) *Bucket {
	return &Bucket{bucket: kv.Open(nc, ns, Slots(0).Name), now: time.Now}
}

// name is a key as a bucket takes it: of any length and any characters.
func name(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// tries bounds how often it is looked again what is under a key.
const tries = 4

// gone is how long an entry is kept that says that its slot was removed.
const gone = time.Second

// Acquire is [Store.Acquire].
func (b *Bucket) Acquire(ctx context.Context, key string, want Want) (Found, error) {
	now := time.Time{}
	s := taken(want, now)
	value, err := s.encode()
	if err != nil {
		return Found{}, err
	}
	w := kv.Write{Key: name(key), Value: value, TTL: want.AcquireTTL}
	for range tries {
		_, err := b.bucket.Put(ctx, w)
		if err == nil {
			return Found{State: wire.SlotAcquired}, nil
		}
		if !errors.Is(err, kv.ErrConflict) {
			return Found{}, fmt.Errorf("acquire: %w", err)
		}
		there, e, err := b.look(ctx, key)
		if err != nil {
			return Found{}, fmt.Errorf("acquire: %w", err)
		}
		if there != nil {
			there.Expires = now.Add(max(e.At.Add(there.Acquire).Sub(b.now()), vanished))
			return there.found(want.Token, now), nil
		}
		w.Expect = e.Revision
	}
	return Found{State: wire.SlotPending, Left: vanished}, nil
}

// look returns the slot of a key, nil where there is none; the entry's revision is
// what the next write has to expect.
func (b *Bucket) look(ctx context.Context, key string) (*slot, kv.Entry, error) {
	e, err := b.bucket.Get(ctx, name(key))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, kv.Entry{}, nil
	}
	if err != nil || e.Deleted {
		return nil, e, err
	}
	s, err := decodeSlot(e.Value)
	if err != nil {
		return nil, e, err
	}
	return &s, e, nil
}

// change has write make something of the slot of a key, [ErrLost] where there is
// none.
func (b *Bucket) change(ctx context.Context, operation, key string, write func(*slot) (kv.Write, bool, error)) error {
	for range tries {
		s, e, err := b.look(ctx, key)
		if err != nil {
			return fmt.Errorf("%s: %w", operation, err)
		}
		if s == nil {
			return ErrLost
		}
		s.Expires = time.Time{}.Add(time.Hour) // it is there, so it is live
		w, done, err := write(s)
		if err != nil || done {
			return err
		}
		w.Key, w.Expect = name(key), e.Revision
		if _, err = b.bucket.Put(ctx, w); err == nil {
			return nil
		}
		if !errors.Is(err, kv.ErrConflict) {
			return fmt.Errorf("%s: %w", operation, err)
		}
	}
	return fmt.Errorf("%s: %w", operation, kv.ErrConflict)
}

// Commit is [Store.Commit].
func (b *Bucket) Commit(ctx context.Context, key, token string, result []byte) error {
	return b.change(ctx, "commit", key, func(s *slot) (w kv.Write, done bool, err error) {
		if done, err = s.commit(token, result, time.Time{}); err != nil || done {
			return w, done, err
		}
		w.TTL = s.TTL
		w.Value, err = s.encode()
		return w, false, err
	})
}

// Abort is [Store.Abort].
func (b *Bucket) Abort(ctx context.Context, key, token string) error {
	return b.change(ctx, "abort", key, func(s *slot) (kv.Write, bool, error) {
		return kv.Write{Delete: true, TTL: gone}, false, s.abortable(token, time.Time{})
	})
}

// Purge is [Store.Purge].
func (b *Bucket) Purge(ctx context.Context, key string) (int64, error) {
	err := b.change(ctx, "purge", key, func(*slot) (kv.Write, bool, error) {
		return kv.Write{Delete: true, TTL: gone}, false, nil
	})
	if errors.Is(err, ErrLost) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return 1, nil
}

// Clear is [Store.Clear]. What was removed a moment before may be counted too.
func (b *Bucket) Clear(ctx context.Context) (int64, error) {
	n, err := b.bucket.Purge(ctx)
	if err != nil {
		return 0, fmt.Errorf("clear: %w", err)
	}
	return int64(n), nil
}

// Clean has nothing to do: JetStream forgets what has expired.
func (b *Bucket) Clean(context.Context, int) (int64, error) { return 0, nil }
