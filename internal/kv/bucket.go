// Package kv works with JetStream key-value buckets where the client library
// leaves something out: a compare-and-set with a time to live, several keys in
// one atomic write, reads that only the leader answers, and a view of a whole
// bucket that says when it is complete and is built anew where it may have
// missed something.
package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// MarkerTTL is how long the bucket remembers that a key expired or was deleted.
// A view that heard nothing for longer may have missed it.
const MarkerTTL = 10 * time.Minute

const requestTimeout = 5 * time.Second

// Config says what a bucket is.
type Config struct {
	Name        string // such as presence: the namespace is put before it
	Description string
	Replicas    int // 0 is 1
	// Republish is the subject under which every change is published again,
	// with the key behind it; "" for none.
	Republish string
	MarkerTTL time.Duration // [MarkerTTL] when 0
	// NoMarkers has keys end without a trace: for a bucket of which nobody keeps
	// a view.
	NoMarkers bool
	History   int // values of a key that are kept; 0 is 1
}

// Bucket is a key-value bucket. Its methods may be called concurrently.
type Bucket struct {
	nc      *nats.Conn
	stream  string
	subject string // of a key, up to the key
	atomics chan struct{}
}

// Open returns a bucket, which need not be there yet.
func Open(nc *nats.Conn, ns wire.Namespace, name string) *Bucket {
	bucket := ns.Bucket(name)
	return &Bucket{nc: nc, stream: "KV_" + bucket, subject: "$KV." + bucket + ".", atomics: make(chan struct{}, atomicsAtOnce)}
}

// Ensure makes a bucket where it is missing, and gives one that is there what
// Fairlead needs of it; whatever else an operator changed stays.
func Ensure(ctx context.Context, js jetstream.JetStream, ns wire.Namespace, cfg Config) error {
	want := cfg.stream(ns)
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err = js.CreateStream(ctx, want); err == nil {
			return nil
		}
		// Another process may have made it meanwhile.
		if stream, _ = js.Stream(ctx, want.Name); stream == nil {
			return fmt.Errorf("make bucket %s: %w", want.Name, err)
		}
	} else if err != nil {
		return fmt.Errorf("look for bucket %s: %w", want.Name, err)
	}
	have := stream.CachedInfo().Config
	if have.Replicas < want.Replicas { // more servers than when it was made, or a copy of a single one's
		more := have
		more.Replicas = want.Replicas
		if _, err := js.UpdateStream(ctx, more); err == nil {
			have = more
		} // else too few servers are there now: it works as it is, and whoever starts next tries again
	}
	if have.AllowMsgTTL && have.AllowAtomicPublish && have.SubjectDeleteMarkerTTL >= want.SubjectDeleteMarkerTTL && have.AllowDirect == want.AllowDirect &&
		(want.RePublish == nil || have.RePublish != nil && *have.RePublish == *want.RePublish) {
		return nil
	}
	have.AllowMsgTTL, have.AllowAtomicPublish, have.AllowDirect = true, true, want.AllowDirect
	have.SubjectDeleteMarkerTTL = max(have.SubjectDeleteMarkerTTL, want.SubjectDeleteMarkerTTL)
	if want.RePublish != nil {
		have.RePublish = want.RePublish
	}
	if _, err := js.UpdateStream(ctx, have); err != nil {
		return fmt.Errorf("change bucket %s: %w", want.Name, err)
	}
	return nil
}

// stream is the stream behind the bucket, as key-value clients expect it.
func (c Config) stream(ns wire.Namespace) jetstream.StreamConfig {
	bucket := ns.Bucket(c.Name)
	markers := c.MarkerTTL
	switch {
	case c.NoMarkers:
		markers = 0
	case markers == 0:
		markers = MarkerTTL
	}
	cfg := jetstream.StreamConfig{
		Name: "KV_" + bucket, Description: c.Description, Subjects: []string{"$KV." + bucket + ".>"},
		Storage: jetstream.FileStorage, Replicas: max(c.Replicas, 1), Discard: jetstream.DiscardNew,
		MaxMsgsPerSubject: max(int64(c.History), 1), MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: -1, MaxConsumers: -1,
		Duplicates: 2 * time.Minute, AllowRollup: true, DenyDelete: true, AllowDirect: true,
		AllowMsgTTL: true, SubjectDeleteMarkerTTL: markers, AllowAtomicPublish: true,
	}
	if c.Republish != "" {
		cfg.RePublish = &jetstream.RePublish{Source: "$KV." + bucket + ".>", Destination: c.Republish + ".>"}
	}
	return cfg
}

// Stream is the name of the stream behind the bucket.
func (b *Bucket) Stream() string { return b.stream }
