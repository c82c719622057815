package rules

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	bucketName    = "config"
	bucketKey     = "rules"
	bucketHistory = 10 // earlier rules that `nats kv history` still shows

	requestTimeout = 5 * time.Second
)

// ErrNoRules is returned by [Load] where the bucket has none.
var ErrNoRules = errors.New("the bucket has no rules")

// Store is the bucket that holds the rules of a namespace.
type Store struct {
	JetStream jetstream.JetStream
	Namespace wire.Namespace
	Replicas  int // of the bucket when it has to be made; 0 is 1
}

// open returns the bucket, made if it is missing.
func (s Store) open(ctx context.Context) (jetstream.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	name := s.Namespace.Bucket(bucketName)
	kv, err := s.JetStream.KeyValue(ctx, name)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, s.wrap("open", err)
	}
	kv, err = s.JetStream.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:      name,
		Description: "Fairlead rules; `fairlead rules apply` replaces them",
		History:     bucketHistory,
		Replicas:    max(s.Replicas, 1),
	})
	if errors.Is(err, jetstream.ErrBucketExists) { // made by another process meanwhile
		kv, err = s.JetStream.KeyValue(ctx, name)
	}
	return kv, s.wrap("make", err)
}

func (s Store) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s bucket %s: %w", what, s.Namespace.Bucket(bucketName), err)
}

// Put replaces the rules of the bucket, whatever they are: the last writer
// wins. by says who does it. It returns the digest of the rules that were there,
// "" for none and "unreadable" for bad ones.
func (s Store) Put(ctx context.Context, set *Set, by string) (old string, err error) {
	kv, err := s.open(ctx)
	if err != nil {
		return "", err
	}
	old, _, err = s.digest(ctx, kv)
	if err != nil {
		return "", err
	}
	_, err = s.put(ctx, kv, set, by)
	return old, err
}

func (s Store) put(ctx context.Context, kv jetstream.KeyValue, set *Set, by string) (revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	revision, err = kv.Put(ctx, bucketKey, set.Stored(by, time.Now()))
	return revision, s.wrap("write to", err)
}

// create puts set where the bucket has no rules. Where it has: ErrKeyExists.
func (s Store) create(ctx context.Context, kv jetstream.KeyValue, set *Set, by string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := kv.Create(ctx, bucketKey, set.Stored(by, time.Now()))
	return s.wrap("write to", err)
}

// get returns the entry, nil where there is none.
func (s Store) get(ctx context.Context, kv jetstream.KeyValue) (jetstream.KeyValueEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	e, err := kv.Get(ctx, bucketKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	return e, s.wrap("read", err)
}

func (s Store) digest(ctx context.Context, kv jetstream.KeyValue) (digest string, e jetstream.KeyValueEntry, err error) {
	e, err = s.get(ctx, kv)
	if err != nil || e == nil {
		return "", e, err
	}
	// The mode matters only to what people put by hand with rights left out.
	set, err := ParseStored(e.Value(), Run)
	if err != nil {
		return "unreadable", e, nil
	}
	return set.Digest(), e, nil
}

// Load returns the rules of the bucket and their source as it is stored, or
// [ErrNoRules]. It makes nothing.
func (s Store) Load(ctx context.Context, mode Mode) (set *Set, source []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	kv, err := s.JetStream.KeyValue(ctx, s.Namespace.Bucket(bucketName))
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil, ErrNoRules
	}
	if err != nil {
		return nil, nil, s.wrap("open", err)
	}
	e, err := s.get(ctx, kv)
	if err != nil {
		return nil, nil, err
	}
	if e == nil {
		return nil, nil, ErrNoRules
	}
	set, err = ParseStored(e.Value(), mode)
	return set, e.Value(), err
}

// JetStreamOff reports whether err, from a request of nc, means that the server
// has no JetStream for us. A cluster that has lost its JetStream leader says so
// neither in its greeting nor by an error code: that is an outage.
func JetStreamOff(nc *nats.Conn, err error) bool {
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return true
	}
	if !errors.Is(err, nats.ErrNoResponders) || !nc.IsConnected() {
		return false
	}
	has, _ := nc.ConnectedServerJetStream()
	return !has
}
