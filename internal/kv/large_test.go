package kv

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// A write that NATS or the bucket never takes is told from one that may yet
// succeed, alone and among others.
func TestTooLarge(t *testing.T) {
	b, nc := bucket(t, natsdev.Test(t).ClientURL())
	check := func(what string, bytes int, limit int64) {
		t.Helper()
		small, large := Write{Key: "b", Value: []byte("1")}, Write{Key: "a", Value: make([]byte, bytes)}
		all := [][]Write{{large}, {small, large}}
		if limit > 0 { // of those before the last the server says nothing
			all = append(all, []Write{large, small})
		}
		for _, writes := range all {
			_, err := b.PutAll(t.Context(), writes)
			var large *TooLargeError
			if !errors.As(err, &large) || large.Limit != limit {
				t.Errorf("%s, among %d: %v", what, len(writes), err)
			}
		}
	}
	check("larger than a message", int(nc.MaxPayload())+1, nc.MaxPayload())
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), b.Stream())
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgSize = 1000
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	check("larger than the bucket takes", 2000, 0)
}
