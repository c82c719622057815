package runner

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/fairlead-io/fairlead/services/tasks/store"
)

const (
	// quietFor is how long a replica that could not hear, or stood still, hears before
	// it takes silence for anything: what was said meanwhile is still to be read.
	quietFor = 2 * time.Second
	// lateBy is by how much it must wake up late to have stood still.
	lateBy = 500 * time.Millisecond
	// watchMost bounds how long it sleeps, so that it sees by its own lateness that it
	// stood still.
	watchMost = time.Second
	// watchLeast is how long it sleeps at least, watchIdle while it may do nothing
	// about what is due.
	watchLeast, watchIdle = 5 * time.Millisecond, 200 * time.Millisecond
	// echoWithin is how long NATS may take to answer before silence of workers is
	// taken for that of NATS.
	echoWithin = time.Second
)

// sooner has it looked when the next attempt is due.
func (r *Runner) sooner() {
	select {
	case r.watched <- struct{}{}:
	default:
	}
}

// watch gives up attempts whose workers are silent, until ctx ends.
func (r *Runner) watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var ear ear
	wake := time.Now()
	for {
		now := time.Now()
		wait, least := watchMost, watchIdle
		next, some := r.table.next()
		connected := r.nats.IsConnected()
		if _, able := r.owner.held(now); able && connected && some && !now.Before(next) {
			connected = r.echo(ctx)
		}
		hears := ear.hears(now, wake, connected, r.links())
		if ear.again {
			r.table.renew(now)
		}
		if _, ok := r.owner.held(now); ok && hears {
			r.giveUpSilent(now)
			least = watchLeast
		}
		if next, ok := r.table.next(); ok {
			wait = min(max(next.Sub(now), least), watchMost)
		}
		wake = now.Add(wait)
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-r.watched:
			wake = time.Now()
		case <-ctx.Done():
			return
		}
	}
}

// echo reports whether NATS answers. It does so behind everything that it has sent
// before: a connection that stands still says nothing, whatever its workers say.
func (r *Runner) echo(ctx context.Context) bool {
	bounded, cancel := context.WithTimeout(ctx, echoWithin)
	defer cancel()
	return r.nats.FlushWithContext(bounded) == nil
}

// ear knows whether silence means anything.
type ear struct {
	links uint64
	deaf  bool
	quiet time.Time // until then it does not
	again bool      // it has begun to hear again: promises count from now
}

// hears reports whether who was not heard is silent, at a time when it was to wake
// up at another.
func (e *ear) hears(now, wake time.Time, connected bool, links uint64) bool {
	e.again = false
	switch {
	case !connected:
		e.deaf = true
	case e.deaf || links != e.links:
		e.deaf, e.again = false, true
		e.quiet = now.Add(quietFor)
	case now.Sub(wake) > lateBy:
		e.quiet = now.Add(quietFor)
	}
	e.links = links
	return !e.deaf && !now.Before(e.quiet)
}

// giveUpSilent gives up the attempts that are due. Those of a number that is not
// held any more are asked for anew before anything is done about them.
func (r *Runner) giveUpSilent(now time.Time) {
	due := r.table.expire(now, mostRows)
	for _, x := range due {
		if !r.owner.holds(x.owner, now) {
			r.table.postpone(x.attempt, now, time.Second)
			continue
		}
		r.giveUp(x)
	}
}

// giveUp has written what follows an attempt of which nothing more is expected.
func (r *Runner) giveUp(x expired) {
	p := r.policies.of(x.Name)
	out := &ending{a: x.attempt}
	ref := store.Ref{ID: x.ID, Fence: x.Fence, Owner: x.owner}
	reason := "lost"
	switch {
	case x.over && x.alive:
		reason = "timeout"
		e := errTimeout()
		r.metrics.timeouts.Add(1)
		r.follow(out, afterFailure(&p, x.Failures, e, rand.Float64()), x.owner, e, true)
	case !x.alive && (x.adopted || x.links != r.links()):
		// Nobody knows whether a worker ever had it, or what it said: no worker is to
		// blame.
		r.metrics.unheard.Add(1)
		out.back = store.Back{Ref: ref, Error: errLost()}
		r.queueBack(out)
	default:
		r.metrics.lost.Add(1)
		if x.over {
			r.lanes.silent(x.Name)
		}
		r.follow(out, afterCrash(&p, x.Crashes, rand.Float64()), x.owner, errLost(), false)
	}
	r.log.Debug("attempt given up", "task", x.ID.String(), "name", x.Name, "fence", x.Fence, "reason", reason)
	r.tellCancel(x.ID, x.Fence, reason)
}
