package lock

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	maxID = 128
	// standing is how many requests stand in line in one replica, for all locks.
	standing = 16384
	// leastTime is what a caller's deadline counts as that is nearer: its clock may be
	// behind that of this host.
	leastTime = 2 * time.Second
)

// Endpoints are what the service answers about locks; at says on which subject.
func (l *Locks) Endpoints(at func(name string) string) []bus.Endpoint {
	acquire := bus.Handle("lock.acquire", at("lock.acquire"), l.Acquire)
	acquire.Workers, acquire.Timeout, acquire.LeastTime = standing, wire.MaxLockWait+2*patience, leastTime
	renew := bus.Handle("lock.renew", at("lock.renew"), l.Renew)
	release := bus.Handle("lock.release", at("lock.release"), l.Release)
	get := bus.Handle("lock.get", at("lock.get"), l.Get)
	for _, e := range []*bus.Endpoint{&renew, &release, &get} {
		e.Workers, e.LeastTime = standing, leastTime
	}
	return []bus.Endpoint{acquire, renew, release, get}
}

// Renew holds a lock for a ttl from now on. FAILED_PRECONDITION: it has expired,
// whether or not somebody else has it, or was released.
func (l *Locks) Renew(_ context.Context, req wire.LockRenew) (wire.LockGrant, error) {
	ttl, err := parseTTL(req.TTL)
	if err != nil {
		return wire.LockGrant{}, err
	}
	c, r, err := l.held(req.LockRelease)
	if err != nil {
		return wire.LockGrant{}, err
	}
	defer l.leave(c)
	r.action, r.ttl = renewing, ttl
	switch j := l.do(c, r); {
	case j.err != nil:
		return wire.LockGrant{}, j.err
	case j.outcome == gone:
		l.metrics.lost.Add(1)
		return wire.LockGrant{}, errLost()
	default:
		l.metrics.renewed.Add(1)
		return l.grant(c, j.holder, req.Token), nil
	}
}

// Release gives a lock up, to whoever is next. FAILED_PRECONDITION: it was lost
// before. Releasing it again is no error for some seconds.
func (l *Locks) Release(_ context.Context, req wire.LockRelease) (struct{}, error) {
	c, r, err := l.held(req)
	if err != nil {
		return struct{}{}, err
	}
	defer l.leave(c)
	r.action = releasing
	switch j := l.do(c, r); {
	case j.err != nil:
		return struct{}{}, j.err
	case j.outcome == gone:
		l.metrics.lost.Add(1)
		return struct{}{}, errLost()
	}
	l.metrics.released.Add(1)
	return struct{}{}, nil
}

// held is a request of whoever says that they hold a lock.
func (l *Locks) held(req wire.LockRelease) (*cell, request, error) {
	key, err := l.cfg.Namespace.LockEntry(req.Key)
	switch {
	case err != nil:
		return nil, request{}, err
	case req.Fence == 0:
		return nil, request{}, wire.InvalidField("fence", "that of the grant")
	case req.Token == "":
		return nil, request{}, wire.InvalidField("token", "that of the grant")
	}
	return l.cell(key), request{who: whoOf(req.Key, req.Token), fence: req.Fence}, nil
}

// Get says who has a lock, as JetStream knows it now.
func (l *Locks) Get(ctx context.Context, req wire.LockKey) (wire.LockState, error) {
	key, err := l.cfg.Namespace.LockEntry(req.Key)
	if err != nil {
		return wire.LockState{}, err
	}
	c := l.cell(key)
	defer l.leave(c)
	if l.resting() {
		return wire.LockState{}, unavailable(errAway, false)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, good := l.time.now(); !good {
		if err := l.stamp(ctx, time.Now()); err != nil {
			return wire.LockState{}, unavailable(err, false)
		}
	}
	if err := l.read(ctx, c); err != nil {
		return wire.LockState{}, unavailable(err, false)
	}
	s := c.current()
	if s.broken != nil {
		return wire.LockState{}, errBroken()
	}
	v := view{watched: s.watched()}
	v.now, _ = l.time.now()
	e := s.entry.clone()
	e.settle(v, &decided{})
	var d decided
	e.bury(v, &d)
	state := wire.LockState{Waiters: len(e.line)}
	if h := e.holder; h != nil && !h.fresh() { // else it is being handed on
		state.Held, state.Fence, state.ExpiresMs = true, h.fence, h.left(v).Milliseconds()
	}
	return state, nil
}

func parseTTL(text string) (time.Duration, error) {
	ttl, err := time.ParseDuration(text)
	if err != nil || ttl < wire.MinLockTTL || ttl > wire.MaxLockTTL {
		return 0, wire.InvalidField("ttl", "a duration from 50ms to 24h, such as 30s")
	}
	return ttl.Truncate(time.Millisecond), nil
}

func parseWait(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	wait, err := time.ParseDuration(text)
	if err != nil || wait < 0 || wait > wire.MaxLockWait {
		return 0, wire.InvalidField("wait", "a duration from 0s to 10m, such as 5s")
	}
	return wait, nil
}

func errLost() error { return wire.Errorf(wire.FailedPrecondition, "the lock was lost") }

func errBroken() error { return wire.Errorf(wire.Internal, "the lock's entry can't be read") }

// unavailable is what an error of the store is for a caller. unsure says that
// something may have been stored all the same.
func unavailable(err error, unsure bool) error {
	outcome, message := "none", "the bucket of locks does not answer"
	if unsure {
		outcome = "unknown"
	}
	if errors.Is(err, errContended) {
		message = err.Error()
	}
	return wire.Errorf(wire.Unavailable, "%s", message).With("outcome", outcome)
}
