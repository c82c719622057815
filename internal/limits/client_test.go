package limits

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func limitOf(name string, capacity int) *rules.Limit {
	return &rules.Limit{Name: name, Capacity: capacity, Refill: 1, Per: time.Hour}
}

// consume asks, and fails the test where there is no answer.
func (a *asker) consume(t *testing.T, limit *rules.Limit, key string, cost, n int64) Answer {
	t.Helper()
	answer, err := a.Consume(t.Context(), Ask{limit, key, cost}, n)
	if err != nil {
		t.Fatalf("consume %d of %s: %v", cost, key, err)
	}
	return answer
}

// result is what became of a call that was made in the background.
type result struct {
	Answer
	err error
}

// start begins a call, and returns when the client has it.
func (a *asker) start(t *testing.T, ctx context.Context, limit *rules.Limit, key string, cost, n int64) <-chan result { //nolint:revive // t comes first in every helper
	t.Helper()
	before := a.Counts().Waiting
	done := make(chan result, 1)
	go func() {
		answer, err := a.Consume(ctx, Ask{limit, key, cost}, n)
		done <- result{answer, err}
	}()
	eventually(t, "the call", func() bool { return a.Counts().Waiting == before+1 })
	return done
}

func TestAHotKeyCostsFewRequests(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	const callers, capacity = 1000, 300
	limit := limitOf("hot", capacity)
	p := newPeer(t, s, "one", newShelf(limit))
	a := newAsker(t, s, p)
	p.hold()
	first := a.start(t, t.Context(), limit, "k", 1, 1)
	await(t, "the first request", p.decided)
	var group sync.WaitGroup
	answers := make([]Answer, callers)
	for i := range callers {
		group.Go(func() {
			answer, err := a.Consume(t.Context(), Ask{limit, "k", 1}, 1)
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
			answers[i] = answer
		})
	}
	eventually(t, "all callers", func() bool { return a.Counts().Waiting == callers+1 })
	p.release()
	group.Wait()
	granted := int64(0)
	if r := await(t, "the first", first); r.Allowed {
		granted++
	}
	for _, answer := range answers {
		granted += answer.Granted
		if answer.Allowed != (answer.Granted == 1) || !answer.Allowed && answer.RetryAfter <= 0 {
			t.Fatalf("got %+v", answer)
		}
	}
	if requests := len(p.requests()); granted != capacity || requests != 2 {
		t.Errorf("got %d granted of %d, with %d requests, want all with 2", granted, capacity, requests)
	}
	if n := a.Counts(); n.Waiting != 0 || n.Asked != 2 || n.Folded != callers {
		t.Errorf("counts: %+v", n)
	}
}

func TestCallersAreServedInOrder(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("order", 10)
	p := newPeer(t, s, "one", newShelf(limit))
	a := newAsker(t, s, p)
	p.hold()
	a.start(t, t.Context(), limit, "k", 1, 1) // 9 are left
	await(t, "the first request", p.decided)
	var calls []<-chan result
	for _, n := range []int64{3, 2, 5, 1} {
		calls = append(calls, a.start(t, t.Context(), limit, "k", 1, n))
	}
	p.release()
	for i, want := range []Answer{
		{Verdict: Verdict{Allowed: true, Remaining: 6}, Granted: 3},
		{Verdict: Verdict{Allowed: true, Remaining: 4}, Granted: 2},
		{Verdict: Verdict{Allowed: false, Remaining: 0}, Granted: 4},
		{Verdict: Verdict{Allowed: false, Remaining: 0}, Granted: 0},
	} {
		got := await(t, "an answer", calls[i])
		if got.err != nil || got.Allowed != want.Allowed || got.Granted != want.Granted || got.Remaining != want.Remaining {
			t.Errorf("caller %d: got %+v, want %+v", i, got, want)
		}
	}
}

func TestWhoLeavesBeforeItIsSentCostsNothing(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("leave", 10)
	p := newPeer(t, s, "one", newShelf(limit))
	a := newAsker(t, s, p)
	p.hold()
	ctx, cancel := context.WithCancel(t.Context())
	sent := a.start(t, ctx, limit, "k", 1, 1)
	await(t, "the first request", p.decided)
	leaves := a.start(t, ctx, limit, "k", 1, 4)
	stays := a.start(t, t.Context(), limit, "k", 1, 2)
	short, done := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer done()
	late := a.start(t, short, limit, "k", 1, 3)
	if r := await(t, "who has little time", late); !errors.Is(r.err, wire.ErrDeadlineExceeded) {
		t.Errorf("got %v, want DEADLINE_EXCEEDED", r.err)
	}
	cancel()
	for _, ch := range []<-chan result{sent, leaves} {
		if r := await(t, "who leaves", ch); !errors.Is(r.err, wire.ErrCancelled) {
			t.Errorf("got %v, want CANCELLED", r.err)
		}
	}
	p.release()
	if r := await(t, "who stays", stays); !r.Allowed || r.Granted != 2 || r.Remaining != 7 {
		t.Errorf("got %+v, want 2 granted and 7 left", r)
	}
	if n := a.Counts().Waiting; n != 0 {
		t.Errorf("%d still wait", n)
	}
}

func TestWhoHasNoDeadlineWaitsForAWhile(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("wait", 10)
	p := newPeer(t, s, "one", newShelf(limit))
	p.hold()
	c := NewClient(Config{NATS: connect(t, s), Namespace: ns, Wait: 30 * time.Millisecond})
	for range 2 { // the second waits behind nothing
		if _, err := c.Consume(context.Background(), Ask{limit, "k", 1}, 1); !errors.Is(err, wire.ErrDeadlineExceeded) {
			t.Errorf("got %v, want DEADLINE_EXCEEDED", err)
		}
	}
	p.release()
	eventually(t, "the late answers", func() bool { return c.Counts().Late == 2 })
	if answer, err := c.Consume(t.Context(), Ask{limit, "k", 1}, 1); err != nil || !answer.Allowed {
		t.Errorf("got %+v, %v", answer, err)
	}
}

func TestManyKeysGoTogether(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	known, strange := limitOf("known", 5), limitOf("strange", 5)
	p := newPeer(t, s, "one", newShelf(known))
	a := newAsker(t, s, p)
	p.hold()
	var first []<-chan result
	for i := range requestsMost {
		first = append(first, a.start(t, t.Context(), known, fmt.Sprint("first", i), 1, 1))
		await(t, "a request", p.decided)
	}
	const keys = wire.MaxLimitTakes + 50
	var calls []<-chan result
	for i := range keys {
		calls = append(calls, a.start(t, t.Context(), known, fmt.Sprint(i), 1, 1))
	}
	unknown := a.start(t, t.Context(), strange, "k", 1, 1)
	p.release()
	for _, ch := range append(first, calls...) {
		if r := await(t, "an answer", ch); r.err != nil || !r.Allowed {
			t.Fatalf("got %+v", r)
		}
	}
	if r := await(t, "the answer about what is not known", unknown); !errors.Is(r.err, wire.ErrNotFound) {
		t.Errorf("got %v, want NOT_FOUND", r.err)
	}
	// Two for all keys, of which the second is asked again one by one.
	if got, want := len(p.requests()), requestsMost+2+51; got != want {
		t.Errorf("got %d requests, want %d", got, want)
	}
	if _, err := a.Consume(t.Context(), Ask{strange, "k", 1}, 1); !errors.Is(err, wire.ErrNotFound) {
		t.Errorf("got %v, want NOT_FOUND", err)
	}
}

func TestWhatIsAnsweredWithoutAsking(t *testing.T) {
	t.Parallel()
	c := NewClient(Config{Namespace: ns}) // there is nobody to ask
	limit, shadow := limitOf("small", 3), limitOf("shadow", 3)
	shadow.Shadow = true
	if got, err := c.Consume(t.Context(), Ask{limit, "k", 4}, 1); err != nil || got.Allowed || got.RetryAfter != wire.Never {
		t.Errorf("above the capacity: got %+v, %v", got, err)
	}
	if got, err := c.Consume(t.Context(), Ask{shadow, "k", 4}, 2); err != nil || !got.Allowed || !got.Shadowed || got.Granted != 2 {
		t.Errorf("above the capacity of a shadow: got %+v, %v", got, err)
	}
	granted, answers, err := c.ConsumeAll(t.Context(), []Ask{{limit, "k", 1}, {limit, "k", 4}})
	if err != nil || granted || !answers[0].Allowed || answers[1].Allowed || answers[1].RetryAfter != wire.Never {
		t.Errorf("several: got %v, %+v, %v", granted, answers, err)
	}
	if granted, _, err := c.ConsumeAll(t.Context(), nil); err != nil || !granted {
		t.Errorf("nothing: got %v, %v", granted, err)
	}
	for _, a := range []Ask{{limit, "", 1}, {limit, "a\nb", 1}, {limit, "\xff", 1}, {limit, "k", -1}} {
		if _, err := c.Consume(t.Context(), a, 1); !errors.Is(err, wire.ErrInvalidArgument) {
			t.Errorf("%+v: got %v, want INVALID_ARGUMENT", a, err)
		}
	}
}

func TestConsumeAllTakesAllOrNothing(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	big, small := limitOf("big", 10), limitOf("small", 2)
	p := newPeer(t, s, "one", newShelf(big, small))
	a := newAsker(t, s, p)
	asks := []Ask{{big, "k", 1}, {small, "k", 2}}
	if granted, answers, err := a.ConsumeAll(t.Context(), asks); err != nil || !granted || answers[0].Granted != 1 || answers[1].Remaining != 0 {
		t.Errorf("got %v, %+v, %v", granted, answers, err)
	}
	for _, cached := range []bool{false, true} {
		granted, answers, err := a.ConsumeAll(t.Context(), asks)
		if err != nil || granted || !answers[0].Allowed || answers[0].Granted != 0 || answers[1].Allowed || answers[1].Cached != cached {
			t.Errorf("used up: got %v, %+v, %v, want cached %v", granted, answers, err, cached)
		}
	}
	if got := a.consume(t, big, "k", 1, 1); got.Remaining != 8 {
		t.Errorf("got %d left, want 8: denied takes took something", got.Remaining)
	}
	if got := len(p.requests()); got != 3 {
		t.Errorf("got %d requests, want 3", got)
	}
	// Refused is what two of one bucket cost together, not each.
	if granted, _, err := a.ConsumeAll(t.Context(), []Ask{{small, "twice", 2}, {small, "twice", 2}}); err != nil || granted {
		t.Errorf("twice of one bucket: got %v, %v", granted, err)
	}
	if got := a.consume(t, small, "twice", 2, 1); !got.Allowed {
		t.Errorf("once of it: got %+v", got)
	}
}
