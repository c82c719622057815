package presence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
)

// storeView is what Follow told somebody.
type storeView struct {
	t     *testing.T
	ready chan struct{} // closed when the first view is whole
	done  chan struct{} // closed when Follow has returned
	stop  context.CancelFunc

	mu      sync.Mutex
	begun   int
	heard   []kv.Entry // of the view begun last
	present int        // of them came before the view was whole
	changed chan struct{}
}

// followStore follows a store until the test ends, and returns when the view is
// whole.
func followStore(t *testing.T, s Store) *storeView {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	v := &storeView{t: t, ready: make(chan struct{}), done: make(chan struct{}), stop: stop, changed: make(chan struct{})}
	go func() {
		defer close(v.done)
		s.Follow(ctx, v.begin, v.whole)
	}()
	t.Cleanup(v.end)
	select {
	case <-v.ready:
	case <-time.After(storePatience):
		t.Fatal("the view was never whole")
	}
	return v
}

func (v *storeView) end() {
	v.stop()
	select {
	case <-v.done:
	case <-time.After(storePatience):
		v.t.Error("Follow goes on after its context")
	}
}

func (v *storeView) begin() func(kv.Entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.begun++
	v.heard, v.present = nil, -1
	return func(e kv.Entry) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.heard = append(v.heard, e)
		close(v.changed)
		v.changed = make(chan struct{})
	}
}

func (v *storeView) whole() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.present = len(v.heard); v.begun == 1 {
		close(v.ready)
	}
}

// until waits until a revision of a key was heard.
func (v *storeView) until(key string, revision uint64) kv.Entry {
	v.t.Helper()
	deadline := time.After(storePatience)
	for {
		v.mu.Lock()
		changed := v.changed
		for _, e := range v.heard {
			if e.Key == key && e.Revision == revision {
				v.mu.Unlock()
				return e
			}
		}
		v.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			v.t.Fatalf("revision %d of %s was never heard; of it: %+v", revision, key, v.last(key))
		}
	}
}

// last returns what was heard of a key last.
func (v *storeView) last(key string) (last kv.Entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range v.heard {
		if e.Key == key {
			last = e
		}
	}
	return last
}

// entries returns what was heard of the keys under a prefix, and how much of it
// before the view was whole.
func (v *storeView) entries(prefix string) (heard []kv.Entry, present int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, e := range v.heard {
		if strings.HasPrefix(e.Key, prefix) {
			heard = append(heard, e)
			if i < v.present {
				present++
			}
		}
	}
	return heard, present
}

func lines(entries []kv.Entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%s=%s@%d deleted:%v\n", e.Key, e.Value, e.Revision, e.Deleted)
	}
	return b.String()
}

func testFollow(t *testing.T, s testedStore) {
	a := putOne(t, s, kv.Write{Key: "follow.a", Value: []byte("1")})
	b := putOne(t, s, kv.Write{Key: "follow.b", Value: []byte("1")})
	c := putOne(t, s, kv.Write{Key: "follow.c", Value: []byte("1")})
	a2 := putOne(t, s, kv.Write{Key: "follow.a", Value: []byte("2"), Expect: a})
	b2 := putOne(t, s, kv.Write{Key: "follow.b", Expect: b, Delete: true})
	v := followStore(t, s)
	d := putOne(t, s, kv.Write{Key: "follow.d", Value: []byte("1")})
	v.until("follow.d", d)
	c2 := putOne(t, s, kv.Write{Key: "follow.c", Expect: c, Delete: true})
	v.until("follow.c", c2)
	last, err := s.PutAll(t.Context(), []kv.Write{{Key: "follow.d", Value: []byte("2"), Expect: d}, {Key: "follow.e", Value: []byte("1")}})
	if err != nil {
		t.Fatal(err)
	}
	v.until("follow.e", last)

	got, present := v.entries("follow.")
	want := []kv.Entry{
		{Key: "follow.c", Value: []byte("1"), Revision: c},
		{Key: "follow.a", Value: []byte("2"), Revision: a2},
		{Key: "follow.b", Revision: b2, Deleted: true},
		{Key: "follow.d", Value: []byte("1"), Revision: d},
		{Key: "follow.c", Revision: c2, Deleted: true},
		{Key: "follow.d", Value: []byte("2"), Revision: last - 1},
		{Key: "follow.e", Value: []byte("1"), Revision: last},
	}
	if lines(got) != lines(want) || present != 3 {
		t.Errorf("got, %d of it before the view was whole:\n%swant, 3 of it:\n%s", present, lines(got), lines(want))
	}
	for _, e := range got {
		if e.At.IsZero() {
			t.Errorf("%s has no time", e.Key)
		}
	}
}

// However fast they come, each follower has every key's newest change, in order.
func testFollowers(t *testing.T, s testedStore) {
	const followers, writers, each = 3, 4, 50
	views := make([]*storeView, followers)
	for i := range views {
		views[i] = followStore(t, s)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	newest := map[string]uint64{}
	for i := range writers {
		all.Go(func() {
			key := fmt.Sprintf("many.%d", i)
			for n := range each {
				revision, err := s.Put(t.Context(), kv.Write{Key: key, Value: fmt.Append(nil, n), Expect: kv.AnyRevision})
				if err != nil {
					t.Errorf("put %s: %v", key, err)
					return
				}
				mu.Lock()
				newest[key] = revision
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for i, v := range views {
		for key, revision := range newest {
			v.until(key, revision)
		}
		heard, _ := v.entries("")
		for n := 1; n < len(heard); n++ {
			if heard[n].Revision <= heard[n-1].Revision {
				t.Errorf("follower %d: heard %d after %d", i, heard[n].Revision, heard[n-1].Revision)
			}
		}
	}
}

// emptyPatience bounds how long a cluster may take to have a purge everywhere.
const emptyPatience = 20 * time.Second

func testFollowEmpty(t *testing.T, s testedStore) {
	if _, err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The node of a cluster that feeds a follower may not have heard of the purge.
	v := followStore(t, s)
	for deadline := time.Now().Add(emptyPatience); ; v = followStore(t, s) {
		heard, _ := v.entries("")
		if len(heard) == 0 {
			break
		}
		v.end()
		if time.Now().After(deadline) {
			t.Fatalf("heard %s, want nothing", lines(heard))
		}
	}
	v.until("empty.first", putOne(t, s, kv.Write{Key: "empty.first", Value: []byte("1")}))
}

func testFollowEnds(t *testing.T, s testedStore) {
	v := followStore(t, s)
	v.end()
	before, _ := v.entries("")
	revision := putOne(t, s, kv.Write{Key: "ended", Value: []byte("1")})
	followStore(t, s).until("ended", revision) // somebody else has it
	if after, _ := v.entries(""); len(after) != len(before) {
		t.Errorf("heard %s after the end", lines(after[len(before):]))
	}
}

func testPurge(t *testing.T, s testedStore) {
	if _, err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	putOne(t, s, kv.Write{Key: "purge.a", Value: []byte("1")})
	putOne(t, s, kv.Write{Key: "purge.b", Value: []byte("1")})
	last := putOne(t, s, kv.Write{Key: "purge.c", Delete: true})
	if purged, err := s.Purge(t.Context()); err != nil || purged != 3 {
		t.Errorf("got %d (%v), want 3", purged, err)
	}
	for _, key := range []string{"purge.a", "purge.b", "purge.c"} {
		if e, err := s.Get(t.Context(), key); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("%s: got %+v (%v), want nothing", key, e, err)
		}
	}
	expectConflict(t, s, kv.Write{Key: "purge.c", Value: []byte("2"), Expect: last})
	if got := putOne(t, s, kv.Write{Key: "purge.a", Value: []byte("2")}); got != last+1 {
		t.Errorf("got revision %d, want %d: revisions go on", got, last+1)
	}
	if purged, err := s.Purge(t.Context()); err != nil || purged != 1 {
		t.Errorf("got %d (%v), want 1", purged, err)
	}
	if purged, err := s.Purge(t.Context()); err != nil || purged != 0 {
		t.Errorf("an empty bucket: got %d (%v), want 0", purged, err)
	}
}
