package fairlead

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Presence is who is there, as the presence service knows it.
type Presence struct{ f *Fairlead }

// Presence returns the view of who is there.
func (f *Fairlead) Presence() Presence { return Presence{f} }

// List returns the members of a topic by user: one page of at most limit (100
// where 0, at most 1000), behind the cursor of the page before, "" for the
// first. The page's own Cursor is "" at the end.
func (p Presence) List(ctx context.Context, topic string, limit int, cursor string) (wire.PresenceList, error) {
	return service[wire.PresenceList](ctx, p.f, "presence", "list", wire.PresenceListRequest{Topic: topic, Limit: limit, Cursor: cursor})
}

// Count returns how many members a topic has.
func (p Presence) Count(ctx context.Context, topic string) (int, error) {
	reply, err := service[wire.PresenceCount](ctx, p.f, "presence", "count", wire.PresenceTopic{Topic: topic})
	return reply.Count, err
}

// Lookup returns the open connections of a user, the newest first; none is no
// error.
func (p Presence) Lookup(ctx context.Context, user string) ([]wire.PresenceConnection, error) {
	reply, err := service[wire.PresenceConnections](ctx, p.f, "presence", "lookup", wire.PresenceUser{User: user})
	return reply.Connections, err
}

// Online says of each user whether they have an open connection; at most 1000
// at a time.
func (p Presence) Online(ctx context.Context, users ...string) (map[string]bool, error) {
	reply, err := service[wire.PresenceOnline](ctx, p.f, "presence", "online", wire.PresenceUsers{Users: users})
	return reply.Online, err
}

// Join makes somebody without a connection a member of a topic: a bot, say.
// The membership ends ttl after the last Join or Update; 0 is 1m, at most 24h.
func (p Presence) Join(ctx context.Context, topic, user string, data any, ttl time.Duration) error {
	return p.member(ctx, "join", topic, user, data, ttl)
}

// Update changes what a member without a connection says of itself, and begins
// its ttl again.
func (p Presence) Update(ctx context.Context, topic, user string, data any, ttl time.Duration) error {
	return p.member(ctx, "update", topic, user, data, ttl)
}

// Leave ends the membership of somebody without a connection.
func (p Presence) Leave(ctx context.Context, topic, user string) error {
	return p.member(ctx, "leave", topic, user, nil, 0)
}

func (p Presence) member(ctx context.Context, what, topic, user string, data any, ttl time.Duration) error {
	req := wire.PresenceJoin{Topic: topic, User: user}
	if data != nil {
		var err error
		if req.Data, err = wire.EncodeData("data", data); err != nil {
			return fmt.Errorf("presence.%s: %w", what, err)
		}
	}
	if ttl > 0 {
		req.TTL = ttl.String()
	}
	_, err := service[struct{}](ctx, p.f, "presence", what, req)
	return err
}
