package lock

import (
	"errors"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
)

// cell is one lock as a replica knows it, and who asks for it there.
type cell struct {
	key   string    // of the bucket
	users int       // guarded by Locks.mu, with the next two
	left  time.Time // by the last of them
	// tended says that a goroutine sees to those who wait.
	tended bool

	mu    sync.Mutex
	state state              // guarded by mu, with all that follows
	queue []*job             // asked, and not being decided
	busy  bool               // somebody decides, and hands that on to the next in queue
	waits map[*wait]struct{} // requests of this replica that stand in line

	looked time.Time // when the entry was last asked for on behalf of all who wait

	changed chan struct{} // has whoever tends it look again
}

// state is an entry as the replica knows it. The entry is not changed.
type state struct {
	known    bool
	entry    *entry
	revision uint64
	broken   error // the entry can't be read
	// asked is the time as of which it was the newest.
	asked time.Time
	// seen is when the replica first knew of what the holder has, learned of the entry.
	seen, learned time.Time
}

func newCell(key string) *cell {
	return &cell{key: key, state: state{entry: &entry{}}, waits: map[*wait]struct{}{}, changed: make(chan struct{}, 1)}
}

// job is a request on its way through the queue of its cell.
type job struct {
	request
	came time.Time

	done  chan struct{} // closed when it is answered
	baton chan struct{} // its turn to decide for all who are in the queue

	// The answer.
	outcome outcome
	holder  *holder // as it is then
	err     error
}

// current returns what is known now.
func (c *cell) current() state {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// watched is for how long the holder of a state has been seen.
func (s *state) watched() time.Duration { return time.Since(s.seen) }

// read is the state of an entry as a read found it, which began at a time.
func read(e kv.Entry, err error, asked time.Time) (state, error) {
	now := time.Now()
	s := state{known: true, entry: &entry{}, asked: asked, seen: now, learned: now}
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return s, nil
	case err != nil:
		return state{}, err
	}
	s.revision = e.Revision
	if e.Deleted {
		return s, nil
	}
	decoded, err := decodeEntry(e.Value, e.Revision, e.At)
	if err != nil {
		s.broken = err
		return s, nil
	}
	s.entry = decoded
	return s, nil
}

// learn takes a state that was read, or written as of sent, unless a newer one is
// known. Those who wait and were granted the lock are told.
func (c *cell) learn(s state, wrote bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch old := &c.state; {
	case old.revision > s.revision && old.learned.After(s.asked): // it was heard of meanwhile
		old.known = true
	case wrote && old.revision == s.revision: // so was this one, and when it was stored
		old.known, old.asked = true, s.asked
	default:
		c.take(s)
	}
}

// hear takes an entry that was published. It is at least as new as what was known.
func (c *cell) hear(e kv.Entry) {
	s, err := read(e, nil, time.Time{})
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Revision <= c.state.revision {
		if e.Revision == c.state.revision {
			c.stamped(s.entry)
		}
		return
	}
	s.asked = c.state.asked
	c.take(s)
}

// stamped notes when the present entry was stored, once that is heard of.
func (c *cell) stamped(e *entry) {
	have := c.state.entry.holder
	if h := e.holder; h != nil && have != nil && have.at.IsZero() && have.renewed == h.renewed && have.fence == h.fence {
		c.state.entry = c.state.entry.clone()
		c.state.entry.holder.at = h.at
	}
}

func (c *cell) take(s state) {
	if have, h := c.state.entry.holder, s.entry.holder; have != nil && h != nil && have.fence == h.fence && have.renewed == h.renewed {
		s.seen = c.state.seen
	}
	c.state = s
	for w := range c.waits {
		w.look(&s)
	}
	c.signal()
}

// signal has whoever sees to those who wait look again.
func (c *cell) signal() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}
