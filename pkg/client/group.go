package client

import (
	"context"
	"encoding/json"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// GroupOptions says how to be in a group.
type GroupOptions struct {
	// Role is one that the group's rule knows and the token grants; empty is the
	// rule's first.
	Role string
	// Data is what the other members see; nil is nothing.
	Data any
	// OnMessage receives the group's messages, OnChange who came and went and
	// what became of the meta: each one at a time, in a goroutine of the client.
	OnMessage func(Message)
	OnChange  func(GroupChange)
}

// GroupChange is what became of a group since the last one. What did not change
// is empty.
type GroupChange struct {
	Joined, Left map[string]wire.GroupMember // by connection
	Meta         json.RawMessage             // nil: as it was
	Closed       bool                        // there is no group any more
}

// Group is a group that this connection is in.
type Group struct {
	c      *Client
	name   string
	joined wire.GroupJoined

	messages *queue[Message] // nil, like the next: nobody asked
	changes  *queue[GroupChange]
}

// JoinGroup makes this connection a member of a group, which it is until
// [Group.Leave] or the end of the connection. A group that is full is
// RESOURCE_EXHAUSTED; one that this connection joined already is ALREADY_EXISTS.
func (c *Client) JoinGroup(ctx context.Context, group string, o GroupOptions) (*Group, error) {
	var data []byte
	if o.Data != nil {
		var err error
		if data, err = wire.EncodeData("data", o.Data); err != nil {
			return nil, err
		}
	}
	g := &Group{c: c, name: group}
	if o.OnMessage != nil {
		g.messages = newQueue[Message](c.queue)
	}
	if o.OnChange != nil {
		g.changes = newQueue[GroupChange](c.queue)
	}
	if err := c.attachGroup(g); err != nil { // first: frames may follow the reply at once
		return nil, err
	}
	ok, err := g.ask(ctx, "group.join", func(f *frame) {
		f.optional("role", o.Role)
		if data != nil {
			f.raw("data", data)
		}
	})
	if err == nil {
		if e := json.Unmarshal(ok, &g.joined); e != nil {
			err = wire.Errorf(wire.Internal, "group.join's reply: %v", e)
		}
	}
	if err != nil {
		c.detachGroup(g, err)
		return nil, err
	}
	if g.messages != nil {
		c.start(func() { consume(c, g.messages, o.OnMessage) })
	}
	if g.changes != nil {
		c.start(func() { consume(c, g.changes, o.OnChange) })
	}
	return g, nil
}

// Name returns the group's name.
func (g *Group) Name() string { return g.name }

// Member returns this connection's id in the group.
func (g *Group) Member() string { return g.joined.Member }

// Joined returns how many members there were, this one included, and the meta,
// when this one joined.
func (g *Group) Joined() (count int, meta json.RawMessage) { return g.joined.Count, g.joined.Meta }

// Leave ends the membership. It is idempotent.
func (g *Group) Leave(ctx context.Context) error {
	_, err := g.ask(ctx, "group.leave", nil)
	if err == nil {
		g.c.detachGroup(g, ErrUnsubscribed)
	}
	return err
}

// Publish sends to all members, or those of one role where it is not empty. data
// is encoded as by [Client.Publish].
func (g *Group) Publish(ctx context.Context, event string, data any, role string) error {
	return g.say(ctx, "group.publish", event, data, "role", role)
}

// Send sends to one member.
func (g *Group) Send(ctx context.Context, member, event string, data any) error {
	return g.say(ctx, "group.send", event, data, "member", member)
}

func (g *Group) say(ctx context.Context, op, event string, data any, field, value string) error {
	raw, err := wire.EncodeData("data", data)
	if err != nil {
		return err
	}
	_, err = g.ask(ctx, op, func(f *frame) {
		f.str("event", event)
		f.optional(field, value)
		f.raw("data", raw)
	})
	return err
}

// Members returns who is in the group.
func (g *Group) Members(ctx context.Context) (wire.GroupMembers, error) {
	var m wire.GroupMembers
	ok, err := g.ask(ctx, "group.members", nil)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(ok, &m); err != nil {
		return m, wire.Errorf(wire.Internal, "group.members's reply: %v", err)
	}
	return m, nil
}

// Meta returns what the group says of itself.
func (g *Group) Meta(ctx context.Context) (json.RawMessage, error) { return g.meta(ctx, nil) }

// SetMeta replaces that, where the member's role may, and returns what it is then.
func (g *Group) SetMeta(ctx context.Context, meta any) (json.RawMessage, error) {
	raw, err := wire.EncodeData("meta", meta)
	if err != nil {
		return nil, err
	}
	return g.meta(ctx, raw)
}

func (g *Group) meta(ctx context.Context, set []byte) (json.RawMessage, error) {
	ok, err := g.ask(ctx, "group.meta", func(f *frame) {
		if set != nil {
			f.raw("meta", set)
		}
	})
	if err != nil {
		return nil, err
	}
	var m wire.GroupMeta
	if err := json.Unmarshal(ok, &m); err != nil {
		return nil, wire.Errorf(wire.Internal, "group.meta's reply: %v", err)
	}
	return m.Meta, nil
}

func (g *Group) ask(ctx context.Context, op string, fill func(*frame)) (json.RawMessage, error) {
	return g.c.ask(ctx, g.c.timeout, func(id int64) []byte {
		f := newFrame(op, id)
		f.str("group", g.name)
		if fill != nil {
			fill(f)
		}
		return f.end()
	})
}

func (c *Client) attachGroup(g *Group) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closeErr != nil {
		return c.closeErr.asError()
	}
	if c.groups[g.name] != nil {
		return wire.Errorf(wire.AlreadyExists, "group: this client is in it")
	}
	if c.groups == nil {
		c.groups = map[string]*Group{}
	}
	c.groups[g.name] = g
	return nil
}

func (c *Client) detachGroup(g *Group, why error) {
	c.mu.Lock()
	if c.groups[g.name] == g {
		delete(c.groups, g.name)
	}
	c.mu.Unlock()
	g.end(why)
}

// end lets the callbacks have what waits, then ends them.
func (g *Group) end(why error) {
	if g.messages != nil {
		g.messages.end(why)
	}
	if g.changes != nil {
		g.changes.end(why)
	}
}

// toGroup gives a frame to the member that it is for. The reader calls it.
func (c *Client) toGroup(f *wire.ServerFrame) {
	c.mu.Lock()
	g := c.groups[f.Group]
	c.mu.Unlock()
	if g == nil {
		return
	}
	taken := true
	switch {
	case f.Op == "" && g.messages != nil:
		m, err := messageOf(f)
		if err != nil {
			push(c, "OnError", c.slots().failure, wire.AsError(err))
			return
		}
		taken = g.messages.push(m)
	case f.Op == "group" && g.changes != nil:
		taken = g.changes.push(GroupChange{Joined: f.Joined, Left: f.Left, Meta: f.Meta, Closed: f.Closed})
	}
	if !taken {
		c.start(func() {
			c.fail(&CloseError{Code: wire.CloseAbnormal, Local: true, Reason: "the queue of group " + g.name + " ran over"})
		})
	}
	if f.Closed {
		c.detachGroup(g, wire.Errorf(wire.NotFound, "the group is closed"))
	}
}
