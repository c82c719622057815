package presence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// storePatience bounds every wait: it only runs out where a test fails.
const storePatience = 20 * time.Second

// testedStore is a store and what the contract needs to know of it.
type testedStore struct {
	Store
	// pass lets time pass that entries end by. JetStream's passes by itself.
	pass func(time.Duration)
	// markers is how long an entry stays that says that its key expired.
	markers time.Duration
}

// stores are the adapters that keep the contract.
var stores = map[string]func(t *testing.T) testedStore{
	"memory": func(*testing.T) testedStore {
		clock := newTestClock()
		return testedStore{Store: kv.NewMemory(clock.now, time.Second), pass: clock.pass, markers: time.Second}
	},
	"JetStream": func(t *testing.T) testedStore {
		return testedStore{Store: openBucket(t, natsdev.Test(t).ClientURL(), 1), pass: func(time.Duration) {}, markers: time.Second}
	},
	// Of a stream with replicas it is another place that knows of a conflict.
	"JetStream, three replicas": func(t *testing.T) testedStore {
		return testedStore{Store: openBucket(t, natsdev.Cluster(t, 3).URL(), 3), pass: func(time.Duration) {}, markers: time.Second}
	},
}

// openBucket makes a bucket as the service makes its own.
func openBucket(t *testing.T, url string, replicas int) Store {
	t.Helper()
	connect := func(name string) *kv.Bucket {
		nc, err := bus.Connect(t.Context(), bus.Config{URL: url, Name: name}, bus.Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		if name == "requests" {
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			cfg := kv.Config{Name: "contract", Replicas: replicas, MarkerTTL: time.Second}
			if err := kv.Ensure(t.Context(), js, wire.DefaultNamespace, cfg); err != nil {
				t.Fatal(err)
			}
		}
		return kv.Open(nc, wire.DefaultNamespace, "contract")
	}
	return bucket{Bucket: connect("requests"), feed: connect("feeds")}
}

// testClock stands still unless time is made to pass.
type testClock struct {
	mu sync.Mutex
	at time.Time
}

func newTestClock() *testClock { return &testClock{at: time.UnixMilli(1_800_000_000_000)} }

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *testClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func TestStore(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testStore(t, open(t))
		})
	}
}

// testStore is the contract of [Store]. The cases share a bucket: each has keys
// of its own.
func testStore(t *testing.T, s testedStore) {
	for _, c := range []struct {
		rule string
		test func(*testing.T, testedStore)
	}{
		{"a key that never was is not found", testNotFound},
		{"a write is what is read", testReadBack},
		{"revisions grow by one per write over the whole bucket", testRevisions},
		{"an expectation of 0 is met by no entry at all", testExpectNone},
		{"an expected revision is met by that one only", testExpectRevision},
		{"any revision is met by everything", testExpectAny},
		{"a delete leaves an entry that says so", testDelete},
		{"of concurrent writes with one expectation one is stored", testRace},
		{"PutAll writes all, one revision after the other", testPutAll},
		{"PutAll writes none where one expectation is not met", testPutAllConflict},
		{"PutAll deletes and sets times to live too", testPutAllMixed},
		{"a TTL is rounded up to whole seconds and ends in a deleted entry", testTTL},
		{"a write without a TTL takes it away", testTTLReplaced},
		{"the entry of a delete ends after its TTL and leaves nothing", testDeleteEnds},
		{"a call whose context is over fails without a verdict", testContext},
		{"Follow has all that is there in order, then every change", testFollow},
		{"several follow at once", testFollowers},
		{"Follow begins with nothing where nothing is", testFollowEmpty},
		{"Follow ends with its context", testFollowEnds},
		{"Purge removes everything and counts it", testPurge},
	} {
		t.Run(c.rule, func(t *testing.T) { c.test(t, s) })
	}
}

func putOne(t *testing.T, s Store, w kv.Write) uint64 {
	t.Helper()
	revision, err := s.Put(t.Context(), w)
	if err != nil {
		t.Fatalf("put %s: %v", w.Key, err)
	}
	return revision
}

// expectEntry checks what is read under a key; want "" stands for an entry that
// says that the key was deleted.
func expectEntry(t *testing.T, s Store, key, want string, revision uint64) {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil {
		t.Errorf("%s: %v, want %q at %d", key, err, want, revision)
		return
	}
	if e.Key != key || string(e.Value) != want || e.Deleted != (want == "") || e.Revision != revision || e.At.IsZero() {
		t.Errorf("%s: got %+v, want %q at %d", key, e, want, revision)
	}
}

func expectConflict(t *testing.T, s Store, w kv.Write) {
	t.Helper()
	if _, err := s.Put(t.Context(), w); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("put %+v: got %v, want a conflict", w, err)
	}
}

func testNotFound(t *testing.T, s testedStore) {
	if e, err := s.Get(t.Context(), "never.was"); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("got %+v (%v), want ErrNotFound", e, err)
	}
}

func testReadBack(t *testing.T, s testedStore) {
	value := []byte("value \x00\xff")
	revision := putOne(t, s, kv.Write{Key: "read.back", Value: value})
	value[0] = 'X' // the writer may use its bytes again
	expectEntry(t, s, "read.back", "value \x00\xff", revision)
	e, err := s.Get(t.Context(), "read.back")
	if err != nil {
		t.Fatal(err)
	}
	e.Value[0] = 'X' // and so may the reader
	expectEntry(t, s, "read.back", "value \x00\xff", revision)
	revision = putOne(t, s, kv.Write{Key: "read.nothing"})
	if e, err := s.Get(t.Context(), "read.nothing"); err != nil || len(e.Value) != 0 || e.Deleted || e.Revision != revision {
		t.Errorf("an empty value: got %+v (%v), want it at %d", e, err, revision)
	}
}

func testRevisions(t *testing.T, s testedStore) {
	last := putOne(t, s, kv.Write{Key: "rev.a", Value: []byte("1")})
	for i, w := range []kv.Write{
		{Key: "rev.b", Value: []byte("1")},
		{Key: "rev.a", Value: []byte("2"), Expect: kv.AnyRevision},
		{Key: "rev.b", Expect: kv.AnyRevision, Delete: true},
		{Key: "rev.b", Expect: kv.AnyRevision, Delete: true}, // a delete is a write, whatever is there
	} {
		expectConflict(t, s, kv.Write{Key: "rev.a", Value: []byte("no")}) // takes no revision
		got := putOne(t, s, w)
		if got != last+1 {
			t.Errorf("write %d: got revision %d, want %d", i, got, last+1)
		}
		last = got
	}
}

func testExpectNone(t *testing.T, s testedStore) {
	revision := putOne(t, s, kv.Write{Key: "none", Value: []byte("1")})
	expectConflict(t, s, kv.Write{Key: "none", Value: []byte("2")})
	expectEntry(t, s, "none", "1", revision)
	revision = putOne(t, s, kv.Write{Key: "none", Expect: revision, Delete: true})
	expectConflict(t, s, kv.Write{Key: "none", Value: []byte("2")})
	expectEntry(t, s, "none", "", revision)
	revision = putOne(t, s, kv.Write{Key: "none", Value: []byte("3"), Expect: revision})
	expectEntry(t, s, "none", "3", revision)
}

func testExpectRevision(t *testing.T, s testedStore) {
	other := putOne(t, s, kv.Write{Key: "expect.other", Value: []byte("1")})
	expectConflict(t, s, kv.Write{Key: "expect", Value: []byte("1"), Expect: other})
	first := putOne(t, s, kv.Write{Key: "expect", Value: []byte("1")})
	second := putOne(t, s, kv.Write{Key: "expect", Value: []byte("2"), Expect: first})
	for _, expect := range []uint64{first, other, second + 1, second + 1000} {
		expectConflict(t, s, kv.Write{Key: "expect", Value: []byte("3"), Expect: expect})
		expectConflict(t, s, kv.Write{Key: "expect", Expect: expect, Delete: true})
	}
	expectEntry(t, s, "expect", "2", second)
}

func testExpectAny(t *testing.T, s testedStore) {
	any := func(value string) kv.Write {
		return kv.Write{Key: "any", Value: []byte(value), Expect: kv.AnyRevision, Delete: value == ""}
	}
	for _, value := range []string{"1", "2", "", "3"} {
		expectEntry(t, s, "any", value, putOne(t, s, any(value)))
	}
}

func testDelete(t *testing.T, s testedStore) {
	revision := putOne(t, s, kv.Write{Key: "delete", Value: []byte("1")})
	revision = putOne(t, s, kv.Write{Key: "delete", Value: []byte("is not stored"), Expect: revision, Delete: true})
	expectEntry(t, s, "delete", "", revision)
	// Also where nothing is.
	expectEntry(t, s, "delete.nothing", "", putOne(t, s, kv.Write{Key: "delete.nothing", Delete: true}))
}

func testRace(t *testing.T, s testedStore) {
	const rounds, writers = 20, 8
	revision := putOne(t, s, kv.Write{Key: "race", Value: []byte("start")})
	for round := range rounds {
		var all sync.WaitGroup
		stored := make(chan uint64, writers)
		for i := range writers {
			all.Go(func() {
				got, err := s.Put(t.Context(), kv.Write{Key: "race", Value: fmt.Appendf(nil, "%d.%d", round, i), Expect: revision})
				switch {
				case err == nil:
					stored <- got
				case !errors.Is(err, kv.ErrConflict):
					t.Errorf("writer %d: got %v, want a conflict", i, err)
				}
			})
		}
		all.Wait()
		if len(stored) != 1 {
			t.Fatalf("round %d: %d of %d writers were told that they wrote, want 1", round, len(stored), writers)
		}
		revision = <-stored
	}
	if e, err := s.Get(t.Context(), "race"); err != nil || e.Revision != revision {
		t.Errorf("got %+v (%v), want revision %d", e, err, revision)
	}
}

func testPutAll(t *testing.T, s testedStore) {
	before := putOne(t, s, kv.Write{Key: "all.b", Value: []byte("before")})
	last, err := s.PutAll(t.Context(), []kv.Write{
		{Key: "all.a", Value: []byte("a")},
		{Key: "all.b", Value: []byte("b"), Expect: before},
		{Key: "all.c", Value: []byte("c"), Expect: kv.AnyRevision},
	})
	if err != nil {
		t.Fatal(err)
	}
	if last != before+3 {
		t.Errorf("got revision %d, want %d", last, before+3)
	}
	for i, key := range []string{"a", "b", "c"} {
		expectEntry(t, s, "all."+key, key, before+1+uint64(i))
	}
	one, err := s.PutAll(t.Context(), []kv.Write{{Key: "all.d", Value: []byte("d")}})
	if err != nil || one != last+1 {
		t.Errorf("a single write: got revision %d (%v), want %d", one, err, last+1)
	}
}

func testPutAllConflict(t *testing.T, s testedStore) {
	a := putOne(t, s, kv.Write{Key: "some.a", Value: []byte("1")})
	b := putOne(t, s, kv.Write{Key: "some.b", Value: []byte("1")})
	for _, writes := range [][]kv.Write{
		{{Key: "some.a", Value: []byte("2"), Expect: b}, {Key: "some.b", Value: []byte("2"), Expect: b}},
		{{Key: "some.a", Value: []byte("2"), Expect: a}, {Key: "some.b", Value: []byte("2"), Expect: a}},
		{{Key: "some.a", Expect: a, Delete: true}, {Key: "some.b", Value: []byte("2")}},
		{{Key: "some.new", Value: []byte("2")}, {Key: "some.b", Expect: 0, Delete: true}},
		{{Key: "some.new", Value: []byte("2"), Expect: a}, {Key: "some.newer", Value: []byte("2")}},
	} {
		if _, err := s.PutAll(t.Context(), writes); !errors.Is(err, kv.ErrConflict) {
			t.Errorf("%+v: got %v, want a conflict", writes, err)
		}
	}
	expectEntry(t, s, "some.a", "1", a)
	expectEntry(t, s, "some.b", "1", b)
	for _, key := range []string{"some.new", "some.newer"} {
		if e, err := s.Get(t.Context(), key); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("%s: got %+v (%v), want nothing", key, e, err)
		}
	}
	if got := putOne(t, s, kv.Write{Key: "some.a", Value: []byte("3"), Expect: a}); got != b+1 {
		t.Errorf("got revision %d, want %d: what was not written has none", got, b+1)
	}
}

func testPutAllMixed(t *testing.T, s testedStore) {
	gone := putOne(t, s, kv.Write{Key: "mixed.gone", Value: []byte("1")})
	last, err := s.PutAll(t.Context(), []kv.Write{
		{Key: "mixed.stays", Value: []byte("1")},
		{Key: "mixed.gone", Expect: gone, Delete: true},
		{Key: "mixed.ends", Value: []byte("1"), TTL: time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	expectEntry(t, s, "mixed.gone", "", last-1)
	awaitEntry(t, s, "mixed.ends", func(e kv.Entry, err error) bool { return err != nil || e.Deleted })
	expectEntry(t, s, "mixed.stays", "1", last-2)
}

// awaitEntry waits until what is read under a key is as it should be.
func awaitEntry(t *testing.T, s testedStore, key string, ok func(kv.Entry, error) bool) (e kv.Entry, err error) {
	t.Helper()
	deadline := time.After(storePatience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if e, err = s.Get(t.Context(), key); ok(e, err) {
			return e, err
		}
		select {
		case <-tick.C:
			s.pass(50 * time.Millisecond)
		case <-deadline:
			t.Fatalf("%s: still %+v (%v)", key, e, err)
		}
	}
}

func testTTL(t *testing.T, s testedStore) {
	w := followStore(t, s)
	revision := putOne(t, s, kv.Write{Key: "ttl", Value: []byte("1"), TTL: 1001 * time.Millisecond})
	put := w.until("ttl", revision)
	other := putOne(t, s, kv.Write{Key: "ttl.other", Value: []byte("1")})
	e, err := awaitEntry(t, s, "ttl", func(e kv.Entry, err error) bool { return err != nil || e.Deleted })
	if err != nil || len(e.Value) != 0 || e.Revision <= other {
		t.Fatalf("got %+v (%v), want a deleted entry above %d", e, err, other)
	}
	if lived := e.At.Sub(put.At); lived < 2*time.Second {
		t.Errorf("it lived for %s, want 2s at least", lived)
	}
	if end := w.until("ttl", e.Revision); !end.Deleted || len(end.Value) != 0 {
		t.Errorf("the change: got %+v, want one that says that the key is gone", end)
	}
	// It takes the place of a value: what expects none is refused, and then it
	// goes too.
	expectConflict(t, s, kv.Write{Key: "ttl", Value: []byte("2")})
	if _, err := awaitEntry(t, s, "ttl", func(_ kv.Entry, err error) bool { return err != nil }); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	expectEntry(t, s, "ttl", "2", putOne(t, s, kv.Write{Key: "ttl", Value: []byte("2")}))
}

func testTTLReplaced(t *testing.T, s testedStore) {
	revision := putOne(t, s, kv.Write{Key: "replaced", Value: []byte("1"), TTL: time.Second})
	later := putOne(t, s, kv.Write{Key: "replaced.later", Value: []byte("1"), TTL: 2 * time.Second})
	revision = putOne(t, s, kv.Write{Key: "replaced", Value: []byte("2"), Expect: revision})
	awaitEntry(t, s, "replaced.later", func(e kv.Entry, err error) bool { return err != nil || e.Revision > later })
	expectEntry(t, s, "replaced", "2", revision)
}

func testDeleteEnds(t *testing.T, s testedStore) {
	w := followStore(t, s)
	revision := putOne(t, s, kv.Write{Key: "ends", Value: []byte("1")})
	deleted := putOne(t, s, kv.Write{Key: "ends", Expect: revision, Delete: true, TTL: time.Second})
	w.until("ends", deleted)
	e, err := awaitEntry(t, s, "ends", func(e kv.Entry, err error) bool { return err != nil || e.Revision != deleted })
	if !errors.Is(err, kv.ErrNotFound) {
		t.Fatalf("got %+v (%v), want nothing", e, err)
	}
	// Nothing more is heard of it: the next change is another key's.
	next := putOne(t, s, kv.Write{Key: "ends.next", Value: []byte("1")})
	if w.until("ends.next", next); w.last("ends").Revision != deleted {
		t.Errorf("heard %+v after the delete at %d", w.last("ends"), deleted)
	}
	expectEntry(t, s, "ends", "2", putOne(t, s, kv.Write{Key: "ends", Value: []byte("2")}))
}

func testContext(t *testing.T, s testedStore) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(over, "context")
	_, putErr := s.Put(over, kv.Write{Key: "context", Value: []byte("1")})
	for what, err := range map[string]error{"get": getErr, "put": putErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want %v", what, err, context.Canceled)
		}
	}
}
