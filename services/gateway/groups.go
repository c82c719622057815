package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// groupsPerConnection bounds the groups that one connection is in.
	groupsPerConnection = 100
	// groupWait is how long one question about a group may take.
	groupWait = 5 * time.Second
	// groupAsksAtOnce bounds the questions that nobody but the gateway waits for.
	groupAsksAtOnce = 64
	// maxOwedLeaves bounds the leaves that the service has not taken yet.
	maxOwedLeaves = 1 << 20
	// leaveRetry and leaveRetryMost are the pauses between tries to leave.
	leaveRetry     = 100 * time.Millisecond
	leaveRetryMost = 2 * time.Second
)

// groups are those that connections of this gateway are in, and the leaves that
// the presence service has yet to take.
type groups struct {
	g     *Service
	slots chan struct{} // one element per question that nobody else bounds

	mu     sync.Mutex
	byName map[string]*group
	owed   map[groupLeaver]wire.GroupRequest // the newest leave of each
	wake   chan struct{}
	idle   chan struct{} // closed when nothing is owed; nil: nobody waits
}

// groupLeaver is a connection that leaves a group.
type groupLeaver struct{ group, conn string }

func newGroups(g *Service) *groups {
	return &groups{
		g: g, slots: make(chan struct{}, groupAsksAtOnce), byName: map[string]*group{},
		owed: map[groupLeaver]wire.GroupRequest{}, wake: make(chan struct{}, 1),
	}
}

// of returns a group that connections here are in, or nil.
func (gs *groups) of(name string) *group {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return gs.byName[name]
}

// enter returns a group whose messages and entries are heard, until exit.
func (gs *groups) enter(ctx context.Context, name string) (*group, *wire.Error) {
	ns := gs.g.cfg.Namespace
	messages, err := ns.Group(name)
	if err != nil {
		return nil, wire.AsError(err)
	}
	entries, err := ns.GroupEntry(name)
	if err != nil {
		return nil, wire.AsError(err)
	}
	gs.mu.Lock()
	gr := gs.byName[name]
	if gr == nil {
		gr = &group{in: gs, name: name, seats: map[*connection]*groupSeat{}}
		if gr.messages, err = gs.g.fanout.acquire(kindGroup, messages, name); err == nil {
			if gr.entries, err = gs.g.fanout.acquire(kindGroupEntry, entries, name); err != nil {
				gs.g.fanout.release(gr.messages)
			}
		}
		if err != nil {
			gs.mu.Unlock()
			gs.g.log.Warn("subscribe to a group", "err", err)
			return nil, unavailable("NATS did not take the subscription")
		}
		gs.byName[name] = gr
	}
	gr.refs++
	gs.mu.Unlock()
	if err := gs.g.fanout.waitLive(ctx, gr.messages, gr.entries); err != nil {
		gs.exit(gr)
		return nil, unavailable("NATS did not confirm the subscription in time")
	}
	return gr, nil
}

// exit gives a group back.
func (gs *groups) exit(gr *group) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gr.refs--; gr.refs > 0 {
		return
	}
	delete(gs.byName, gr.name)
	gs.g.fanout.release(gr.messages)
	gs.g.fanout.release(gr.entries)
}

// ask asks the presence service about a group.
func askGroup[Rep any](ctx context.Context, g *Service, op string, req wire.GroupRequest) (Rep, error) {
	ctx, cancel := context.WithTimeout(ctx, groupWait)
	defer cancel()
	return callService[wire.GroupRequest, Rep](ctx, g.dependencies.presence, g.requests, "group."+op, req)
}

// load reads a group's entry, at a revision or later; 0 asks the bucket's
// leader, who counts even where it has less than was heard.
func (gs *groups) load(ctx context.Context, gr *group, revision uint64) error {
	gr.mu.Lock()
	known, before := gr.known, gr.revision
	gr.mu.Unlock()
	stored, err := askGroup[wire.GroupStored](ctx, gs.g, "entry", wire.GroupRequest{Group: gr.name, MinRev: revision})
	if err != nil {
		return err
	}
	view := viewOf(&stored.Entry, gs.g.id)
	gr.mu.Lock()
	var a amiss
	switch {
	case !gr.known || stored.Revision > gr.revision:
		a = gr.replace(stored.Revision, view)
	case revision == 0 && known && stored.Revision < before && gr.revision == before:
		a = gr.reset(stored.Revision, view)
	}
	gr.mu.Unlock()
	a.see(gr)
	return nil
}

// refresh reads every group again: something may have been missed.
func (gs *groups) refresh() {
	gs.mu.Lock()
	all := make([]*group, 0, len(gs.byName))
	for _, gr := range gs.byName {
		all = append(all, gr)
	}
	gs.mu.Unlock()
	for _, gr := range all {
		gr.mu.Lock()
		reading := gr.reading
		gr.stale, gr.reading = true, true
		gr.mu.Unlock()
		if !reading {
			gs.g.mender.spawn(func(ctx context.Context) { gs.read(ctx, gr) })
		}
	}
}

// read reads a group until what is known of it is not stale, or nobody here is
// in it.
func (gs *groups) read(ctx context.Context, gr *group) {
	for wait := leaveRetry; ; wait = min(2*wait, leaveRetryMost) {
		release, ok := gs.slot(ctx)
		if !ok {
			return
		}
		here := gs.of(gr.name) == gr
		gr.mu.Lock()
		stale := gr.stale && here
		gr.stale, gr.reading = false, stale
		gr.mu.Unlock()
		var err error
		if stale {
			err = gs.load(ctx, gr, 0)
		}
		release()
		switch {
		case !stale:
			return
		case err == nil:
			continue
		}
		gr.mu.Lock()
		gr.stale = true
		gr.mu.Unlock()
		if clock.Sleep(ctx, wait) != nil {
			return
		}
	}
}

// slot waits for its turn to ask what nobody but the gateway waits for, and
// returns what ends it. It returns false when ctx is done first.
func (gs *groups) slot(ctx context.Context) (release func(), ok bool) {
	select {
	case gs.slots <- struct{}{}:
		return func() { <-gs.slots }, true
	case <-ctx.Done():
		return nil, false
	}
}

// owe notes a leave that the service has to take, however long that lasts.
func (gs *groups) owe(req wire.GroupRequest) {
	gs.mu.Lock()
	key := groupLeaver{req.Group, req.Conn}
	have, there := gs.owed[key]
	if there && have.Version > req.Version || !there && len(gs.owed) >= maxOwedLeaves {
		gs.mu.Unlock()
		return
	}
	gs.owed[key] = req
	gs.mu.Unlock()
	select {
	case gs.wake <- struct{}{}:
	default:
	}
}

// run sends the leaves that are owed until the gateway stops.
func (gs *groups) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-gs.wake:
		}
		for pause := leaveRetry; gs.leaveAll(ctx) > 0; pause = min(2*pause, leaveRetryMost) {
			gs.tellIdle(true) // the end of the lease leaves for them
			if clock.Sleep(ctx, pause) != nil {
				return
			}
		}
	}
}

// leaveAll tries every leave that is owed, and returns how many of those were
// not taken.
func (gs *groups) leaveAll(ctx context.Context) (failed int) {
	gs.mu.Lock()
	owed := make([]wire.GroupRequest, 0, len(gs.owed))
	for _, req := range gs.owed {
		owed = append(owed, req)
	}
	gs.mu.Unlock()
	var work sync.WaitGroup
	var mu sync.Mutex
	for _, req := range owed {
		release, ok := gs.slot(ctx)
		if !ok {
			work.Wait()
			return len(owed)
		}
		work.Go(func() {
			defer release()
			_, err := askGroup[struct{}](ctx, gs.g, "leave", req)
			if err != nil && transient(wire.AsError(err)) {
				mu.Lock()
				failed++
				mu.Unlock()
				return
			}
			if err != nil {
				gs.g.log.Error("a member can't leave its group", "group", req.Group, "conn", req.Conn, "err", err)
			}
			gs.paid(req)
		})
	}
	work.Wait()
	return failed
}

// paid notes that the service has taken a leave.
func (gs *groups) paid(req wire.GroupRequest) {
	gs.mu.Lock()
	key := groupLeaver{req.Group, req.Conn}
	if gs.owed[key].Version == req.Version {
		delete(gs.owed, key)
	}
	gs.mu.Unlock()
	gs.tellIdle(false)
}

// tellIdle tells who waits that nothing is owed any more, or that what is left
// can't be paid now.
func (gs *groups) tellIdle(failed bool) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.idle != nil && (failed || len(gs.owed) == 0) {
		close(gs.idle)
		gs.idle = nil
	}
}

// farewell waits until nothing is owed any more, or it turns out that the
// service can't be reached, or ctx is done.
func (gs *groups) farewell(ctx context.Context) {
	gs.mu.Lock()
	if len(gs.owed) == 0 {
		gs.mu.Unlock()
		return
	}
	if gs.idle == nil {
		gs.idle = make(chan struct{})
	}
	idle := gs.idle
	gs.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}
