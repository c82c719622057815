package presence

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// endpoints are those of groups. A request with a conn comes from, or is about,
// that connection; one without comes from a worker, who may do everything.
func (g *groups) endpoints(at func(string) string) []bus.Endpoint {
	return []bus.Endpoint{
		bus.Handle("group.create", at("group.create"), g.Create),
		bus.Handle("group.join", at("group.join"), g.Join),
		bus.Handle("group.leave", at("group.leave"), g.Leave),
		bus.Handle("group.members", at("group.members"), g.Members),
		bus.Handle("group.entry", at("group.entry"), g.Entry),
		bus.Handle("group.publish", at("group.publish"), g.Publish),
		bus.Handle("group.send", at("group.send"), g.Send),
		bus.Handle("group.meta", at("group.meta"), g.Meta),
		bus.Handle("group.close", at("group.close"), g.Close),
	}
}

// checkGroup looks at what every request has, and at what is in this one.
func checkGroup(req *wire.GroupRequest, needsConn bool) error {
	if err := wire.CheckGroup(req.Group); err != nil {
		return err
	}
	for field, id := range map[string]string{"conn": req.Conn, "gateway": req.Gateway, "user": req.User, "member": req.Member} {
		if id != "" && wire.CheckUser(id) != nil {
			return wire.InvalidField(field, "1-128 bytes of UTF-8 without control characters")
		}
	}
	for field, raw := range map[string]json.RawMessage{"meta": req.Meta} {
		if len(raw) > wire.MaxMemberData {
			return wire.InvalidField(field, "at most "+strconv.Itoa(wire.MaxMemberData)+" bytes")
		}
	}
	switch {
	case needsConn && req.Conn == "":
		return wire.InvalidField("conn", "is required")
	case req.Role != "" && wire.CheckRole(req.Role) != nil:
		return wire.CheckRole(req.Role)
	case req.MaxMembers < 0 || req.MaxMembers > maxGroupMembers:
		return wire.InvalidField("maxMembers", "0 (no bound of its own) to "+strconv.Itoa(maxGroupMembers))
	}
	return nil
}

// Create makes a group that stays although nobody is in it. Of one that is there
// it changes maxMembers, and sets the meta only if none was set.
func (g *groups) Create(ctx context.Context, req wire.GroupRequest) (struct{}, error) {
	if err := checkGroup(&req, false); err != nil {
		return struct{}{}, err
	}
	_, err := g.change(ctx, req.Group, groupTask{op: groupCreate, req: &req})
	return struct{}{}, coded(err)
}

// Join gives a connection a seat. Joining again replaces its role and data.
func (g *groups) Join(ctx context.Context, req wire.GroupRequest) (wire.GroupJoined, error) {
	err := checkGroup(&req, true)
	switch {
	case err != nil:
	case req.User == "":
		err = wire.InvalidField("user", "is required")
	case len(req.Data) > wire.MaxMemberData:
		err = wire.InvalidField("data", "at most "+strconv.Itoa(wire.MaxMemberData)+" bytes")
	}
	if err != nil {
		return wire.GroupJoined{}, err
	}
	k, err := g.change(ctx, req.Group, groupTask{op: groupJoin, req: &req, rule: g.rule(req.Group)})
	if err != nil {
		return wire.GroupJoined{}, coded(err)
	}
	return wire.GroupJoined{Count: len(k.entry.Members), Meta: k.entry.Meta, Member: req.Conn, Revision: k.revision}, nil
}

// Leave takes a connection out of a group. One that is not there is no error.
func (g *groups) Leave(ctx context.Context, req wire.GroupRequest) (struct{}, error) {
	if err := checkGroup(&req, true); err != nil {
		return struct{}{}, err
	}
	_, err := g.change(ctx, req.Group, groupTask{op: groupLeave, req: &req})
	return struct{}{}, coded(err)
}

// Members answers who is in a group. A group that is not there has nobody.
func (g *groups) Members(ctx context.Context, req wire.GroupRequest) (wire.GroupMembers, error) {
	if err := checkGroup(&req, false); err != nil {
		return wire.GroupMembers{}, err
	}
	k, err := g.atLeast(ctx, req.Group, req.MinRev)
	if err != nil {
		return wire.GroupMembers{}, err
	}
	if req.Conn != "" && !isMember(&k.entry, req.Conn) {
		return wire.GroupMembers{}, errNotMember
	}
	members := make(map[string]wire.GroupMember, len(k.entry.Members))
	for conn, seat := range k.entry.Members {
		members[conn] = seat.GroupMember
	}
	return wire.GroupMembers{Members: members, Count: len(members), Meta: k.entry.Meta}, nil
}

// Entry answers the group's entry, which gateways make their own view of.
func (g *groups) Entry(ctx context.Context, req wire.GroupRequest) (wire.GroupStored, error) {
	if err := checkGroup(&req, false); err != nil {
		return wire.GroupStored{}, err
	}
	k, err := g.atLeast(ctx, req.Group, req.MinRev)
	if err != nil {
		return wire.GroupStored{}, err
	}
	return wire.GroupStored{Entry: k.entry, Revision: k.revision}, nil
}

// Publish sends a message to all members, or to those of a role. In a closed
// group nobody gets it, which is no error.
func (g *groups) Publish(ctx context.Context, req wire.GroupRequest) (struct{}, error) {
	if err := checkMessage(&req); err != nil {
		return struct{}{}, err
	}
	if rule := g.rule(req.Group); rule != nil && req.Role != "" && !slices.Contains(rule.Roles, req.Role) {
		return struct{}{}, wire.InvalidField("role", "one of the roles of the group's rule")
	}
	if req.Conn != "" {
		may, err := g.holds(ctx, req.Group, func(e *wire.GroupEntry) bool { return e.Closed || isMember(e, req.Conn) })
		switch {
		case err != nil:
			return struct{}{}, err
		case !may:
			return struct{}{}, errNotMember
		}
	}
	req.Member = ""
	return struct{}{}, g.publish(&req)
}

// Send sends a message to one member.
func (g *groups) Send(ctx context.Context, req wire.GroupRequest) (struct{}, error) {
	err := checkMessage(&req)
	if err == nil && req.Member == "" {
		err = wire.InvalidField("member", "is required")
	}
	if err != nil {
		return struct{}{}, err
	}
	if req.Conn != "" {
		may, err := g.holds(ctx, req.Group, func(e *wire.GroupEntry) bool { return isMember(e, req.Conn) })
		switch {
		case err != nil:
			return struct{}{}, err
		case !may:
			return struct{}{}, errNotMember
		}
	}
	there, err := g.holds(ctx, req.Group, func(e *wire.GroupEntry) bool { return isMember(e, req.Member) })
	switch {
	case err != nil:
		return struct{}{}, err
	case !there:
		return struct{}{}, wire.Errorf(wire.NotFound, "member: not in the group")
	}
	req.Role = ""
	return struct{}{}, g.publish(&req)
}

func checkMessage(req *wire.GroupRequest) error {
	if err := checkGroup(req, false); err != nil {
		return err
	}
	if req.Event == "" {
		req.Event = wire.DefaultEvent
	}
	return wire.CheckEvent(req.Event)
}

// Meta answers a group's meta, and sets it first where the request has one.
func (g *groups) Meta(ctx context.Context, req wire.GroupRequest) (wire.GroupMeta, error) {
	if err := checkGroup(&req, false); err != nil {
		return wire.GroupMeta{}, err
	}
	if req.Meta == nil {
		k, err := g.atLeast(ctx, req.Group, req.MinRev)
		switch {
		case err != nil:
			return wire.GroupMeta{}, err
		case req.Conn != "" && !isMember(&k.entry, req.Conn):
			return wire.GroupMeta{}, errNotMember
		}
		return wire.GroupMeta{Meta: k.entry.Meta}, nil
	}
	k, err := g.change(ctx, req.Group, groupTask{op: groupSetMeta, req: &req})
	if err != nil {
		return wire.GroupMeta{}, coded(err)
	}
	return wire.GroupMeta{Meta: k.entry.Meta}, nil
}

// Close empties a group; who wants to join it later is refused.
func (g *groups) Close(ctx context.Context, req wire.GroupRequest) (struct{}, error) {
	if err := checkGroup(&req, false); err != nil {
		return struct{}{}, err
	}
	_, err := g.change(ctx, req.Group, groupTask{op: groupClose, req: &req})
	return struct{}{}, coded(err)
}

func isMember(e *wire.GroupEntry, conn string) bool {
	_, ok := e.Members[conn]
	return ok
}

// coded says what an error of a change means for who asked; nil stays nil.
func coded(err error) error {
	if err == nil || errors.Is(err, errBadGroup) { // which is ours to look at
		return err
	}
	return unavailable(err)
}
