package kv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// What ends is heard of when it ends, also where nobody asks the bucket anything.
func TestMemoryTellsOfEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(time.Now, MarkerTTL)
		ctx, stop := context.WithCancel(t.Context())
		heard := make(chan Entry, 16)
		followed := make(chan struct{})
		go func() {
			defer close(followed)
			m.Follow(ctx, func() func(Entry) { return func(e Entry) { heard <- e } }, func() {})
		}()
		began := time.Now()
		for key, ttl := range map[string]time.Duration{"later": time.Hour, "sooner": time.Minute} {
			if _, err := m.Put(ctx, Write{Key: key, Value: []byte("1"), TTL: ttl}); err != nil {
				t.Fatal(err)
			}
			<-heard
		}
		for _, want := range []struct {
			key string
			ttl time.Duration
		}{{"sooner", time.Minute}, {"later", time.Hour}} {
			e := <-heard
			if took := time.Since(began); e.Key != want.key || !e.Deleted || took < want.ttl || took > want.ttl+time.Second {
				t.Errorf("got %+v after %s, want the end of %s after %s", e, took, want.key, want.ttl)
			}
		}
		stop()
		<-followed
	})
}

// In a bucket without markers what ends leaves nothing; its revisions grow on.
func TestMemoryWithoutMarkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(time.Now, 0)
		first, err := m.Put(t.Context(), Write{Key: "a", Value: []byte("1"), TTL: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if e, err := m.Get(t.Context(), "a"); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %+v (%v), want nothing", e, err)
		}
		if got := m.Entries(); len(got) != 0 {
			t.Errorf("got %+v, want nothing", got)
		}
		again, err := m.Put(t.Context(), Write{Key: "a", Value: []byte("2")})
		if err != nil || again != first+1 {
			t.Errorf("got revision %d (%v), want %d", again, err, first+1)
		}
	})
}

// A walk over the keys has each that is there, and none that was deleted, also
// where it deletes them itself; it ends when it is told to.
func TestKeys(t *testing.T) {
	b, _ := bucket(t, natsdev.Test(t).ClientURL())
	type keyed interface {
		Put(context.Context, Write) (uint64, error)
		Keys(context.Context, func(string) bool) error
	}
	for name, b := range map[string]keyed{"memory": NewMemory(time.Now, MarkerTTL), "JetStream": b} {
		keys := func() (got []string) {
			t.Helper()
			if err := b.Keys(t.Context(), func(key string) bool { got = append(got, key); return true }); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			slices.Sort(got)
			return got
		}
		put := func(w Write) {
			t.Helper()
			w.Expect = AnyRevision
			if _, err := b.Put(t.Context(), w); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if got := keys(); len(got) != 0 {
			t.Errorf("%s: got %q of an empty bucket", name, got)
		}
		var want []string
		for i := range 600 { // more than wait for whoever walks
			want = append(want, fmt.Sprintf("k.%03d", i))
			put(Write{Key: want[i], Value: []byte("1")})
			put(Write{Key: want[i], Value: []byte("2")})
		}
		put(Write{Key: "gone", Value: []byte("1")})
		put(Write{Key: "gone", Delete: true})
		if got := keys(); !slices.Equal(got, want) {
			t.Errorf("%s: got %d keys, want %d", name, len(got), len(want))
		}
		seen := 0
		if err := b.Keys(t.Context(), func(string) bool { seen++; return seen < 3 }); err != nil || seen != 3 {
			t.Errorf("%s: stopped after %d of 3 (%v)", name, seen, err)
		}
		seen = 0
		err := b.Keys(t.Context(), func(key string) bool { seen++; put(Write{Key: key, Delete: true}); return true })
		if err != nil || seen != len(want) {
			t.Errorf("%s: deleted %d of %d (%v)", name, seen, len(want), err)
		}
		if got := keys(); len(got) != 0 {
			t.Errorf("%s: %d keys are left", name, len(got))
		}
		ended, stop := context.WithCancel(t.Context())
		stop()
		put(Write{Key: "one", Value: []byte("1")})
		if err := b.Keys(ended, func(string) bool { return true }); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v of a walk that nobody waits for", name, err)
		}
	}
}
