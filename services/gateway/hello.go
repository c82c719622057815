package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// hello says who the connection is. It is answered when the user's and the
// connection's own subjects are live, so that nothing sent to them after the
// answer is missed.
func (c *connection) hello(f *wire.Frame) *wire.Error {
	if c.greeted {
		return wire.Errorf(wire.FailedPrecondition, "hello was answered already; `refresh` renews a token")
	}
	if id := c.identity.Load(); id == nil || f.Token != "" {
		if err := c.authenticate(f.Token, f.Session); err != nil {
			return err
		}
	} else if f.Session != "" {
		id = id.Resume(f.Session)
		c.identity.Store(id)
		c.join(id.Session)
	}
	own, err := c.ownSubjects()
	if err != nil {
		return err
	}
	id := c.identity.Load()
	h := wire.Hello{
		Conn: c.id, User: id.User, Session: id.Session, Gateway: c.g.id,
		HeartbeatMs:     c.g.cfg.Heartbeat.Milliseconds(),
		MaxPayloadBytes: c.g.cfg.Limits.PayloadBytes,
		ExpiresAt:       epochMs(id.ExpiresAt),
	}
	granted := c.claimed(id.Topics)
	interests := slices.Clone(own)
	for _, p := range granted {
		h.Topics = append(h.Topics, p.topic)
		interests = append(interests, p.in)
	}
	if err := c.stands(); err != nil {
		for _, in := range interests {
			c.g.fanout.release(in)
		}
		return err
	}
	c.greeted = true
	answer := wire.AppendOK(nil, f.ID, wire.AppendHello(nil, &h))
	answered := func() { c.out.Send(answer) }
	if len(own) == 0 {
		c.topics = append(c.topics, joinAll(interests, c, answered)...)
	} else {
		members := c.introduce(interests, answered)
		c.direct, c.topics = members[:len(own)], append(c.topics, members[len(own):]...)
	}
	// Holding nothing: it waits while all connections are told something.
	c.inform()
	if err := c.stands(); err != nil { // revoked before it could be found
		c.fail(0, err)
	}
	return nil
}

// claimed begins the subscriptions that the token's claim `topics` asks for,
// as far as the rules allow them, and returns those that are live.
func (c *connection) claimed(topics []string) []pendingSubscribe {
	var granted []pendingSubscribe
	var interests []*interest
	for i, topic := range topics {
		f := wire.Frame{Op: wire.OpSubscribe, Topic: topic}
		if slices.Contains(topics[:i], topic) || len(granted) >= c.g.cfg.Limits.TopicsPerConnection || c.topics.of(topic) != nil ||
			c.g.authorizer.Authorize(context.Background(), c.identity.Load(), &f) != nil || c.subscribe(&f) != nil || len(c.pending) == 0 {
			continue
		}
		granted = append(granted, c.pending...)
		interests = append(interests, c.pending[0].in)
		c.pending = c.pending[:0]
	}
	if len(granted) == 0 {
		return nil
	}
	ctx, cancel := deadline()
	defer cancel()
	if err := c.g.fanout.waitLive(ctx, interests...); err != nil {
		for _, in := range interests {
			c.g.fanout.release(in)
		}
		return nil
	}
	for _, in := range interests {
		c.g.begin(ctx, in)
	}
	return granted
}

// authenticate gives the connection its identity. A bad token closes it with
// 4401 behind the error that says why.
func (c *connection) authenticate(token, session string) *wire.Error {
	ctx, cancel := deadline()
	defer cancel()
	var id *auth.Identity
	var err error
	elsewhere(func() {
		id, err = c.g.authenticate(ctx, auth.Credentials{Token: token, Session: session})
	})
	if err != nil {
		e := wire.AsError(err)
		if e.Code == wire.Unauthenticated {
			c.g.metrics.unauthenticated.Add(1)
			c.parting = parting{wire.CloseUnauthenticated, "no valid token"}
		}
		return e
	}
	return c.identify(id)
}

// identify takes an identity that has been proven, if the user may have one
// more connection here.
func (c *connection) identify(id *auth.Identity) *wire.Error {
	if previous := c.identity.Load(); previous != nil {
		if previous.User != id.User {
			return wire.Errorf(wire.PermissionDenied, "the connection belongs to another user already")
		}
		c.identity.Store(id)
		if c.direct == nil {
			return nil
		}
		c.reintroduce()
		return c.stands()
	}
	if !c.g.connections.admitUser(id.User, c.g.cfg.Limits.ConnectionsPerUser) {
		c.g.metrics.limited.Add(1)
		c.g.event("limit.exceeded", "", eventBody{Conn: c, User: id.User, Limit: "connections_per_user", Allowed: int64(c.g.cfg.Limits.ConnectionsPerUser)})
		c.parting = parting{wire.CloseTooMany, "too many connections of this user"}
		return &wire.Error{Code: wire.ResourceExhausted, Message: "too many connections of this user", RetryAfter: time.Second}
	}
	c.identity.Store(id)
	c.join(id.Session)
	ctx, cancel := deadline()
	defer cancel()
	if err := c.admitConnect(ctx); err != nil {
		c.parting = parting{wire.CloseTooMany, "refused by the limit of new connections"}
		if err.Code != wire.ResourceExhausted {
			c.parting = parting{wire.CloseTryAgain, "nobody decided about the limit of new connections"}
		}
		return err
	}
	return nil
}

// join makes the connection known as one of its session: their ids begin alike,
// so that what one of them published without wanting it back is not sent to the
// next one either.
func (c *connection) join(session string) {
	if c.direct != nil || session == "" {
		return // its own subject has the id already
	}
	sum := sha256.Sum256([]byte(session))
	kin := strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:10])) + "-"
	c.id, c.kin = kin+strings.TrimPrefix(c.id, c.kin), kin
}

// listen makes the subjects of the user and of the connection live, once, and
// lets their messages in.
func (c *connection) listen() *wire.Error {
	own, err := c.ownSubjects()
	if err != nil || own == nil {
		return err
	}
	c.direct = c.introduce(own, func() {})
	return c.stands()
}

// ownSubjects makes the subjects of the user and of the connection live, and
// returns them for the connection to join; none where it has.
func (c *connection) ownSubjects() ([]*interest, *wire.Error) {
	if c.direct != nil {
		return nil, nil
	}
	if !c.g.link.up() {
		return nil, unavailable("NATS is away: try hello again")
	}
	if !c.g.revocations.ready() {
		return nil, unread()
	}
	id := c.identity.Load()
	user, err := c.g.cfg.Namespace.User(id.User)
	if err != nil {
		return nil, wire.AsError(err)
	}
	conn, err := c.g.cfg.Namespace.Conn(c.id)
	if err != nil {
		return nil, wire.AsError(err)
	}
	uin, err := c.g.fanout.acquire(kindUser, user, "")
	if err != nil {
		return nil, unavailable("NATS did not take the subscription")
	}
	cin, err := c.g.fanout.acquire(kindConn, conn, "")
	if err != nil {
		c.g.fanout.release(uin)
		return nil, unavailable("NATS did not take the subscription")
	}
	ctx, cancel := deadline()
	defer cancel()
	if err := c.g.fanout.waitLive(ctx, uin, cin); err != nil {
		c.g.fanout.release(uin)
		c.g.fanout.release(cin)
		return nil, unavailable("NATS did not confirm the subscription in time")
	}
	return []*interest{uin, cin}, nil
}

// introduce makes the connection known to others: it can be reached behind first,
// and not before.
func (c *connection) introduce(interests []*interest, first func()) []*member {
	c.register()
	members := joinAll(interests, c, func() {
		c.g.attributes.setBehind(first, c, c.identity.Load().Attributes)
	})
	c.g.event("connection.opened", "", eventBody{Conn: c})
	return members
}

// refresh takes a newer token of the same user.
func (c *connection) refresh(f *wire.Frame) *wire.Error {
	old := c.identity.Load()
	ctx, cancel := deadline()
	defer cancel()
	var id *auth.Identity
	var err error
	elsewhere(func() {
		id, err = c.g.authenticate(ctx, auth.Credentials{Token: f.Token, Session: old.Session})
	})
	switch {
	case err != nil:
		return wire.AsError(err)
	case id.User != old.User:
		return wire.Errorf(wire.PermissionDenied, "the token is another user's")
	}
	c.identity.Store(id)
	c.reintroduce()
	if err := c.stands(); err != nil {
		return err
	}
	c.ok(f.ID, wire.AppendExpires(nil, epochMs(id.ExpiresAt)))
	return nil
}

func epochMs(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// elsewhere runs fn on a goroutine of its own and waits for it. A reader lives
// as long as its connection and keeps the largest stack it ever needed; the
// deep one that verifying a token takes is given back.
func elsewhere(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}
