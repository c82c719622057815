package runner

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// quiet is a log of which nothing is wanted.
var quiet = slog.New(slog.DiscardHandler)

// While a write is under way what comes is collected, and goes with the next one:
// soon where the first is slow, or where much has come.
func TestABatchIsWhatCameMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sizes []int
		b := newBatch(quiet, "test", 1<<20, func(_ context.Context, items []int) ([]int, error) {
			mu.Lock()
			sizes = append(sizes, len(items))
			mu.Unlock()
			time.Sleep(time.Second) // of the bubble
			return nil, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range flushers {
			group.Go(func() { b.run(ctx) })
		}
		b.add(0)
		synctest.Wait()
		b.add(0)
		synctest.Wait()
		mu.Lock()
		if len(sizes) != 1 {
			t.Errorf("writes of %d: two small ones at a time", sizes)
		}
		mu.Unlock()
		time.Sleep(2 * slowWrite)
		for range 2500 {
			b.add(0)
		}
		if !b.empty(ctx) {
			t.Error("not empty")
		}
		cancel()
		group.Wait()
		if want := []int{1, 1, 1000, 1000, 500}; !slices.Equal(sizes, want) {
			t.Errorf("writes of %d, want %d", sizes, want)
		}
	})
}

// What comes while one write hangs is not left to it, whatever is written besides.
func TestAWriteThatHangsHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hangs = 3 * time.Second
		start := time.Now()
		var mu sync.Mutex
		at := map[int]time.Duration{}
		b := newBatch(quiet, "test", 1<<20, func(_ context.Context, items []int) ([]int, error) {
			time.Sleep(time.Millisecond)
			if items[0] == 0 {
				time.Sleep(hangs)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, i := range items {
				at[i] = time.Since(start)
			}
			return nil, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range flushers {
			group.Go(func() { b.run(ctx) })
		}
		b.add(0)
		time.Sleep(slowWrite + time.Millisecond)
		b.add(1)
		synctest.Wait()
		b.add(2) // while that is written
		if !b.empty(ctx) {
			t.Error("not empty")
		}
		cancel()
		group.Wait()
		if at[1] >= hangs || at[2] >= hangs {
			t.Errorf("written after %s and %s, while another write hung for %s", at[1], at[2], hangs)
		}
	})
}

func TestABatchIsBounded(t *testing.T) {
	b := newBatch(quiet, "test", 3, func(context.Context, []int) ([]int, error) { return nil, nil })
	for i := range 3 {
		if !b.add(i) {
			t.Fatalf("%d of 3 is refused", i)
		}
	}
	if b.add(3) {
		t.Error("a fourth of 3 is taken")
	}
	if got := b.close(); len(got) != 3 || b.add(4) {
		t.Errorf("closed with %d, want 3, and nothing taken after", len(got))
	}
}

// However few items there are, they are neither written nor kept if they are too
// large together.
func TestABatchIsBoundedByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		away := true
		b := newBatch(quiet, "test", 1<<20, func(_ context.Context, items []int) ([]int, error) {
			if away {
				return items, errAway
			}
			sizes = append(sizes, len(items))
			return nil, nil
		})
		b.size = func(item int) int { return item }
		const large = mostBytes / 4
		for range mostWaiting / large {
			if !b.add(large) {
				t.Fatalf("%d bytes wait, and %d more are refused", b.held(), large)
			}
		}
		if b.add(1) || b.held() != mostWaiting {
			t.Errorf("%d bytes wait, and one more is taken", b.held())
		}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { b.run(ctx) })
		time.Sleep(time.Minute)
		if b.add(1) {
			t.Error("what is tried again is not counted")
		}
		away = false
		if !b.empty(ctx) || b.held() != 0 {
			t.Errorf("%d bytes wait though nothing does", b.held())
		}
		if most := slices.Max(sizes); most > 4 {
			t.Errorf("%d of %d bytes in one write, want %d bytes at most", most, large, mostBytes)
		}
		if !b.add(2 * mostBytes) { // larger than one write: alone in one
			t.Error("refused though nothing waits")
		}
		if !b.empty(ctx) {
			t.Error("not empty")
		}
		cancel()
		group.Wait()
	})
}

// What can't be written holds up nobody else, and all of what fails is tried again.
func TestWhatCannotBeWrittenHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		written := map[int]int{}
		away := true
		b := newBatch(quiet, "test", 1<<20, func(_ context.Context, items []int) ([]int, error) {
			mu.Lock()
			defer mu.Unlock()
			if away || slices.Contains(items, 7) {
				return items, errAway
			}
			for _, i := range items {
				written[i]++
			}
			return nil, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range flushers {
			group.Go(func() { b.run(ctx) })
		}
		for i := range 3000 {
			b.add(i)
		}
		time.Sleep(time.Minute)
		mu.Lock()
		away = false
		mu.Unlock()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := b.depth(); got != 1 {
			t.Errorf("%d wait, want the one that can't be written", got)
		}
		cancel()
		group.Wait()
		mu.Lock()
		defer mu.Unlock()
		for i := range 3000 {
			if want := 1; i != 7 && written[i] != want {
				t.Fatalf("%d was written %d times, want once", i, written[i])
			}
		}
	})
}
