package gateway

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// controlWorkers run what has to wait for something. What is about one user
	// or connection is run in order.
	controlWorkers = 4
	controlQueue   = 256
	// controlAtOnce is how many connections of a user one message is run for at
	// a time.
	controlAtOnce = 8
	controlWait   = 15 * time.Second
)

// controls runs what operators want done.
type controls struct {
	seed  maphash.Seed
	queue [controlWorkers]chan func(context.Context)
	once  sync.Once
	drain chan struct{} // closed when the gateway is to drain
}

func newControls() *controls {
	c := &controls{seed: maphash.MakeSeed(), drain: make(chan struct{})}
	for i := range c.queue {
		c.queue[i] = make(chan func(context.Context), controlQueue)
	}
	return c
}

// run runs the jobs of one queue until ctx is done.
func (cs *controls) run(ctx context.Context, queue <-chan func(context.Context)) {
	for {
		select {
		case <-ctx.Done():
			return
		case job := <-queue:
			bounded, cancel := context.WithTimeout(ctx, controlWait)
			job(bounded)
			cancel()
		}
	}
}

// later runs a job behind the others about the same target; false if there are
// too many.
func (cs *controls) later(target string, job func(context.Context)) bool {
	select {
	case cs.queue[maphash.String(cs.seed, target)%controlWorkers] <- job:
		return true
	default:
		return false
	}
}

// stop has the gateway drain.
func (cs *controls) stop() { cs.once.Do(func() { close(cs.drain) }) }

// subscribeControl listens to operators, on the connection of the lease: what
// clients do can't delay them.
func (g *Service) subscribeControl() error {
	own, err := g.cfg.Namespace.ControlGateway(g.id)
	if err != nil {
		return err
	}
	for _, subject := range []string{own, g.cfg.Namespace.Controls(wire.ControlOfUser), g.cfg.Namespace.Controls(wire.ControlOfConn)} {
		if _, err := g.lease.nc.Subscribe(subject, g.control); err != nil {
			return fmt.Errorf("subscribe %s: %w", subject, err)
		}
	}
	return nil
}

// control does what an operator wants, and says for how many connections. What
// has to wait for something does so elsewhere; a disconnect never waits for it.
func (g *Service) control(msg *nats.Msg) {
	if !g.mayAnswer(msg) {
		return
	}
	now := time.Now()
	target, id, ok := g.cfg.Namespace.ParseControl(msg.Subject)
	if !ok {
		g.refuseControl(msg.Reply, wire.InvalidField("subject", "fl.control.user.<user>, .conn.<conn> or .gateway.<id>, each one token"))
		return
	}
	c, bad := wire.ParseControl(target, msg.Data, now)
	if bad != nil {
		g.refuseControl(msg.Reply, bad)
		return
	}
	g.metrics.controls.Add(1)
	if target != wire.ControlOfGateway {
		g.log.Info("control", "action", c.Action, string(target), id, "topic", c.Topic)
	}
	switch c.Action {
	case wire.ControlRenew:
		g.lease.again()
		g.reached(msg.Reply, 1, nil)
	case wire.ControlAudit:
		g.roster.audit()
		g.reached(msg.Reply, 1, nil)
	case wire.ControlDrain:
		g.log.Info("an operator has the gateway drain")
		g.reached(msg.Reply, 1, nil)
		g.controls.stop()
	case wire.ControlDisconnect:
		g.reached(msg.Reply, g.disconnect(target, id, &c), nil)
	case wire.ControlRefresh:
		g.reached(msg.Reply, g.wantRefresh(target, id, now), nil)
	case wire.ControlRevoke:
		reached, store := g.revoke(id, c.Before, c.Reason, now)
		g.later(msg, func(ctx context.Context) { g.reached(msg.Reply, reached, store(ctx)) })
	default:
		g.later(msg, func(ctx context.Context) {
			reached, err := g.steer(ctx, target, id, &c)
			g.reached(msg.Reply, reached, err)
		})
	}
}

// later runs what has to wait, unless too much waits already.
func (g *Service) later(msg *nats.Msg, job func(context.Context)) {
	if !g.controls.later(msg.Subject, job) {
		g.refuseControl(msg.Reply, &wire.Error{Code: wire.ResourceExhausted, Message: "too many control messages wait on this gateway", RetryAfter: time.Second})
	}
}

func (g *Service) refuseControl(reply string, err *wire.Error) {
	g.metrics.controlRefusals.Add(1)
	g.reached(reply, 0, err)
}

// connectionsOf returns the connections of a user, or the one with an id, that
// take frames.
func (g *Service) connectionsOf(target wire.ControlTarget, id string) []*connection {
	subject, err := g.cfg.Namespace.User(id)
	if target == wire.ControlOfConn {
		subject, err = g.cfg.Namespace.Conn(id)
	}
	if err != nil {
		return nil
	}
	in := g.fanout.hub.find(g.fanout.hub.shard(subject), subject)
	if in == nil {
		return nil
	}
	var all []*connection
	in.each(func(c *connection) {
		if !c.ending() {
			all = append(all, c)
		}
	})
	return all
}

// disconnect closes connections.
func (g *Service) disconnect(target wire.ControlTarget, id string, want *wire.Control) int {
	code, reason := want.Code, want.Reason
	if code == 0 {
		code = int(wire.CloseForbidden)
	}
	if reason == "" {
		reason = "disconnected by an operator"
	}
	all := g.connectionsOf(target, id)
	for _, c := range all {
		c.out.Close(code, reason)
	}
	return len(all)
}

// wantRefresh asks clients for a newer token.
func (g *Service) wantRefresh(target wire.ControlTarget, id string, now time.Time) int {
	frame := wire.AppendSystem(nil, wire.SystemRefresh, "", now.UnixMilli())
	all := g.connectionsOf(target, id)
	for _, c := range all {
		c.out.Send(frame)
	}
	return len(all)
}

// steer subscribes connections to a topic, or ends that, and returns for how
// many it was done. An error says that it was done for none.
func (g *Service) steer(ctx context.Context, target wire.ControlTarget, id string, want *wire.Control) (int, *wire.Error) {
	var mu sync.Mutex
	var running sync.WaitGroup
	var done int
	var failed *wire.Error
	slots := make(chan struct{}, controlAtOnce)
	for _, c := range g.connectionsOf(target, id) {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			did, err := c.steer(ctx, want)
			mu.Lock()
			defer mu.Unlock()
			if did {
				done++
			}
			if err != nil {
				failed = err
			}
		})
	}
	running.Wait()
	if done > 0 {
		failed = nil
	}
	return done, failed
}

// steer subscribes the connection, or ends a subscription, on behalf of an
// operator. The client hears of it in front of the first message, or behind the
// last.
func (c *connection) steer(ctx context.Context, want *wire.Control) (bool, *wire.Error) {
	c.turn.Lock()
	defer c.turn.Unlock()
	if c.over {
		return false, nil
	}
	if want.Action == wire.ControlUnsubscribe {
		if c.topics.of(want.Topic) == nil {
			return false, nil
		}
		c.drop(want.Topic)
		c.out.Send(wire.AppendSystem(nil, wire.SystemUnsubscribed, want.Topic, time.Now().UnixMilli()))
		return true, nil
	}
	if c.topics.of(want.Topic) != nil {
		return true, nil
	}
	if err := c.subscribe(&wire.Frame{Op: wire.OpSubscribe, Topic: want.Topic}); err != nil {
		return false, err
	}
	in := c.pending[0].in // of a topic that is not subscribed there is always one, and only that
	c.pending = nil
	if err := c.g.fanout.waitLive(ctx, in); err != nil {
		c.g.fanout.release(in)
		return false, unavailable("NATS did not confirm the subscription in time")
	}
	c.g.begin(ctx, in)
	c.topics = append(c.topics, in.join(c, func() {
		c.out.Send(wire.AppendSystem(nil, wire.SystemSubscribed, want.Topic, time.Now().UnixMilli()))
	}))
	return true, nil
}
