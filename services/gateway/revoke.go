package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

const (
	revokedRetry = 500 * time.Millisecond
	revokedAgain = 2 * time.Second
	// revokedSlack is how much longer than a token a revocation is kept: `before`
	// may be a minute ahead, and the issuer's clock a little.
	revokedSlack = 2 * time.Minute
	revokedTries = 16
	revokedWait  = 5 * time.Second
)

// authenticate says who a client is, unless its token was revoked.
func (g *Service) authenticate(ctx context.Context, c auth.Credentials) (*auth.Identity, error) {
	id, err := g.auth.Authenticate(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := g.revocations.check(id); err != nil {
		g.metrics.revoked.Add(1)
		return nil, err
	}
	return id, nil
}

// stands says whether the connection's token counts, seen after whatever made it
// count: a revocation that comes later finds the connection. One that does not
// ends it.
func (c *connection) stands() *wire.Error {
	err := c.g.revocations.check(c.identity.Load())
	if err != nil {
		c.g.metrics.revoked.Add(1)
		c.parting = parting{wire.CloseUnauthenticated, "the token was revoked"}
	}
	return err
}

// unread is the answer to who comes before it is known whose tokens count.
func unread() *wire.Error {
	return unavailable("the gateway has not read yet whose tokens were revoked: try again")
}

// followRevoked keeps in mind who is revoked, until ctx is done.
//
// It begins behind the rules, which are in the same bucket: two that make it at a
// time wait for each other for seconds, in a cluster.
func (g *Service) followRevoked(ctx context.Context) {
	select {
	case <-g.rules.Loaded():
	case <-ctx.Done():
		return
	}
	for {
		err := g.ensureRevoked(ctx)
		if err == nil {
			err = g.revokedAnswers(ctx)
		}
		if err == nil {
			break
		}
		if rules.JetStreamOff(g.requests, err) {
			g.revocations.without()
		}
		if clock.Sleep(ctx, revokedRetry) != nil {
			return
		}
	}
	follower := kv.Follower{
		Bucket: g.revokedBucket(),
		Begin: func() func(kv.Entry) {
			g.revocations.begin()
			return func(e kv.Entry) {
				user, before, news := g.revocations.take(e)
				if news {
					g.revocations.ended(user, g.expel(user, before, ""), time.Now())
				}
			}
		},
		Ready: func() {
			if n := g.revocations.complete(time.Now(), g.revokedTTL()); n > 0 {
				g.log.Warn("the bucket has forgotten who is revoked: it is stored again", "users", n)
			}
		},
		Log: g.log,
	}
	follower.Run(ctx)
}

// revokedAnswers returns nil if the bucket answers. In a cluster a bucket that was
// just made has no leader for a moment: what is asked then is never answered.
func (g *Service) revokedAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, revokedRetry)
	defer cancel()
	_, err := g.revokedBucket().Get(ctx, "rules")
	if errors.Is(err, kv.ErrNotFound) {
		return nil
	}
	return err
}

// keepRevoked stores, until ctx is done, what was said while JetStream was away,
// and what the bucket has forgotten.
func (g *Service) keepRevoked(ctx context.Context) {
	for clock.Sleep(ctx, revokedAgain) == nil {
		for user, before := range g.revocations.unstored(time.Now()) {
			if g.storeRevoked(ctx, user, before) != nil {
				break // it is still away: whoever sent it has been told
			}
		}
	}
}

func (g *Service) revokedBucket() *kv.Bucket {
	return kv.Open(g.requests, g.cfg.Namespace, kv.Shared(0).Name)
}

func (g *Service) ensureRevoked(ctx context.Context) error {
	return kv.Ensure(ctx, g.streams.JetStream, g.cfg.Namespace, kv.Shared(g.cfg.Replicas))
}

// revoke ends the connections of a user whose tokens are older, at once, and
// returns what stores that no such token counts any more.
func (g *Service) revoke(user string, before int64, reason string, now time.Time) (reached int, store func(context.Context) *wire.Error) {
	if before == 0 {
		before = now.UnixMilli()
	}
	full := g.revocations.say(user, before, now.Add(g.revokedTTL()))
	reached = g.expel(user, before, reason) + g.revocations.claim(user, now)
	return reached, func(ctx context.Context) *wire.Error {
		if full {
			return &wire.Error{Code: wire.ResourceExhausted, RetryAfter: wire.Never,
				Message: fmt.Sprintf("too many users are revoked: %d connections were closed, but they can come back", reached)}
		}
		if err := g.storeRevoked(ctx, user, before); err != nil {
			g.log.Warn("a revocation can't be stored", "user", user, "err", err)
			return wire.Errorf(wire.Unavailable, "%d connections were closed, but it can't be stored that older tokens are refused: send it again", reached)
		}
		return nil
	}
}

// expel closes the connections of a user whose tokens were issued before.
func (g *Service) expel(user string, before int64, reason string) (n int) {
	if reason == "" {
		reason = "the token was revoked"
	}
	for _, c := range g.connectionsOf(wire.ControlOfUser, user) {
		if outdated(c.identity.Load(), before) {
			c.out.Close(int(wire.CloseForbidden), reason)
			n++
		}
	}
	return n
}

// revokedTTL is how long a revocation has to be kept: no token is older, where the
// maximum age is the same on every gateway.
func (g *Service) revokedTTL() time.Duration {
	age := g.cfg.Auth.MaxAge
	if age == 0 {
		age = auth.DefaultMaxAge
	}
	return age + revokedSlack
}

// storeRevoked stores a revocation, unless a later one is stored.
func (g *Service) storeRevoked(ctx context.Context, user string, before int64) error {
	ctx, cancel := context.WithTimeout(ctx, revokedWait)
	defer cancel()
	if err := g.ensureRevoked(ctx); err != nil {
		return err
	}
	value, err := json.Marshal(revocation{before})
	if err != nil {
		return err
	}
	bucket, key := g.revokedBucket(), revokedKey(user)
	for range revokedTries {
		e, err := bucket.Get(ctx, key)
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		var have revocation
		if err == nil && !e.Deleted && json.Unmarshal(e.Value, &have) == nil && have.Before >= before {
			return nil
		}
		_, err = bucket.Put(ctx, kv.Write{Key: key, Value: value, Expect: e.Revision, TTL: g.revokedTTL()})
		if !errors.Is(err, kv.ErrConflict) {
			return err
		}
	}
	return kv.ErrConflict
}
