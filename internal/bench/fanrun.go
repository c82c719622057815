package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// fanRun is one run of [Fanout].
type fanRun struct {
	Fanout
	e          *engine
	subs       []*conn
	receivers  []*receiver
	publishers []*publisher
	topics     []*fanTopic
}

func (o Fanout) build(e *engine) (*fanRun, error) {
	f := &fanRun{Fanout: o, e: e}
	run := time.Now().UnixNano()
	for i := range o.Topics {
		f.topics = append(f.topics, &fanTopic{name: fmt.Sprintf("bench.%x.%d", run, i), missing: make([]atomic.Int32, o.Window)})
	}
	window := int64(o.Window)
	if o.Rate > 0 {
		window = 0
	}
	for range e.loops {
		r := &receiver{size: o.Size, window: window, topics: f.topics, local: make([]fanLocal, o.Topics), pong: e.target.Dialect.Pong}
		for t := range r.local {
			r.local[t].got = make([]int32, window)
		}
		f.receivers = append(f.receivers, r)
	}
	for i := range o.Subscribers {
		place := i % o.Topics
		f.subs = append(f.subs, &conn{index: i, place: place, topic: f.topics[place].name, next: firstNumber})
		f.receivers[i%len(e.loops)].local[place].subscribers++ // as engine.open spreads them
	}
	for _, r := range f.receivers {
		for t := range r.local {
			if r.local[t].subscribers > 0 {
				f.topics[t].loops++
			}
		}
	}
	for i := range o.Publishers {
		p, err := newPublisher(f, i)
		if err != nil {
			return nil, err
		}
		f.publishers = append(f.publishers, p)
	}
	for t, topic := range f.topics {
		topic.publisher = f.publishers[t%o.Publishers]
		topic.publisher.topics = append(topic.publisher.topics, t)
	}
	return f, nil
}

func (f *fanRun) open(ctx context.Context) error {
	if _, err := f.e.open(ctx, f.subs, func(_ *conn, loop int) agent { return f.receivers[loop] }); err != nil {
		return err
	}
	conns := make([]*conn, len(f.publishers))
	for i, p := range f.publishers {
		conns[i] = p.conn
	}
	_, err := f.e.open(ctx, conns, func(c *conn, _ int) agent { return f.publishers[c.index] })
	return err
}

func (f *fanRun) run(ctx context.Context) (*Report, error) {
	srv := f.e.target.Server.find(ctx)
	defer srv.close()
	if err := f.publish(ctx); err != nil {
		return nil, err
	}
	if err := f.watch(ctx, f.Warmup); err != nil {
		return nil, err
	}
	from, err := f.e.sample(ctx, srv, false)
	if err != nil {
		return nil, err
	}
	if err := f.each(ctx, func(p *publisher) { p.tally.restart() }, func(r *receiver) { r.tally.restart() }); err != nil {
		return nil, err
	}
	if err := f.watch(ctx, f.Duration); err != nil {
		return nil, err
	}
	measured, err := f.tallies(ctx)
	if err != nil {
		return nil, err
	}
	to, err := f.e.sample(ctx, srv, true)
	if err != nil {
		return nil, err
	}
	if err := f.each(ctx, func(p *publisher) { p.on = false }, nil); err != nil {
		return nil, err
	}
	missing, err := f.settle(ctx)
	if err != nil {
		return nil, err
	}
	all, err := f.tallies(ctx) // faults of the last moments count too
	if err != nil {
		return nil, err
	}
	measured.lost, measured.repeated, measured.damaged = max(all.lost, missing), all.repeated, all.damaged
	measured.errors, measured.closed, measured.failure = all.errors, all.closed, all.failure
	return f.report(from, to, measured), nil
}

// publish sets the publishers to work after each turn of their loops.
func (f *fanRun) publish(ctx context.Context) error {
	return f.e.each(ctx, func(i int, l loop) {
		var mine []*publisher
		for _, p := range f.publishers {
			if p.conn.loop == l {
				p.begin()
				mine = append(mine, p)
			}
		}
		f.e.turns[i] = func() {
			var next time.Time
			for _, p := range mine {
				if due := p.work(); next.IsZero() || !due.IsZero() && due.Before(next) {
					next = due
				}
			}
			if !next.IsZero() {
				l.alarm(next)
			}
		}
	})
}

func (f *fanRun) report(from, to sample, t *tally) *Report {
	r := f.e.report("fanout", from, to, t, t.delivered)
	for name, v := range map[string]any{"subscribers": f.Subscribers, "topics": f.Topics, "publishers": f.Publishers, "size": f.Size} {
		r.Parameters[name] = v
	}
	if f.Rate > 0 {
		r.Parameters["rate"] = f.Rate
		if r.Published < 0.98*f.Rate {
			r.Warnings = append(r.Warnings, fmt.Sprintf("only %.0f of %.0f messages a second were published", r.Published, f.Rate))
		}
	} else {
		r.Parameters["window"] = f.Window
		if f.Outstanding > 0 {
			r.Parameters["outstanding"] = f.Outstanding
		}
	}
	return r
}

// each runs functions for the publishers and receivers, each in its own loop.
func (f *fanRun) each(ctx context.Context, pub func(*publisher), rec func(*receiver)) error {
	return f.e.each(ctx, func(i int, l loop) {
		if rec != nil {
			rec(f.receivers[i])
		}
		for _, p := range f.publishers {
			if pub != nil && p.conn.loop == l {
				pub(p)
			}
		}
	})
}

func (f *fanRun) tallies(ctx context.Context) (*tally, error) {
	parts := make([]tally, len(f.receivers)+len(f.publishers))
	err := f.e.each(ctx, func(i int, l loop) {
		parts[i] = f.receivers[i].tally
		for j, p := range f.publishers {
			if p.conn.loop == l {
				parts[len(f.receivers)+j] = p.tally
			}
		}
	})
	sum := &tally{}
	for i := range parts {
		sum.merge(&parts[i])
	}
	return sum, err
}

// progress returns what was published times its subscribers, and delivered.
func (f *fanRun) progress(ctx context.Context) (owed, got int64, err error) {
	owe, have := make([]int64, len(f.publishers)), make([]int64, len(f.receivers))
	subscribers := make([]int64, f.Topics)
	for i := range f.Subscribers {
		subscribers[i%f.Topics]++
	}
	err = f.e.each(ctx, func(i int, l loop) {
		have[i] = f.receivers[i].total
		for j, p := range f.publishers {
			if p.conn.loop != l {
				continue
			}
			for k, t := range p.topics {
				owe[j] += (p.numbers[k] - firstNumber) * subscribers[t]
			}
		}
	})
	for _, n := range owe {
		owed += n
	}
	for _, n := range have {
		got += n
	}
	return owed, got, err
}

// watch lets d pass and fails early when a closed loop can't go on.
func (f *fanRun) watch(ctx context.Context, d time.Duration) error {
	end := time.Now().Add(d)
	last, lastMoved := int64(-1), time.Now()
	for {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		if err := f.e.wait(ctx, min(left, 250*time.Millisecond)); err != nil {
			return err
		}
		_, got, err := f.progress(ctx)
		if err != nil {
			return err
		}
		if got != last {
			last, lastMoved = got, time.Now()
			continue
		}
		t, err := f.tallies(ctx)
		if err != nil {
			return err
		}
		if t.failure != "" {
			return fmt.Errorf("nothing is delivered any more: %s", t.failure)
		}
		if f.Rate == 0 && time.Since(lastMoved) > stall {
			return fmt.Errorf("nothing was delivered for %v: messages were lost, or the server hangs", stall)
		}
	}
}

// settle waits for what is on its way and returns how many messages never came.
func (f *fanRun) settle(ctx context.Context) (missing int64, err error) {
	last, lastMoved := int64(-1), time.Now()
	for {
		owed, got, err := f.progress(ctx)
		if err != nil || got >= owed {
			return 0, err
		}
		if got != last {
			last, lastMoved = got, time.Now()
		} else if time.Since(lastMoved) > 2*time.Second {
			return owed - got, nil
		}
		if err := f.e.wait(ctx, 20*time.Millisecond); err != nil {
			return 0, err
		}
	}
}
