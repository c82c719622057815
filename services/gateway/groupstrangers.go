package gateway

import (
	"context"
	"maps"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// strangerPause is how long a seat that nobody here seems to have is left
// alone: its join or its leave may be under way. strangerPauseMost bounds the
// pause between later looks at it.
const (
	strangerPause     = 2 * time.Second
	strangerPauseMost = 30 * time.Second
)

// crowded reports whether the entry has more seats under this gateway's id than
// hear here; mu is held. Such a seat is a connection's whose join is under way,
// or one that no leave has reached.
func (gr *group) crowded() bool {
	hear := 0
	for c := range gr.seats {
		if _, is := gr.view.own[c.id]; is {
			hear++
		}
	}
	return len(gr.view.own) > hear
}

// lookForStrangers leaves for seats under this gateway's id that belong to
// nobody here, until the entry has none. One at a time looks at a group.
func (gs *groups) lookForStrangers(gr *group) {
	gr.mu.Lock()
	looking := gr.looking
	gr.looking = true
	gr.mu.Unlock()
	if looking {
		return
	}
	gs.g.mender.spawn(func(ctx context.Context) {
		for wait := strangerPause; clock.Sleep(ctx, wait) == nil; wait = min(2*wait, strangerPauseMost) {
			if now := gs.of(gr.name); now != nil && now != gr {
				return // who has entered the group since looks for them
			}
			gr.mu.Lock()
			gr.looking = false // an entry that comes from here on is looked at anew
			gr.mu.Unlock()
			if len(gs.strangers(gr)) == 0 {
				return
			}
			gr.mu.Lock()
			another := gr.looking
			gr.looking = true
			gr.mu.Unlock()
			if another {
				return
			}
			release, ok := gs.slot(ctx)
			if !ok {
				return
			}
			err := gs.load(ctx, gr, 0) // what was heard may be old
			release()
			if err != nil {
				continue
			}
			for _, req := range gs.strangers(gr) {
				gs.g.log.Warn("a group had a member that nobody is", "group", req.Group, "conn", req.Conn)
				gs.owe(req)
			}
		}
	})
}

// strangers returns a leave for every seat under this gateway's id whose
// connection is not open here, or is not in the group.
func (gs *groups) strangers(gr *group) (leaves []wire.GroupRequest) {
	g := gs.g
	gr.mu.Lock()
	rest := maps.Clone(gr.view.own)
	for c := range gr.seats {
		delete(rest, c.id)
	}
	gr.mu.Unlock()
	if len(rest) == 0 {
		return nil
	}
	open := map[string]*connection{}
	g.connections.each(func(c *connection) {
		if _, is := rest[c.id]; is {
			open[c.id] = c
		}
	})
	for conn, user := range rest {
		if gs.owes(groupLeaver{gr.name, conn}) {
			continue
		}
		if c := open[conn]; c != nil {
			if req, is := c.strangerIn(gr.name); is {
				leaves = append(leaves, req)
			}
			continue
		}
		leaves = append(leaves, wire.GroupRequest{
			Group: gr.name, User: user, Conn: conn, Gateway: g.id, Epoch: g.lease.current(), Version: g.nextVersion(),
		})
	}
	return leaves
}

// strangerIn returns a leave for a connection that has no seat in a group, nor
// has asked for one: a join of later has a greater version.
func (c *connection) strangerIn(name string) (req wire.GroupRequest, is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.groups[name]; s != nil && s.sent {
		return req, false
	}
	return c.groupRequest(name), true
}

// owes reports whether a leave is still to be taken.
func (gs *groups) owes(key groupLeaver) bool {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	_, owed := gs.owed[key]
	return owed
}
