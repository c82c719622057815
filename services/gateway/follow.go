package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// follow makes an interest listen where the rule of its topic puts messages: on
// the log of a replayed topic, else on the topic itself. The new subject is
// subscribed before the old one is left.
func (g *Service) follow(in *interest, rule *rules.Topic) {
	in.flip.Lock()
	defer in.flip.Unlock()
	if in.ended() {
		return
	}
	replays := rule != nil && rule.Replay != nil
	if in.sub.Load() != nil && in.replays.Load() == replays {
		g.retain(in, rule)
		return
	}
	alias := ""
	if replays {
		var err error
		if alias, err = g.cfg.Namespace.Seq(in.topic); err != nil {
			return // a topic whose subject fits has one that fits here: it is shorter
		}
	}
	old, err := g.change(in, rule, alias)
	if err != nil {
		g.log.Warn("subscribe", "err", err)
		return
	}
	if replays {
		g.mender.spawn(func(ctx context.Context) { g.start(ctx, in) })
	}
	if old == nil {
		return
	}
	g.mender.spawn(func(ctx context.Context) {
		waiting, cancel := context.WithTimeout(ctx, flushWait)
		defer cancel()
		if err := g.fanout.waitLive(waiting, in); err != nil {
			g.log.Warn("subscription is not confirmed after a change of rules", "err", err)
		}
		if err := g.fanout.end(old); err != nil {
			g.log.Warn("unsubscribe", "err", err)
		}
	})
}

// change subscribes an interest by alias, or by its own subject where that is
// empty, and returns the subscription that was there before. What comes over
// that one is dropped from here on, and what is published before the server has
// the new one is lost: so members are told here, between the last message of
// the old and the first of the new.
func (g *Service) change(in *interest, rule *rules.Topic, alias string) (old *subscription, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.trail != nil {
		in.trail.forget()
		in.trail.finish()
		in.trail = nil
	}
	if alias != "" {
		in.trail = newTrail(rule.Stream(g.cfg.Namespace), rule.Replay.Size, rule.Replay.TTL, &g.rings)
	}
	in.replays.Store(alias != "")
	if old, err = g.fanout.listen(in, alias); err != nil || old == nil {
		return old, err
	}
	for _, m := range in.members {
		m.skip, m.ahead = nil, wire.Position{}
		m.conn.out.Send(wire.AppendTruncated(nil, in.topic, 1))
	}
	return old, nil
}

// eachOf is [interest.each] for a message that came over a subscription, unless
// a change of rules has put another in its place.
func (in *interest) eachOf(sub *subscription, fn func(*connection)) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.kind == kindTopic && in.sub.Load() != sub {
		return 0
	}
	for _, m := range in.members {
		fn(m.conn)
	}
	return len(in.members)
}

// ended reports whether an interest is out of the hub: what it subscribed now
// nobody would end.
func (in *interest) ended() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.closed
}

// retain takes over what a changed rule retains.
func (g *Service) retain(in *interest, rule *rules.Topic) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.trail != nil && rule != nil && rule.Replay != nil {
		t := in.trail
		t.size, t.ttl = rule.Replay.Size, rule.Replay.TTL
		if stream := rule.Stream(g.cfg.Namespace); t.stream != stream {
			t.stream = stream // another log: where it is has to be looked for
			if !t.mending {
				t.mending = true
				g.mend(in)
			}
		}
	}
}

// start looks up where a topic's log is, once its subscription is live, and
// again a moment later: in a cluster the interest spreads behind the server's
// word, and what was stored meanwhile never came.
func (g *Service) start(ctx context.Context, in *interest) {
	waiting, cancel := context.WithTimeout(ctx, flushWait)
	err := g.fanout.waitLive(waiting, in)
	cancel()
	if err == nil || ctx.Err() == nil {
		g.mendTrail(ctx, in)
	}
	g.checks.add(in, time.Now().Add(followUp))
}

const (
	// followUp is when the head of a new subscription is looked at again.
	followUp = time.Second
	// sweepEvery is how often all heads are.
	sweepEvery  = time.Minute
	checkEvery  = 100 * time.Millisecond
	headsAtOnce = 256
	// skipEvery is how long a withheld position may wait for the next message.
	skipEvery = 250 * time.Millisecond
)

// checklist is the interests whose heads are to be compared with the log.
type checklist struct {
	mu  sync.Mutex
	due map[*interest]time.Time
}

func (l *checklist) add(in *interest, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.due == nil {
		l.due = map[*interest]time.Time{}
	}
	if old, ok := l.due[in]; !ok || at.Before(old) {
		l.due[in] = at
	}
}

func (l *checklist) take(now time.Time) (all []*interest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for in, at := range l.due {
		if !at.After(now) {
			all = append(all, in)
			delete(l.due, in)
		}
	}
	return all
}

// skipping is the interests with positions that wait to be sent.
type skipping struct {
	mu  sync.Mutex
	all []*interest
}

func (s *skipping) add(in *interest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, in)
}

func (s *skipping) flush() {
	s.mu.Lock()
	all := s.all
	s.all = nil
	s.mu.Unlock()
	for _, in := range all {
		in.mu.Lock()
		for _, m := range in.skipped {
			m.sendSkip()
		}
		in.skipped = nil
		in.mu.Unlock()
	}
}
