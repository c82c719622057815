package kv

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The bucket of limits leaves nothing of keys that end, lets a part of it be
// purged, and gives no revision twice.
func TestBucketWithoutMarkers(t *testing.T) {
	nc, err := bus.Connect(t.Context(), bus.Config{URL: natsdev.Test(t).ClientURL()}, bus.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Limits(1)
	for range 2 { // once it is made, once it is there
		if err := Ensure(t.Context(), js, wire.DefaultNamespace, cfg); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := js.Stream(t.Context(), "KV_fl_ratelimit")
	if err != nil {
		t.Fatal(err)
	}
	if have := stream.CachedInfo().Config; !have.AllowMsgTTL || !have.AllowAtomicPublish || have.SubjectDeleteMarkerTTL != 0 {
		t.Errorf("got %+v, want TTLs and atomic writes, and no markers", have)
	}
	b := Open(nc, wire.DefaultNamespace, cfg.Name)
	last := uint64(0)
	for _, key := range []string{"v1.a", "v1.b", "v2.a", "r.x"} {
		if last, err = b.Put(t.Context(), Write{Key: key, Value: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := b.PurgeKeys(t.Context(), "v1.>"); err != nil || n != 2 {
		t.Errorf("purged %d, %v, want 2", n, err)
	}
	for key, there := range map[string]bool{"v1.a": false, "v1.b": false, "v2.a": true, "r.x": true} {
		if _, err := b.Get(t.Context(), key); (err == nil) != there || err != nil && !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if revision, err := b.Put(t.Context(), Write{Key: "v1.a", Value: []byte("{}")}); err != nil || revision <= last {
		t.Errorf("after the purge: revision %d, %v, want above %d", revision, err, last)
	}
}
