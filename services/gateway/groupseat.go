package gateway

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// groupSeat is a connection's place in a group, or its way there. What the
// client asks about one group is done one after the other, in the order asked:
// by a goroutine that lives as long as there is something to do.
type groupSeat struct {
	conn *connection
	name string

	queue  []groupTask // guarded by conn.mu, like the four below
	busy   bool        // somebody works on the queue
	ended  bool        // the connection is gone
	sent   bool        // the service may have a seat for it
	saying bool        // it is queued that the seat is said again

	in *group // nil: not a member; of whoever works on the queue

	role  string          // guarded by in.mu, like all below
	data  json.RawMessage // as they were joined with
	since uint64          // revision of the entry that it knows by its join
	// version and epoch of its last join that was taken. again says that it is
	// about to be said once more, since it was lost.
	version, epoch uint64
	again          bool
}

// groupTask is one thing to do for a seat.
type groupTask func(ctx context.Context, s *groupSeat)

// inGroup queues an op of the client about a group.
func (c *connection) inGroup(f *wire.Frame, run func(ctx context.Context, s *groupSeat) *wire.Error) *wire.Error {
	refused, limit := c.refusedIn(f), c.g.cfg.Limits.PendingPerConnection
	task := func(ctx context.Context, s *groupSeat) {
		err := run(ctx, s)
		c.mu.Lock()
		c.asking--
		c.mu.Unlock()
		if err != nil {
			refused(err)
		}
	}
	c.mu.Lock()
	s := c.groups[f.Group]
	switch {
	case c.closed:
		c.mu.Unlock()
		return nil
	case c.asking >= limit:
		c.mu.Unlock()
		c.g.metrics.limited.Add(1)
		return (&wire.Error{Code: wire.ResourceExhausted, Message: "too many requests outstanding on this connection"}).With("limit", limit)
	case s == nil && len(c.groups) >= groupsPerConnection:
		c.mu.Unlock()
		c.g.metrics.limited.Add(1)
		return (&wire.Error{Code: wire.ResourceExhausted, Message: "too many groups on this connection", RetryAfter: wire.Never}).With("limit", groupsPerConnection)
	case s == nil:
		if c.groups == nil {
			c.groups = map[string]*groupSeat{}
		}
		s = &groupSeat{conn: c, name: f.Group}
		c.groups[f.Group] = s
	}
	c.asking++
	started := s.add(task)
	c.mu.Unlock()
	if !started {
		return unavailable("the gateway is stopping")
	}
	return nil
}

// refusedIn answers a frame with an error, later.
func (c *connection) refusedIn(f *wire.Frame) func(*wire.Error) {
	id, op, group := f.ID, f.Op.String(), f.Group
	return func(err *wire.Error) { c.fail(id, err.With("op", op).With("group", group)) }
}

// add queues a task; conn.mu is held. It returns false where nobody will do it.
func (s *groupSeat) add(task groupTask) bool {
	s.queue = append(s.queue, task)
	if s.busy {
		return true
	}
	s.busy = s.conn.g.mender.spawn(s.work)
	return s.busy
}

// work does what is queued.
func (s *groupSeat) work(ctx context.Context) {
	for {
		s.conn.mu.Lock()
		if s.ended {
			s.queue = nil
		}
		if len(s.queue) == 0 {
			s.busy = false
			ended := s.ended
			if s.in == nil && !ended && s.conn.groups[s.name] == s {
				delete(s.conn.groups, s.name)
			}
			s.conn.mu.Unlock()
			if ended {
				s.clear()
			}
			return
		}
		task := s.queue[0]
		s.queue = s.queue[1:]
		s.conn.mu.Unlock()
		task(ctx, s)
	}
}

// clear gives the group back: the connection is no member any more.
func (s *groupSeat) clear() {
	if gr := s.in; gr != nil {
		gr.silence(s)
		s.in = nil
		s.conn.g.groups.exit(gr)
	}
}

// request is a request about the seat under a new version: of two requests the
// one with the greater version counts, in whatever order they arrive. It
// returns false when the connection is gone.
func (s *groupSeat) request(joins bool) (req wire.GroupRequest, ok bool) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.ended {
		return req, false
	}
	s.sent = s.sent || joins
	return c.groupRequest(s.name), true
}

// groupRequest is a request of the connection about a group. The version comes
// before the epoch: whoever says everything again under a new epoch has a
// greater version than what is still said under the old one.
func (c *connection) groupRequest(name string) wire.GroupRequest {
	version := c.g.nextVersion()
	return wire.GroupRequest{Group: name, User: c.user(), Conn: c.id, Gateway: c.g.id, Epoch: c.g.lease.current(), Version: version}
}

// join takes a seat in the group, or gives it another role and data.
func (s *groupSeat) join(ctx context.Context, id int64, role string, data []byte) *wire.Error {
	g, gr := s.conn.g, s.in
	bounded, cancel := context.WithTimeout(ctx, groupWait)
	defer cancel()
	select {
	case <-g.lease.held: // a gateway that has just started may not have it yet
	case <-bounded.Done():
		return unavailable("the gateway has no lease: JetStream is away")
	}
	if gr == nil {
		var refused *wire.Error
		if gr, refused = g.groups.enter(bounded, s.name); refused != nil {
			return refused
		}
	}
	req, ok := s.request(true)
	if !ok {
		s.giveBack(gr)
		return nil
	}
	req.Role, req.Data = role, data
	joined, err := askGroup[wire.GroupJoined](ctx, g, "join", req)
	stored := err == nil || mayBeStored(wire.AsError(err))
	if err == nil && !gr.knows() {
		err = g.groups.load(ctx, gr, joined.Revision)
	}
	if err != nil {
		if s.in == nil || !gr.hears(s) {
			s.undo(stored)
		}
		s.giveBack(gr)
		return wire.AsError(err)
	}
	gr.mu.Lock()
	s.role, s.data = role, data
	gr.mu.Unlock()
	if s.gone() {
		// Its leave has a greater version, but who left is not remembered for
		// ever.
		s.undo(true)
		s.giveBack(gr)
		return nil
	}
	s.in = gr
	switch here, lost := gr.admit(s, id, &req, &joined); {
	case !here:
		s.clear()
	case lost:
		s.sayAgain()
	}
	return nil
}

func (gr *group) knows() bool {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	return gr.known
}

func (s *groupSeat) gone() bool {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.ended
}

// giveBack gives a group back that was entered for a join that came to nothing.
func (s *groupSeat) giveBack(gr *group) {
	if s.in == nil {
		s.conn.g.groups.exit(gr)
	}
}

// mayBeStored reports whether a request that was answered with an error may have
// been done nevertheless.
func mayBeStored(err *wire.Error) bool {
	switch err.Code {
	case wire.DeadlineExceeded, wire.Cancelled, wire.Internal:
		return true
	}
	return err.Details["outcome"] == "unknown"
}

// undo gives up a join that came to nothing. If it may have been stored, it is
// taken back.
func (s *groupSeat) undo(stored bool) {
	c := s.conn
	c.mu.Lock()
	s.sent = false
	req := c.groupRequest(s.name)
	c.mu.Unlock()
	if stored {
		c.g.groups.owe(req)
	}
}

// leave gives the seat back. If the service can't be reached, the gateway goes
// on trying; the client is no member any more, whatever the answer.
func (s *groupSeat) leave(ctx context.Context, id int64) *wire.Error {
	if s.in == nil {
		s.conn.ok(id, nil)
		return nil
	}
	s.in.silence(s)
	req, ok := s.request(false)
	if !ok {
		return nil
	}
	s.clear()
	_, err := askGroup[struct{}](ctx, s.conn.g, "leave", req)
	s.conn.mu.Lock()
	s.sent = false
	s.conn.mu.Unlock()
	if err != nil {
		s.conn.g.groups.owe(req)
		return wire.AsError(err)
	}
	s.conn.ok(id, nil)
	return nil
}

// drop cleans up after a seat that was told that it is gone.
func (s *groupSeat) drop(gr *group) {
	s.later(func(_ context.Context, s *groupSeat) {
		if s.in != gr || gr.hears(s) { // it has joined again
			return
		}
		s.clear()
		s.conn.mu.Lock()
		s.sent = s.ended && s.sent
		s.conn.mu.Unlock()
	})
}

// later queues something that the gateway does for a seat.
func (s *groupSeat) later(run func(context.Context, *groupSeat)) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if !s.ended {
		s.add(run)
	}
}

// member runs an op that only members may do.
func (s *groupSeat) member(id int64, run func(gr *group) ([]byte, error)) *wire.Error {
	if s.in == nil || !s.in.hears(s) {
		return wire.Errorf(wire.FailedPrecondition, "not a member of the group")
	}
	ok, err := run(s.in)
	if err != nil {
		return wire.AsError(err)
	}
	if ok != nil {
		s.conn.ok(id, ok)
	}
	return nil
}

// mayMeta reports whether the seat's role may set the meta.
func (s *groupSeat) mayMeta(gr *group) bool {
	rule := s.conn.g.rules.Current().Group(s.name)
	gr.mu.Lock()
	defer gr.mu.Unlock()
	return rule != nil && slices.Contains(rule.Meta, s.role)
}

// endGroups leaves every group of a connection that ends: at once, or as soon
// as the service can be reached.
func (c *connection) endGroups() {
	c.mu.Lock()
	seats := c.groups
	c.groups, c.closed = nil, true
	var owed []wire.GroupRequest
	var idle []*groupSeat
	for _, s := range seats {
		s.ended = true
		if s.sent {
			owed = append(owed, c.groupRequest(s.name))
		}
		if !s.busy {
			idle = append(idle, s)
		}
	}
	c.mu.Unlock()
	for _, s := range idle {
		s.clear()
	}
	for _, req := range owed {
		c.g.groups.owe(req)
	}
}
