package lock

import (
	"cmp"
	"context"
	"crypto/rand"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Acquire grants a lock, at once or when it is the asker's turn. Where somebody
// has it until the wait is over it is DEADLINE_EXCEEDED with `outcome` none: the
// asker is not in line any more. With `outcome` unknown it still is, for a few
// seconds: the same id then has the same place. RESOURCE_EXHAUSTED: the line is
// full. ABORTED: somebody with the same id waits no longer, or the replica was taken
// for dead. UNAVAILABLE: JetStream does not answer, or the replica stops.
//
// A grant is the asker's also where it has gone away meanwhile: what nobody renews
// or releases ends by its ttl.
func (l *Locks) Acquire(ctx context.Context, req wire.LockAcquire) (wire.LockGrant, error) {
	key, err := l.cfg.Namespace.LockEntry(req.Key)
	if err != nil {
		return wire.LockGrant{}, err
	}
	ttl, err := parseTTL(req.TTL)
	if err != nil {
		return wire.LockGrant{}, err
	}
	wait, err := parseWait(req.Wait)
	if err != nil {
		return wire.LockGrant{}, err
	}
	if len(req.ID) > maxID {
		return wire.LockGrant{}, wire.InvalidField("id", "at most 128 bytes")
	}
	token := tokenOf(req.Key, cmp.Or(req.ID, rand.Text()))
	a := asking{l: l, c: l.cell(key), who: whoOf(req.Key, token), ttl: ttl, wait: wait, own: req.ID == ""}
	defer l.leave(a.c)
	h, err := a.acquire(ctx)
	if err != nil {
		return wire.LockGrant{}, err
	}
	return l.grant(a.c, h, token), nil
}

// asking is a request for a lock.
type asking struct {
	l   *Locks
	c   *cell
	who string
	ttl time.Duration
	// wait is how long to stand in line; own says that nobody can ask again for the
	// same place.
	wait time.Duration
	own  bool
}

func (a *asking) acquire(ctx context.Context) (*holder, error) {
	l, c := a.l, a.c
	if a.wait == 0 {
		j := l.do(c, request{action: acquiring, who: a.who, ttl: a.ttl})
		return a.answer(j)
	}
	w, err := l.join(c, a.who, a.wait)
	if err != nil {
		return nil, err
	}
	defer l.part(c, w)
	began := time.Now()
	over := time.NewTimer(a.wait)
	defer over.Stop()
	for {
		j := l.do(c, request{action: acquiring, who: a.who, ttl: a.ttl, wait: true, alive: w.alive()})
		if j.err != nil || j.outcome != queued {
			return a.answer(j)
		}
		c.placed(w)
		select {
		case h := <-w.granted:
			l.metrics.waited.Add(1)
			l.metrics.waitedMs.Add(time.Since(began).Milliseconds())
			return h, nil
		case <-w.dropped:
			if !a.own { // the same id said elsewhere that it waits no longer
				return nil, wire.Errorf(wire.Aborted, "the wait was ended elsewhere; ask again")
			}
			// Somebody took this replica for dead: it stands in line again.
		case <-over.C:
			return a.giveUp(errHeld())
		case <-ctx.Done():
			return a.interrupted(errInLine())
		case <-l.stopped:
			return a.interrupted(wire.Errorf(wire.Unavailable, "the replica is stopping").With("outcome", "unknown"))
		}
	}
}

// answer is what a request got without waiting.
func (a *asking) answer(j *job) (*holder, error) {
	switch {
	case j.err != nil:
		return nil, j.err
	case j.outcome == full:
		a.l.metrics.crowded.Add(1)
		return nil, errFull()
	case j.outcome == held:
		a.l.metrics.timeouts.Add(1)
		return nil, errHeld()
	case j.outcome == gone:
		return nil, wire.Errorf(wire.Aborted, "the lock was released elsewhere; ask again")
	}
	a.l.metrics.granted.Add(1)
	return j.holder, nil
}

// interrupted is a request that is not answered, before its wait is over. Whoever
// can ask again keeps the place.
func (a *asking) interrupted(err error) (*holder, error) {
	if a.own {
		return a.giveUp(err)
	}
	return nil, err
}

// giveUp takes a request out of the line. It may have been granted the lock at the
// last moment.
func (a *asking) giveUp(err error) (*holder, error) {
	switch j := a.l.do(a.c, request{action: leaving, who: a.who}); {
	case j.err != nil:
		return nil, j.err
	case j.outcome == granted:
		a.l.metrics.granted.Add(1)
		return j.holder, nil
	}
	a.l.metrics.timeouts.Add(1)
	return nil, err
}

// grant says what a holder has. It may have been granted a while ago.
func (l *Locks) grant(c *cell, h *holder, token string) wire.LockGrant {
	s := c.current()
	v := view{}
	v.now, _ = l.time.now()
	if now := s.entry.holder; now != nil && now.fence == h.fence && now.renewed == h.renewed {
		h, v.watched = now, s.watched()
	}
	return wire.LockGrant{Fence: h.fence, Token: token, ExpiresMs: h.left(v).Milliseconds()}
}

func errHeld() error {
	return wire.Errorf(wire.DeadlineExceeded, "somebody else has the lock").With("outcome", "none")
}

func errInLine() error {
	return wire.Errorf(wire.DeadlineExceeded, "somebody else has the lock; the same id keeps the place").With("outcome", "unknown")
}

func errFull() error {
	return wire.Errorf(wire.ResourceExhausted, "%d wait for the lock already", wire.MaxLockWaiters).With("outcome", "none")
}
