package jobs

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

var errWrong = errors.New("wrong")

// written is a group of numbers and the sizes of its writes; negative ones are
// wrong, and so are the writes they are in. Each write takes a second.
func written() (g *group[int, int], sizes *[]int) {
	var mu sync.Mutex
	sizes = &[]int{}
	g = &group[int, int]{wait: time.Minute, size: func(n int) int { return max(n, 1) }, alone: func(err error) bool { return errors.Is(err, errWrong) }}
	g.write = func(_ context.Context, ns []int) (out []int, err error) {
		time.Sleep(time.Second) // in a bubble: it takes no time
		mu.Lock()
		defer mu.Unlock()
		*sizes = append(*sizes, len(ns))
		for _, n := range ns {
			if n < 0 {
				return nil, errWrong
			}
			out = append(out, 10*n)
		}
		return out, nil
	}
	return g, sizes
}

func TestWhatWaitsGoesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, sizes := written()
		var group sync.WaitGroup
		for i := range 50 {
			group.Go(func() {
				if got, err := g.do(t.Context(), i); err != nil || got != 10*i {
					t.Errorf("do(%d) = %d, %v", i, got, err)
				}
			})
			synctest.Wait()
		}
		group.Wait()
		g.close()
		// The first two have each a writer of their own.
		if len(*sizes) < 3 || len(*sizes) > 6 || slices.Max(*sizes) < 20 {
			t.Errorf("writes of %v, want few large ones after the first two", *sizes)
		}
		if _, err := g.do(t.Context(), 1); !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("after the end: %v, want UNAVAILABLE", err)
		}
	})
}

func TestOneThatIsWrongIsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := written()
		var group sync.WaitGroup
		for _, n := range []int{1, 2, 3, -1, 4} {
			group.Go(func() {
				if got, err := g.do(t.Context(), n); n > 0 && (err != nil || got != 10*n) || n < 0 && !errors.Is(err, errWrong) {
					t.Errorf("do(%d) = %d, %v", n, got, err)
				}
			})
			synctest.Wait()
		}
		group.Wait()
		g.close()
	})
}

func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, sizes := written()
		var group sync.WaitGroup
		ask := func(ctx context.Context, rows int, want error) {
			group.Go(func() {
				if _, err := g.do(ctx, rows); !errors.Is(err, want) {
					t.Errorf("%d rows: %v, want %v", rows, err, want)
				}
			})
			synctest.Wait()
		}
		left, leave := context.WithCancel(t.Context())
		ask(t.Context(), 1, nil)
		ask(t.Context(), 1, nil)
		ask(left, groupWaiting-1, context.Canceled)
		ask(t.Context(), 1, nil)
		ask(t.Context(), 1, wire.ErrResourceExhausted)
		leave() // what nobody waits for is not written
		group.Wait()
		g.close()
		if want := []int{1, 1, 1}; !slices.Equal(*sizes, want) {
			t.Errorf("writes of %v, want %v", *sizes, want)
		}
	})
}
