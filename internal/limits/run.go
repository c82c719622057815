package limits

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	tidyEvery = time.Second
	flushWait = 2 * time.Second
)

// Run hears which replicas there are, and what they change, until ctx is done. It
// is called once.
//
// A connection that is lost ends what is under way with UNAVAILABLE, and forgets
// every denial: a change may have been missed. Nothing is remembered until changes
// are heard again.
func (c *Client) Run(ctx context.Context) error {
	nc := c.cfg.NATS
	status := nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	defer nc.RemoveStatusListener(status)
	for subject, heard := range map[string]nats.MsgHandler{
		c.cfg.Namespace.LimitReplicas(): c.heardReplica,
		c.cfg.Namespace.LimitChanges():  c.heardChange,
	} {
		sub, err := nc.Subscribe(subject, heard)
		if err != nil {
			return fmt.Errorf("hear of limits: %w", err)
		}
		defer func() { _ = sub.Unsubscribe() }() // it may have ended with its connection
	}
	defer c.deaf()
	reconnects := c.hear(ctx)
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-status:
			if s != nats.CONNECTED {
				c.lost()
			}
			reconnects = c.hear(ctx)
		case <-tick.C:
			c.tidy()
			// Notices of a connection that comes and goes quickly may be dropped.
			if nc.Stats().Reconnects != reconnects {
				c.lost()
			}
			reconnects = c.hear(ctx)
		}
	}
}

// hear has denials remembered as soon as the server has the subscriptions. It
// returns how often the connection was made anew by then.
func (c *Client) hear(ctx context.Context) uint64 {
	nc := c.cfg.NATS
	reconnects := nc.Stats().Reconnects
	c.mu.Lock()
	hears := c.hears
	c.mu.Unlock()
	if hears || !nc.IsConnected() {
		return reconnects
	}
	ctx, cancel := context.WithTimeout(ctx, flushWait)
	defer cancel()
	if nc.FlushWithContext(ctx) != nil {
		return reconnects // the next tick tries again
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hears = true
	c.epoch++
	return reconnects
}

// deaf forgets, as nothing is heard any more.
func (c *Client) deaf() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget()
	c.hears = false
}

// Forget forgets every denial that is remembered, and of what is under way no
// denial will be.
func (c *Client) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget()
}

func (c *Client) forget() {
	c.denials.forget()
	c.epoch++
}

// lost ends everything that is under way: its answers are lost with the connection.
func (c *Client) lost() {
	err := wire.Errorf(wire.Unavailable, "NATS is away").With("outcome", "unknown")
	c.mu.Lock()
	defer c.unlock()
	c.forget()
	c.hears = false
	for _, r := range c.flying {
		c.land(r)
		for _, t := range r.takes {
			c.fail(t.fold, err, true)
		}
	}
}

// tidy drops what is over.
func (c *Client) tidy() {
	now := time.Now()
	c.mu.Lock()
	defer c.unlock()
	c.denials.sweep(c.cfg.Now())
	c.affinity.expire(now)
	c.show()
	for policy, until := range c.strange {
		if !now.Before(until) {
			delete(c.strange, policy)
		}
	}
	for id, l := range c.lanes {
		if l.batch.idle() && l.alone.idle() && !l.dirty {
			delete(c.lanes, id)
		}
	}
}

func (q *queue) idle() bool { return q.first == nil && q.flying == 0 }

func (c *Client) heardReplica(msg *nats.Msg) {
	var r wire.LimitReplica
	if err := json.Unmarshal(msg.Data, &r); err != nil || r.ID == "" || len(r.ID) > 255 {
		c.cfg.Log.Debug("announcement of a ratelimit replica not read", "err", err)
		return
	}
	c.mu.Lock()
	defer c.unlock()
	if l := c.lanes[r.ID]; l != nil {
		l.heard = time.Now()
	}
	if r.Leaving {
		c.gone(r.ID)
	} else if !c.affinity.hear(r.ID, time.Now()) {
		c.counts.Dropped++
	}
	c.show()
}

func (c *Client) heardChange(msg *nats.Msg) {
	var change wire.LimitChange
	if err := json.Unmarshal(msg.Data, &change); err != nil {
		c.cfg.Log.Debug("change of a limit not read", "err", err)
		return
	}
	c.mu.Lock()
	defer c.unlock()
	if c.cfg.Remember {
		c.denials.change(change, c.cfg.Now())
	}
}
