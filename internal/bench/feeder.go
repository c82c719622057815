package bench

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// feeder publishes numbered messages over NATS, to plain and to replayed topics
// alike.
type feeder struct {
	topic func(prefix string, i int) string

	mu   sync.Mutex // numbers are published in their order
	w    *writer
	next []int64 // per topic
}

func newFeeder(nc *nats.Conn, size, topics int, topic func(prefix string, i int) string) (*feeder, error) {
	w, err := newWriter(nc, size)
	return &feeder{topic: topic, w: w, next: make([]int64, topics)}, err
}

// run publishes so many messages a second to topics in turn. The function that
// it returns ends that, and says what went wrong.
func (f *feeder) run(ctx context.Context, rate float64) func() error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	var failed error
	group.Go(func() {
		tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
		defer tick.Stop()
		for i := 0; ; i = (i + 1) % len(f.next) {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if failed = f.both(ctx, i); failed != nil {
				return
			}
		}
	})
	return func() error {
		cancel()
		group.Wait()
		if failed != nil && ctx.Err() != nil {
			return nil // it was in the middle of something
		}
		return failed
	}
}

// both publishes to the plain and the replayed topic of that index.
func (f *feeder) both(ctx context.Context, i int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	subject, err := siteNamespace.Topic(f.topic(plainPrefix, i))
	if err != nil {
		return err
	}
	if err := f.w.nc.Publish(subject, f.w.payload); err != nil {
		return err
	}
	return f.put(ctx, i)
}

func (f *feeder) put(ctx context.Context, i int) error {
	if err := f.w.put(ctx, f.topic(logPrefix, i), f.next[i]); err != nil {
		return err
	}
	f.next[i]++
	return nil
}

// burst publishes n messages to each replayed topic and returns when they are
// stored.
func (f *feeder) burst(ctx context.Context, n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		for i := range f.next {
			if err := f.put(ctx, i); err != nil {
				return err
			}
		}
	}
	return f.w.flush(ctx)
}

// last returns the number of each topic's newest message.
func (f *feeder) last() []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := slices.Clone(f.next)
	for i := range last {
		last[i] += firstNumber - 1
	}
	return last
}
