package presence

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// sections is a bucket of sections, with a view of it in memory that the
// bucket's own changes keep.
type sections struct {
	store Store

	mu       sync.Mutex
	view     *view // guarded by mu, like the two below; nil before the first is whole
	building *view
	waiting  []waiting
}

// waiting is somebody who needs a view that knows a revision.
type waiting struct {
	rev uint64
	ok  chan struct{}
}

// revisionWait bounds how long a request waits for the view to know a revision.
const revisionWait = time.Second

func newSections(store Store) *sections { return &sections{store: store} }

// run keeps the view until ctx is done.
func (s *sections) run(ctx context.Context) {
	s.store.Follow(ctx, func() func(kv.Entry) {
		s.mu.Lock()
		defer s.mu.Unlock()
		v := newView()
		s.building = v
		return func(e kv.Entry) {
			s.mu.Lock()
			defer s.mu.Unlock()
			v.apply(e)
			v.rev = max(v.rev, e.Revision)
			if v == s.view {
				s.wake()
			}
		}
	}, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.view = s.building
		s.wake()
	})
}

// wake tells who waits for what the view knows now; mu is held.
func (s *sections) wake() {
	kept := s.waiting[:0]
	for _, w := range s.waiting {
		if w.rev <= s.view.rev {
			close(w.ok)
		} else {
			kept = append(kept, w)
		}
	}
	clear(s.waiting[len(kept):])
	s.waiting = kept
}

func (s *sections) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view != nil
}

// note takes what this replica has just written, so that it need not wait for
// the bucket to say so. A view that is further than that has it already, or
// knows that it is gone again. An end is left to the bucket: a view that has
// forgotten a key would take the older entries of it that are on their way.
func (s *sections) note(e kv.Entry) {
	if e.Deleted {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range [...]*view{s.view, s.building} {
		if v != nil && v.rev < e.Revision {
			v.apply(e)
		}
		if s.view == s.building {
			return
		}
	}
}

// with calls fn with a view that knows a revision; fn must not keep what the
// view owns. UNAVAILABLE where there is none in time.
func (s *sections) with(ctx context.Context, minRev uint64, fn func(*view)) error {
	s.mu.Lock()
	if s.view != nil && s.view.rev >= minRev {
		defer s.mu.Unlock()
		fn(s.view)
		return nil
	}
	if s.view == nil || len(s.waiting) >= workers {
		s.mu.Unlock()
		return wire.Errorf(wire.Unavailable, "this replica is still reading who is there")
	}
	w := waiting{rev: minRev, ok: make(chan struct{})}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	timer := time.NewTimer(revisionWait)
	defer timer.Stop()
	select {
	case <-w.ok:
		s.mu.Lock()
		defer s.mu.Unlock()
		fn(s.view)
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.waiting {
		if other.ok == w.ok {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			return wire.Errorf(wire.Unavailable, "this replica does not know revision %d yet", minRev)
		}
	}
	fn(s.view) // it came at the last moment
	return nil
}

// size returns how many topics have somebody on them, and how many users that
// is, once for each topic.
func (s *sections) size() (topics, members int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view == nil {
		return 0, 0
	}
	return len(s.view.topics), s.view.members
}
