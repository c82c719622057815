package limits

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

type (
	// foldKey is what calls have in common that go together.
	foldKey struct {
		limit *rules.Limit
		key   string
		cost  int64
	}

	// parkKey is whom those wait for who must not ask.
	parkKey struct{ policy, key string }
)

// fold is all calls that want the same, while there are any: one take at a time
// is under way for them, and what comes meanwhile waits for the next one.
type fold struct {
	foldKey
	all    []Ask // of ConsumeAll: one call, in a request of its own
	state  foldState
	probes []parkKey // of denials of which it asks first whether they are over: others wait
	trouble

	waiting waiterList // who is not sent
	sent    waiterList
	round   uint64    // of sending: who came in an earlier one was sent
	want    int64     // what those want who wait
	until   time.Time // the latest end of those
	next    *fold     // in the queue of its lane
}

// trouble is what a fold met since it was last answered.
type trouble struct {
	alone   bool   // it goes in a request of its own
	aborted bool   // it was asked again after ABORTED
	tries   int    // replicas that were asked in vain
	silent  string // one of them, that did not decide: it is not asked again
}

type foldState uint8

const (
	foldNew    foldState = iota
	foldQueued           // in a lane
	foldFlying           // a request is under way
	foldParked           // another one asks first
)

// waiter is one call. It is in a list of its fold until it is answered.
type waiter struct {
	done    chan struct{} // gets one element when answer and err are there
	answer  Answer
	answers []Answer // of ConsumeAll
	err     error

	want       int64
	until      time.Time
	fold       *fold // nil when it is answered, or gone
	round      uint64
	prev, next *waiter

	timed        bool
	older, newer *waiter
}

type waiterList struct{ first, last *waiter }

func (l *waiterList) push(w *waiter) {
	if w.prev = l.last; w.prev == nil {
		l.first = w
	} else {
		w.prev.next = w
	}
	l.last = w
}

func (l *waiterList) remove(w *waiter) {
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
}

// timedList holds who is ended by the sweep. All wait equally long, so that it is
// in order of time.
type timedList struct{ first, last *waiter }

func (l *timedList) push(w *waiter) {
	w.timed = true
	if w.older = l.last; w.older == nil {
		l.first = w
	} else {
		w.older.newer = w
	}
	l.last = w
}

func (l *timedList) remove(w *waiter) {
	if !w.timed {
		return
	}
	if w.older == nil {
		l.first = w.newer
	} else {
		w.older.newer = w.newer
	}
	if w.newer == nil {
		l.last = w.older
	} else {
		w.newer.older = w.older
	}
	w.timed, w.older, w.newer = false, nil, nil
}

// depart makes those who wait those who are sent, and returns what they want.
func (f *fold) depart() (n int64) {
	f.state = foldFlying
	f.round++
	f.sent, f.waiting = f.waiting, waiterList{}
	if n = f.want; n <= wire.MaxLimitRepeats {
		f.want, f.until = 0, time.Time{}
		return n
	}
	// As many as one take may want; the others wait on.
	n = 0
	w := f.sent.first
	for ; n+w.want <= wire.MaxLimitRepeats; w = w.next {
		n += w.want
	}
	f.waiting = waiterList{w, f.sent.last}
	f.sent.last = w.prev
	f.sent.last.next, w.prev = nil, nil
	for f.want -= n; w != nil; w = w.next {
		w.round = f.round
	}
	return n
}

// enter lets a call wait in its fold; mu is held.
func (c *Client) enter(f *fold, n int64, until time.Time, own bool) (*waiter, error) {
	if c.counts.Waiting >= waitingMost {
		c.counts.Dropped++
		return nil, wire.Errorf(wire.Unavailable, "too many wait for the ratelimit service").With("outcome", "none")
	}
	w := c.waiters.Get().(*waiter)
	w.want, w.until, w.fold, w.round = n, until, f, f.round
	f.waiting.push(w)
	f.want += n
	if until.After(f.until) {
		f.until = until
	}
	if !own {
		c.timed.push(w)
		c.arm()
	}
	c.counts.Waiting++
	return w, nil
}

// wait returns when a call is answered or ctx ends. Who leaves before his request
// was sent costs nothing; what was granted to one who left later is given to who
// is behind him, if anybody is.
func (c *Client) wait(ctx context.Context, w *waiter) error {
	if ctx.Done() == nil {
		<-w.done
		return w.err
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	if w.fold == nil {
		c.mu.Unlock()
		<-w.done
		return w.err
	}
	c.leave(w)
	c.mu.Unlock()
	return wire.AsError(ctx.Err())
}

// leave takes a call out that is not answered; mu is held.
func (c *Client) leave(w *waiter) {
	f := w.fold
	if w.round == f.round {
		f.waiting.remove(w)
		f.want -= w.want
	} else {
		f.sent.remove(w)
	}
	c.release(w)
}

// release ends the wait of a call that is in no list of a fold; mu is held.
func (c *Client) release(w *waiter) {
	w.fold = nil
	c.timed.remove(w)
	c.counts.Waiting--
}

// take returns the calls of a list, which are released and linked by next, and
// empties it; mu is held.
func (c *Client) take(l *waiterList) *waiter {
	first := l.first
	*l = waiterList{}
	for w := first; w != nil; w = w.next {
		c.release(w)
	}
	return first
}

// free gives a waiter back that its call is done with.
func (c *Client) free(w *waiter) {
	*w = waiter{done: w.done}
	c.waiters.Put(w)
}

// route decides what those who wait in a fold do: they are denied by what is
// remembered, wait for another one that asks, or ask; mu is held.
func (c *Client) route(f *fold) {
	if f.waiting.first == nil {
		c.forgetFold(f)
		return
	}
	if c.denials.count > 0 {
		if now := c.cfg.Now(); c.denied(f, now) || c.parks(f, now) {
			return
		}
	}
	c.enqueue(f)
}

// denied answers those who wait in a fold where what is remembered denies it, and
// reports whether it does; mu is held.
func (c *Client) denied(f *fold, now time.Time) bool {
	if f.all != nil {
		answers := c.refuse(f.all, now)
		if answers == nil {
			return false
		}
		c.deals = append(c.deals, deal{first: c.take(&f.waiting), all: answers})
		c.forgetFold(f)
		return true
	}
	v, denied := c.denials.look(f.limit, f.key, f.cost, now)
	if !denied {
		return false
	}
	for w := f.waiting.first; w != nil; w = w.next {
		c.counts.Remembered++
	}
	c.deny(f, Answer{Verdict: v, Cached: true})
	return true
}

// parks has a fold wait where another one asks whether a denial is over, and
// reports whether it does. Else the fold is the one that asks, and others wait for
// it until settle; mu is held.
func (c *Client) parks(f *fold, now time.Time) bool {
	asks := f.all
	if asks == nil {
		asks = []Ask{{f.limit, f.key, f.cost}}
	}
	for _, a := range asks {
		if c.denials.asked(a.Limit, a.Key, a.Cost, now) {
			f.state = foldParked
			at := parkKey{a.Limit.Name, a.Key}
			c.parked[at] = append(c.parked[at], f)
			return true
		}
	}
	// Only who waits for nobody has others wait: two could for each other, for ever.
	for _, a := range asks {
		if c.denials.begin(a.Limit, a.Key, a.Cost, now) {
			f.probes = append(f.probes, parkKey{a.Limit.Name, a.Key})
		}
	}
	return false
}

// forgetFold drops a fold in which nobody is; mu is held.
func (c *Client) forgetFold(f *fold) {
	f.state = foldNew
	if f.all == nil && c.folds[f.foldKey] == f {
		delete(c.folds, f.foldKey)
	}
}

// settle ends a fold's asking first, and lets those go on who waited for it; mu is
// held.
func (c *Client) settle(f *fold) {
	probes := f.probes
	f.probes = nil
	for _, at := range probes {
		c.denials.settle(at.policy, at.key)
	}
	for _, at := range probes {
		waiting := c.parked[at]
		delete(c.parked, at)
		for _, other := range waiting {
			c.route(other)
		}
	}
}
