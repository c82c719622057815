package gateway

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Only so many are under way at a time; whoever ends makes room.
func TestHandshakeBoundsWhatIsUnderWay(t *testing.T) {
	h := newHandshake(Admission{Upgrades: 2})
	first, second := h.enter(t.Context()), h.enter(t.Context())
	if first == nil || second == nil {
		t.Fatal("refused below the bound")
	}
	if h.enter(t.Context()) != nil {
		t.Fatal("a third one entered")
	}
	first()
	third := h.enter(t.Context())
	if third == nil {
		t.Fatal("refused although one had ended")
	}
	second()
	third()
	if n, _ := h.size(); n != 0 || h.shed.Load() != 1 {
		t.Errorf("got %d under way and %d refused at the end, want 0 and 1", n, h.shed.Load())
	}
	for range 1000 {
		if newHandshake(Admission{}).enter(t.Context()) == nil {
			t.Fatal("refused without a bound")
		}
	}
}

// Paced requests begin one behind the other, in the order in which they came; the
// line has an end.
func TestHandshakePacesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshake(Admission{UpgradesPerSecond: 10})
		begin := time.Now()
		var mu sync.Mutex
		var order []int
		var at []time.Duration
		refused := 0
		for i := range 15 {
			go func() {
				leave := h.enter(t.Context())
				mu.Lock()
				defer mu.Unlock()
				if leave == nil {
					refused++
					return
				}
				leave()
				order, at = append(order, i), append(at, time.Since(begin))
			}()
			synctest.Wait() // they come in order
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if len(order) != 11 || refused != 4 {
			t.Fatalf("got %d that entered and %d refused, want 11 (one at once, ten in line) and 4", len(order), refused)
		}
		for i := range order {
			if order[i] != i || at[i] != time.Duration(i)*100*time.Millisecond {
				t.Fatalf("got the order %v at %v", order, at)
			}
		}
		if leave := h.enter(t.Context()); leave == nil {
			t.Error("refused after the line had ended")
		}
	})
}

// Who goes away while it waits leaves its turn to the next.
func TestHandshakeGivesTheTurnOfWhoLeftToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshake(Admission{Upgrades: 3, UpgradesPerSecond: 2})
		h.enter(t.Context())()
		begin := time.Now()
		ctx, goAway := context.WithCancel(t.Context())
		gone, came := make(chan bool), make(chan time.Duration)
		go func() { gone <- h.enter(ctx) == nil }()
		synctest.Wait()
		go func() {
			if leave := h.enter(t.Context()); leave != nil {
				leave()
			}
			came <- time.Since(begin)
		}()
		synctest.Wait()
		if _, waiting := h.size(); waiting != 2 {
			t.Fatalf("got %d in line, want 2", waiting)
		}
		goAway()
		if !<-gone {
			t.Error("who went away entered")
		}
		if got, want := <-came, 500*time.Millisecond; got != want {
			t.Errorf("got the next one in after %s, want %s", got, want)
		}
		if underWay, waiting := h.size(); underWay != 0 || waiting != 0 || h.shed.Load() != 0 {
			t.Errorf("got %d under way, %d in line, %d refused, want none", underWay, waiting, h.shed.Load())
		}
	})
}

// A line that everybody left does not keep a timer, and the pace goes on.
func TestHandshakeLineThatEverybodyLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshake(Admission{UpgradesPerSecond: 2})
		h.enter(t.Context())()
		ctx, goAway := context.WithCancel(t.Context())
		gone := make(chan bool)
		go func() { gone <- h.enter(ctx) == nil }()
		synctest.Wait()
		goAway()
		<-gone
		begin := time.Now()
		leave := h.enter(t.Context())
		if leave == nil || time.Since(begin) != 500*time.Millisecond {
			t.Errorf("got in: %t, after %s; want after 500ms", leave != nil, time.Since(begin))
		}
	})
}
