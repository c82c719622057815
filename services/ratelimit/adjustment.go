package ratelimit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// adjusting many keys leaves flushers to those who ask.
	adjustedAtOnce = flushers / 2
	// adjustWait bounds one walk over the keys.
	adjustWait = 10 * time.Minute
	// adjustAgain is when the keys are walked over again: a replica that died is not
	// taken for one that adjusts its own any more, and what was stored by one that
	// had not heard of the change is there. It is before anything is gone that was
	// there at the change, see rest.
	adjustAgain = 3500 * time.Millisecond
)

// adjustBuckets has the buckets of limits that change count on by what the limits
// are now, until ctx is done. By itself an entry lasts as long as it said when it
// was stored: where a limit refills slower than it did, an empty bucket would be gone,
// and so be full, long before. Of each key it is the replica that prefers it that
// does so.
func (s *Service) adjustBuckets(ctx context.Context) {
	live := s.deps.Rules
	select {
	case <-live.Loaded(): // what it had before is not what anything was counted by
	case <-ctx.Done():
		return
	}
	was := live.Current()
	var due map[string]bool // limits whose keys are to be walked over
	for ctx.Err() == nil {
		changed := live.Changed()
		set := live.Current()
		due = s.heard(was, set, due)
		was = set
		if len(due) == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		if s.adjustAll(ctx, changed, set, due) {
			due = nil
		}
	}
}

// heard notes from when limits count as they do, and returns which are due: those
// that changed, and those that were due before and are still there. One that was not
// there before, or is not any more, has not changed.
func (s *Service) heard(was, set *rules.Set, due map[string]bool) map[string]bool {
	known := s.keeper.changes()
	next, still := changes{}, map[string]bool{}
	now := s.clock.now()
	for _, l := range set.Limits {
		old := was.Limit(l.Name)
		since, ok := known[l.Name]
		switch {
		case old == nil:
		case rateOf(old) != rateOf(l):
			still[l.Name] = true
			if !now.IsZero() {
				next[l.Name] = now
			}
		default:
			if ok {
				next[l.Name] = since
			}
			if due[l.Name] {
				still[l.Name] = true
			}
		}
	}
	s.keeper.changed.Store(&next)
	return still
}

// adjustAll walks over the keys, and again, and reports whether it came to its end
// before the rules changed.
func (s *Service) adjustAll(ctx context.Context, changed <-chan struct{}, set *rules.Set, due map[string]bool) bool {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	})
	names := slices.Sorted(maps.Keys(due))
	all := make([]*rules.Limit, len(names))
	for i, name := range names {
		all[i] = set.Limit(name)
	}
	began := time.Now()
	for again := false; ; again = true {
		if !s.walk(ctx, all, names, again) {
			return false
		}
		if again {
			return true
		}
		if clock.Sleep(ctx, adjustAgain-time.Since(began)) != nil {
			return false
		}
	}
}

// walk adjusts the keys that this replica prefers, until it is done or ctx is. It
// begins again where JetStream was away.
func (s *Service) walk(ctx context.Context, all []*rules.Limit, names []string, again bool) bool {
	began, said := time.Now(), ""
	for count := int64(0); ; {
		if s.able() == nil {
			bounded, cancel := context.WithTimeout(ctx, adjustWait)
			n, left, err := s.keeper.adjustAll(bounded, all, s.client.Mine)
			cancel()
			count += n
			s.metrics.adjusted.Add(n)
			switch {
			case ctx.Err() != nil:
				return false
			case err == nil:
				took := time.Since(began)
				s.metrics.adjusting.Store(took.Milliseconds())
				if !again || count > 0 {
					s.slog.Info("limits changed: the keys of this replica are counted by what they are now",
						"limits", strings.Join(names, " "), "keys", count, "left", left, "took", took)
				}
				return true
			case err.Error() != said:
				said = err.Error()
				s.slog.Warn("limits changed, and keys can't be adjusted to it yet", "limits", strings.Join(names, " "), "keys", count, "err", err)
			}
		}
		if clock.Sleep(ctx, retryPause) != nil {
			return false
		}
	}
}

// changes returns from when limits count as they do, where they were another rate
// before.
func (k *keeper) changes() changes {
	if c := k.changed.Load(); c != nil {
		return *c
	}
	return nil
}

// adjust has the limits' buckets of a key count on by what the limits are now, and
// reports whether any did not.
func (k *keeper) adjust(ctx context.Context, key string, takes []take) (adjusted bool, err error) {
	a, err := k.ask(ctx, key, request{action: adjusting, takes: takes})
	return a.changed, err
}

// adjustAll adjusts all keys that are mine, and returns how many had to be. A key
// that can't be is left to who asks for it, unless nothing can be stored.
func (k *keeper) adjustAll(ctx context.Context, all []*rules.Limit, mine func(key string) bool) (adjusted, left int64, _ error) {
	takes := make([]take, len(all))
	for i, l := range all {
		takes[i].limit = l
	}
	var count, others atomic.Int64
	group, work := errgroup.WithContext(ctx)
	group.SetLimit(adjustedAtOnce)
	err := k.keys(work, func(key string) bool {
		if !mine(key) {
			return true
		}
		group.Go(func() error {
			adjusted, err := k.adjust(work, key, takes)
			switch {
			case adjusted && err == nil:
				count.Add(1)
			case err == nil:
			case wire.CodeOf(err) == wire.Unavailable || work.Err() != nil:
				return fmt.Errorf("adjust a key: %w", err)
			default:
				others.Add(1)
			}
			return nil
		})
		return work.Err() == nil
	})
	if failed := group.Wait(); failed != nil {
		err = failed
	}
	return count.Load(), others.Load(), err
}
