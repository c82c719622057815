package bench

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ReplayResumes measures what acknowledged publishing into a stream costs while
// clients resume sparse topics of it, a hundred messages each, all at once; and
// without. No topic is resumed twice: what a gateway remembers of one helps
// nobody.
type ReplayResumes struct {
	Clients  int           // that resume, each a topic of its own; default 1000
	Messages int           // in the stream; default 1,000,000
	Rate     float64       // publishes a second; default 200
	Size     int           // bytes of a payload; default 128
	Rounds   int           // default 3
	Waves    int           // how often all clients resume in a round; default 2
	Duration time.Duration // of a quiet part; default 5 s
}

// resumer is the agent of one loop's clients that resume.
type resumer struct {
	size  int
	tally tally
	left  int // of this wave, in this loop
	over  chan<- struct{}
}

func (r *resumer) upgraded(*conn) {}

func (r *resumer) text(c *conn, frame []byte, now int64) {
	f := c.followed
	_, ok := scanFollowed(frame, r.size, func(number int64, at wire.Position, prev int64) { r.tally.follow(c, number, at, prev) })
	switch {
	case !ok:
		r.tally.damaged++
		r.tally.failed(short(frame))
	case f.asked:
		scanReplies(frame, func(id int64, failed []byte) {
			switch {
			case failed != nil:
				r.tally.errors++
				r.tally.failed(short(failed))
			case id == resumeID && !bytes.Contains(frame, recoveredMark):
				r.tally.damaged++
				r.tally.failed(short(frame))
				c.next = f.owed // it waits for nothing any more
			}
			f.asked = f.asked && id != resumeID
		})
	case bytes.Contains(frame, truncatedMark):
		r.tally.damaged++
		r.tally.failed(short(frame))
	default:
		r.tally.other(c, frame, noPong)
	}
	if f.began == 0 || f.asked || c.next < f.owed {
		return
	}
	r.tally.latency.Record(now - f.began)
	f.began = 0
	c.loop.send(c, appendFrame(nil, opText, appendUnsubscribe(nil, leaveID, c.followed.topic)))
	if r.left--; r.left == 0 {
		r.over <- struct{}{}
	}
}

// Ids of the requests of clients that resume.
const (
	resumeID = 1
	leaveID  = 2
)

func (r *resumer) closed(c *conn, err error) {
	r.tally.closed++
	r.tally.failed(fmt.Sprintf("client %d: %v", c.index, err))
}

// acker is the agent of a connection that publishes at a fixed rate and counts
// how long acknowledgements take, from the time a publish was due.
type acker struct {
	conn     *conn
	topic    string
	number   int64
	interval time.Duration
	due      time.Time
	on       bool
	part     int // which of the two histograms counts
	payload  template
	sentAt   map[int64]int64 // by id
	parts    map[int64]int
	took     [2]Histogram
	tally    tally
}

func (a *acker) work() time.Time {
	if !a.on || a.conn.state != stateOpen {
		return time.Time{}
	}
	for now := time.Now(); !a.due.After(now); a.due = a.due.Add(a.interval) {
		a.payload.stamp(a.due.UnixNano(), firstNumber+a.number)
		a.number++
		a.sentAt[a.number], a.parts[a.number] = a.due.UnixNano(), a.part
		a.conn.loop.send(a.conn, appendFrame(nil, opText, Fairlead{}.Publish(nil, a.number, a.topic, a.payload)))
	}
	return a.due
}

func (a *acker) upgraded(*conn) {}

func (a *acker) text(_ *conn, frame []byte, now int64) {
	scanReplies(frame, func(id int64, failed []byte) {
		if failed != nil {
			a.tally.errors++
			a.tally.failed(short(failed))
		}
		if due, ok := a.sentAt[id]; ok {
			a.took[a.parts[id]].Record(now - due)
			a.tally.acks++
			delete(a.sentAt, id)
			delete(a.parts, id)
		}
	})
}

func (a *acker) closed(_ *conn, err error) {
	a.tally.closed++
	a.tally.failed(fmt.Sprintf("publisher: %v", err))
}

type resumesRun struct {
	ReplayResumes
	e       *engine
	agents  []*resumer
	clients []*conn
	acker   *acker
	stored  *stock
	from    []wire.Position // the first message of each sparse topic
	waves   int             // so far
	over    chan struct{}   // one for each loop whose wave is over
}

// Run measures on processes of its own.
func (o ReplayResumes) Run(ctx context.Context, cfg SiteConfig) (*Comparison, error) {
	def(&o.Clients, 1000)
	def(&o.Messages, 1_000_000)
	def(&o.Size, 128)
	def(&o.Rounds, 3)
	def(&o.Waves, 2)
	def(&o.Duration, 5*time.Second)
	if o.Rate == 0 {
		o.Rate = 200
	}
	if o.Clients < 1 || o.Rate < 0 || o.Size < MinPayload || o.Rounds < 1 || o.Waves < 1 {
		return nil, fmt.Errorf("clients, rounds, waves: at least 1; rate: above 0; size: at least %d", MinPayload)
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
	r := &resumesRun{ReplayResumes: o, stored: &stock{messages: o.Messages, sparse: o.Clients * (o.Rounds*o.Waves + 1), recent: 1, each: 10, size: o.Size}}
	if err := r.stored.fill(ctx, nc); err != nil {
		return nil, err
	}
	if r.e, err = start(s.target(s.gateways[0])); err != nil {
		return nil, err
	}
	defer r.e.close(ctx)
	if err := r.open(ctx, nc); err != nil {
		return nil, err
	}
	return r.run(ctx, s)
}

func (r *resumesRun) open(ctx context.Context, nc *nats.Conn) error {
	var err error
	if r.from, err = positions(ctx, nc, r.stored.sparse, r.stored.sparseTopic); err != nil {
		return err
	}
	r.over = make(chan struct{}, len(r.e.loops))
	for range r.e.loops {
		r.agents = append(r.agents, &resumer{size: r.Size, over: r.over})
	}
	for i := range r.Clients {
		r.clients = append(r.clients, &conn{index: i, followed: &followed{}})
	}
	if _, err := r.e.open(ctx, r.clients, func(_ *conn, loop int) agent { return r.agents[loop] }); err != nil {
		return err
	}
	payload, err := newTemplate(r.Size)
	if err != nil {
		return err
	}
	r.acker = &acker{
		conn: &conn{}, topic: r.stored.recentTopic(0), interval: time.Duration(float64(time.Second) / r.Rate),
		payload: payload, sentAt: map[int64]int64{}, parts: map[int64]int{},
	}
	if _, err := r.e.open(ctx, []*conn{r.acker.conn}, func(*conn, int) agent { return r.acker }); err != nil {
		return err
	}
	return r.e.each(ctx, func(i int, l loop) {
		if r.acker.conn.loop != l {
			return
		}
		r.acker.on, r.acker.due = true, time.Now()
		r.e.turns[i] = func() {
			if next := r.acker.work(); !next.IsZero() {
				l.alarm(next)
			}
		}
	})
}

// wave lets every client resume, and returns when all have caught up.
func (r *resumesRun) wave(ctx context.Context) error {
	err := r.e.each(ctx, func(i int, l loop) {
		a, now := r.agents[i], time.Now().UnixNano()
		for _, c := range r.clients {
			if c.loop != l || c.state != stateOpen {
				continue
			}
			f, topic := c.followed, r.waves*r.Clients+c.index
			f.topic, f.from = r.stored.sparseTopic(topic), r.from[topic]
			f.at, f.owed, f.began, f.asked = f.from, firstNumber+stockDepth, now, true
			c.next = firstNumber + 1
			a.left++
			l.send(c, appendFrame(nil, opText, appendResume(nil, resumeID, c.followed.topic, c.followed.from)))
		}
		if a.left == 0 {
			r.over <- struct{}{}
		}
	})
	if err != nil {
		return err
	}
	r.waves++
	return r.e.gather(ctx, r.over, func(i int) (int, string) { return r.agents[i].left, r.agents[i].tally.failure })
}

// nowhere is no part: nothing is published into it.
const nowhere = 2

func (r *resumesRun) run(ctx context.Context, s *site) (*Comparison, error) {
	c := &Comparison{Scenario: "replay-resumes", Parameters: map[string]any{"clients": r.Clients, "rate": r.Rate, "rounds": r.Rounds, "waves": r.Waves, "duration": r.Duration}}
	r.stored.describe(c.Parameters)
	if err := r.wave(ctx); err != nil { // the first is none of the measured ones
		return nil, err
	}
	if _, err := r.part(ctx, 0); err != nil {
		return nil, err
	}
	k, busy := s.clock(), time.Duration(0)
	var all [2]Histogram
	var ratios []float64
	for range r.Rounds {
		if err := r.e.wait(ctx, r.Duration); err != nil {
			return nil, err
		}
		quiet, err := r.part(ctx, 1)
		if err != nil {
			return nil, err
		}
		profiled := s.profile(ctx, "resumes", r.Duration)
		began := time.Now()
		for range r.Waves {
			if err := r.wave(ctx); err != nil {
				return nil, err
			}
		}
		busy += time.Since(began)
		during, err := r.part(ctx, 0)
		if err != nil {
			return nil, err
		}
		if err := profiled(); err != nil {
			return nil, err
		}
		all[0].Merge(&quiet[0])
		all[1].Merge(&during[1])
		ratios = append(ratios, float64(during[1].Quantile(0.5))/float64(quiet[0].Quantile(0.5)))
	}
	k.stop(c)
	resumed, err := r.finish(ctx, c)
	if err != nil {
		return nil, err
	}
	c.Checked += int64(r.waves*r.Clients) * (stockDepth - 1)
	c.side("publish, quiet", 0, "", &all[0])
	c.side("publish, during resumes", 0, "", &all[1])
	c.side("resume of 100 messages", float64((r.waves-1)*r.Clients)/busy.Seconds(), "resumed", resumed)
	c.atMost(fmt.Sprintf("publish p50 while %d resumes run, against none", r.Clients), 2, "times", ratios...)
	return c, nil
}

// part switches to another histogram once all publishes of the present one are
// answered, and returns both; they begin anew.
func (r *resumesRun) part(ctx context.Context, next int) (took [2]Histogram, err error) {
	if err = r.mine(ctx, func() { r.acker.part = next }); err != nil {
		return took, err
	}
	for end := time.Now().Add(stall); ; {
		owed := 0
		if err = r.mine(ctx, func() {
			for _, part := range r.acker.parts {
				if part != next {
					owed++
				}
			}
		}); err != nil {
			return took, err
		}
		if owed == 0 {
			break
		}
		if time.Now().After(end) {
			return took, fmt.Errorf("%d publishes were not acknowledged", owed)
		}
		if err = r.e.wait(ctx, 5*time.Millisecond); err != nil {
			return took, err
		}
	}
	err = r.mine(ctx, func() {
		took = r.acker.took
		r.acker.took = [2]Histogram{}
	})
	return took, err
}

// mine runs fn in the publisher's loop.
func (r *resumesRun) mine(ctx context.Context, fn func()) error {
	return r.e.each(ctx, func(_ int, l loop) {
		if r.acker.conn.loop == l {
			fn()
		}
	})
}

// finish stops publishing and adds up what was seen.
func (r *resumesRun) finish(ctx context.Context, c *Comparison) (*Histogram, error) {
	if err := r.mine(ctx, func() { r.acker.on = false }); err != nil {
		return nil, err
	}
	if _, err := r.part(ctx, nowhere); err != nil { // all are waited for
		return nil, err
	}
	parts := make([]tally, len(r.agents))
	if err := r.e.each(ctx, func(i int, _ loop) { parts[i] = r.agents[i].tally }); err != nil {
		return nil, err
	}
	var all tally
	for i := range parts {
		all.merge(&parts[i])
	}
	all.merge(&r.acker.tally)
	c.faults(&all)
	c.Checked += r.acker.tally.acks
	return &all.latency, nil
}
