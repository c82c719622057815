package runner

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

const (
	// ownerTick is how often it is looked whether something is to be done about the
	// lease.
	ownerTick = 200 * time.Millisecond
	// cutFor is how long a replica may hear nothing before it gives away what it
	// has. The others take it for dead by then.
	cutFor = 2 * time.Second
	// joinEvery bounds how often it takes a new number, whatever makes it doubt its
	// own.
	joinEvery = time.Second
)

// margin is how much before the end of its lease a replica stops to act on it.
func margin(lease time.Duration) time.Duration { return min(2*time.Second, lease/4) }

// ownership is the number under which the replica owns attempts, and until when it
// may rely on that.
type ownership struct {
	poked chan struct{}

	mu     sync.Mutex // guards what follows
	number store.Owner
	until  time.Time // monotonic; by the time before the lease was asked for
	// former are numbers that were given up while their lease may have held. What
	// they have is to be given to nobody.
	former []store.Owner
	lost   int64
}

// held returns the owner as which the replica may act at a time.
func (o *ownership) held(now time.Time) (store.Owner, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.number, o.number != 0 && now.Before(o.until)
}

// holds reports whether it still may as that one.
func (o *ownership) holds(number store.Owner, now time.Time) bool {
	held, ok := o.held(now)
	return ok && held == number
}

// doubt gives a number up: nobody knows what a write under it became of. Rows that
// it may have written are nobody's then, and found as such.
func (o *ownership) doubt(number store.Owner) {
	o.mu.Lock()
	if o.number == number && number != 0 {
		o.number = 0
		o.former = append(o.former, number)
		o.lost++
	}
	o.mu.Unlock()
	o.poke()
}

func (o *ownership) poke() {
	select {
	case o.poked <- struct{}{}:
	default:
	}
}

// drop forgets a number whose lease is over.
func (o *ownership) drop(number store.Owner) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.number == number {
		o.number = 0
		o.lost++
	}
}

// take acts under a number from now on.
func (o *ownership) take(number store.Owner, until time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.number, o.until = number, until
}

// extend notes a renewal, unless the number was given up meanwhile.
func (o *ownership) extend(number store.Owner, until time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.number == number {
		o.until = until
	}
}

// current returns the number whether or not it may be relied on.
func (o *ownership) current() store.Owner {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.number
}

// losses is how often a number was given up.
func (o *ownership) losses() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lost
}

// keepOwner keeps the replica an owner until ctx ends.
func (r *Runner) keepOwner(ctx context.Context) {
	tick := time.NewTicker(ownerTick)
	defer tick.Stop()
	renewAt, cutAt, joinAt := time.Time{}, time.Time{}, time.Time{}
	for {
		now := time.Now()
		if r.nats.IsConnected() {
			cutAt = time.Time{}
		} else if cutAt.IsZero() {
			cutAt = now
		}
		switch number := r.owner.current(); {
		case r.stopping.Load(): // what it has goes to the others
		case number != 0 && !cutAt.IsZero() && now.Sub(cutAt) > cutFor:
			r.surrender(ctx)
		case number == 0 && cutAt.IsZero() && !now.Before(joinAt):
			if r.join(ctx, now) {
				joinAt = now.Add(min(joinEvery, r.cfg.OwnerLease/3))
			}
			renewAt = now.Add(r.cfg.OwnerLease / 3)
		case number != 0 && !now.Before(renewAt):
			if r.renew(ctx, number, now) {
				renewAt = now.Add(r.cfg.OwnerLease / 3)
			}
		}
		select {
		case <-tick.C:
		case <-r.owner.poked:
		case <-ctx.Done():
			return
		}
	}
}

// renew keeps the lease; false: it is to be tried again soon.
func (r *Runner) renew(ctx context.Context, number store.Owner, sent time.Time) bool {
	bounded, cancel := context.WithTimeout(ctx, r.cfg.OwnerLease/2)
	defer cancel()
	switch err := r.store.Renew(bounded, number, r.cfg.OwnerLease); {
	case err == nil:
		r.owner.extend(number, sent.Add(r.cfg.OwnerLease-margin(r.cfg.OwnerLease)))
		return true
	case errors.Is(err, store.ErrOwner):
		r.log.Warn("the lease was lost: attempts are taken up anew")
		r.owner.drop(number)
		r.owner.poke()
	}
	return false
}

// join becomes a new owner, and takes what it has in memory with it as far as that
// is nobody else's by now.
func (r *Runner) join(ctx context.Context, sent time.Time) (joined bool) {
	bounded, cancel := context.WithTimeout(ctx, r.cfg.OwnerLease/2)
	defer cancel()
	if !r.abandon(bounded) {
		return false
	}
	number, err := r.store.Join(bounded, r.cfg.ID, r.cfg.OwnerLease)
	if err != nil {
		return false
	}
	if err := r.revalidate(bounded, number); err != nil {
		r.owner.giveUp(number)
		return false
	}
	r.owner.take(number, sent.Add(r.cfg.OwnerLease-margin(r.cfg.OwnerLease)))
	r.nudge()
	return true
}

// giveUp has what a number has given to nobody before another one is taken.
func (o *ownership) giveUp(number store.Owner) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.number == number {
		o.number = 0
		o.lost++
	}
	o.former = append(o.former, number)
}

// abandon gives what former numbers have to nobody; false: it is not known whether
// that was done.
func (r *Runner) abandon(ctx context.Context) bool {
	for {
		number, ok := r.owner.oldest()
		if !ok {
			return true
		}
		if _, err := r.store.Leave(ctx, number); err != nil && !errors.Is(err, store.ErrOwner) {
			return false
		}
		r.owner.left(number)
	}
}

// oldest returns a number that was given up, if there is one.
func (o *ownership) oldest() (store.Owner, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.former) == 0 {
		return 0, false
	}
	return o.former[0], true
}

// left forgets a number that has nothing any more.
func (o *ownership) left(number store.Owner) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.former = slices.DeleteFunc(o.former, func(n store.Owner) bool { return n == number })
}

// revalidate asks for each attempt in memory whether it is still to be had.
func (r *Runner) revalidate(ctx context.Context, number store.Owner) error {
	for refs := r.table.others(number); len(refs) > 0; refs = refs[min(len(refs), mostRows):] {
		some := refs[:min(len(refs), mostRows)]
		got, err := r.store.Adopt(ctx, number, some)
		if err != nil {
			return err
		}
		mine := make(map[wire.TaskID]bool, len(got))
		for i := range got {
			mine[got[i].ID] = true
			r.table.own(got[i].ID, got[i].Fence, number)
		}
		for _, ref := range some {
			if !mine[ref.ID] {
				r.drop(ref.ID, ref.Fence)
			}
		}
	}
	return nil
}

// surrender gives everything to nobody: who hears the workers takes it.
func (r *Runner) surrender(ctx context.Context) {
	if number := r.owner.current(); number != 0 {
		r.owner.giveUp(number)
	}
	bounded, cancel := context.WithTimeout(ctx, r.cfg.OwnerLease/2)
	defer cancel()
	if !r.abandon(bounded) {
		r.log.Warn("the attempts of this replica wait for the end of its lease")
	}
}
