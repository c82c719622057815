package kv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// bucket makes a bucket on a server of its own, republished under test.
func bucket(t *testing.T, url string) (*Bucket, *nats.Conn) {
	t.Helper()
	nc, err := bus.Connect(t.Context(), bus.Config{URL: url, Name: t.Name()}, bus.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Name: "test", Description: "for a test", Republish: "fl.test"}
	for range 2 { // again: it is there
		if err := Ensure(t.Context(), js, wire.DefaultNamespace, cfg); err != nil {
			t.Fatal(err)
		}
	}
	return Open(nc, wire.DefaultNamespace, "test"), nc
}

func put(t *testing.T, b *Bucket, w Write) uint64 {
	t.Helper()
	rev, err := b.Put(t.Context(), w)
	if err != nil {
		t.Fatalf("put %s: %v", w.Key, err)
	}
	return rev
}

func TestWritesAreCompared(t *testing.T) {
	b, _ := bucket(t, natsdev.Test(t).ClientURL())
	if _, err := b.Get(t.Context(), "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	first := put(t, b, Write{Key: "a", Value: []byte("1")})
	if _, err := b.Put(t.Context(), Write{Key: "a", Value: []byte("2")}); !errors.Is(err, ErrConflict) {
		t.Errorf("put where there is a key: got %v, want ErrConflict", err)
	}
	second := put(t, b, Write{Key: "a", Value: []byte("2"), Expect: first})
	if _, err := b.Put(t.Context(), Write{Key: "a", Expect: first, Delete: true}); !errors.Is(err, ErrConflict) {
		t.Errorf("delete of an older revision: got %v, want ErrConflict", err)
	}
	e, err := b.Get(t.Context(), "a")
	if err != nil || string(e.Value) != "2" || e.Revision != second || e.Deleted || e.At.IsZero() {
		t.Errorf("got %+v (%v), want 2 at %d", e, err, second)
	}
	gone := put(t, b, Write{Key: "a", Expect: second, Delete: true})
	if e, err = b.Get(t.Context(), "a"); err != nil || !e.Deleted || e.Revision != gone {
		t.Errorf("got %+v (%v), want deleted at %d", e, err, gone)
	}
	put(t, b, Write{Key: "a", Value: []byte("3"), Expect: gone})
	put(t, b, Write{Key: "a", Value: []byte("4"), Expect: AnyRevision})
}

func TestAtomicWrites(t *testing.T) {
	b, _ := bucket(t, natsdev.Test(t).ClientURL())
	rev, err := b.PutAll(t.Context(), []Write{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("1")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.PutAll(t.Context(), []Write{{Key: "a", Value: []byte("2"), Expect: rev - 1}, {Key: "b", Value: []byte("2"), Expect: 1000}}); !errors.Is(err, ErrConflict) {
		t.Errorf("got %v, want ErrConflict", err)
	}
	for _, key := range []string{"a", "b"} {
		if e, err := b.Get(t.Context(), key); err != nil || string(e.Value) != "1" {
			t.Errorf("%s: got %s (%v), want it unchanged", key, e.Value, err)
		}
	}
	// More at a time than a stream has room for.
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			if _, err := b.PutAll(t.Context(), []Write{{Key: fmt.Sprintf("x%d", i)}, {Key: fmt.Sprintf("y%d", i)}}); err != nil {
				t.Errorf("batch %d: %v", i, err)
			}
		})
	}
	all.Wait()
}

// view is what a follower has built.
type view struct {
	mu      sync.Mutex
	entries map[string]string
}

type watched struct {
	building *view
	ready    chan *view
	changed  chan Entry
}

func follow(t *testing.T, b *Bucket) *watched {
	t.Helper()
	w := &watched{ready: make(chan *view, 16), changed: make(chan Entry, 1024)}
	f := Follower{
		Bucket: b,
		Begin: func() func(Entry) {
			v := &view{entries: map[string]string{}}
			w.building = v
			return func(e Entry) {
				v.mu.Lock()
				defer v.mu.Unlock()
				if e.Deleted {
					delete(v.entries, e.Key)
				} else {
					v.entries[e.Key] = string(e.Value)
				}
				w.changed <- e
			}
		},
		Ready: func() { w.ready <- w.building },
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return w
}

func await[T any](t *testing.T, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("waited %s for %s", patience, what)
	}
	return v
}

func TestFollow(t *testing.T) {
	server := natsdev.Test(t)
	b, nc := bucket(t, server.ClientURL())
	heard := make(chan *nats.Msg, 16)
	if _, err := nc.ChanSubscribe("fl.test.>", heard); err != nil {
		t.Fatal(err)
	}
	w := follow(t, b)
	if v := await(t, "a view of the empty bucket", w.ready); len(v.entries) != 0 {
		t.Errorf("got %v, want nothing", v.entries)
	}
	rev := put(t, b, Write{Key: "a.b", Value: []byte("1")})
	if e := await(t, "a change", w.changed); e.Key != "a.b" || string(e.Value) != "1" || e.Revision != rev {
		t.Errorf("got %+v", e)
	}
	e, ok := Republished("fl.test.", await(t, "the republished change", heard))
	if !ok || e.Key != "a.b" || string(e.Value) != "1" || e.Revision != rev || e.Deleted {
		t.Errorf("republished: got %+v %v", e, ok)
	}
	if _, ok := Republished("fl.test.", &nats.Msg{Subject: "fl.test.a.b", Data: []byte("forged")}); ok {
		t.Error("a message that no stream sent was taken for an entry")
	}

	// What expires is a change too.
	rev = put(t, b, Write{Key: "short", Value: []byte("1"), TTL: 700 * time.Millisecond})
	await(t, "a change", w.changed)
	if e := await(t, "the end of the key", w.changed); e.Key != "short" || !e.Deleted || e.Revision <= rev {
		t.Errorf("got %+v, want the end of short", e)
	}
	await(t, "the republished change", heard)
	if e, ok := Republished("fl.test.", await(t, "the republished end", heard)); !ok || !e.Deleted || e.Key != "short" {
		t.Errorf("republished: got %+v %v, want the end of short", e, ok)
	}

	// After a restart of the server there is a new view.
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	v := await(t, "a view after the restart", w.ready)
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.entries) != 1 || v.entries["a.b"] != "1" {
		t.Errorf("after the restart: got %v", v.entries)
	}
}
