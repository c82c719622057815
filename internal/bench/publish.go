package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Publish is the scenario of pairs: one client publishes to a topic of the
// pair and waits for acknowledgements, the other receives.
type Publish struct {
	Pairs       int           // default 100
	Size        int           // bytes of a payload; default 128
	Outstanding int           // unacknowledged publishes of each pair; default 1
	Duration    time.Duration // measured; default 10 s
	Warmup      time.Duration // before it; default 2 s

	prefix string     // of the topics; default "bench."
	acks   *Histogram // also gets the round trips; nil: nobody wants them
}

// pairs is the agent of one loop's publishing clients.
type pairs struct {
	o       *Publish
	d       Dialect
	tally   tally
	payload template
	buf     []byte
	on      bool
	sent    int64 // since the start
}

// pair is what one publishing client remembers.
type pair struct {
	topic  string
	number int64
	sentAt []int64 // per id - 1: when the outstanding publish was sent; 0: free
}

func (a *pairs) upgraded(*conn) {}

func (a *pairs) text(c *conn, frame []byte, now int64) {
	p := c.pair
	var free [64]int64
	ids := free[:0]
	scanReplies(frame, func(id int64, failed []byte) {
		if failed != nil {
			a.tally.errors++
			a.tally.failed(short(failed))
		}
		if id < 1 || id > int64(len(p.sentAt)) || p.sentAt[id-1] == 0 {
			return
		}
		a.tally.acks++
		a.tally.ack.Record(now - p.sentAt[id-1])
		p.sentAt[id-1] = 0
		ids = append(ids, id)
	})
	if len(ids) == 0 {
		a.tally.other(c, frame, a.d.Pong)
		return
	}
	a.publish(c, ids)
}

// publish sends one publish for each id, in one message.
func (a *pairs) publish(c *conn, ids []int64) {
	if !a.on {
		return
	}
	now := time.Now().UnixNano()
	p := c.pair
	a.buf = a.buf[:0]
	for i, id := range ids {
		a.payload.stamp(now, p.number)
		p.number++
		p.sentAt[id-1] = now
		a.buf = a.d.Publish(a.d.Join(a.buf, i, len(ids)), id, p.topic, a.payload)
	}
	a.buf = a.d.Join(a.buf, len(ids), len(ids))
	a.tally.published += int64(len(ids))
	a.sent += int64(len(ids))
	c.loop.send(c, appendFrame(nil, opText, a.buf))
}

func (a *pairs) closed(c *conn, err error) {
	a.tally.closed++
	a.tally.failed(fmt.Sprintf("publisher %d: %v", c.index, err))
}

// pairRun is one run of [Publish].
type pairRun struct {
	Publish
	e         *engine
	agents    []*pairs
	receivers []*receiver
	senders   []*conn
}

// Run opens the pairs and keeps [Publish.Outstanding] publishes of each under way.
func (o Publish) Run(ctx context.Context, target Target) (*Report, error) {
	r, _, err := o.run(ctx, target)
	return r, err
}

// run also returns how many messages were published in all.
func (o Publish) run(ctx context.Context, target Target) (rep *Report, sent int64, err error) {
	def(&o.Pairs, 100)
	def(&o.Size, 128)
	def(&o.Outstanding, 1)
	def(&o.Duration, 10*time.Second)
	def(&o.Warmup, 2*time.Second)
	if o.prefix == "" {
		o.prefix = "bench."
	}
	if o.Pairs < 1 || o.Outstanding < 1 || o.Outstanding > joinFrames || o.Size < MinPayload {
		return nil, 0, fmt.Errorf("pairs: at least 1; outstanding: 1 to %d; size: at least %d", joinFrames, MinPayload)
	}
	e, err := start(target)
	if err != nil {
		return nil, 0, err
	}
	defer e.close(ctx)
	r := &pairRun{Publish: o, e: e}
	if err := r.open(ctx); err != nil {
		return nil, 0, err
	}
	if rep, err = r.run(ctx); err != nil {
		return nil, 0, err
	}
	for _, a := range r.agents {
		sent += a.sent // nobody publishes any more
	}
	return rep, sent, nil
}

func (r *pairRun) open(ctx context.Context) error {
	for range r.e.loops {
		payload, err := newTemplate(r.Size)
		if err != nil {
			return err
		}
		r.agents = append(r.agents, &pairs{o: &r.Publish, d: r.e.target.Dialect, payload: payload, on: true})
		r.receivers = append(r.receivers, &receiver{size: r.Size, pong: r.e.target.Dialect.Pong})
	}
	subs := ownTopics(r.prefix, r.Pairs)
	if _, err := r.e.open(ctx, subs, func(_ *conn, loop int) agent { return r.receivers[loop] }); err != nil {
		return err
	}
	for i, s := range subs {
		r.senders = append(r.senders, &conn{index: i, pair: &pair{topic: s.topic, number: firstNumber, sentAt: make([]int64, r.Outstanding)}})
	}
	_, err := r.e.open(ctx, r.senders, func(_ *conn, loop int) agent { return r.agents[loop] })
	return err
}

func (r *pairRun) run(ctx context.Context) (*Report, error) {
	srv := r.e.target.Server.find(ctx)
	defer srv.close()
	ids := make([]int64, r.Outstanding)
	for i := range ids {
		ids[i] = int64(i + 1)
	}
	err := r.e.each(ctx, func(i int, l loop) {
		for _, c := range r.senders {
			if c.loop == l {
				r.agents[i].publish(c, ids)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if err := r.e.wait(ctx, r.Warmup); err != nil {
		return nil, err
	}
	from, err := r.e.sample(ctx, srv, false)
	if err != nil {
		return nil, err
	}
	if err := r.e.each(ctx, func(i int, _ loop) { r.agents[i].tally.restart(); r.receivers[i].tally.restart() }); err != nil {
		return nil, err
	}
	if err := r.e.wait(ctx, r.Duration); err != nil {
		return nil, err
	}
	measured, _, err := r.tallies(ctx)
	if err != nil {
		return nil, err
	}
	to, err := r.e.sample(ctx, srv, true)
	if err != nil {
		return nil, err
	}
	if err := r.e.each(ctx, func(i int, _ loop) { r.agents[i].on = false }); err != nil {
		return nil, err
	}
	missing, all, err := r.settle(ctx)
	if err != nil {
		return nil, err
	}
	if measured.acks == 0 {
		return nil, errors.Join(errors.New("no publish was acknowledged"), failure(all))
	}
	measured.lost, measured.repeated, measured.damaged = max(all.lost, missing), all.repeated, all.damaged
	measured.errors, measured.closed, measured.failure = all.errors, all.closed, all.failure
	if r.acks != nil {
		r.acks.Merge(&measured.ack)
	}
	rep := r.e.report("publish", from, to, measured, measured.acks)
	rep.Parameters["pairs"], rep.Parameters["size"], rep.Parameters["outstanding"] = r.Pairs, r.Size, r.Outstanding
	return rep, nil
}

func failure(t *tally) error {
	if t.failure == "" {
		return nil
	}
	return errors.New(t.failure)
}

// tallies sums up, and returns how many messages are still on their way.
func (r *pairRun) tallies(ctx context.Context) (*tally, int64, error) {
	parts, owed := make([]tally, 2*len(r.agents)), make([]int64, len(r.agents))
	err := r.e.each(ctx, func(i int, _ loop) {
		parts[2*i], parts[2*i+1] = r.agents[i].tally, r.receivers[i].tally
		owed[i] = r.agents[i].sent - r.receivers[i].total
	})
	sum, due := &tally{}, int64(0)
	for i := range parts {
		sum.merge(&parts[i])
	}
	for _, n := range owed {
		due += n
	}
	return sum, due, err
}

// settle waits for what is on its way and returns how many messages never came.
func (r *pairRun) settle(ctx context.Context) (missing int64, all *tally, err error) {
	last, moved := int64(-1), time.Now()
	for {
		t, due, err := r.tallies(ctx)
		switch {
		case err != nil || due <= 0:
			return 0, t, err
		case due != last:
			last, moved = due, time.Now()
		case time.Since(moved) > 2*time.Second:
			return due, t, nil
		}
		if err := r.e.wait(ctx, 20*time.Millisecond); err != nil {
			return 0, t, err
		}
	}
}
