package limits

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The clock of a replica's host may be ahead by more than a call has time.
func TestADeadlineLeavesRoomForOtherClocks(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	nc := connect(t, s)
	asked := make(chan *nats.Msg, 1)
	if _, err := nc.ChanSubscribe(ns.Svc("ratelimit", "consume"), asked); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	c := NewClient(Config{NATS: connect(t, s), Namespace: ns})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Consume(ctx, Ask{limitOf("clocks", 1), "k", 1}, 1); !errors.Is(err, wire.ErrDeadlineExceeded) {
		t.Errorf("got %v, want DEADLINE_EXCEEDED when the caller's time is over", err)
	}
	msg := await(t, "the request", asked)
	ms, err := strconv.ParseInt(msg.Header.Get(wire.HeaderDeadline), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	until, _ := ctx.Deadline()
	if slack := time.UnixMilli(ms).Sub(until); slack < 245*time.Millisecond || slack > time.Second {
		t.Errorf("the request's deadline is %s after the caller's, want 250ms", slack)
	}
}

// One key that does not get its answer says nothing about a replica that answers
// others: it goes elsewhere, and they stay.
func TestAReplicaThatAnswersOthersStays(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("stays", 1_000_000)
	shelf := newShelf(limit)
	one, two := newPeer(t, s, "one", shelf), newPeer(t, s, "two", shelf)
	a := newAsker(t, s, one, two)
	one.mute() // that it says that it is there is not what is meant
	slow := a.keyOf(t, "one")
	other := a.keyOf(t, "one", slow)
	one.holdKey(slow)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	diverted := a.start(t, ctx, limit, slow, 1, 1)
	fewest := int64(2)
	for done := false; !done; {
		if got := a.consume(t, limit, other, 1, 1); !got.Allowed {
			t.Fatalf("got %+v", got)
		}
		fewest = min(fewest, a.Counts().Replicas)
		select {
		case r := <-diverted:
			if done = true; r.err != nil || !r.Allowed {
				t.Errorf("the slow key: got %+v", r)
			}
		default:
		}
	}
	if n := askedFor(slow, two); n != 1 || fewest != 2 {
		t.Errorf("%d replicas were known at times, and the other one was asked %d times, want 2 and 1", fewest, n)
	}
}

// Several that go together wait for a replica that answers others: which of them
// is slow is not known, and the others would be charged twice elsewhere.
func TestSeveralWaitForAReplicaThatAnswersOthers(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("several", 1_000_000)
	shelf := newShelf(limit)
	one, two := newPeer(t, s, "one", shelf), newPeer(t, s, "two", shelf)
	a := newAsker(t, s, one, two)
	one.mute()
	slow := a.keyOf(t, "one")
	mate := a.keyOf(t, "one", slow)
	other := a.keyOf(t, "one", slow, mate)
	one.hold()
	but := []string{slow, mate, other}
	for range requestsMost {
		key := a.keyOf(t, "one", but...)
		but = append(but, key)
		a.start(t, t.Context(), limit, key, 1, 1)
		await(t, "a request", one.decided)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	calls := []<-chan result{a.start(t, ctx, limit, slow, 1, 1), a.start(t, ctx, limit, mate, 1, 1)}
	answer := one.holdKey(slow)
	one.release()
	await(t, "the request for both", one.decided)
	var first time.Time // since when it is silent
	eventually(t, "the replica to be given more time", func() bool {
		a.consume(t, limit, other, 1, 1)
		a.Client.mu.Lock()
		defer a.Client.mu.Unlock()
		for _, r := range a.flying {
			if len(r.takes) == 2 {
				if first.IsZero() {
					first = r.since
				}
				return r.since != first
			}
		}
		return a.counts.Fallbacks > 0 // which fails below
	})
	answer()
	for _, call := range calls {
		if r := await(t, "an answer", call); r.err != nil || !r.Allowed || r.Remaining != 999_999 {
			t.Errorf("got %+v, want it allowed, once", r)
		}
	}
	if n := askedFor(slow, two) + askedFor(mate, two); n != 0 {
		t.Errorf("the other one was asked %d times", n)
	}
}

// So does an answer that comes too late: who gives it is slow, not gone.
func TestAReplicaThatAnswersLateStays(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("late", 10)
	shelf := newShelf(limit)
	one, two := newPeer(t, s, "one", shelf), newPeer(t, s, "two", shelf)
	a := newAsker(t, s, one) // no other one yet, to be asked in its place
	answer := one.holdKey("k")
	short, done := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer done()
	if r := await(t, "who has little time", a.start(t, short, limit, "k", 1, 1)); !errors.Is(r.err, wire.ErrDeadlineExceeded) {
		t.Errorf("got %v, want DEADLINE_EXCEEDED", r.err)
	}
	eventually(t, "the request to be given up", func() bool {
		a.Client.mu.Lock()
		defer a.Client.mu.Unlock()
		return len(a.flying) == 0
	})
	one.announce(false)
	one.mute()
	two.announce(false)
	eventually(t, "both", func() bool { return a.Counts().Replicas == 2 })
	slow := a.keyOf(t, "one", "k")
	one.holdKey(slow)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	diverted := a.start(t, ctx, limit, slow, 1, 1)
	answer()
	if r := await(t, "the slow key", diverted); r.err != nil || !r.Allowed || askedFor(slow, two) != 1 {
		t.Errorf("got %+v", r)
	}
	if n := a.Counts(); n.Replicas != 2 || n.Late != 1 {
		t.Errorf("counts: %+v", n)
	}
}

// askedFor is how often a replica was asked for a key.
func askedFor(key string, p *peer) (n int) {
	for _, req := range p.requests() {
		for _, t := range req.Batch {
			if t.Key == key {
				n++
			}
		}
	}
	return n
}

// What is not decided about some keys of a request is nothing to the others: they
// are answered, and not asked for again.
func TestWhatIsUndecidedIsItsKeysAlone(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("each", 5)
	p := newPeer(t, s, "one", newShelf(limit))
	a := newAsker(t, s, p)
	const none, unknown = "none", "unknown"
	cases := []struct {
		key     string
		codes   []wire.Code // that it is answered before it is decided about
		want    wire.Code   // "": allowed
		outcome string
		asked   int
	}{
		{"first", nil, "", "", 1},
		{"stopping", []wire.Code{wire.Unavailable}, "", "", 2},
		{"away", []wire.Code{wire.Unavailable, wire.Unavailable}, wire.Unavailable, none, 2},
		{"second", nil, "", "", 1},
		{"slow", []wire.Code{wire.DeadlineExceeded}, wire.DeadlineExceeded, unknown, 1},
		{"full", []wire.Code{wire.ResourceExhausted}, wire.Unavailable, none, 1},
		{"fought for", []wire.Code{wire.Aborted}, "", "", 2},
		{"contended", []wire.Code{wire.Aborted, wire.Aborted}, wire.Unavailable, none, 2},
		{"corrupt", []wire.Code{wire.Internal}, wire.Unavailable, none, 1},
		{"third", nil, "", "", 1},
	}
	p.mu.Lock()
	p.codes = map[string][]wire.Code{}
	for _, c := range cases {
		p.codes[c.key] = c.codes
	}
	p.mu.Unlock()
	p.hold()
	for i := range requestsMost {
		a.start(t, t.Context(), limit, fmt.Sprint("before", i), 1, 1)
		await(t, "a request", p.decided)
	}
	var calls []<-chan result
	for _, c := range cases {
		calls = append(calls, a.start(t, t.Context(), limit, c.key, 1, 1))
	}
	p.release()
	for i, c := range cases {
		r := await(t, "an answer", calls[i])
		if c.want == "" {
			if r.err != nil || !r.Allowed || r.Remaining != 4 {
				t.Errorf("%s: got %+v, want it allowed, once", c.key, r)
			}
		} else if coded := wire.AsError(r.err); coded.Code != c.want || coded.Details["outcome"] != c.outcome {
			t.Errorf("%s: got %v %v, want %s with outcome %s", c.key, r.err, coded.Details, c.want, c.outcome)
		}
		if n := askedFor(c.key, p); n != c.asked {
			t.Errorf("%s: asked for %d times, want %d", c.key, n, c.asked)
		}
	}
	if n := a.Counts().Replicas; n != 1 {
		t.Error("the replica is left out")
	}
	for _, key := range []string{"slow", "contended"} {
		if got := a.consume(t, limit, key, 1, 1); !got.Allowed {
			t.Errorf("%s, when there is no trouble any more: got %+v", key, got)
		}
	}
}
