package runner

import (
	"context"
	"sync"
	"time"
)

// claimAll claims for the lanes that ask for it, until ctx ends and the claims
// that are under way have been dispatched.
func (r *Runner) claimAll(ctx context.Context) error {
	var group sync.WaitGroup
	claim := func(names <-chan string) {
		for {
			select {
			case name := <-names:
				r.claim(ctx, name)
			case <-ctx.Done():
				return
			}
		}
	}
	for range claimers {
		group.Go(func() { claim(r.claims) })
	}
	group.Go(func() { claim(r.tries) }) // those that are served do not wait for it
	group.Wait()
	return nil
}

// claimFor has a claim made for a lane that was marked for it. There is room: a
// lane is marked once.
func (r *Runner) claimFor(name string, marked bool) {
	if !marked {
		return
	}
	select {
	case r.claims <- name:
	default: // as many as there may be lanes: the next look at what is due asks again
		r.lanes.claimed(name, 0, 0, true, time.Now())
	}
}

// demand notes that tasks of a name wait.
func (r *Runner) demand(name string) {
	if _, ok := r.able(); ok {
		r.claimFor(name, r.lanes.demand(name, time.Now()))
	}
}

// released gives a place of a lane back.
func (r *Runner) released(name string) { r.claimFor(name, r.lanes.release(name)) }

// claim claims what the lane has places for, and dispatches it. It is finished
// even when ctx ends: what was claimed is not left behind.
func (r *Runner) claim(ctx context.Context, name string) {
	n := r.lanes.begin(name, time.Now())
	if n == 0 {
		return
	}
	owner, able := r.able()
	if !able {
		r.lanes.claimed(name, n, 0, true, time.Now())
		return
	}
	p, probe := r.policies.of(name), r.lanes.isParked(name)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.OwnerLease/2)
	defer cancel()
	got, err := r.store.Claim(bounded, owner, name, n, p.Concurrency, p.Timeout)
	if err != nil && !unsent(err) {
		r.owner.doubt(owner) // some may be claimed: nobody knows which
	}
	attempts := make([]*attempt, len(got))
	for i := range got {
		attempts[i] = r.newAttempt(got[i], owner)
		attempts[i].probe = probe
	}
	again := r.lanes.claimed(name, n, len(got), err != nil, time.Now())
	r.lanes.asked(name, n, err != nil, time.Now())
	r.metrics.claimed.Add(int64(len(got)))
	r.start(attempts, owner)
	r.claimFor(name, again)
}
