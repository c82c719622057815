package fairlead

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// lockSlice is how long one request stands in line: then it is asked again with the
	// same id, which has the same place, so that a replica that died costs no more.
	lockSlice = 4 * time.Second
	// lockSlack is what the answer may take beyond the wait.
	lockSlack = 2 * time.Second
	lockPause = 100 * time.Millisecond
)

// acquiring is one wait for a lock, in as many requests as it takes.
type acquiring struct {
	f    *Fairlead
	key  string
	ttl  time.Duration
	wait time.Duration
	id   string
	// unanswered hears why there is no answer yet.
	unanswered func(error)
}

// acquire returns the grant, and until when it is good without a renewal.
func (a *acquiring) acquire(ctx context.Context) (grant wire.LockGrant, deadline time.Time, err error) {
	ends := time.Now().Add(a.wait)
	for {
		a.id = rand.Text()
		grant, sent, err := a.stand(ctx, ends)
		if err != nil {
			return grant, deadline, err
		}
		deadline, err = a.secure(ctx, grant, sent)
		if err == nil {
			return grant, deadline, nil
		}
		// It was lost before it could be used.
		if ctx.Err() != nil || time.Until(ends) <= 0 || pause(ctx, lockPause) != nil {
			return grant, deadline, err
		}
	}
}

// stand stands in line until it is its turn, and returns when it asked for what was
// granted.
func (a *acquiring) stand(ctx context.Context, ends time.Time) (grant wire.LockGrant, sent time.Time, err error) {
	for {
		left := max(time.Until(ends), 0)
		sent = time.Now()
		grant, err = a.ask(ctx, left)
		if err == nil {
			return grant, sent, nil
		}
		e := wire.AsError(err)
		sure := e.Details["outcome"] == "none"
		left = max(time.Until(ends), 0)
		switch {
		case ctx.Err() != nil:
			a.leaveBehind(sure)
			return grant, sent, a.tooLate(failed(context.Cause(ctx)))
		case e.Code == wire.DeadlineExceeded && sure:
			return grant, sent, a.tooLate(err)
		case e.Code == wire.DeadlineExceeded && left > 0:
		case (e.Code == wire.Unavailable || e.Code == wire.Aborted) && left > lockPause:
			if e.Code == wire.Unavailable {
				a.unanswered(err)
			}
			if pause(ctx, lockPause) != nil {
				a.leaveBehind(sure)
				return grant, sent, a.tooLate(failed(context.Cause(ctx)))
			}
		case e.Code == wire.DeadlineExceeded && a.wait > 0: // nobody said what became of it
			sent = time.Now()
			if grant, err = a.ask(ctx, 0); err == nil {
				return grant, sent, nil
			}
			a.leaveBehind(wire.AsError(err).Details["outcome"] == "none")
			return grant, sent, a.tooLate(err)
		default:
			a.leaveBehind(sure || e.Code != wire.Unavailable && e.Code != wire.DeadlineExceeded)
			return grant, sent, err
		}
	}
}

// tooLate is the error of a wait that is over, with what was waited for.
func (a *acquiring) tooLate(err error) error {
	e := wire.AsError(err).With("key", a.key)
	if e.Code != wire.DeadlineExceeded {
		return e
	}
	return e.With("waitedMs", a.wait.Milliseconds())
}

// ask sends one request. wait is for how long it may stand in line; it is not
// answered for longer than a slice of it.
func (a *acquiring) ask(ctx context.Context, wait time.Duration) (wire.LockGrant, error) {
	answered := wait + lockSlack
	if wait > lockSlice {
		answered = lockSlice
	}
	if wait == 0 {
		answered = a.f.opts.Timeout
	}
	ctx, cancel := context.WithTimeout(ctx, answered)
	defer cancel()
	req := wire.LockAcquire{Key: a.key, TTL: a.ttl.String(), ID: a.id}
	if wait > 0 {
		req.Wait = min(wait, wire.MaxLockWait).String()
	}
	return service[wire.LockGrant](ctx, a.f, "tasks", "lock.acquire", req)
}

// leaveBehind leaves the line, and gives back what may have been granted, while
// the caller goes on.
func (a *acquiring) leaveBehind(sure bool) {
	if sure {
		return
	}
	standing, end, ok := a.f.locks.begin(context.Background())
	if !ok {
		return
	}
	behind := *a // with the id of now: the caller may go on with another
	go func() {  // ends within lockSlack; [Fairlead.Close] waits for it
		defer end()
		ctx, cancel := context.WithTimeout(standing, lockSlack)
		defer cancel()
		grant, err := behind.ask(ctx, 0)
		if err != nil {
			return // it leaves the line by itself soon, or ends by its ttl
		}
		_, _ = service[struct{}](ctx, behind.f, "tasks", "lock.release", wire.LockRelease{Key: behind.key, Fence: grant.Fence, Token: grant.Token})
	}()
}

// secure returns until when a grant is good. One that was answered a while after
// it was asked for, or that was granted before, is renewed first: only of a
// request that was sent just before it is known how old the grant is.
func (a *acquiring) secure(ctx context.Context, grant wire.LockGrant, sent time.Time) (time.Time, error) {
	deadline := goodUntil(sent, a.ttl, grant)
	if time.Until(deadline) >= a.ttl/2 {
		return deadline, nil
	}
	for over := time.Now().Add(a.ttl); ; {
		sent = time.Now()
		renewal, err := renewLock(ctx, a.f, a.key, a.ttl, grant, max(a.ttl/3, minRenewal))
		if err == nil {
			return goodUntil(sent, a.ttl, renewal), nil
		}
		if code := wire.CodeOf(err); code == wire.FailedPrecondition {
			return deadline, a.tooLate(wire.Errorf(wire.DeadlineExceeded, "the lock was granted, and lost before that was heard"))
		}
		if time.Now().After(over) || pause(ctx, min(lockPause, a.ttl/10)) != nil {
			a.leaveBehind(false)
			return deadline, a.tooLate(err)
		}
	}
}

// goodUntil is until when a holder goes by a grant that it asked for at a time: a
// tenth of the ttl before anybody else can have the lock.
func goodUntil(sent time.Time, ttl time.Duration, grant wire.LockGrant) time.Time {
	return sent.Add(min(ttl, time.Duration(grant.ExpiresMs)*time.Millisecond) - ttl/10)
}

// minRenewal is the least time that a renewal gets.
const minRenewal = 25 * time.Millisecond

func renewLock(ctx context.Context, f *Fairlead, key string, ttl time.Duration, grant wire.LockGrant, within time.Duration) (wire.LockGrant, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return service[wire.LockGrant](ctx, f, "tasks", "lock.renew", wire.LockRenew{
		LockRelease: wire.LockRelease{Key: key, Fence: grant.Fence, Token: grant.Token}, TTL: ttl.String(),
	})
}

// lostBecause is the cause of a lock's loss.
func lostBecause(why error) error {
	if errors.Is(why, ErrLockLost) {
		return why
	}
	return fmt.Errorf("%w: %w", ErrLockLost, why)
}
