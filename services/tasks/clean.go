package tasks

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// cleanEvery is how often what is kept no longer is looked for; replicas don't do
	// it at the same time, since each waits a random part of it more or less.
	cleanEvery = time.Minute
	// cleanBatch is how much goes at a time, cleanPause the rest between two batches.
	cleanBatch = 500
	cleanPause = 100 * time.Millisecond
	// depthEvery is how often it is counted what is due.
	depthEvery = 10 * time.Second
)

// around is d, give or take a quarter.
func around(d time.Duration) time.Duration {
	return d - d/4 + rand.N(d/2)
}

// clean removes what is kept no longer, in small batches, until ctx is done.
func (s *Service) clean(ctx context.Context) {
	// The first time also makes what will be needed: as soon as the tables are there.
	for wait := around(retryPause); clock.Sleep(ctx, wait) == nil; {
		if !s.postgres.there.Load() {
			wait = around(retryPause)
			continue
		}
		more, err := s.store.Clean(ctx, cleanBatch)
		switch {
		case err != nil:
			wait = around(cleanEvery / 6)
			s.metrics.cleanErrors.Add(1)
			if wire.CodeOf(err) != wire.Unavailable && ctx.Err() == nil { // that it is away others say
				s.slog.Warn("what is kept no longer was not removed", "err", err)
			}
		case more:
			wait = around(cleanPause)
		default:
			wait = around(cleanEvery)
		}
	}
}

// measure counts what is due, for the metrics, until ctx is done.
func (s *Service) measure(ctx context.Context) {
	for wait := around(depthEvery / 5); clock.Sleep(ctx, wait) == nil; wait = around(depthEvery) {
		due, oldest, err := s.store.Depth(ctx)
		if err == nil {
			s.metrics.due.Store(due)
			s.metrics.oldest.Store(int64(oldest.Seconds()))
		}
	}
}
