package gateway

import (
	"bytes"
	"context"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// groupJoin takes a seat in a group. The first role of the group's rule is
// anybody's who may join, the others need the token's word.
func (c *connection) groupJoin(f *wire.Frame) *wire.Error {
	rule := c.g.rules.Current().Group(f.Group)
	if rule == nil {
		return wire.Errorf(wire.PermissionDenied, "no rule matches the group")
	}
	role := f.Role
	if role == "" {
		role = rule.Roles[0]
	}
	known := false
	for _, r := range rule.Roles {
		known = known || r == role
	}
	switch {
	case !known:
		return wire.InvalidField("role", "one of the roles of the group's rule")
	case !claimsOf(c.identity.Load()).MayRole(rule, f.Group, role):
		return wire.Errorf(wire.PermissionDenied, "the role needs a token that grants it").With("rule", rule.Match)
	}
	id := f.ID
	data, bad := publicData(f.Data)
	if bad != nil {
		return bad
	}
	return c.inGroup(f, func(ctx context.Context, s *groupSeat) *wire.Error { return s.join(ctx, id, role, data) })
}

// groupLeave gives the seat back; without one it is no error.
func (c *connection) groupLeave(f *wire.Frame) *wire.Error {
	id := f.ID
	c.mu.Lock()
	_, there := c.groups[f.Group]
	c.mu.Unlock()
	if !there {
		c.ok(id, nil)
		return nil
	}
	return c.inGroup(f, func(ctx context.Context, s *groupSeat) *wire.Error { return s.leave(ctx, id) })
}

// groupPublish sends a message to the members, or to those of a role.
func (c *connection) groupPublish(f *wire.Frame) *wire.Error {
	req := wire.GroupRequest{Group: f.Group, Event: f.Event, Data: bytes.Clone(f.Data), Role: f.Role}
	return c.groupMessage(f, "publish", req)
}

// groupSend sends a message to one member.
func (c *connection) groupSend(f *wire.Frame) *wire.Error {
	req := wire.GroupRequest{Group: f.Group, Event: f.Event, Data: bytes.Clone(f.Data), Member: f.Member}
	return c.groupMessage(f, "send", req)
}

func (c *connection) groupMessage(f *wire.Frame, endpoint string, req wire.GroupRequest) *wire.Error {
	id := f.ID
	req.User, req.Conn, req.Gateway = c.user(), c.id, c.g.id
	return c.inGroup(f, func(ctx context.Context, s *groupSeat) *wire.Error {
		return s.member(id, func(*group) ([]byte, error) {
			_, err := askGroup[struct{}](ctx, c.g, endpoint, req)
			return []byte("{}"), err
		})
	})
}

// groupMembers answers who is in the group. What changes afterwards follows the
// answer, and nothing that came before it does.
func (c *connection) groupMembers(f *wire.Frame) *wire.Error {
	id := f.ID
	return c.fromView(f, func(v *groupView) {
		c.ok(id, wire.AppendGroupMembers(nil, &wire.GroupMembers{Members: v.members, Count: len(v.members), Meta: v.meta}))
	})
}

// groupMeta answers what the group says of itself, and sets it first where the
// frame has something to set.
func (c *connection) groupMeta(f *wire.Frame) *wire.Error {
	id := f.ID
	if f.Meta == nil {
		return c.fromView(f, func(v *groupView) {
			c.ok(id, wire.AppendGroupMeta(nil, &wire.GroupMeta{Meta: v.meta}))
		})
	}
	req := wire.GroupRequest{Group: f.Group, User: c.user(), Conn: c.id, Gateway: c.g.id, Meta: bytes.Clone(f.Meta)}
	return c.inGroup(f, func(ctx context.Context, s *groupSeat) *wire.Error {
		return s.member(id, func(gr *group) ([]byte, error) {
			if !s.mayMeta(gr) {
				return nil, wire.Errorf(wire.PermissionDenied, "the group's rule lets other roles set the meta")
			}
			meta, err := askGroup[wire.GroupMeta](ctx, c.g, "meta", req)
			return wire.AppendGroupMeta(nil, &meta), err
		})
	})
}

// fromView answers a member from what the gateway knows of the group.
func (c *connection) fromView(f *wire.Frame, answer func(*groupView)) *wire.Error {
	return c.inGroup(f, func(ctx context.Context, s *groupSeat) *wire.Error {
		return s.member(0, func(gr *group) ([]byte, error) {
			ok, since := gr.current(s, answer)
			if ok {
				return nil, nil
			}
			// The entry that its join was stored by has not been heard yet.
			if err := c.g.groups.load(ctx, gr, since); err != nil {
				return nil, err
			}
			if ok, _ := gr.current(s, answer); !ok {
				return nil, wire.Errorf(wire.Unavailable, "the group is not read yet")
			}
			return nil, nil
		})
	})
}
