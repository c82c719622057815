package kv

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// A bucket of an earlier release, made without per-message TTL, takes one, and
// keeps what it has: also the earlier values of a key.
func TestEnsureGivesAnEarlierBucketTimeToLive(t *testing.T) {
	nc, err := nats.Connect(natsdev.Test(t).ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	old, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "fl_config", History: 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"one", "two", "three"} {
		if _, err := old.PutString(t.Context(), "rules", value); err != nil {
			t.Fatal(err)
		}
	}
	bucket := Open(nc, "fl", Shared(1).Name)
	if _, err := bucket.Put(t.Context(), Write{Key: "revoked.ann", Expect: 0, TTL: time.Second}); err == nil {
		t.Fatal("it takes a TTL already: there is nothing to test")
	}
	shared := Shared(1)
	shared.MarkerTTL = time.Second // with a history no TTL of the bucket is shorter
	for range 2 {                  // the second time there is nothing to do
		if err := Ensure(t.Context(), js, "fl", shared); err != nil {
			t.Fatal(err)
		}
	}
	history, err := old.History(t.Context(), "rules")
	if err != nil || len(history) != 3 {
		t.Errorf("history of the rules: %d values, %v; want 3", len(history), err)
	}
	for i, value := range []string{`1`, `2`, `3`} { // three, so that the second has one below it
		e, err := bucket.Get(t.Context(), "revoked.ann")
		if err != nil && i > 0 {
			t.Fatal(err)
		}
		if _, err := bucket.Put(t.Context(), Write{Key: "revoked.ann", Value: []byte(value), Expect: e.Revision, TTL: time.Second}); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		e, err := bucket.Get(t.Context(), "revoked.ann")
		if err == nil && e.Deleted {
			break
		}
		if err != nil || string(e.Value) != "3" {
			t.Fatalf("got %s, %v; want 3 until it is gone", e.Value, err)
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it never ends")
		}
	}
	if e, err := old.Get(t.Context(), "rules"); err != nil || string(e.Value()) != "three" {
		t.Errorf("the rules: %v, %v", e, err)
	}
}

// A bucket of a single server, brought to a cluster, comes to be on as many as the
// others are, and no process with an older configuration takes that back.
func TestEnsureAddsReplicas(t *testing.T) {
	nc, err := nats.Connect(natsdev.Cluster(t, 3).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ asked, want int }{{1, 1}, {3, 3}, {1, 3}} {
		if err := Ensure(t.Context(), js, "fl", Presence("fl", step.asked)); err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), "KV_fl_presence")
		if err != nil {
			t.Fatal(err)
		}
		if got := stream.CachedInfo().Config.Replicas; got != step.want {
			t.Errorf("asked for %d: %d replicas, want %d", step.asked, got, step.want)
		}
	}
}
