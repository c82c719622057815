package lock

import (
	"slices"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// entry is who has a lock and who waits for it. It is pure: what it needs to know
// of time is in a [view]. One that others know of is not changed, but a clone.
type entry struct {
	holder   *holder
	line     []waiter
	released wire.LockReleased // who gave it up last; its fence is 0 where nobody did
}

// holder is who has a lock. One of the present write has no fence, nor the
// revision that renewed it, nor when, before that is stored.
type holder struct {
	who            string
	fence, renewed uint64
	ttl            time.Duration // from renewed
	at             time.Time     // when renewed was stored, by JetStream's clock; zero: not known
}

// waiter stands in the line.
type waiter struct {
	who   string
	ttl   time.Duration // of the grant that it waits for
	until time.Time     // nobody answers it after, by JetStream's clock
}

// view is what a replica knows of time when it decides.
type view struct {
	// now is JetStream's time, or a moment before; zero where it is not known.
	now time.Time
	// watched is for how long the replica has seen the holder's last renewal.
	watched time.Duration
}

// action is what is wanted of a lock.
type action int

const (
	acquiring action = iota
	leaving          // the line
	renewing
	releasing
	keeping // waiters alive, and the line going
)

// request is one action. Who does it is told by the mark of their token.
type request struct {
	action action
	who    string
	fence  uint64        // renewing, releasing
	ttl    time.Duration // acquiring, renewing
	wait   bool          // acquiring: else it is now or not at all
	alive  time.Duration // acquiring: for so long somebody answers the waiter
	keep   map[string]time.Duration
}

// outcome is what becomes of a request.
type outcome int

const (
	granted  outcome = iota + 1 // or renewed: it is the holder
	queued                      // it stands in the line
	held                        // somebody else has it
	full                        // so does the line
	gone                        // it is not the holder (any more)
	finished                    // nothing more is to be said
)

func (e *entry) clone() *entry {
	c := &entry{line: slices.Clone(e.line), released: e.released}
	if e.holder != nil {
		h := *e.holder
		c.holder = &h
	}
	return c
}

// left is for how long the lock is still held; 0 where it has expired.
func (h *holder) left(v view) time.Duration { return max(h.until(v), 0) }

// until is when the lock expires; below 0: so long ago.
func (h *holder) until(v view) time.Duration {
	elapsed := v.watched
	if !v.now.IsZero() && !h.at.IsZero() {
		elapsed = max(elapsed, v.now.Sub(h.at))
	}
	return h.ttl - max(elapsed, 0)
}

// decided is what a request came to.
type decided struct {
	outcome outcome
	changed bool
	expired int // holders
	handed  int // grants to waiters
}

// decide does what is wanted.
func (e *entry) decide(r *request, v view) (d decided) {
	switch r.action {
	case acquiring:
		e.settle(v, &d)
		e.acquire(r, v, &d)
	case leaving:
		if h := e.holder; h != nil && h.who == r.who && (h.fresh() || h.left(v) > 0) {
			d.outcome = granted // at the last moment
			break
		}
		d.outcome = gone
		if i := e.place(r.who); i >= 0 {
			e.line = slices.Delete(e.line, i, i+1)
			d.changed = true
		}
	case renewing:
		d.outcome = gone
		if h := e.holder; h != nil && h.who == r.who && h.fence == r.fence && h.fence != 0 && h.left(v) > 0 {
			h.renewed, h.at, h.ttl = 0, time.Time{}, r.ttl
			d.outcome, d.changed = granted, true
		}
	case releasing:
		e.release(r, v, &d)
	case keeping:
		e.settle(v, &d)
		e.keep(r.keep, v, &d)
		d.outcome = finished
	}
	return d
}

// settle ends a holder whose time is over, and hands the lock to the first waiter
// that somebody still answers.
func (e *entry) settle(v view, d *decided) {
	if e.holder != nil && !e.holder.fresh() && e.holder.left(v) == 0 {
		e.holder = nil
		d.expired++
		d.changed = true
	}
	if e.holder != nil {
		return
	}
	for len(e.line) > 0 {
		first := e.line[0]
		e.line = e.line[1:]
		d.changed = true
		if !first.dead(v) {
			e.grant(first.who, first.ttl)
			d.handed++
			return
		}
	}
}

// fresh reports whether the holder was granted, or renewed, by the present write.
func (h *holder) fresh() bool { return h.renewed == 0 }

func (w waiter) dead(v view) bool { return !v.now.IsZero() && w.until.Before(v.now) }

func (e *entry) grant(who string, ttl time.Duration) { e.holder = &holder{who: who, ttl: ttl} }

func (e *entry) place(who string) int {
	return slices.IndexFunc(e.line, func(w waiter) bool { return w.who == who })
}

// acquire makes a settled entry's lock the asker's, or puts it in line. Asking
// again changes no place and no grant.
func (e *entry) acquire(r *request, v view, d *decided) {
	i := e.place(r.who)
	switch {
	case e.holder != nil && e.holder.who == r.who:
		d.outcome = granted
	case e.holder == nil: // nobody is in line either
		e.grant(r.who, r.ttl)
		d.outcome, d.changed = granted, true
	case !r.wait:
		d.outcome = held
		if i >= 0 {
			e.line = slices.Delete(e.line, i, i+1)
			d.changed = true
		}
	case i >= 0:
		w := &e.line[i]
		if until := v.now.Add(r.alive); w.until.Before(until) || w.ttl != r.ttl {
			w.ttl, w.until = r.ttl, maxTime(w.until, until)
			d.changed = true
		}
		d.outcome = queued
	default:
		if len(e.line) >= wire.MaxLockWaiters {
			e.bury(v, d)
		}
		if len(e.line) >= wire.MaxLockWaiters {
			d.outcome = full
			return
		}
		e.line = append(e.line, waiter{who: r.who, ttl: r.ttl, until: v.now.Add(r.alive)})
		d.outcome, d.changed = queued, true
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// release takes the lock from its holder and hands it on. One that is said again
// is known as long as nobody else has released the lock since.
func (e *entry) release(r *request, v view, d *decided) {
	said := wire.LockReleased{Who: r.who, Fence: r.fence}
	switch h := e.holder; {
	case h != nil && h.fence != 0 && h.who == r.who && h.fence == r.fence:
		e.holder, e.released = nil, said
		d.outcome, d.changed = finished, true
		e.settle(v, d)
	case e.released == said && r.fence != 0:
		d.outcome = finished
	default:
		d.outcome = gone
	}
}

const (
	// waiterLease is for how long a replica promises to answer a waiter; it promises
	// anew while the waiter is there, once less than keepWithin is left.
	waiterLease = 5 * time.Second
	keepWithin  = waiterLease / 2
	// releasedFor is how long a lock that nobody has is remembered.
	releasedFor = 10 * time.Second
)

// keep makes the promises of waiters anew, and drops those that were broken.
func (e *entry) keep(alive map[string]time.Duration, v view, d *decided) {
	if v.now.IsZero() {
		return
	}
	for i := range e.line {
		w := &e.line[i]
		life, ok := alive[w.who]
		if until := v.now.Add(life); ok && w.until.Before(until) && w.until.Before(v.now.Add(keepWithin)) {
			w.until = until
			d.changed = true
		}
	}
	e.bury(v, d)
}

// bury drops the waiters that nobody answers any more.
func (e *entry) bury(v view, d *decided) {
	before := len(e.line)
	e.line = slices.DeleteFunc(e.line, func(w waiter) bool { return w.dead(v) })
	d.changed = d.changed || len(e.line) != before
}

// keptFor is how long an entry says something that counts, from now on: the
// bucket keeps it so long, in whole seconds, and one more.
func (e *entry) keptFor(v view) time.Duration {
	life := time.Duration(0)
	if e.holder != nil {
		life = e.holder.ttl
		if !e.holder.fresh() {
			life = e.holder.left(v)
		}
	}
	for _, w := range e.line {
		life = max(life, w.until.Sub(v.now))
	}
	if len(e.line) > 0 {
		life += waiterLease // nobody who waits finds the line gone
	}
	if e.holder == nil && len(e.line) == 0 {
		life = releasedFor
	}
	return (life + time.Second - 1).Truncate(time.Second) + time.Second
}

// stored is the entry once a write has stored it, with what the holder has of it.
// at is when; zero where that is not known.
func (e *entry) stored(revision uint64, at time.Time) *entry {
	h := e.holder
	if h == nil || h.renewed != 0 {
		return e
	}
	e = e.clone()
	e.holder.renewed, e.holder.at = revision, at
	if e.holder.fence == 0 {
		e.holder.fence = revision
	}
	return e
}
