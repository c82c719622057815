package lock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
)

// do has a request decided, together with all others that wait for the same lock
// here: whoever finds nobody deciding decides for all who are there, and hands on
// to one who came meanwhile.
func (l *Locks) do(c *cell, r request) *job {
	j := &job{request: r, came: time.Now(), done: make(chan struct{}), baton: make(chan struct{}, 1)}
	c.mu.Lock()
	c.queue = append(c.queue, j)
	mine := !c.busy
	c.busy = true
	c.mu.Unlock()
	if !mine {
		select {
		case <-j.done:
			return j
		case <-j.baton:
		}
	}
	c.mu.Lock()
	batch := c.queue
	c.queue = nil
	c.mu.Unlock()
	l.round(c, batch)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		c.busy = false
	} else {
		c.queue[0].baton <- struct{}{}
	}
	return j
}

// round decides for all of a batch and answers them. What changes the entry is
// written on condition that it is still the one that was decided on; what changes
// nothing is answered from what was the newest after it was asked. Everything may
// be decided again, also where it was stored without our hearing of it.
func (l *Locks) round(c *cell, batch []*job) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var came time.Time
	for _, j := range batch {
		if j.came.After(came) {
			came = j.came
		}
	}
	unsure := false // something may have been stored
	for {
		if l.resting() {
			fail(batch, errAway, unsure)
			return
		}
		s := c.current()
		again, err := l.try(ctx, c, s, batch, came)
		if err == nil && !again {
			return
		}
		if err != nil {
			unsure = unsure || !notSent(err)
			if pause(ctx, err) != nil {
				fail(batch, err, unsure)
				return
			}
			continue
		}
		if ctx.Err() != nil {
			fail(batch, errContended, unsure)
			return
		}
	}
}

var (
	errAway      = errors.New("the bucket of locks does not answer")
	errContended = errors.New("too many replicas change the lock at once")
)

// pause waits before the store is asked again, and returns an error where it is
// not worth while.
func pause(ctx context.Context, err error) error {
	if notSent(err) {
		return err
	}
	return clock.Sleep(ctx, 20*time.Millisecond)
}

// notSent reports whether the store was not even asked.
func notSent(err error) bool { return bus.Away(err) || errors.Is(err, nats.ErrNoResponders) }

// try decides once on a state. again says that there is a newer one to decide on.
func (l *Locks) try(ctx context.Context, c *cell, s state, batch []*job, came time.Time) (again bool, err error) {
	if s.broken != nil {
		return l.broken(ctx, c, s, batch, came)
	}
	now, good := l.time.now()
	v := view{now: now, watched: s.watched()}
	// Where nothing is known of a lock it is likely that nobody has it: the write
	// tells. Whoever has one, or waits, needs to know.
	if !s.known && (s.revision != 0 || !guess(batch)) {
		return true, l.read(ctx, c)
	}
	work := s.entry.clone()
	var sum decided
	outcomes := make([]outcome, len(batch))
	for i, j := range batch {
		d := work.decide(&j.request, v)
		outcomes[i] = d.outcome
		sum.changed = sum.changed || d.changed
		sum.expired += d.expired
		sum.handed += d.handed
	}
	if !good && (needsTime(s.entry, batch) || len(work.line) > 0) {
		return true, l.stamp(ctx, came)
	}
	if !sum.changed {
		if !s.known || s.asked.Before(came) {
			return true, l.read(ctx, c)
		}
		answer(batch, outcomes, s.entry.holder)
		return false, nil
	}
	if h := work.holder; h != nil && !h.fresh() && h.at.IsZero() {
		return true, l.read(ctx, c) // when it was stored is lost otherwise
	}
	sent := time.Now()
	revision, err := l.store.Put(ctx, kv.Write{Key: c.key, Value: work.encode(), Expect: s.revision, TTL: work.keptFor(v)})
	l.answered(err)
	switch {
	case errors.Is(err, kv.ErrConflict):
		if s.known {
			l.metrics.conflicts.Add(1)
		}
		return true, l.read(ctx, c)
	case err != nil:
		c.forget()
		return true, fmt.Errorf("change a lock: %w", err)
	}
	work = work.stored(revision, time.Time{})
	stored := time.Now()
	c.learn(state{known: true, entry: work, revision: revision, asked: sent, seen: stored, learned: stored}, true)
	l.metrics.expired.Add(int64(sum.expired))
	l.metrics.handed.Add(int64(sum.handed))
	answer(batch, outcomes, work.holder)
	return false, nil
}

// guess reports whether requests can be decided on an entry of which nothing is
// known, as if there were none.
func guess(batch []*job) bool {
	for _, j := range batch {
		if j.action != acquiring {
			return false
		}
	}
	return true
}

// needsTime reports whether requests can't be decided on an entry without knowing
// what time it is.
func needsTime(e *entry, batch []*job) bool {
	if len(e.line) > 0 {
		return true
	}
	for _, j := range batch {
		if j.action != releasing && e.holder != nil {
			return true
		}
	}
	return false
}

// read asks for the newest entry.
func (l *Locks) read(ctx context.Context, c *cell) error {
	asked := time.Now()
	e, err := l.store.Get(ctx, c.key)
	l.answered(err)
	s, err := read(e, err, asked)
	if err != nil {
		return fmt.Errorf("read a lock: %w", err)
	}
	c.learn(s, false)
	return nil
}

// forget has the entry read before it is decided on.
func (c *cell) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.known = false
}

// broken answers requests for a lock whose entry can't be read: nobody can have
// it, or it might have two holders.
func (l *Locks) broken(ctx context.Context, c *cell, s state, batch []*job, came time.Time) (again bool, err error) {
	if s.asked.Before(came) {
		return true, l.read(ctx, c)
	}
	l.cfg.Log.Error("a lock's entry can't be read: nobody gets it until the entry is deleted or ends", "entry", c.key, "err", s.broken)
	for _, j := range batch {
		j.err = errBroken()
		close(j.done)
	}
	return false, nil
}

// answer tells a batch what it came to. h is the holder behind all of it: of a grant
// that a later one of the batch released again, nothing was ever stored.
func answer(batch []*job, outcomes []outcome, h *holder) {
	for i, j := range batch {
		j.outcome, j.holder = outcomes[i], h
		if j.outcome == granted && !j.has(h) {
			j.outcome = gone
		}
		close(j.done)
	}
}

// has reports whether a holder is the one that the request is about.
func (r *request) has(h *holder) bool {
	return h != nil && h.who == r.who && (r.action != renewing || h.fence == r.fence)
}

func fail(batch []*job, err error, unsure bool) {
	for _, j := range batch {
		j.err = unavailable(err, unsure)
		close(j.done)
	}
}
