package gateway

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// departed takes the connection, which has ended, off its topics: at once where
// it said so, else after the delay that the topic's rule leaves for a return.
//
// While the gateway drains everybody leaves, and nobody means to.
func (c *connection) departed(clean bool) {
	c.mu.Lock()
	attending := c.presence
	c.presence = nil
	c.mu.Unlock()
	user := c.user()
	clean = clean && !c.g.draining.Load()
	for topic, a := range attending {
		if a.watching {
			c.g.rooms.unwatch(c, topic, 0)
		}
		if !a.joined {
			continue
		}
		delay := c.g.leaveDelay(topic)
		switch {
		case delay == 0, clean:
			c.g.roster.change(topic, user, func(s *section) bool { return s.leave(c.id) }, "", nil)
		default:
			// Whoever a draining gateway has asked to go is expected elsewhere, in
			// whatever way they went. It may be gone itself before the delay is
			// over: then its last lease ends what has not come back.
			c.g.roster.change(topic, user, func(s *section) bool { return s.lose(c.id) }, "", nil)
			c.g.departures.add(departure{at: time.Now().Add(delay), topic: topic, user: user, conn: c.id})
		}
	}
	if c.direct != nil {
		c.g.roster.change("", user, func(s *section) bool { return s.leave(c.id) }, "", nil)
	}
}

// leaveDelay is how long a topic's rule leaves for a return.
func (g *Service) leaveDelay(topic string) time.Duration {
	if rule := g.rules.Current().Topic(topic); rule != nil && rule.Presence != nil {
		return rule.Presence.LeaveDelay
	}
	return 0
}

// farewell waits until what the gateway has to say of its users is stored, and
// says how long its word holds without it.
func (g *Service) farewell() {
	ctx, cancel := context.WithTimeout(context.Background(), flushWait)
	defer cancel()
	g.groups.farewell(ctx)
	if g.dependencies.presence.answers() { // else the lease says it, by its end
		g.roster.wait(ctx)
	}
	longest := time.Duration(0)
	for _, topic := range g.roster.topics() {
		longest = max(longest, g.leaveDelay(topic))
	}
	g.lease.final(ctx, longest)
}

// departure is a connection that was lost, and when it counts no more.
type departure struct {
	at                time.Time
	topic, user, conn string
}

// departures wait for their time, the earliest first.
type departures struct {
	roster *roster
	wake   chan struct{}

	mu      sync.Mutex
	waiting departureHeap
}

func newDepartures(r *roster) *departures {
	return &departures{roster: r, wake: make(chan struct{}, 1)}
}

func (d *departures) add(one departure) {
	d.mu.Lock()
	heap.Push(&d.waiting, one)
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run takes out who has not come back until ctx is done. Who is left then is
// taken out when the gateway's last lease is over.
func (d *departures) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		due, next := d.due(now)
		for _, one := range due {
			d.roster.change(one.topic, one.user, func(s *section) bool { return s.expire(one.conn) }, "", nil)
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-d.wake:
		}
	}
}

// due returns those whose time has come, and how long it is until the next.
func (d *departures) due(now time.Time) (due []departure, next time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.waiting) > 0 && !d.waiting[0].at.After(now) {
		due = append(due, heap.Pop(&d.waiting).(departure))
	}
	if len(d.waiting) == 0 {
		return due, time.Hour
	}
	return due, d.waiting[0].at.Sub(now)
}

// departureHeap implements [heap.Interface].
type departureHeap []departure

func (h departureHeap) Len() int           { return len(h) }
func (h departureHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h departureHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *departureHeap) Push(x any)        { *h = append(*h, x.(departure)) }

func (h *departureHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = departure{}
	*h = old[:len(old)-1]
	return last
}
