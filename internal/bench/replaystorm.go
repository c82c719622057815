package bench

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ReplayStorm kills a gateway under its clients and measures how long it takes
// until all of them have come to another one and have every message they
// missed; against as many clients that connect to that gateway for the first
// time and subscribe to topics without replay. Messages go on all the while, on
// both kinds of topics.
type ReplayStorm struct {
	Clients int     // default 5000
	Topics  int     // client i listens to topic i mod N; default 50
	Missed  int     // messages of each topic between the kill and the first connect; default 20
	Rate    float64 // messages a second over all topics, meanwhile; default 50
	Size    int     // bytes of a payload; default 128
	Rounds  int     // default 3
}

func (o *ReplayStorm) defaults() error {
	def(&o.Clients, 5000)
	def(&o.Topics, 50)
	def(&o.Missed, 20)
	def(&o.Size, 128)
	def(&o.Rounds, 3)
	if o.Rate == 0 {
		o.Rate = 50
	}
	if o.Clients < o.Topics || o.Topics < 1 || o.Missed < 1 || o.Rate < 0 || o.Rounds < 1 || o.Size < MinPayload {
		return fmt.Errorf("clients: at least one for each topic; missed, rounds: at least 1; rate: above 0; size: at least %d", MinPayload)
	}
	return nil
}

// stormAgent is the agent of one loop's clients.
type stormAgent struct {
	size  int
	tally tally
	left  int // clients that have not caught up
	over  chan<- struct{}
}

func (a *stormAgent) upgraded(*conn) {}

func (a *stormAgent) text(c *conn, frame []byte, now int64) {
	f := c.followed
	_, ok := scanFollowed(frame, a.size, func(number int64, at wire.Position, prev int64) {
		if c.next == 0 {
			c.next = number // it has seen none before
		}
		a.tally.follow(c, number, at, prev)
	})
	switch {
	case !ok || bytes.Contains(frame, truncatedMark), f.asked && !bytes.Contains(frame, recoveredMark):
		a.tally.damaged++
		a.tally.failed(short(frame))
		c.next = max(c.next, f.owed+1) // it waits for nothing any more
	default:
		a.tally.other(c, frame, noPong)
	}
	f.asked = false
	a.arrived(c, now)
}

// arrived ends the catching up of a client that has what it missed.
func (a *stormAgent) arrived(c *conn, now int64) {
	if f := c.followed; f.began != 0 && !f.asked && c.next > f.owed {
		a.tally.latency.Record(now - f.began)
		f.began = 0
		if a.left--; a.left == 0 {
			a.over <- struct{}{}
		}
	}
}

func (a *stormAgent) closed(c *conn, err error) {
	if c.followed.doomed {
		return
	}
	a.tally.closed++
	a.tally.failed(fmt.Sprintf("client %d: %v", c.index, err))
}

// storm is one run of [ReplayStorm].
type storm struct {
	ReplayStorm
	s     *site
	c     *Comparison
	nc    *nats.Conn
	run   int64
	feed  *feeder
	plain Histogram // of each client, from dialing to its subscription
	back  Histogram // from dialing to the last missed message
	took  [2][]float64
}

// Run measures on processes of its own.
func (o ReplayStorm) Run(ctx context.Context, cfg SiteConfig) (*Comparison, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	s, err := openSite(ctx, cfg, 1)
	if err != nil {
		return nil, err
	}
	defer s.close()
	nc, err := s.connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	r := &storm{ReplayStorm: o, s: s, nc: nc, run: time.Now().UnixNano(), c: &Comparison{Scenario: "replay-storm", Parameters: map[string]any{
		"clients": o.Clients, "topics": o.Topics, "missed": o.Missed, "rate": o.Rate, "size": o.Size, "rounds": o.Rounds,
	}}}
	if r.feed, err = newFeeder(nc, o.Size, o.Topics, r.topic); err != nil {
		return nil, err
	}
	var ratios []float64
	for i := range o.Rounds {
		if err := r.round(ctx, i); err != nil {
			return nil, err
		}
		ratios = append(ratios, r.took[1][i]/r.took[0][i])
	}
	n := float64(o.Clients)
	r.c.side("plain connect", n/median(r.took[0]), "connected", &r.plain)
	r.c.side("resume after the kill", n/median(r.took[1]), "recovered", &r.back)
	r.c.Parameters["plain"] = fmt.Sprintf("%.2fs", median(r.took[0]))
	r.c.Parameters["resume"] = fmt.Sprintf("%.2fs", median(r.took[1]))
	r.c.atMost("time until all have recovered, against plain connects", 1.5, "times", ratios...)
	return r.c, nil
}

func (r *storm) topic(prefix string, i int) string { return fmt.Sprintf("%s%x.%d", prefix, r.run, i) }

// round kills a gateway, with another one beside it that takes the clients.
func (r *storm) round(ctx context.Context, n int) (err error) {
	haven := r.s.gateways[0]
	stop := r.feed.run(ctx, r.Rate)
	defer func() {
		if failed := stop(); err == nil {
			err = failed
		}
	}()
	sides := []func(context.Context, *child) error{r.connects, r.storm}
	if n%2 == 1 { // neither side is always the first
		sides[0], sides[1] = sides[1], sides[0]
	}
	for _, side := range sides {
		if err := side(ctx, haven); err != nil {
			return err
		}
		if err := pause(ctx, stormPause); err != nil { // the gateway is done with who left
			return err
		}
	}
	return nil
}

// stormPause is between two sides.
const stormPause = time.Second

// connects measures the plain side.
func (r *storm) connects(ctx context.Context, haven *child) error {
	e, err := start(r.s.target(haven))
	if err != nil {
		return err
	}
	defer e.close(ctx)
	conns := make([]*conn, r.Clients)
	for i := range conns {
		conns[i] = &conn{index: i, topic: r.topic(plainPrefix, i%r.Topics)}
	}
	quiet := &listeners{pong: noPong}
	profiled := r.s.profile(ctx, "connects", time.Second)
	o, err := e.open(ctx, conns, func(*conn, int) agent { return quiet })
	if err != nil {
		return err
	}
	r.plain.Merge(&o.latency)
	r.took[0] = append(r.took[0], o.took.Seconds())
	r.c.Closed += quiet.gone.Load()
	return profiled()
}

// storm brings clients to a gateway of their own, kills it, and measures until
// all of them are back.
func (r *storm) storm(ctx context.Context, haven *child) error {
	doomed, err := r.s.gateway(ctx)
	if err != nil {
		return err
	}
	clients, err := r.strand(ctx, doomed)
	if err != nil {
		return err
	}
	if err := r.feed.burst(ctx, r.Missed); err != nil {
		return err
	}
	e, err := start(r.s.target(haven))
	if err != nil {
		return err
	}
	defer e.close(ctx)
	agents, over := r.agents(e)
	last := r.feed.last()
	back := make([]*conn, len(clients))
	for i, c := range clients {
		back[i] = &conn{index: i, next: c.next, topic: c.topic, followed: &followed{at: c.followed.at, owed: last[i%r.Topics]}}
	}
	k := r.s.clock()
	profiled := r.s.profile(ctx, "storm", time.Second)
	began := time.Now()
	if err := r.open(ctx, e, back, agents, over); err != nil {
		return err
	}
	r.took[1] = append(r.took[1], time.Since(began).Seconds())
	k.stop(r.c)
	if err := profiled(); err != nil {
		return err
	}
	return r.verify(ctx, e, agents, back)
}

// strand connects the clients to a gateway, waits until each has a message to
// stand on, and kills the gateway.
func (r *storm) strand(ctx context.Context, doomed *child) ([]*conn, error) {
	e, err := start(r.s.target(doomed))
	if err != nil {
		return nil, err
	}
	defer e.close(ctx)
	agents, over := r.agents(e)
	clients := make([]*conn, r.Clients)
	for i := range clients {
		clients[i] = &conn{index: i, topic: r.topic(logPrefix, i%r.Topics), followed: &followed{}}
	}
	// A message of each topic comes some time after the last client has: with
	// the first of them it stands.
	if err := r.open(ctx, e, clients, agents, over); err != nil {
		return nil, err
	}
	if err := e.each(ctx, func(_ int, l loop) {
		for _, c := range l.all() {
			c.followed.doomed = true
		}
	}); err != nil {
		return nil, err
	}
	doomed.kill()
	if err := r.stranded(ctx, e); err != nil {
		return nil, err
	}
	for i := range agents {
		r.c.faults(&agents[i].tally)
	}
	return clients, nil
}

// agents makes one for each loop; spread as [engine.open] spreads clients.
func (r *storm) agents(e *engine) ([]*stormAgent, chan struct{}) {
	over := make(chan struct{}, len(e.loops))
	agents := make([]*stormAgent, len(e.loops))
	for i := range agents {
		agents[i] = &stormAgent{size: r.Size, over: over, left: (r.Clients + len(e.loops) - 1 - i) / len(e.loops)}
		if agents[i].left == 0 {
			over <- struct{}{}
		}
	}
	return agents, over
}

// open connects clients, and returns when each has what it is owed.
func (r *storm) open(ctx context.Context, e *engine, clients []*conn, agents []*stormAgent, over <-chan struct{}) error {
	if _, err := e.open(ctx, clients, func(c *conn, loop int) agent {
		c.followed.began = c.began
		return agents[loop]
	}); err != nil {
		return err
	}
	if clients[0].followed.owed == 0 {
		if err := r.feed.burst(ctx, 1); err != nil {
			return err
		}
	}
	return e.gather(ctx, over, func(i int) (int, string) { return agents[i].left, agents[i].tally.failure })
}

// stranded waits until the loops have noticed that the gateway is gone, and all
// it had sent is read.
func (r *storm) stranded(ctx context.Context, old *engine) error {
	for end := time.Now().Add(stall); ; {
		left := make([]int, len(old.loops))
		if err := old.each(ctx, func(i int, l loop) { left[i] = len(l.all()) }); err != nil {
			return err
		}
		sum := 0
		for _, n := range left {
			sum += n
		}
		if sum == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d clients did not notice that their gateway is gone", sum, r.Clients)
		}
		if err := old.wait(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// verify lets live messages come for a moment, and adds up what was seen.
func (r *storm) verify(ctx context.Context, e *engine, agents []*stormAgent, back []*conn) error {
	if err := r.feed.burst(ctx, 1); err != nil {
		return err
	}
	last := r.feed.last()
	parts := make([]tally, len(agents))
	behind := make([]int64, len(agents))
	for end := time.Now().Add(stall); ; {
		err := e.each(ctx, func(i int, l loop) {
			parts[i], behind[i] = agents[i].tally, 0
			for _, c := range back {
				if c.loop == l && c.next <= last[c.index%r.Topics] {
					behind[i]++
				}
			}
		})
		if err != nil {
			return err
		}
		sum := int64(0)
		for _, n := range behind {
			sum += n
		}
		if sum == 0 {
			break
		}
		if time.Now().After(end) {
			r.c.faults(&tally{lost: sum, failure: fmt.Sprintf("%d clients got no live message after they had recovered", sum)})
			break
		}
		if err := e.wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	for i := range parts {
		r.c.faults(&parts[i])
		r.c.Checked += parts[i].delivered
		r.back.Merge(&parts[i].latency)
	}
	return nil
}
