package limits

import (
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestADeniedFloodCostsOneMessage(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("flood", 1)
	p := newPeer(t, s, "one", newShelf(limit))
	a := newAsker(t, s, p)
	a.consume(t, limit, "k", 1, 1)
	flood := func() {
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				for range 100 {
					if answer, err := a.Consume(t.Context(), Ask{limit, "k", 1}, 1); err != nil || answer.Allowed {
						t.Errorf("got %+v, %v", answer, err)
						return
					}
				}
			})
		}
		group.Wait()
	}
	a.consume(t, limit, "k", 1, 1)
	for want := 2; want < 5; want++ {
		flood()
		if got := len(p.requests()); got != want {
			t.Errorf("got %d requests, want %d", got, want)
		}
		a.pass(rememberMost)
	}
	if n := a.Counts(); n.Remembered < 14_000 {
		t.Errorf("counts: %+v", n)
	}
}

// While one asks again, those wait who would have to as well.
func TestOthersWaitForTheOneThatAsksAgain(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("again", 4)
	p := newPeer(t, s, "one", newShelf(limit))
	a := newAsker(t, s, p)
	a.consume(t, limit, "k", 3, 1)
	a.consume(t, limit, "k", 2, 1)
	a.pass(rememberMost)
	p.hold()
	first := a.start(t, t.Context(), limit, "k", 2, 1)
	await(t, "the question", p.decided)
	more := a.start(t, t.Context(), limit, "k", 3, 1)
	same := a.start(t, t.Context(), limit, "k", 2, 1)
	free := a.start(t, t.Context(), limit, "k", 1, 1)
	await(t, "the question for less", p.decided)
	if got := len(p.requests()); got != 4 {
		t.Errorf("got %d requests, want 4: the others did not wait", got)
	}
	p.release()
	for i, ch := range []<-chan result{first, more, same} {
		if r := await(t, "an answer", ch); r.err != nil || r.Allowed || r.Cached != (i > 0) {
			t.Errorf("call %d: got %+v", i, r)
		}
	}
	if r := await(t, "an answer", free); r.err != nil || !r.Allowed {
		t.Errorf("got %+v, want the last token", r)
	}
	if got := len(p.requests()); got != 4 {
		t.Errorf("got %d requests, want 4", got)
	}
}

// The same for those who want all of several, whoever asks first: also of two of
// which each would wait for what the other asks about.
func TestWhoWantsSeveralWaitsToo(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	x, y, free := limitOf("x", 1), limitOf("y", 1), limitOf("free", 10)
	p := newPeer(t, s, "one", newShelf(x, y, free))
	a := newAsker(t, s, p)
	for _, limit := range []*rules.Limit{x, y} {
		a.consume(t, limit, "k", 1, 1)
		a.consume(t, limit, "k", 1, 1) // denied, and remembered
	}
	type several struct {
		granted bool
		answers []Answer
		err     error
	}
	startAll := func(asks ...Ask) <-chan several {
		before := a.Counts().Waiting
		done := make(chan several, 1)
		go func() {
			granted, answers, err := a.ConsumeAll(t.Context(), asks)
			done <- several{granted, answers, err}
		}()
		eventually(t, "the call", func() bool { return a.Counts().Waiting == before+1 })
		return done
	}
	a.pass(rememberMost)
	asked := a.Counts().Asked
	p.hold()
	first := startAll(Ask{free, "k", 1}, Ask{x, "k", 1})
	single := a.start(t, t.Context(), x, "k", 1, 1)
	crossed := startAll(Ask{y, "k", 1}, Ask{x, "k", 1})
	other := a.start(t, t.Context(), y, "k", 1, 1) // crossed waits itself, for x
	if got := a.Counts().Asked - asked; got != 2 {
		t.Errorf("got %d requests, want those about x and about y", got)
	}
	await(t, "the question about x", p.decided)
	await(t, "the question about y", p.decided)
	p.release()
	if r := await(t, "who asked", first); r.err != nil || r.granted || !r.answers[0].Allowed || r.answers[1].Allowed || r.answers[1].Cached {
		t.Errorf("who asked: got %+v", r)
	}
	if r := await(t, "who waited", single); r.err != nil || r.Allowed || !r.Cached {
		t.Errorf("who waited: got %+v", r)
	}
	if r := await(t, "who waited for two", crossed); r.err != nil || r.granted || r.answers[0].Cached == r.answers[1].Cached {
		t.Errorf("who waited for two: got %+v", r)
	}
	if r := await(t, "who asked about y", other); r.err != nil || r.Allowed || r.Cached {
		t.Errorf("who asked about y: got %+v", r)
	}
	if got := a.Counts().Asked - asked; got != 2 {
		t.Errorf("got %d requests, want 2", got)
	}
	// What there is again is not kept from anybody.
	p.shelf.mu.Lock()
	delete(p.buckets, [2]string{"x", "k"})
	p.shelf.mu.Unlock()
	a.pass(rememberMost)
	if granted, answers, err := a.ConsumeAll(t.Context(), []Ask{{free, "k", 1}, {x, "k", 1}}); err != nil || !granted {
		t.Errorf("got %v, %+v, %v", granted, answers, err)
	}
	if n := a.Counts(); n.Waiting != 0 || n.Denials != 1 {
		t.Errorf("counts: %+v", n)
	}
}

func TestAResetIsForgottenAtOnce(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("reset", 1)
	p := newPeer(t, s, "one", newShelf(limit))
	a := newAsker(t, s, p)
	a.consume(t, limit, "k", 1, 1)
	a.consume(t, limit, "k", 1, 1)
	if got := a.consume(t, limit, "k", 1, 1); !got.Cached {
		t.Fatalf("got %+v, want what is remembered", got)
	}
	p.reset(limit, "k")
	eventually(t, "the change", func() bool { return a.Counts().Forgotten == 1 })
	if got := a.consume(t, limit, "k", 1, 1); !got.Allowed {
		t.Errorf("got %+v, want the token of the reset", got)
	}
}

// A denial that was decided before a reset arrives after it. Where the revisions
// do not say so, it is remembered: that the check can fail is seen by it.
func TestALateDenialIsNotRemembered(t *testing.T) {
	t.Parallel()
	for _, blind := range []bool{false, true} {
		s := natsdev.Test(t)
		limit := limitOf("late", 1)
		p := newPeer(t, s, "one", newShelf(limit))
		a := newAsker(t, s, p)
		a.consume(t, limit, "k", 1, 1)
		p.mu.Lock()
		p.newest = blind
		p.mu.Unlock()
		p.hold()
		denied := a.start(t, t.Context(), limit, "k", 1, 1)
		await(t, "the denial", p.decided)
		p.reset(limit, "k")
		eventually(t, "the change", func() bool {
			a.Client.mu.Lock()
			defer a.Client.mu.Unlock()
			return len(a.denials.changed) == 1
		})
		p.release()
		if r := await(t, "the late denial", denied); r.err != nil || r.Allowed {
			t.Fatalf("got %+v, want it denied", r)
		}
		if got := a.consume(t, limit, "k", 1, 1); got.Allowed == blind {
			t.Errorf("revisions are hidden: %v; got %+v", blind, got)
		}
	}
}

func TestABanIsHeard(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("ban", 10)
	p := newPeer(t, s, "one", newShelf(limit))
	a := newAsker(t, s, p)
	a.consume(t, limit, "k", 1, 1)
	p.say(ns.LimitChanges(), wire.LimitChange{Policy: "ban", Key: "k", Revision: 1000, BannedMs: 60_000})
	eventually(t, "the ban", func() bool { return a.Counts().Denials == 1 })
	if got := a.consume(t, limit, "k", 1, 1); !got.Banned || !got.Cached || got.RetryAfter < 50*time.Second {
		t.Errorf("got %+v, want banned for a minute", got)
	}
	if got := a.consume(t, limit, "other", 1, 1); !got.Allowed {
		t.Errorf("another key: got %+v", got)
	}
	p.say(ns.LimitChanges(), wire.LimitChange{Policy: "ban", Key: "k", Revision: 1001})
	eventually(t, "its end", func() bool { return a.Counts().Denials == 0 })
	if got := a.consume(t, limit, "k", 1, 1); !got.Allowed {
		t.Errorf("after the ban: got %+v", got)
	}
}

// While the connection is away, changes may be missed.
func TestALostConnectionForgets(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("lost", 1)
	p := newPeer(t, s, "one", newShelf(limit))
	a := newAsker(t, s, p)
	a.consume(t, limit, "k", 1, 1)
	a.consume(t, limit, "k", 1, 1)
	if n := a.Counts().Denials; n != 1 {
		t.Fatalf("got %d denials remembered, want 1", n)
	}
	p.hold()
	flying := a.start(t, t.Context(), limit, "under way", 1, 1)
	await(t, "the request", p.decided)
	if err := a.nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	if r := await(t, "what was under way", flying); r.err == nil || wire.CodeOf(r.err) != wire.Unavailable {
		t.Errorf("got %+v, want UNAVAILABLE", r)
	}
	p.release()
	eventually(t, "the memory to be empty", func() bool { return a.Counts().Denials == 0 })
	eventually(t, "changes to be heard again", a.hearing)
	eventually(t, "the replica to be asked", func() bool {
		answer, err := a.Consume(t.Context(), Ask{limit, "k", 1}, 1)
		return err == nil && !answer.Allowed && !answer.Cached
	})
}
