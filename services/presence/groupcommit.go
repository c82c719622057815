package presence

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// unsurePause is how long a write of which nobody knows what became of it is
// left alone before that is looked up.
const unsurePause = 25 * time.Millisecond

// groupCommits fold the changes of a group that meet in this replica into one
// write each. One of those who wait decides for all of them, in the order in
// which they came; when it is done it hands over to the next that came
// meanwhile. Nobody but them works on it: there is no goroutine to wait for.
type groupCommits struct {
	mu   sync.Mutex
	open map[string]*groupQueue // by group; of groups with a change under way
}

// groupQueue are the changes of one group.
type groupQueue struct {
	waiting []*groupChange // not decided yet; guarded by groupCommits.mu
}

// groupChange is a change that somebody waits for.
type groupChange struct {
	ctx  context.Context
	task groupTask
	lead chan struct{} // closed when it is this one's turn to decide
	done chan struct{} // closed when it was decided

	known *knownGroup // what the group is with the change; valid after done
	err   error
}

// change makes a change of a group and returns what the group is then.
func (g *groups) change(ctx context.Context, group string, task groupTask) (*knownGroup, error) {
	c := &groupChange{ctx: ctx, task: task, lead: make(chan struct{}), done: make(chan struct{})}
	cs := &g.commits
	cs.mu.Lock()
	q := cs.open[group]
	if q == nil {
		q = &groupQueue{}
		cs.open[group] = q
		close(c.lead)
	}
	q.waiting = append(q.waiting, c)
	cs.mu.Unlock()
	select {
	case <-c.lead:
		g.round(group, q)
	case <-c.done:
	case <-ctx.Done():
		if !cs.withdraw(q, c) {
			select {
			case <-c.lead: // the others wait for this one
				g.round(group, q)
			case <-c.done:
			}
		}
	}
	select {
	case <-c.done:
		return c.known, c.err
	default:
		return nil, ctx.Err() // withdrawn
	}
}

// withdraw takes a change out that nobody waits for any more. It returns false
// when it is being decided, or has to decide.
func (cs *groupCommits) withdraw(q *groupQueue, c *groupChange) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	select {
	case <-c.lead:
		return false
	default:
	}
	for i, other := range q.waiting {
		if other == c {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// round decides all changes that wait, and hands over.
func (g *groups) round(group string, q *groupQueue) {
	cs := &g.commits
	cs.mu.Lock()
	batch := q.waiting
	q.waiting = nil
	cs.mu.Unlock()
	defer func() { // whatever happens: the next ones wait for it
		for _, c := range batch {
			close(c.done)
		}
		cs.mu.Lock()
		defer cs.mu.Unlock()
		if len(q.waiting) == 0 {
			delete(cs.open, group)
			return
		}
		close(q.waiting[0].lead)
	}()
	for _, c := range batch {
		c.err = errUndecided
	}
	g.commit(group, batch)
}

// errUndecided answers a change that was never decided, which is a mistake of
// ours.
var errUndecided = wire.Errorf(wire.Internal, "internal error")

// commit decides changes on what the group is, as far as this replica knows, and
// writes them together. The write fails where it was something else: then they
// are decided again on what the leader has.
func (g *groups) commit(group string, batch []*groupChange) {
	ctx, cancel := untilLast(batch)
	defer cancel()
	base, sure := g.view.Load().get(group), false
	wrote := false // there may be a write of which nobody knows what became of it
	var tried []byte
	var hints []groupEvent
	for {
		batch = giveUp(batch, wrote)
		if len(batch) == 0 {
			return
		}
		if base == nil {
			k, value, err := g.read(ctx, group)
			if err != nil {
				if !transient(err) {
					settle(batch, nil, err)
					return
				}
				g.away(err)
				_ = clock.Sleep(ctx, retryPause)
				continue
			}
			if tried != nil && string(value) == string(tried) {
				settle(batch, k, nil) // it was stored after all
				g.announce(group, k, hints)
				return
			}
			base, sure, tried = k, true, nil
		}
		st := newGroupState(&base.entry, base.size, g.s.now(), g.dead())
		st.most = g.mostBytes()
		for _, c := range batch {
			c.err = st.apply(c.task)
		}
		if !st.changed {
			if !sure { // it may be otherwise by now
				base = nil
				continue
			}
			settle(batch, base, nil)
			g.announce(group, base, st.events)
			return
		}
		value, ttl, err := st.encode()
		if err != nil {
			settle(batch, nil, err)
			return
		}
		if rest := giveUp(batch, wrote); len(rest) < len(batch) { // not with theirs
			batch = rest
			continue
		}
		revision, err := g.store.Put(ctx, kv.Write{Key: wire.EscapeToken(group), Value: value, Expect: base.revision, TTL: ttl})
		switch {
		case err == nil:
			k := &knownGroup{entry: st.entry, revision: revision, size: len(value)}
			g.view.Load().note(group, k, false)
			settle(batch, k, nil)
			g.announce(group, k, st.events)
			return
		case errors.Is(err, kv.ErrConflict):
			g.metrics.conflicts.Add(1)
		default:
			g.away(err)
			wrote, tried, hints = true, value, st.events
			_ = clock.Sleep(ctx, unsurePause)
		}
		base = nil
	}
}

// mostBytes is what a group's entry may have: some room is left for the headers
// that a write has beside it.
func (g *groups) mostBytes() int {
	payload := int(g.s.requests.MaxPayload())
	return min(maxGroupBytes, payload-payload/8)
}

// untilLast returns a context for the work on changes: it ends when the last of
// those who wait gives up.
func untilLast(batch []*groupChange) (context.Context, context.CancelFunc) {
	last := time.Time{}
	for _, c := range batch {
		if at, ok := c.ctx.Deadline(); ok && at.After(last) {
			last = at
		} else if !ok {
			last = time.Now().Add(commitWait)
		}
	}
	return context.WithDeadline(context.WithoutCancel(batch[0].ctx), last)
}

// giveUp answers the changes whose time is over: nothing is written for them
// any more. wrote says that something may have been.
func giveUp(batch []*groupChange, wrote bool) (rest []*groupChange) {
	rest = make([]*groupChange, 0, len(batch))
	for _, c := range batch {
		if c.ctx.Err() == nil {
			rest = append(rest, c)
			continue
		}
		c.known = nil
		c.err = unavailable(c.ctx.Err())
		if !wrote {
			c.err = wire.AsError(c.err).With("outcome", "none")
		}
	}
	return rest
}

// settle answers changes: each keeps the error that it was decided with, unless
// there is one for all.
func settle(batch []*groupChange, k *knownGroup, err error) {
	for _, c := range batch {
		c.known = k
		if err != nil {
			c.err = err
		}
	}
}

// transient reports whether another try may succeed: the bucket is away, rather
// than holding something that can't be read.
func transient(err error) bool { return !errors.Is(err, errBadGroup) }
