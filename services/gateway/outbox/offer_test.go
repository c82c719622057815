package outbox

import (
	"slices"
	"sync"
	"testing"
)

// Many who owe a peer a large frame each, at once: none of them is the one too
// many.
func TestOffersNeverExceedTheBound(t *testing.T) {
	const bound, offers = 1 << 20, 8
	frame := make([]byte, bound/4)
	for range 50 {
		c := stalledQueue(bound)
		var ready, all sync.WaitGroup
		ready.Add(offers)
		taken := make([]bool, offers)
		for i := range taken {
			all.Go(func() {
				ready.Done()
				ready.Wait()
				taken[i] = c.Offer(frame, bound/4)
			})
		}
		all.Wait()
		if c.closing {
			t.Fatal("the connection was given up")
		}
		got := len(slices.DeleteFunc(taken, func(did bool) bool { return !did }))
		if got != 2 || c.q.bytes != 2*len(frame) {
			t.Fatalf("%d of %d frames were taken, %d bytes wait; want 2, the second beside a quarter of the bound", got, offers, c.q.bytes)
		}
	}
}

// What may be lost is in nobody's way: it makes room for what is offered.
func TestOffersPushOutWhatMayBeLost(t *testing.T) {
	c := stalledQueue(1000)
	src := &Source{Policy: DropOldest}
	for range 10 {
		c.Deliver(sized("old", 100), src)
	}
	if got := c.Firm(); got != 0 {
		t.Errorf("%d bytes are firm where all may be lost", got)
	}
	for i, want := range []bool{true, true, true, false} {
		if got := c.Offer(sized("new", 100), 250); got != want {
			t.Errorf("offer %d: got %v, want %v", i, got, want)
		}
	}
	if got, queued := c.Firm(), c.Queued(); got != 300 || queued != 1000 || src.Dropped() != 3 {
		t.Errorf("%d of %d bytes are firm and %d messages lost, want 300 of 1000 and 3", got, queued, src.Dropped())
	}
	c.Send(sized("firm", 800)) // one too many
	if !c.closing || !c.Offer(sized("late", 100), 0) {
		t.Error("a connection that closes did not take what it was offered")
	}
}
