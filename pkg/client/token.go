package client

import (
	"context"
	"math"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// refreshAhead is how long before its end a token is replaced, or half of what
	// is left of one that lives shorter.
	refreshAhead = 30 * time.Second
	// refreshLeast is what has to be left for that.
	refreshLeast = 250 * time.Millisecond
)

// refreshIn returns how long after now a token that ends at expires (epoch ms, 0
// for never) is to be replaced; false where it is not, or where it is too late.
func refreshIn(expires int64, now time.Time) (time.Duration, bool) {
	left := time.UnixMilli(expires).Sub(now)
	if expires == 0 || left < refreshLeast {
		return 0, false
	}
	return max(left-refreshAhead, left/2), true
}

// keepToken replaces the connection's token before it ends, and when the server
// asks for another one, until the connection does. An error is told to OnError,
// and it is tried again as long as the token lives.
func (c *Client) keepToken(source func(context.Context) (string, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.workers.Go(func() {
		select {
		case <-c.done:
		case <-c.stop:
		case <-ctx.Done():
		}
		cancel()
	})
	expires := c.Welcome().ExpiresAt
	for {
		wait, ok := refreshIn(expires, time.Now())
		if !ok {
			wait = time.Duration(math.MaxInt64)
		}
		due := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			due.Stop()
			return
		case <-due.C:
		case <-c.renew:
		}
		due.Stop()
		next, err := c.replaceToken(ctx, source)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			push(c, "OnError", c.slots().failure, wire.AsError(err).With("op", "refresh"))
		default:
			expires = next
		}
	}
}

func (c *Client) replaceToken(ctx context.Context, source func(context.Context) (string, error)) (expires int64, err error) {
	token, err := askToken(ctx, source, c.timeout)
	if err != nil {
		return 0, err
	}
	return c.Refresh(ctx, token)
}

// askToken asks for a token. An error without a code is UNAUTHENTICATED.
func askToken(ctx context.Context, source func(context.Context) (string, error), timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	token, err := source(ctx)
	if err == nil {
		return token, nil
	}
	if coded := wire.AsError(err); coded.Code != wire.Internal {
		return "", coded
	}
	return "", wire.Errorf(wire.Unauthenticated, "no token: %v", err)
}
