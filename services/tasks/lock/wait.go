package lock

import (
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// waitSlack is what a waiter may be alive beyond its wait, so that the replica is
	// the one who takes it out.
	waitSlack = 500 * time.Millisecond
	// lookAt is how soon after a lock expired it is handed on: by the replica of the
	// first in line at once, by the others where that one does not.
	lookAt, lookLater = 2 * time.Millisecond, 100 * time.Millisecond
	// lookEvery is how often the replica looks after those who wait in any case.
	lookEvery = 1500 * time.Millisecond
	// tendIdle is how long an entry is watched that nobody waits for any more.
	tendIdle = time.Second
)

// wait is a request that stands in line.
type wait struct {
	who  string
	ends time.Time // nobody answers it after

	queued  uint64 // the revision with which it was put in line; guarded by cell.mu
	granted chan *holder
	dropped chan struct{} // it is in line no more, and was not granted the lock
}

// look tells a request what has become of it. Whoever calls it has cell.mu.
func (w *wait) look(s *state) {
	switch {
	case s.entry.holder != nil && s.entry.holder.who == w.who:
		select {
		case w.granted <- s.entry.holder:
		default:
		}
	case w.queued != 0 && s.revision != w.queued && s.entry.place(w.who) < 0:
		w.queued = 0
		select {
		case w.dropped <- struct{}{}:
		default:
		}
	}
}

// join has a request hear what becomes of the lock. Whoever joins calls part.
func (l *Locks) join(c *cell, who string, d time.Duration) (*wait, error) {
	w := &wait{who: who, ends: time.Now().Add(d), granted: make(chan *holder, 1), dropped: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.stopping:
		return nil, wire.Errorf(wire.Unavailable, "the replica is stopping").With("outcome", "none")
	case c.waiting() >= 2*wire.MaxLockWaiters: // the entry refuses them before, but for those who ask twice
		return nil, errFull()
	case !c.tended:
		// What it hears takes c.mu: it is not begun with it.
		stop, err := l.store.Watch(c.key, c.hear)
		if err != nil {
			return nil, wire.Errorf(wire.Unavailable, "the bucket of locks can't be watched").With("outcome", "none")
		}
		c.tended = true
		c.users++ // the tender's
		l.tending.Go(func() { l.tend(c, stop) })
	}
	c.add(w)
	l.metrics.waiters.Add(1)
	return w, nil
}

func (c *cell) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waits)
}

func (c *cell) add(w *wait) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waits) == 0 {
		c.looked = time.Now()
	}
	c.waits[w] = struct{}{}
}

func (l *Locks) part(c *cell, w *wait) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waits, w)
	l.metrics.waiters.Add(-1)
	c.signal()
}

// placed notes that a request stands in line as of the newest entry.
func (c *cell) placed(w *wait) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.queued = c.state.revision
	if c.state.entry.place(w.who) < 0 { // it has been dropped, or granted the lock, since
		w.queued = 1
		w.look(&c.state)
	}
}

// tend sees to those who wait for a lock, as long as there are any: it promises
// that they are answered, and looks whether the holder's time is over.
func (l *Locks) tend(c *cell, stop func()) {
	defer l.leave(c)
	defer stop()
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	stopped, idle := l.stopped, time.Time{}
	for {
		due := false
		select {
		case <-c.changed:
		case <-timer.C:
			due = true
		case <-stopped:
			stopped = nil
		}
		next, waiting := l.nextLook(c)
		switch {
		case waiting:
			idle = time.Time{}
		case l.endTending(c, &idle):
			return
		default:
			timer.Reset(tendIdle)
			continue
		}
		if due && next <= 0 {
			next = lookEvery
			if !l.look(c) {
				next = retryPause
			} else if n, waiting := l.nextLook(c); waiting {
				next = max(n, lookAt)
			}
		}
		timer.Reset(max(next, time.Millisecond))
	}
}

// endTending reports whether nobody has waited for a while, or may wait here any
// more.
func (l *Locks) endTending(c *cell, idle *time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.waiting() > 0 {
		return false
	}
	if idle.IsZero() {
		*idle = time.Now()
	}
	c.tended = !l.stopping && time.Since(*idle) < tendIdle
	return !c.tended
}

// nextLook is in what time something has to be done for those who wait; waiting is
// false where nobody does.
func (l *Locks) nextLook(c *cell) (next time.Duration, waiting bool) {
	v := view{}
	if now, good := l.time.now(); good {
		v.now = now
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waits) == 0 {
		return 0, false
	}
	next = lookEvery - time.Since(c.looked)
	e := c.state.entry
	if len(e.line) == 0 {
		return next, true
	}
	after := lookLater
	for w := range c.waits {
		if w.who == e.line[0].who {
			after = lookAt
			break
		}
	}
	if e.holder != nil {
		v.watched = c.state.watched()
		after += e.holder.until(v)
	} else {
		after -= time.Since(c.state.learned)
	}
	return min(next, after), true
}

// look makes the promises to those who wait anew and hands the lock on where its
// holder's time is over. It reports whether the store answered.
func (l *Locks) look(c *cell) bool {
	l.used.Store(true)
	keep := map[string]time.Duration{}
	c.mu.Lock()
	c.looked = time.Now()
	for w := range c.waits {
		keep[w.who] = max(keep[w.who], w.alive())
	}
	c.mu.Unlock()
	return l.do(c, request{action: keeping, keep: keep}).err == nil
}

// alive is for how long the replica promises to answer.
func (w *wait) alive() time.Duration {
	return min(max(time.Until(w.ends), 0)+waitSlack, waiterLease)
}
