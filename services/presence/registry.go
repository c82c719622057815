package presence

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Lookup returns the connections of a user, the newest first.
func (s *Service) Lookup(ctx context.Context, req wire.PresenceUser) (wire.PresenceConnections, error) {
	if err := wire.CheckUser(req.User); err != nil {
		return wire.PresenceConnections{}, err
	}
	reply := wire.PresenceConnections{Connections: []wire.PresenceConnection{}}
	err := s.registry.with(ctx, 0, func(v *view) {
		for _, p := range v.user("", req.User) {
			for _, c := range p.Conns {
				reply.Connections = append(reply.Connections, wire.PresenceConnection{
					Conn: c.Conn, Gateway: p.Gateway, Attributes: c.Attributes, Since: c.Since, Order: c.Order,
				})
			}
		}
	})
	slices.SortFunc(reply.Connections, func(a, b wire.PresenceConnection) int {
		return cmp.Or(cmp.Compare(b.Order, a.Order), cmp.Compare(b.Since, a.Since), cmp.Compare(b.Conn, a.Conn))
	})
	return reply, err
}

// connections returns those of a user, the newest first; none where that is not
// known.
func (s *Service) connections(user string) (conns []string) {
	var all []wire.PresenceConn
	// Without a view the gateways are asked.
	_ = s.registry.with(context.Background(), 0, func(v *view) {
		for _, p := range v.user("", user) {
			all = append(all, p.Conns...)
		}
	})
	slices.SortFunc(all, func(a, b wire.PresenceConn) int {
		return cmp.Or(cmp.Compare(b.Order, a.Order), cmp.Compare(b.Since, a.Since), cmp.Compare(b.Conn, a.Conn))
	})
	for _, c := range all {
		conns = append(conns, c.Conn)
	}
	return conns
}

// Online says of each user whether they have a connection.
func (s *Service) Online(ctx context.Context, req wire.PresenceUsers) (wire.PresenceOnline, error) {
	if len(req.Users) > maxUsers {
		return wire.PresenceOnline{}, wire.InvalidField("users", fmt.Sprintf("at most %d", maxUsers))
	}
	for i, user := range req.Users {
		if wire.CheckUser(user) != nil {
			return wire.PresenceOnline{}, wire.InvalidField(fmt.Sprintf("users[%d]", i), "1-128 bytes without control characters")
		}
	}
	reply := wire.PresenceOnline{Online: make(map[string]bool, len(req.Users))}
	err := s.registry.with(ctx, 0, func(v *view) {
		for _, user := range req.Users {
			reply.Online[user] = present(v.user("", user))
		}
	})
	return reply, err
}
