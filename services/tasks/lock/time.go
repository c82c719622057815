package lock

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
)

const (
	// stampPrefix begins the key under which a replica has JetStream stamp the time;
	// entries begin with their version.
	stampPrefix = "t."
	stampLife   = time.Minute
	// stampGood is for how long a stamp is gone by: the clock of another leader is
	// noticed by then, and two clocks have not parted by what matters.
	stampGood = 10 * time.Second
	// stampEvery is how often the time is looked at while there is something to do.
	stampEvery = 2 * time.Second
)

// serverTime is JetStream's time, or a moment before: what its newest stamp says,
// and what has passed since it came, on the monotonic clock. So what has expired by
// it has expired.
type serverTime struct {
	store Store
	key   string

	asking sync.Mutex // whoever asks for a stamp; the others wait for the same one

	mu   sync.Mutex
	at   time.Time // what the newest stamp says; guarded by mu, with when it came
	came time.Time
}

// now returns the time, and whether it comes of a stamp that is new enough.
func (s *serverTime) now() (t time.Time, good bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.came.IsZero() {
		return time.Time{}, false
	}
	since := time.Since(s.came)
	return s.at.Add(since), since <= stampGood
}

// stamp has the server say what time it is, unless it has since asked.
func (s *serverTime) stamp(ctx context.Context, asked time.Time) error {
	s.asking.Lock()
	defer s.asking.Unlock()
	s.mu.Lock()
	newer := s.came.After(asked)
	s.mu.Unlock()
	if newer {
		return nil
	}
	revision, err := s.store.Put(ctx, kv.Write{Key: s.key, Value: []byte("{}"), Expect: kv.AnyRevision, TTL: stampLife})
	came := time.Now()
	if err != nil {
		return fmt.Errorf("have the time stamped: %w", err)
	}
	e, err := s.store.Get(ctx, s.key)
	if err != nil {
		return fmt.Errorf("read what time it is: %w", err)
	}
	if e.Revision == revision {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.at, s.came = e.At, came
	}
	return nil
}
