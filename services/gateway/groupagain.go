package gateway

import (
	"context"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// sayAgain queues that the seat is said again, behind what the client has asked
// and once.
func (s *groupSeat) sayAgain() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.queueAgain()
}

// queueAgain is [groupSeat.sayAgain] with conn.mu held.
func (s *groupSeat) queueAgain() {
	if !s.ended && !s.saying {
		s.saying = true
		s.add(func(ctx context.Context, s *groupSeat) { s.reassert(ctx) })
	}
}

// reassert says again that the seat is taken, under the lease's new epoch, for
// as long as nobody answers: a seat that is not said again is taken out while
// its connection goes on hearing the group. Whatever the client asks meanwhile
// comes in between.
func (s *groupSeat) reassert(ctx context.Context) {
	s.conn.mu.Lock()
	s.saying = false
	s.conn.mu.Unlock()
	for wait := leaveRetry; !s.askAgain(ctx); wait = min(2*wait, leaveRetryMost) {
		if clock.Sleep(ctx, wait) != nil {
			return
		}
		if s.awaited() {
			s.sayAgain()
			return
		}
	}
}

// awaited reports whether something is queued behind what is being done.
func (s *groupSeat) awaited() bool {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return len(s.queue) > 0 || s.ended
}

// askAgain joins once more, among few others, where that is to be done. It
// returns false when it has to be tried again. A seat that is not to be had any
// more is told so.
func (s *groupSeat) askAgain(ctx context.Context) (done bool) {
	g, gr := s.conn.g, s.in
	if gr == nil || gr.said(s, g.lease.current()) {
		return true
	}
	turn, cancel := context.WithTimeout(ctx, groupWait)
	defer cancel()
	release, ok := g.groups.slot(turn)
	if !ok {
		return false
	}
	defer release()
	req, ok := s.request(true)
	if !ok {
		return true
	}
	gr.mu.Lock()
	req.Role, req.Data = s.role, s.data
	s.again = false
	gr.mu.Unlock()
	_, err := askGroup[wire.GroupJoined](ctx, g, "join", req)
	gr.mu.Lock()
	if err == nil {
		s.version, s.epoch = req.Version, req.Epoch
	} else {
		s.again = true
	}
	gr.mu.Unlock()
	if err == nil {
		return true
	}
	if refused := wire.AsError(err); transient(refused) && refused.Code != wire.Aborted {
		return false
	}
	gr.evict(s)
	s.clear()
	s.undo(true)
	return true
}

// said reports whether a seat need not be said again.
func (gr *group) said(s *groupSeat, epoch uint64) bool {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	return gr.seats[s.conn] != s || !s.again && s.epoch == epoch
}

// reassertGroups says every membership again: the lease has a new epoch.
func (g *Service) reassertGroups() {
	g.connections.each(func(c *connection) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range c.groups {
			s.queueAgain()
		}
	})
}
