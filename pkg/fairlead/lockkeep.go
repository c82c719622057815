package fairlead

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// hearAfter is how long a lock is had before it is listened for: most are not had
// for as long.
const hearAfter = 100 * time.Millisecond

// keep renews the lock until it is to be released, or lost.
func (k *Lock) keep() {
	defer close(k.kept)
	losses := make(chan error, 1)
	hear := time.NewTimer(hearAfter)
	defer hear.Stop()
	timer := time.NewTimer(k.ttl / 3)
	defer timer.Stop()
	for {
		select {
		case <-k.renewals.Done():
			return
		case <-hear.C:
			if sub := k.hear(losses); sub != nil {
				defer func() { _ = sub.Unsubscribe() }() // once: the timer fires once
			}
			continue
		case err := <-losses:
			k.lose(err)
			return
		case <-timer.C:
		}
		next, err := k.renew()
		if err != nil {
			k.lose(err)
			return
		}
		timer.Reset(next)
	}
}

// renew renews the lock and returns in what time to do it again. An error says
// that the lock is lost: it is refused, or its time is over.
func (k *Lock) renew() (next time.Duration, err error) {
	k.mu.Lock()
	deadline := k.deadline
	k.mu.Unlock()
	sent := time.Now()
	left := deadline.Sub(sent)
	if left <= 0 {
		return 0, wire.Errorf(wire.DeadlineExceeded, "it was not renewed in time")
	}
	grant, err := renewLock(k.renewals, k.f, k.key, k.ttl, k.grant, min(left, max(k.ttl/3, minRenewal)))
	if err == nil {
		k.mu.Lock()
		k.deadline = goodUntil(sent, k.ttl, grant)
		k.mu.Unlock()
		return max(time.Until(sent.Add(k.ttl/3)), 0), nil
	}
	switch wire.CodeOf(err) {
	case wire.FailedPrecondition, wire.InvalidArgument, wire.PermissionDenied:
		return 0, err
	}
	left = time.Until(deadline)
	if left <= 0 {
		return 0, err
	}
	return min(left, max(k.ttl/20, 10*time.Millisecond), lockSlack), nil
}

// lose ends what is done under the lock.
func (k *Lock) lose(err error) {
	err = lostBecause(err)
	k.mu.Lock()
	k.lost = err
	k.mu.Unlock()
	k.cancel(err)
}

// hear listens for what becomes of the lock elsewhere, and says when it is
// another's. Nothing depends on it: renewals tell the same, later.
func (k *Lock) hear(losses chan<- error) *nats.Subscription {
	entry, err := k.f.opts.Namespace.LockEntry(k.key)
	if err != nil {
		return nil
	}
	sub, err := k.f.nc.Subscribe(k.f.opts.Namespace.LockChanges(entry), func(msg *nats.Msg) {
		revision, err := strconv.ParseUint(wire.HeaderValue(msg.Header, wire.HeaderSequence), 10, 64)
		if err != nil || revision <= k.grant.Fence {
			return
		}
		var e wire.LockEntry
		if len(msg.Data) > 0 && json.Unmarshal(msg.Data, &e) != nil {
			return
		}
		if e.FenceAt(revision) != k.grant.Fence {
			select {
			case losses <- wire.Errorf(wire.FailedPrecondition, "somebody else has it, or it was deleted"):
			default:
			}
		}
	})
	if err != nil {
		return nil
	}
	return sub
}
