package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const testToken = "a token of a test, long enough"

// counted counts what is asked of a store.
type counted struct {
	Store
	reads, writes atomic.Int64
	beforePut     func() // called once, before the next write
}

func (c *counted) Get(ctx context.Context, key string) (kv.Entry, error) {
	c.reads.Add(1)
	return c.Store.Get(ctx, key)
}

func (c *counted) Put(ctx context.Context, w kv.Write) (uint64, error) {
	c.writes.Add(1)
	if fn := c.beforePut; fn != nil {
		c.beforePut = nil
		fn()
	}
	return c.Store.Put(ctx, w)
}

// broken is a store that is away.
type broken struct{ Store }

var errAway = errors.New("nats: no servers, and $KV.fl_sessions.secret is a subject")

func (broken) Get(context.Context, string) (kv.Entry, error)         { return kv.Entry{}, errAway }
func (broken) Put(context.Context, kv.Write) (uint64, error)         { return 0, errAway }
func (broken) PutAll(context.Context, []kv.Write) (uint64, error)    { return 0, errAway }
func (broken) Purge(context.Context) (int, error)                    { return 0, errAway }
func (broken) Follow(context.Context, func() func(kv.Entry), func()) {}

type sessionTest struct {
	*sessions
	t     *testing.T
	store *counted
	clock *testClock
}

func newSessionTest(t *testing.T) *sessionTest {
	clock := newTestClock()
	store := &counted{Store: newMemory(clock.now)}
	return &sessionTest{sessions: newSessions(store, clock.now), t: t, store: store, clock: clock}
}

func (s *sessionTest) mustSet(data, ttl string) {
	s.t.Helper()
	req := wire.SessionRequest{Token: testToken, Data: json.RawMessage(data), TTL: ttl}
	if _, err := s.set(s.t.Context(), req); err != nil {
		s.t.Fatalf("set %s: %v", data, err)
	}
}

// expect checks what `get` answers; "" is NOT_FOUND.
func (s *sessionTest) expect(want string, keep bool) {
	s.t.Helper()
	got, err := s.get(s.t.Context(), wire.SessionRequest{Token: testToken, Keep: keep})
	switch {
	case want == "" && !errors.Is(err, wire.ErrNotFound):
		s.t.Errorf("got %s (%v), want NOT_FOUND", got.Data, err)
	case want != "" && (err != nil || string(got.Data) != want):
		s.t.Errorf("got %s (%v), want %s", got.Data, err, want)
	}
}

func (s *sessionTest) expectOK(what string, do func(context.Context, wire.SessionRequest) (wire.SessionOK, error), want bool) {
	s.t.Helper()
	if got, err := do(s.t.Context(), wire.SessionRequest{Token: testToken}); err != nil || got.OK != want {
		s.t.Errorf("%s: got %v (%v), want %v", what, got.OK, err, want)
	}
}

// cost returns the reads and writes that an operation needs.
func (s *sessionTest) cost(do func()) (reads, writes int64) {
	reads, writes = s.store.reads.Load(), s.store.writes.Load()
	do()
	return s.store.reads.Load() - reads, s.store.writes.Load() - writes
}

func TestSessionIsWhatWasSet(t *testing.T) {
	s := newSessionTest(t)
	s.expect("", false)
	for _, data := range []string{`{"user":"ann"}`, `null`, `"x"`, `[1, 2,  3]`, "{\"a\" :\n1.50, \"a\": 2, \"<&>\": \"\\u003c\u2028\"}", `{}`} {
		s.mustSet(data, "")
		s.expect(data, false) // replaced, not merged, and byte for byte
	}
	s.expectOK("touch", s.touch, true)
	s.expect(`{}`, true)
	s.expectOK("delete", s.delete, true)
	s.expectOK("delete again", s.delete, false)
	s.expectOK("touch of nothing", s.touch, false)
	s.expect("", false)
	s.mustSet(`1`, "")
	s.expect(`1`, false)
}

func TestSessionReplyKeepsTheBytes(t *testing.T) {
	const data = "{ \"a\" :  1.0,\n \"b\":\"<\" }"
	if got, want := string(wire.SessionData{Data: json.RawMessage(data)}.AppendJSON(nil)), `{"data":`+data+`}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := string(wire.SessionData{}.AppendJSON(nil)); got != `{"data":null}` {
		t.Errorf("without data: got %s", got)
	}
}

func TestSessionSlides(t *testing.T) {
	s := newSessionTest(t)
	s.mustSet(`1`, "2s")
	for range 10 {
		s.clock.pass(time.Second)
		s.expect(`1`, false)
	}
	s.clock.pass(2*time.Second - time.Millisecond)
	s.expect(`1`, true) // still there, and not refreshed
	s.clock.pass(time.Millisecond)
	s.expect("", true)
	s.expectOK("touch of an expired session", s.touch, false)
	s.expectOK("delete of an expired session", s.delete, false)
}

// The bucket keeps an entry for whole seconds; a session ends to the
// millisecond.
func TestSessionEndsExactly(t *testing.T) {
	for _, ttl := range []time.Duration{time.Second, 1500 * time.Millisecond, 24 * time.Hour, 720 * time.Hour} {
		s := newSessionTest(t)
		s.mustSet(`1`, ttl.String())
		s.clock.pass(ttl - time.Millisecond)
		s.expect(`1`, true)
		s.clock.pass(time.Millisecond)
		s.expect("", true)
	}
}

func TestSessionTTL(t *testing.T) {
	s := newSessionTest(t)
	s.mustSet(`1`, "")
	s.clock.pass(24*time.Hour - time.Millisecond)
	s.expect(`1`, true)
	// touch keeps the TTL, or gives another one, which `get` then keeps.
	s.expectOK("touch", s.touch, true)
	s.clock.pass(24*time.Hour - time.Millisecond)
	s.expect(`1`, true)
	if got, err := s.touch(t.Context(), wire.SessionRequest{Token: testToken, TTL: "3s"}); err != nil || !got.OK {
		t.Fatalf("touch with a TTL: %v (%v)", got, err)
	}
	for range 3 {
		s.clock.pass(2 * time.Second)
		s.expect(`1`, false)
	}
	s.clock.pass(3 * time.Second)
	s.expect("", false)
}

// Whoever was told of a session has it for nine tenths of its TTL, however
// often others were told of it before.
func TestSessionLivesNineTenthsAfterAGet(t *testing.T) {
	for _, ttl := range []time.Duration{time.Second, 10 * time.Second, 5 * time.Minute, 24 * time.Hour} {
		for _, step := range []time.Duration{time.Millisecond, ttl / 11, ttl/10 - time.Millisecond, ttl / 10, ttl / 3, time.Minute - 1, time.Minute} {
			if step >= ttl || step == 0 {
				continue
			}
			s := newSessionTest(t)
			s.mustSet(`1`, ttl.String())
			for range 5 {
				s.clock.pass(step)
				s.expect(`1`, false)
			}
			s.clock.pass(ttl*9/10 - time.Millisecond)
			s.expect(`1`, true)
			s.clock.pass(ttl/10 + time.Millisecond)
			if s.expect("", true); t.Failed() {
				t.Fatalf("with a TTL of %s and a get every %s", ttl, step)
			}
		}
	}
}

// A replica whose clock is behind shortens no session that it reads.
func TestSessionOfAReplicaWhoseClockIsBehind(t *testing.T) {
	s := newSessionTest(t)
	s.mustSet(`1`, "1h")
	s.clock.pass(-30 * time.Minute)
	s.expect(`1`, false)
	s.clock.pass(90*time.Minute - time.Millisecond)
	s.expect(`1`, true)
}

func TestSessionCostsOneReadAndOneWrite(t *testing.T) {
	s := newSessionTest(t)
	const hour = 3600
	for _, step := range []struct {
		what          string
		do            func()
		reads, writes int64
	}{
		{"set", func() { s.mustSet(`1`, "") }, 0, 1},
		{"get at once", func() { s.expect(`1`, false) }, 1, 0},
		{"get later", func() { s.clock.pass(hour); s.clock.pass(time.Hour); s.expect(`1`, false) }, 1, 1},
		{"get right after it", func() { s.clock.pass(time.Minute - time.Millisecond); s.expect(`1`, false) }, 1, 0},
		{"get a minute after it", func() { s.clock.pass(time.Millisecond); s.expect(`1`, false) }, 1, 1},
		{"get that keeps", func() { s.clock.pass(time.Hour); s.expect(`1`, true) }, 1, 0},
		{"touch", func() { s.expectOK("touch", s.touch, true) }, 1, 1},
		{"set of what is there", func() {
			_, err := s.set(t.Context(), wire.SessionRequest{Token: testToken, Data: json.RawMessage(`2`), Existing: true})
			if err != nil {
				t.Error(err)
			}
		}, 1, 1},
		{"delete", func() { s.expectOK("delete", s.delete, true) }, 1, 1},
		{"delete of nothing", func() { s.expectOK("delete", s.delete, false) }, 1, 0},
		{"touch of nothing", func() { s.expectOK("touch", s.touch, false) }, 1, 0},
		{"get of nothing", func() { s.expect("", false) }, 1, 0},
	} {
		if reads, writes := s.cost(step.do); reads != step.reads || writes != step.writes {
			t.Errorf("%s: got %d reads and %d writes, want %d and %d", step.what, reads, writes, step.reads, step.writes)
		}
	}
}

// What comes between the read and the write of an operation is not undone.
func TestSessionRaces(t *testing.T) {
	set := func(s *sessionTest) { s.mustSet(`"newer"`, "") }
	remove := func(s *sessionTest) { s.expectOK("delete", s.delete, true) }
	existing := func(ctx context.Context, req wire.SessionRequest, s *sessionTest) error {
		req.Data, req.Existing = json.RawMessage(`"late"`), true
		_, err := s.set(ctx, req)
		return err
	}
	for _, test := range []struct {
		what    string
		between func(*sessionTest)
		do      func(*sessionTest)
		want    string // afterwards
	}{
		{"get and set", set, func(s *sessionTest) { s.expect(`"older"`, false) }, `"newer"`},
		{"get and delete", remove, func(s *sessionTest) { s.expect(`"older"`, false) }, ""},
		{"touch and set", set, func(s *sessionTest) { s.expectOK("touch", s.touch, true) }, `"newer"`},
		{"touch and delete", remove, func(s *sessionTest) { s.expectOK("touch", s.touch, false) }, ""},
		{"delete and set", set, func(s *sessionTest) { s.expectOK("delete", s.delete, true) }, ""},
		{"delete and delete", remove, func(s *sessionTest) { s.expectOK("delete", s.delete, false) }, ""},
		{"set of what is there, and delete", remove, func(s *sessionTest) {
			if err := existing(t.Context(), wire.SessionRequest{Token: testToken}, s); !errors.Is(err, wire.ErrNotFound) {
				t.Errorf("got %v, want NOT_FOUND", err)
			}
		}, ""},
		{"set of what is there, and set", set, func(s *sessionTest) {
			if err := existing(t.Context(), wire.SessionRequest{Token: testToken}, s); err != nil {
				t.Error(err)
			}
		}, `"late"`},
	} {
		t.Run(test.what, func(t *testing.T) {
			s := newSessionTest(t)
			s.mustSet(`"older"`, "")
			s.clock.pass(time.Hour)
			s.store.beforePut = func() { test.between(s) }
			test.do(s)
			if s.store.beforePut != nil {
				t.Error("nothing was written")
			}
			s.expect(test.want, true)
		})
	}
}

// Of many that delete a session at once, one hears that it was there.
func TestSessionIsDeletedOnce(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) Store{
		"memory":    func(*testing.T) Store { return newMemory(time.Now) },
		"JetStream": func(t *testing.T) Store { return openBucket(t, natsdev.Test(t).ClientURL(), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSessions(open(t), time.Now)
			req := wire.SessionRequest{Token: testToken, Data: json.RawMessage(`1`), TTL: "1m"}
			for range 10 {
				if _, err := s.set(t.Context(), req); err != nil {
					t.Fatal(err)
				}
				var deleted atomic.Int64
				var all sync.WaitGroup
				for range 8 {
					all.Go(func() {
						got, err := s.delete(t.Context(), req)
						if err != nil {
							t.Error(err)
						}
						if got.OK {
							deleted.Add(1)
						}
					})
					all.Go(func() {
						if _, err := s.get(t.Context(), req); err != nil && !errors.Is(err, wire.ErrNotFound) {
							t.Error(err)
						}
					})
				}
				all.Wait()
				if n := deleted.Load(); n != 1 {
					t.Errorf("%d were told that they deleted it, want 1", n)
				}
			}
		})
	}
}

func TestSessionsAreCleared(t *testing.T) {
	s := newSessionTest(t)
	for i := range 3 {
		req := wire.SessionRequest{Token: fmt.Sprintf("%s %d", testToken, i), Data: json.RawMessage(`1`)}
		if _, err := s.set(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{3, 0} {
		if got, err := s.clear(t.Context(), struct{}{}); err != nil || got.Count != want {
			t.Errorf("got %d (%v), want %d", got.Count, err, want)
		}
	}
	s.expect("", false)
}

// The bucket, which others may read, does not tell the tokens.
func TestSessionTokensAreNotStored(t *testing.T) {
	s := newSessionTest(t)
	s.mustSet(`{"user":"ann"}`, "")
	seen := 0
	for _, e := range s.store.Store.(*memory).Entries() {
		seen++
		key := e.Key
		if stored := key + string(e.Value); strings.Contains(stored, testToken) {
			t.Errorf("the token is in %s", stored)
		}
		// base64url of the SHA-256
		if want := "kGi6NEDI0cVxsfwrpiSIdj3JR1kJEi5g4rqATktCSSg"; key != want {
			t.Errorf("got key %s, want %s", key, want)
		}
	}
	if seen != 1 {
		t.Errorf("%d keys, want 1", seen)
	}
}

func TestSessionsWithoutABucket(t *testing.T) {
	s := newSessions(broken{}, time.Now)
	req := wire.SessionRequest{Token: testToken, Data: json.RawMessage(`1`)}
	_, set := s.set(t.Context(), req)
	_, get := s.get(t.Context(), req)
	_, touch := s.touch(t.Context(), req)
	_, remove := s.delete(t.Context(), req)
	_, clear := s.clear(t.Context(), struct{}{})
	for name, err := range map[string]error{"set": set, "get": get, "touch": touch, "delete": remove, "clear": clear} {
		if !errors.Is(err, wire.ErrUnavailable) || strings.Contains(err.Error(), "subject") {
			t.Errorf("%s: got %v, want UNAVAILABLE without its cause", name, err)
		}
	}
}

func TestSessionsAreCounted(t *testing.T) {
	s := newSessionTest(t)
	s.mustSet(`1`, "")
	for range 2 {
		s.expect(`1`, false)
	}
	s.expectOK("touch", s.touch, true)
	s.expectOK("delete", s.delete, true)
	s.expectOK("delete again", s.delete, false)
	s.expectOK("touch of nothing", s.touch, false)
	s.expect("", false)
	got := map[string]int64{"sets": s.sets.Load()}
	for name, h := range map[string]*hits{"gets": &s.gets, "touches": &s.touches, "deletes": &s.deletes} {
		h.observe(func(result string, n int64) { got[name+" "+result] = n })
	}
	want := map[string]int64{
		"sets": 1, "gets hit": 2, "gets miss": 1, "touches hit": 1, "touches miss": 1, "deletes hit": 1, "deletes miss": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
