package outbox

import "time"

// pingFrame is the application's ping: what a client hears when nothing else is
// sent.
var pingFrame = []byte(`{"op":"ping"}`)

// stalledAfter is how many heartbeats a write may make no progress.
const stalledAfter = 3

// tick is the interval between sweeps.
func (o *Outbox) tick() time.Duration {
	return max(min(time.Second, o.cfg.Heartbeat/4, o.cfg.CloseGrace/4), time.Millisecond)
}

// sweepUntil looks at every connection once per tick.
func (o *Outbox) sweepUntil(done <-chan struct{}) {
	ticker := time.NewTicker(o.tick())
	defer ticker.Stop()
	var conns []*Conn
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
		}
		now := o.now()
		o.clock.Store(now)
		for _, f := range o.flushers {
			conns = f.open(conns[:0])
			for i, c := range conns {
				c.sweep(now)
				conns[i] = nil
			}
		}
	}
}

// sweep does what the time says is due. lastRead and lastWrite are up to a tick
// older than what they stand for.
func (c *Conn) sweep(now int64) {
	heartbeat, tick := int64(c.o.cfg.Heartbeat), int64(c.o.tick())
	silent, idle := now-c.lastRead.Load(), now-c.lastWrite.Load()

	c.mu.Lock()
	reset := false
	switch {
	case c.ended:
	case c.closing:
		reset = now >= c.deadline
	case c.blocked:
		// Pings would not get through. What counts is that bytes leave.
		if now-c.progress.Load() >= stalledAfter*heartbeat {
			c.giveUp(item{})
		}
	case silent >= 2*heartbeat+tick && c.pinged(now, heartbeat/2):
		// Who shows no sign of life answers no close frame either: it gets a tick
		// to leave, and then the connection is over for everybody else too.
		if c.begin(ours, closeHeartbeat, "no sign of life") {
			c.deadline = now + tick
		}
	case idle >= heartbeat && c.q == nil:
		c.q = c.o.queues.Get().(*queue)
		c.q.push(item{frame: pingFrame})
		c.pingNow(now)
	case silent >= heartbeat && now-c.pingAt >= heartbeat:
		// Busy sending, and nothing ever came back: a subscriber that never
		// says anything still has to show that it is there.
		c.pingNow(now)
	}
	wake := c.pending() && c.wants()
	c.mu.Unlock()
	if wake {
		c.fl.push(c)
	}
	if reset {
		c.end(ours, true)
	}
}

func (c *Conn) pingNow(now int64) { c.ping, c.pingAt = true, now }

// pinged reports whether the peer was pinged since it was last heard and had
// wait to answer, not counting the time in which nothing could be written.
func (c *Conn) pinged(now, wait int64) bool {
	return c.pingAt > c.lastRead.Load() && now-max(c.pingAt, c.progress.Load()) >= wait
}
