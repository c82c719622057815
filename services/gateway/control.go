package gateway

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
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
	// turnWait is how long one waits for a connection whose ops wait for
	// something: others wait behind it.
	turnWait = 3 * time.Second
	// storeWorkers store revocations. They wait for JetStream only, and not for
	// each other: the latest counts, in whatever order they come.
	storeWorkers = 4
)

// controls runs what operators want done.
type controls struct {
	seed  maphash.Seed
	queue [controlWorkers]chan func(context.Context)
	store chan func(context.Context) // of revocations
	once  sync.Once
	drain chan struct{} // closed when the gateway is to drain
}

func newControls() *controls {
	c := &controls{seed: maphash.MakeSeed(), store: make(chan func(context.Context), controlQueue), drain: make(chan struct{})}
	for i := range c.queue {
		c.queue[i] = make(chan func(context.Context), controlQueue)
	}
	return c
}

// queues returns what is to be run beside each other; one that comes several
// times has several workers.
func (cs *controls) queues() []chan func(context.Context) {
	all := cs.queue[:]
	for range storeWorkers {
		all = append(all, cs.store)
	}
	return all
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
	return enqueue(cs.queue[maphash.String(cs.seed, target)%controlWorkers], job)
}

func enqueue(queue chan<- func(context.Context), job func(context.Context)) bool {
	select {
	case queue <- job:
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
// has to wait for something does so elsewhere; a disconnect never waits for it,
// and connections are closed before anything is said.
func (g *Service) control(msg *nats.Msg) {
	if !g.mayAnswer(msg) {
		return
	}
	now := time.Now()
	target, id, ok := g.cfg.Namespace.ParseControl(msg.Subject)
	if !ok {
		g.refuseControl(msg, wire.InvalidField("subject", "fl.control.user.<user>, .conn.<conn> or .gateway.<id>, each one token"))
		return
	}
	c, bad := wire.ParseControl(target, msg.Data, now)
	if bad != nil {
		g.refuseControl(msg, bad)
		return
	}
	g.metrics.controls.Add(1)
	if target != wire.ControlOfGateway {
		level := slog.LevelDebug
		if c.Action == wire.ControlDisconnect || c.Action == wire.ControlRevoke {
			level = slog.LevelInfo
		}
		g.log.Log(context.Background(), level, "control", "action", c.Action, string(target), id, "topic", c.Topic)
	}
	switch c.Action {
	case wire.ControlRenew:
		g.lease.again()
		g.answerControl(msg, 1, nil)
	case wire.ControlAudit:
		g.roster.audit()
		g.answerControl(msg, 1, nil)
	case wire.ControlDrain:
		g.log.Info("an operator has the gateway drain")
		g.answerControl(msg, 1, nil)
		g.controls.stop()
	case wire.ControlDisconnect:
		g.answerControl(msg, g.disconnect(target, id, &c), nil)
	case wire.ControlRefresh:
		g.answerControl(msg, g.wantRefresh(target, id, now), nil)
	case wire.ControlRevoke:
		reached, store := g.revoke(id, c.Before, c.Reason, now)
		if !enqueue(g.controls.store, func(ctx context.Context) { g.answerControl(msg, reached, store(ctx)) }) {
			g.refuseControl(msg, tooManyControls())
		}
	default:
		job := func(ctx context.Context) {
			reached, err := g.steer(ctx, target, id, &c)
			g.answerControl(msg, reached, err)
		}
		if !g.controls.later(msg.Subject, job) {
			g.refuseControl(msg, tooManyControls())
		}
	}
}

func tooManyControls() *wire.Error {
	return &wire.Error{Code: wire.ResourceExhausted, Message: "too many control messages wait on this gateway", RetryAfter: time.Second}
}

func (g *Service) refuseControl(msg *nats.Msg, err *wire.Error) {
	g.metrics.controlRefusals.Add(1)
	g.answerControl(msg, 0, err)
}

// answerControl says for how many connections it was done, or why for none, where
// somebody asks: on the connection on which it came, since what clients publish
// fills the others.
func (g *Service) answerControl(msg *nats.Msg, n int, refused *wire.Error) {
	if msg.Reply == "" {
		return
	}
	answer := answerTo(msg.Reply, fmt.Appendf(nil, `{"reached":%d}`, n), refused)
	if err := g.lease.nc.PublishMsg(answer); err != nil {
		g.metrics.publishErrors.Add(1)
	}
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
		run := func() {
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
		}
		select {
		case slots <- struct{}{}:
			running.Go(run)
		case <-ctx.Done():
			mu.Lock()
			failed = busy()
			mu.Unlock()
		}
	}
	running.Wait()
	if done > 0 {
		failed = nil
	}
	return done, failed
}

func busy() *wire.Error { return unavailable("the connection is busy: try again") }

// steer subscribes the connection, or ends a subscription, on behalf of an
// operator. The client hears of it in front of the first message, or behind the
// last.
func (c *connection) steer(ctx context.Context, want *wire.Control) (bool, *wire.Error) {
	waiting, cancel := context.WithTimeout(ctx, turnWait)
	err := c.turn.lock(waiting)
	cancel()
	if err != nil {
		return false, busy()
	}
	defer c.turn.Unlock()
	if c.over || c.out.Leaving() {
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
		c.out.Fence()
	}))
	return true, nil
}
