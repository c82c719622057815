package bench

import (
	"context"
	"fmt"
	"time"
)

// ReplayLive compares how long a message takes from one client to another on a
// topic without replay and on a replayed one. Both sides take turns, message by
// message, over the same connections.
type ReplayLive struct {
	Rate     float64       // messages a second of each side; default 200
	Size     int           // bytes of a payload; default 128
	Rounds   int           // default 5
	Duration time.Duration // of a round; default 4 s
	Warmup   time.Duration // before the first; default 2 s
}

// sides of [ReplayLive].
var liveSides = [2]string{"plain", "replayed"}

// liveReceiver is the agent of one loop's subscribers: place 0 is the plain
// topic, place 1 the replayed one.
type liveReceiver struct {
	size  int
	sides [2]tally
}

func (r *liveReceiver) upgraded(*conn) {}

func (r *liveReceiver) text(c *conn, frame []byte, now int64) {
	t := &r.sides[c.place]
	n, ok := scanPayloads(frame, r.size, func(due, number int64) { t.message(c, due, number, now) })
	switch {
	case !ok:
		t.damaged++
		t.failed(short(frame))
	case n == 0:
		t.other(c, frame, noPong)
	}
}

func (r *liveReceiver) closed(c *conn, err error) {
	r.sides[c.place].closed++
	r.sides[c.place].failed(fmt.Sprintf("subscriber %d: %v", c.index, err))
}

func noPong([]byte) []byte { return nil }

// livePublisher is the agent of the connection that publishes, to both topics
// in turn.
type livePublisher struct {
	conn     *conn
	topics   [2]string
	numbers  [2]int64
	side     int
	interval time.Duration // between two messages
	due      time.Time
	on       bool
	payload  template
	buf      []byte
	tally    tally
}

// work publishes what is due and returns when it wants to run again. A message
// counts from its sending: what a late alarm costs is neither side's.
func (p *livePublisher) work() time.Time {
	if !p.on || p.conn.state != stateOpen {
		return time.Time{}
	}
	now := time.Now()
	if p.due.After(now) {
		return p.due
	}
	p.tally.lag.Record(int64(now.Sub(p.due)))
	for !p.due.After(now) { // what was missed is left out: both sides have gaps alike
		p.due = p.due.Add(p.interval)
	}
	p.payload.stamp(now.UnixNano(), p.numbers[p.side])
	p.buf = Fairlead{}.Publish(p.buf[:0], 0, p.topics[p.side], p.payload)
	p.numbers[p.side]++
	p.side = 1 - p.side
	p.tally.published++
	p.conn.loop.send(p.conn, appendFrame(nil, opText, p.buf))
	return p.due
}

func (p *livePublisher) upgraded(*conn) {}

func (p *livePublisher) text(c *conn, frame []byte, _ int64) { p.tally.other(c, frame, noPong) }

func (p *livePublisher) closed(_ *conn, err error) {
	p.tally.closed++
	p.tally.failed(fmt.Sprintf("publisher: %v", err))
}

type liveRun struct {
	ReplayLive
	e         *engine
	receivers []*liveReceiver
	publisher *livePublisher
	bare      *bareLive
}

// Run measures on processes of its own.
func (o ReplayLive) Run(ctx context.Context, cfg SiteConfig) (*Comparison, error) {
	if o.Rate == 0 {
		o.Rate = 200
	}
	def(&o.Size, 128)
	def(&o.Rounds, 5)
	def(&o.Duration, 4*time.Second)
	def(&o.Warmup, 2*time.Second)
	if o.Rate < 0 || o.Size < MinPayload || o.Rounds < 1 {
		return nil, fmt.Errorf("rate: above 0; size: at least %d; rounds: at least 1", MinPayload)
	}
	s, err := openSite(ctx, cfg, 1)
	if err != nil {
		return nil, err
	}
	defer s.close()
	target := s.target(s.gateways[0])
	target.Loops = 1 // both sides are read by the same thread
	e, err := start(target)
	if err != nil {
		return nil, err
	}
	defer e.close(ctx)
	r := &liveRun{ReplayLive: o, e: e}
	if r.bare, err = newBareLive(s, o.Size); err != nil {
		return nil, err
	}
	defer r.bare.close()
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	return r.run(ctx, s)
}

func (r *liveRun) open(ctx context.Context) error {
	run := time.Now().UnixNano()
	topics := [2]string{fmt.Sprintf("%s%x", plainPrefix, run), fmt.Sprintf("%s%x", logPrefix, run)}
	for range r.e.loops {
		r.receivers = append(r.receivers, &liveReceiver{size: r.Size})
	}
	subs := []*conn{{place: 0, topic: topics[0], next: firstNumber}, {index: 1, place: 1, topic: topics[1], next: firstNumber}}
	if _, err := r.e.open(ctx, subs, func(_ *conn, loop int) agent { return r.receivers[loop] }); err != nil {
		return err
	}
	payload, err := newTemplate(r.Size)
	if err != nil {
		return err
	}
	r.publisher = &livePublisher{
		conn: &conn{}, topics: topics, numbers: [2]int64{firstNumber, firstNumber}, payload: payload,
		interval: time.Duration(float64(time.Second) / (2 * r.Rate)),
	}
	if _, err := r.e.open(ctx, []*conn{r.publisher.conn}, func(*conn, int) agent { return r.publisher }); err != nil {
		return err
	}
	return r.e.each(ctx, func(i int, l loop) {
		if r.publisher.conn.loop != l {
			return
		}
		r.publisher.on, r.publisher.due = true, time.Now()
		r.e.turns[i] = func() {
			if next := r.publisher.work(); !next.IsZero() {
				l.alarm(next)
			}
		}
	})
}

func (r *liveRun) run(ctx context.Context, s *site) (*Comparison, error) {
	c := &Comparison{Scenario: "replay-live", Parameters: map[string]any{"rate": r.Rate, "size": r.Size, "rounds": r.Rounds, "duration": r.Duration}}
	if err := r.e.wait(ctx, r.Warmup); err != nil {
		return nil, err
	}
	if _, err := r.take(ctx); err != nil {
		return nil, err
	}
	k, all, added, bare := s.clock(), [2]tally{}, []float64{}, []float64{}
	profiled := s.profile(ctx, "live", time.Duration(r.Rounds)*(r.Duration+r.Duration/2))
	for range r.Rounds {
		if err := r.e.wait(ctx, r.Duration); err != nil {
			return nil, err
		}
		sides, err := r.take(ctx)
		if err != nil {
			return nil, err
		}
		added = append(added, micros(sides[1].latency.Quantile(0.5)-sides[0].latency.Quantile(0.5)))
		for i := range all {
			all[i].merge(&sides[i])
		}
		more, err := r.between(ctx)
		if err != nil {
			return nil, err
		}
		bare = append(bare, micros(more))
	}
	k.stop(c)
	if err := profiled(); err != nil {
		return nil, err
	}
	if err := r.settle(ctx, c); err != nil {
		return nil, err
	}
	for i, name := range liveSides {
		c.side(name, float64(all[i].delivered)/(float64(r.Rounds)*r.Duration.Seconds()), "delivered", &all[i].latency)
	}
	for i, name := range liveSides {
		c.side(name+", NATS alone", 0, "", &r.bare.took[i])
	}
	c.Parameters["addedByNATS"] = fmt.Sprintf("%.0fµs", median(bare))
	c.atMost("added to plain pub/sub, p50", 60, "µs", added...)
	return c, nil
}

// between measures NATS alone while the gateway's clients are silent.
func (r *liveRun) between(ctx context.Context) (added time.Duration, err error) {
	set := func(on bool) error {
		return r.e.each(ctx, func(int, loop) { r.publisher.on, r.publisher.due = on, time.Now() })
	}
	if err := set(false); err != nil {
		return 0, err
	}
	if added, err = r.bare.run(ctx, r.publisher.interval, r.Duration/2); err != nil {
		return 0, err
	}
	if err := set(true); err != nil {
		return 0, err
	}
	_, err = r.take(ctx) // what was on its way between the parts
	return added, err
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// take returns what both sides counted, and lets them count anew; faults stay.
func (r *liveRun) take(ctx context.Context) (sides [2]tally, err error) {
	parts := make([][2]tally, len(r.receivers))
	err = r.e.each(ctx, func(i int, _ loop) {
		parts[i] = r.receivers[i].sides
		for side := range parts[i] {
			r.receivers[i].sides[side].restart()
		}
	})
	for _, p := range parts {
		for side := range p {
			sides[side].merge(&p[side])
		}
	}
	return sides, err
}

// settle stops publishing, waits for what is on its way and counts faults.
func (r *liveRun) settle(ctx context.Context, c *Comparison) error {
	var sent, seen [2]int64
	for end := time.Now().Add(2 * time.Second); ; {
		err := r.e.each(ctx, func(_ int, l loop) {
			for _, s := range l.all() {
				if s == r.publisher.conn {
					r.publisher.on = false
					sent = r.publisher.numbers
				} else {
					seen[s.place] = s.next
				}
			}
		})
		if err != nil {
			return err
		}
		if seen == sent || time.Now().After(end) {
			break
		}
		if err := r.e.wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	var all tally
	err := r.e.each(ctx, func(i int, _ loop) {
		all.merge(&r.receivers[i].sides[0])
		all.merge(&r.receivers[i].sides[1])
	})
	all.merge(&r.publisher.tally)
	for side := range sent {
		all.lost += sent[side] - seen[side]
		c.Checked += sent[side] - firstNumber
	}
	if lag := r.publisher.tally.lag.Quantiles().P99; lag > warnLag {
		c.Warnings = append(c.Warnings, fmt.Sprintf("publishes were up to %.1f ms (p99) behind their schedule", lag))
	}
	c.faults(&all)
	return err
}
