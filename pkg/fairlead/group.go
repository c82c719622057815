package fairlead

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Group is a group of connections, by its name. A worker may do everything to
// every group.
type Group struct {
	f    *Fairlead
	name string
}

// Group returns the group of that name, which need not exist yet.
func (f *Fairlead) Group(name string) Group { return Group{f, name} }

// GroupOptions are of [Group.Create].
type GroupOptions struct {
	// Meta is what the group says of itself, at most 4 KiB as JSON. Default: null.
	Meta any
	// MaxMembers bounds the group below its rule. Default: the rule's.
	MaxMembers int
}

// Create makes the group, which then stays without members. ALREADY_EXISTS
// where it is there.
func (g Group) Create(ctx context.Context, o GroupOptions) error {
	req := wire.GroupRequest{MaxMembers: o.MaxMembers}
	if o.Meta != nil {
		var err error
		if req.Meta, err = wire.EncodeData("meta", o.Meta); err != nil {
			return fmt.Errorf("presence.group.create: %w", err)
		}
	}
	_, err := ask[struct{}](ctx, g, "create", req)
	return err
}

// Publish sends a message to all members, or to those of one role where role
// is not empty.
func (g Group) Publish(ctx context.Context, event string, data any, role string) error {
	raw, err := wire.EncodeData("data", data)
	if err != nil {
		return fmt.Errorf("presence.group.publish: %w", err)
	}
	_, err = ask[struct{}](ctx, g, "publish", wire.GroupRequest{Event: event, Data: raw, Role: role})
	return err
}

// Send sends a message to one member, by its connection. NOT_FOUND where it is
// no member.
func (g Group) Send(ctx context.Context, member, event string, data any) error {
	raw, err := wire.EncodeData("data", data)
	if err != nil {
		return fmt.Errorf("presence.group.send: %w", err)
	}
	_, err = ask[struct{}](ctx, g, "send", wire.GroupRequest{Member: member, Event: event, Data: raw})
	return err
}

// Members returns who is in the group, by connection, with the group's meta.
func (g Group) Members(ctx context.Context) (wire.GroupMembers, error) {
	return ask[wire.GroupMembers](ctx, g, "members", wire.GroupRequest{})
}

// SetMeta replaces what the group says of itself, at most 4 KiB as JSON, and
// tells its members.
func (g Group) SetMeta(ctx context.Context, meta any) error {
	raw, err := wire.EncodeData("meta", meta)
	if err != nil {
		return fmt.Errorf("presence.group.meta: %w", err)
	}
	_, err = ask[wire.GroupMeta](ctx, g, "meta", wire.GroupRequest{Meta: raw})
	return err
}

// Close ends the group: its members are told and are in it no more.
func (g Group) Close(ctx context.Context) error {
	_, err := ask[json.RawMessage](ctx, g, "close", wire.GroupRequest{})
	return err
}

func ask[Reply any](ctx context.Context, g Group, what string, req wire.GroupRequest) (Reply, error) {
	req.Group = g.name
	return service[Reply](ctx, g.f, "presence", "group."+what, req)
}
