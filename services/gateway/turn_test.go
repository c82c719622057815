package gateway

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurnIsWaitedForInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turn turn
		turn.Lock()
		var order []int
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				if err := turn.lock(context.Background()); err != nil {
					t.Error(err)
				}
				order = append(order, i)
				turn.Unlock()
			})
			synctest.Wait()
		}
		turn.Unlock()
		all.Wait()
		if len(order) != 3 || order[0] != 0 || order[1] != 1 || order[2] != 2 {
			t.Errorf("the order is %v", order)
		}
		if turn.taken || turn.waiting != nil {
			t.Errorf("nobody has it, and it is %+v", &turn)
		}
	})
}

// Who gave up is passed over.
func TestTurnIsWaitedForUntilTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turn turn
		turn.Lock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got := make(chan error, 1)
		go func() { got <- turn.lock(ctx) }()
		synctest.Wait()
		begun := time.Now()
		if err := turn.lock(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("got %v after %s, want DeadlineExceeded after 1s", err, time.Since(begun))
		}
		if err := <-got; !errors.Is(err, context.DeadlineExceeded) || len(turn.waiting) != 0 {
			t.Errorf("got %v, %d wait; want DeadlineExceeded and none", err, len(turn.waiting))
		}
		turn.Unlock()
		if err := turn.lock(t.Context()); err != nil {
			t.Error(err)
		}
		turn.Unlock()
	})
}

// Whoever gives up in the moment in which the turn comes passes it on.
func TestTurnIsNeverLost(t *testing.T) {
	var turn turn
	var inside int
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 2000 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration((n*i)%20)*time.Microsecond)
				if turn.lock(ctx) == nil {
					inside++
					turn.Unlock()
				}
				cancel()
			}
		})
	}
	all.Wait()
	turn.Lock()
	if turn.taken = false; len(turn.waiting) != 0 || inside == 0 {
		t.Errorf("%d wait, %d had their turn", len(turn.waiting), inside)
	}
}

func BenchmarkTurn(b *testing.B) {
	var turn turn
	b.ReportAllocs()
	held := 0
	for b.Loop() {
		turn.Lock()
		held++
		turn.Unlock()
	}
}

// Who has the turn for long lets others have it in between.
func TestTurnYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turn turn
		turn.Lock()
		turn.yield() // nobody waits
		had := false
		var other sync.WaitGroup
		other.Go(func() {
			turn.Lock()
			had = true
			turn.Unlock()
		})
		synctest.Wait()
		turn.yield()
		if !had {
			t.Error("who waited did not have it")
		}
		turn.Unlock()
		other.Wait()
		if turn.taken {
			t.Error("it is not free afterwards")
		}
	})
}
