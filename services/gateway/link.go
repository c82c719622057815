package gateway

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// link is the state of the gateway's NATS connections, taken together: lost
// when one of them is, back when all are and the server has every subscription
// again. Each change is told once to every client.
type link struct {
	log    *slog.Logger
	tell   func(event string)
	tested func() error // a round trip on each connection
	back   func()       // called when all are there again
	alive  func() bool  // each connection is there, as far as nats.go knows

	mu   sync.Mutex
	down map[*nats.Conn]bool
	lost bool        // clients have been told so
	away atomic.Bool // the same, for those who only look
	ever bool        // it has been up once

	since atomic.Pointer[time.Time] // when it last came back; nil: it never was lost
}

// up reports whether every connection is there.
func (l *link) up() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ever && !l.lost && len(l.down) == 0
}

// settleFor is how long nobody is blamed for being away after NATS was: the
// others need a moment to find it again, too.
const settleFor = 3 * time.Second

// settled returns when others count as having found NATS again.
func (l *link) settled() time.Time {
	since := l.since.Load()
	if since == nil {
		return time.Time{}
	}
	return since.Add(settleFor)
}

// disconnected notes that a connection is lost.
func (l *link) disconnected(nc *nats.Conn, err error) {
	l.mu.Lock()
	l.down[nc] = true
	first := l.ever && !l.lost
	if first {
		l.lost = true
		l.away.Store(true)
	}
	l.mu.Unlock()
	if first {
		l.log.Warn("nats lost", "err", err)
		l.tell("degraded")
	}
}

// connected notes that a connection is there, for the first time or again.
// nats.go has sent its subscriptions; the round trip proves that the server
// has them. nil looks at what is there already.
func (l *link) connected(nc *nats.Conn) {
	l.mu.Lock()
	if nc != nil {
		delete(l.down, nc)
	}
	all := len(l.down) == 0
	l.mu.Unlock()
	if !all {
		return
	}
	for l.tested() != nil {
		// A server that is slow, with many subscriptions to take back, is asked
		// again; a connection that is lost again comes here when it returns.
		if !l.alive() {
			return
		}
	}
	l.mu.Lock()
	if len(l.down) > 0 {
		l.mu.Unlock()
		return
	}
	back, first := l.lost, !l.ever
	if back {
		now := time.Now()
		l.since.Store(&now)
	}
	l.lost, l.ever = false, true
	l.away.Store(false)
	l.mu.Unlock()
	switch {
	case back:
		l.log.Info("nats back")
		if l.back != nil {
			l.back()
		}
		l.tell("recovered")
	case first:
		l.log.Info("nats connected")
	}
}

// openLink makes the gateway's NATS connections: one for what it listens to, one
// for what it publishes and asks, one for what it reads of the past, so that a slow path of one does not
// hold up the other.
func (g *Service) openLink() error {
	g.link = &link{log: g.log, down: map[*nats.Conn]bool{}, tell: func(event string) { g.tellAll(event, "nats") }, tested: g.roundTrip}
	g.link.alive = func() bool { return g.live.IsConnected() && g.requests.IsConnected() && g.reads.IsConnected() }
	open := func(name string, down **nats.Conn) error {
		cfg := g.deps.NATS
		cfg.Name = "fairlead-gateway-" + name + " " + g.id
		opened := make(chan struct{})
		hooks := bus.Hooks{
			OnDisconnect: func(err error) { <-opened; g.link.disconnected(*down, err) },
			OnReconnect:  func() { <-opened; g.link.connected(*down) },
			OnSlowConsumer: func(*nats.Subscription) {
				g.metrics.slowConsumers.Add(1)
				g.log.Warn("nats slow consumer: a shard dropped messages")
				g.checkAll("", 0)
				g.rooms.lookAll(0)
				g.groups.refresh()
				g.cursors.refresh(false)
			},
		}
		nc, err := bus.Connect(g.connectContext, cfg, hooks)
		if err != nil {
			close(opened)
			return err
		}
		*down = nc
		if !nc.IsConnected() {
			g.link.down[nc] = true
		}
		close(opened)
		return nil
	}
	if err := open("live", &g.live); err != nil {
		return err
	}
	if err := open("requests", &g.requests); err != nil {
		g.live.Close()
		return err
	}
	if err := open("reads", &g.reads); err != nil {
		g.live.Close()
		g.requests.Close()
		return err
	}
	g.link.back = func() { g.checkAll("", 0); g.rooms.lookAll(0); g.groups.refresh(); g.cursors.refresh(true) }
	if err := g.openLease(); err != nil {
		g.live.Close()
		g.requests.Close()
		g.reads.Close()
		return err
	}
	return nil
}

// roundTrip returns when both servers have all that was sent to them.
func (g *Service) roundTrip() error {
	if err := g.live.FlushTimeout(flushWait); err != nil {
		return err
	}
	if err := g.requests.FlushTimeout(flushWait); err != nil {
		return err
	}
	return g.reads.FlushTimeout(flushWait)
}

func (g *Service) tellAll(event, what string) {
	frame := wire.AppendSystem(nil, event, what, time.Now().UnixMilli())
	g.connections.each(func(c *connection) { c.out.Send(frame) })
}
