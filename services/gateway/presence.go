package gateway

import (
	"context"
	"encoding/json"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// attendance is what a connection is on a topic beside a subscriber.
type attendance struct {
	watching, joined bool
	stays            bool   // it watches whatever becomes of a join
	attempt          uint64 // grows with every join and leave: the failure of an older one undoes nothing
}

const (
	// maxConns is the most connections of one user on one topic, or at all, that
	// others hear of.
	maxConns = 1000
	// presencePage bounds an answer to op `presence`.
	presencePage  = 256 << 10
	presenceLimit = 100
)

// attending returns what the connection is on a topic.
func (c *connection) attending(topic string) attendance {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.presence[topic]; a != nil {
		return *a
	}
	return attendance{}
}

// attend changes what the connection is on a topic.
func (c *connection) attend(topic string, fn func(*attendance)) attendance {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.presence[topic]
	if a == nil {
		a = &attendance{}
	}
	fn(a)
	if !a.watching && !a.joined {
		delete(c.presence, topic)
		return *a
	}
	if c.presence == nil {
		c.presence = map[string]*attendance{}
	}
	c.presence[topic] = a
	return *a
}

// mayAttend returns the error that answers a subscribe whose presence the rules
// or the token refuse.
func (c *connection) mayAttend(f *wire.Frame) *wire.Error {
	if f.Presence == "" {
		return nil
	}
	if wire.IsPattern(f.Topic) {
		return wire.InvalidField("presence", "not together with a wildcard")
	}
	ask := wire.Frame{Op: wire.OpPresence, Topic: f.Topic}
	if err := c.g.authorizer.Authorize(context.Background(), c.identity.Load(), &ask); err != nil {
		return wire.AsError(err)
	}
	if f.Presence == "join" {
		ask.Op = wire.OpPresenceJoin
		if err := c.g.authorizer.Authorize(context.Background(), c.identity.Load(), &ask); err != nil {
			return wire.AsError(err)
		}
	}
	return nil
}

// publicData is what a member says of itself as others may see it; `null` says
// nothing.
func publicData(raw []byte) (json.RawMessage, *wire.Error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	data, err := wire.PublicData(raw)
	if err != nil {
		return nil, wire.AsError(err)
	}
	return data, nil
}

// presenceConn is how the connection stands among the user's on a topic.
func (c *connection) presenceConn(data json.RawMessage) wire.PresenceConn {
	return wire.PresenceConn{Conn: c.id, Info: c.publicInfo(), Data: data}
}

// publicInfo is what the token says of the user to everybody.
func (c *connection) publicInfo() json.RawMessage {
	info, err := wire.PublicData(c.identity.Load().Info)
	if err != nil {
		return nil
	}
	return info
}

// joinPresence puts the connection on a topic and makes it an observer. done
// hears when that is stored, or why it can't be: then it is as before. With hold
// it hears nothing of the topic's presence before [rooms.release].
func (c *connection) joinPresence(topic string, raw []byte, hold bool, done func(*wire.Error)) *wire.Error {
	data, bad := publicData(raw)
	if bad != nil {
		return bad
	}
	if !c.g.link.up() {
		return unavailable("NATS is away: nobody can join")
	}
	attempt := c.g.nextVersion()
	if err := c.g.rooms.watch(c, topic, attempt, true); err != nil {
		return err
	}
	c.attend(topic, func(a *attendance) { a.watching, a.joined, a.attempt = true, true, attempt })
	user := c.user()
	full := false
	c.g.roster.change(topic, user, func(s *section) bool {
		if full = s.index(c.id) < 0 && len(s.conns) >= maxConns; full {
			return false
		}
		s.join(c.presenceConn(data))
		return true
	}, c.id, func(_ uint64, err *wire.Error) {
		if full {
			err = (&wire.Error{Code: wire.ResourceExhausted, Message: "too many connections of the user on the topic"}).With("limit", maxConns)
		}
		if err != nil {
			c.g.metrics.presenceRefusals.Add(1)
		}
		there := err == nil || c.g.roster.stored(topic, user, c.id)
		now := c.attend(topic, func(a *attendance) {
			if a.attempt == attempt {
				a.stays = a.stays || there
				a.joined, a.watching = there, a.stays
			}
		})
		if err != nil && !now.watching {
			c.g.rooms.unwatch(c, topic, attempt)
		}
		done(err)
		if !hold { // what it hears now follows the answer
			c.g.rooms.release(c, topic, attempt)
		}
	})
	return nil
}

// joinAll joins the topics whose subscribe wants it, and answers those that
// could not be joined: they are not subscribed either.
func (c *connection) joinAll(pending []pendingSubscribe) []pendingSubscribe {
	outcomes := make([]chan *wire.Error, len(pending))
	for i := range pending {
		if pending[i].presence != "join" {
			continue
		}
		outcome := make(chan *wire.Error, 1)
		outcomes[i] = outcome
		if err := c.joinPresence(pending[i].topic, pending[i].data, true, func(err *wire.Error) { outcome <- err }); err != nil {
			outcome <- err
		}
	}
	kept := pending[:0]
	for i, p := range pending {
		if outcomes[i] != nil {
			if err := <-outcomes[i]; err != nil { // in bounded time: the roster sees to that
				c.g.fanout.release(p.in)
				c.fail(p.id, err.With("op", "subscribe").With("topic", p.topic))
				continue
			}
		}
		kept = append(kept, p)
	}
	return kept
}

// observe lets a subscription, which has been answered, hear of the topic's
// presence if it wants to.
func (c *connection) observe(p *pendingSubscribe) {
	switch p.presence {
	case "join":
		c.g.rooms.release(c, p.topic, 0)
	case "watch":
		if err := c.watchPresence(p.topic); err != nil {
			c.fail(0, err.With("op", "subscribe").With("topic", p.topic))
		}
	}
}

// leavePresence takes the connection off a topic, which others hear at once;
// done hears when it is stored.
func (c *connection) leavePresence(topic string, done func(*wire.Error)) {
	if !c.attending(topic).joined {
		done(nil)
		return
	}
	attempt := c.g.nextVersion()
	c.attend(topic, func(a *attendance) { a.joined, a.attempt = false, attempt })
	c.g.roster.change(topic, c.user(), func(s *section) bool { return s.leave(c.id) }, "", func(_ uint64, err *wire.Error) { done(err) })
}

// unattend ends all that the connection is on a topic beside a subscriber.
func (c *connection) unattend(topic string) {
	a := c.attending(topic)
	if a.watching {
		c.attend(topic, func(a *attendance) { a.watching, a.stays = false, false })
		c.g.rooms.unwatch(c, topic, 0)
	}
	if a.joined {
		c.leavePresence(topic, func(*wire.Error) {})
	}
}

// replacePresence makes the connection on a topic what a repeated subscribe
// says. done hears the outcome.
func (c *connection) replacePresence(f *wire.Frame, done func(*wire.Error)) *wire.Error {
	switch f.Presence {
	case "join":
		return c.joinPresence(f.Topic, f.Data, false, done)
	case "watch":
		c.leavePresence(f.Topic, func(*wire.Error) {})
		if err := c.watchPresence(f.Topic); err != nil {
			return err
		}
	default:
		c.unattend(f.Topic)
	}
	done(nil)
	return nil
}

func (c *connection) watchPresence(topic string) *wire.Error {
	if err := c.g.rooms.watch(c, topic, c.g.nextVersion(), false); err != nil {
		return err
	}
	c.attend(topic, func(a *attendance) { a.watching, a.stays = true, true })
	return nil
}

// answered is the end of an op that waits for the presence service.
func (c *connection) answered(f *wire.Frame) func(*wire.Error) {
	id, refused := f.ID, c.refused(f)
	return func(err *wire.Error) {
		if err != nil {
			refused(err)
			return
		}
		c.ok(id, nil)
	}
}

// refused is the end of an op that failed: the frame is another's by then.
func (c *connection) refused(f *wire.Frame) func(*wire.Error) {
	op, topic, id := f.Op.String(), f.Topic, f.ID
	return func(err *wire.Error) { c.fail(id, err.With("op", op).With("topic", topic)) }
}

// presenceJoin is op `presence.join`.
func (c *connection) presenceJoin(f *wire.Frame) *wire.Error {
	if c.topics.of(f.Topic) == nil {
		return wire.Errorf(wire.FailedPrecondition, "subscribe to the topic first")
	}
	return c.joinPresence(f.Topic, f.Data, false, c.answered(f))
}

// presenceLeave is op `presence.leave`; who is not there has left.
func (c *connection) presenceLeave(f *wire.Frame) *wire.Error {
	c.leavePresence(f.Topic, c.answered(f))
	return nil
}

// presenceUpdate is op `presence.update`.
func (c *connection) presenceUpdate(f *wire.Frame) *wire.Error {
	if !c.attending(f.Topic).joined {
		return wire.Errorf(wire.FailedPrecondition, "join the topic's presence first")
	}
	data, bad := publicData(f.Data)
	if bad != nil {
		return bad
	}
	if !c.g.link.up() {
		return unavailable("NATS is away: nothing can be updated")
	}
	done := c.answered(f)
	topic, user, there := f.Topic, c.user(), false
	c.g.roster.change(topic, user, func(s *section) bool {
		i := s.index(c.id)
		there = i >= 0
		if !there || s.stored == s.version && wire.EqualJSON(s.conns[i].Data, data) {
			return false
		}
		s.join(c.presenceConn(data))
		return true
	}, c.id, func(_ uint64, err *wire.Error) {
		switch {
		case !there: // its join was refused a moment ago
			err = wire.Errorf(wire.FailedPrecondition, "join the topic's presence first")
		case err != nil && transient(err) && c.g.roster.stored(topic, user, c.id):
			err = err.With("outcome", "unknown") // it is tried until it is stored
		}
		done(err)
	})
	return nil
}

// listPresence is op `presence`: from the gateway's own view where it has one,
// so that what it answers and what its frames say go together.
func (c *connection) listPresence(f *wire.Frame) *wire.Error {
	limit := int(f.Limit)
	if limit == 0 {
		limit = presenceLimit
	}
	if ok := c.g.rooms.list(f.Topic, f.Page, limit); ok != nil {
		c.ok(f.ID, ok)
		return nil
	}
	req := wire.PresenceListRequest{Topic: f.Topic, Limit: limit, Cursor: f.Page}
	return c.ask(f, func(ctx context.Context) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, loadWait)
		defer cancel()
		list, err := callService[wire.PresenceListRequest, wire.PresenceList](ctx, c.g.dependencies.presence, c.g.reads, "list", req)
		if err != nil {
			return nil, err
		}
		return json.Marshal(list)
	})
}

// list returns a page of a room's members, nil where the gateway has no view of
// it.
func (rs *rooms) list(topic, cursor string, limit int) []byte {
	w := rs.of(topic)
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.loaded || w.closed {
		return nil
	}
	return w.room.page(w.rev, cursor, limit, presencePage)
}
