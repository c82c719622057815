package gateway

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// drainGrace bounds how long the closing handshakes of the last connections
// may take.
const drainGrace = 3 * time.Second

// drain asks every client to leave, over the window, and closes who is left.
// Readiness has failed for the delay, so that load balancers look elsewhere by
// now; upgrades are refused from here on.
func (g *Service) drain(gone <-chan struct{}) {
	g.log.Info("draining", "connections", g.connections.size(), "window", g.cfg.DrainWindow.String())
	window := g.cfg.DrainWindow
	g.connections.each(func(c *connection) {
		// The last quarter of the window is for clients that take their time.
		after := time.Duration(rand.Int64N(int64(window)*3/4 + 1))
		c.out.Send(wire.AppendDrain(nil, after.Milliseconds()))
	})
	if !pause(window, gone) {
		return
	}
	g.connections.each(func(c *connection) {
		c.out.Close(int(wire.CloseGoingAway), "the gateway drains")
	})
	pause(drainGrace, gone)
}

// pause waits; false if gone was closed meanwhile.
func pause(d time.Duration, gone <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-gone:
		return false
	}
}

// sweep ends what time has ended: unwanted subscriptions, connections without
// a hello, expired tokens.
func (g *Service) sweep(ctx context.Context) {
	tick := time.NewTicker(min(500*time.Millisecond, g.cfg.HelloTimeout/4+time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := g.fanout.sweep(); err != nil && ctx.Err() == nil {
				g.log.Warn("sweep subscriptions", "err", err)
			}
			g.connections.each(func(c *connection) { c.expire(now) })
		}
	}
}

// expire closes a connection whose time to say hello, or whose token, is over.
func (c *connection) expire(now time.Time) {
	switch id := c.identity.Load(); {
	case id == nil:
		if now.Sub(c.opened) > c.g.cfg.HelloTimeout && !c.g.auth.AllowsAnonymous() {
			c.out.Close(int(wire.CloseHeartbeat), "no hello in time")
		}
	case !id.ExpiresAt.IsZero() && now.After(id.ExpiresAt):
		c.out.Close(int(wire.CloseUnauthenticated), "the token expired")
	}
}
