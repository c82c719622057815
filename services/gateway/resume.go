package gateway

import (
	"context"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// resumption is a subscription to a replayed topic on its way to the live
// messages: how it begins, and what it is sent first.
type resumption struct {
	asked    bool          // the client named a position, or wanted the newest
	from     wire.Position // where it begins
	known    bool          // from is known
	head     int64         // it has caught up there
	complete bool          // nothing after the client's position is gone
	missing  int64         // the first that is gone; 0: none
	reason   string        // why it is not complete, where nothing is known to be gone
	page     *wire.ReplayPage
}

// begin waits until the trail of an interest has been looked for, so that its
// position is known, or cannot be had.
func (g *Service) begin(ctx context.Context, in *interest) {
	in.mu.Lock()
	var begun []<-chan struct{}
	if in.trail != nil {
		begun = append(begun, in.trail.begun)
	}
	for _, t := range in.tracks {
		begun = append(begun, t.begun)
	}
	in.mu.Unlock()
	for _, ch := range begun {
		select {
		case <-ch:
		case <-ctx.Done():
			return
		}
	}
}

// prepare finds out how a subscription begins. Where the ring of the topic has
// what the client missed nobody else is asked.
func (g *Service) prepare(ctx context.Context, in *interest, p *pendingSubscribe) *resumption {
	g.begin(ctx, in)
	r := &resumption{asked: p.hasAfter || p.last > 0, complete: true}
	in.mu.Lock()
	t := in.trail
	if t == nil {
		in.mu.Unlock()
		r.complete = !r.asked
		return r
	}
	r.from, r.known, r.head = t.at, t.known, t.at.Seq
	if !r.asked {
		in.mu.Unlock()
		return r
	}
	in.mu.Unlock()
	var page *wire.ReplayPage
	var err error
	if p.last > 0 {
		g.dependencies.replay.await(ctx)
		page, err = g.patient(ctx, wire.ReplaySinceRequest{Topic: in.topic, Last: p.last})
	} else {
		var hit bool
		if page, hit, err = g.missed(ctx, in, t, p.after); hit {
			r.from, r.known = p.after, true
			return r
		}
	}
	if err != nil {
		e := wire.AsError(err)
		g.metrics.unrecovered.Add(1)
		r.complete, r.reason = false, string(e.Code)
		if p.hasAfter {
			r.missing = p.after.Seq + 1
		}
		return r
	}
	r.page, r.from, r.known, r.head = page, page.Base, true, page.Head.Seq
	if page.At.Seq < page.Base.Seq {
		r.from = page.At // a position past the head is of another log: what comes now is behind it
	}
	if page.Truncated {
		r.complete, r.missing = false, page.MissingFrom
	}
	return r
}

// subscribed is the ok value of a subscription that begins so.
func (r *resumption) subscribed(topic string) []byte {
	return wire.AppendSubscribed(nil, &wire.Subscribed{
		Topic: topic, At: r.from, HasAt: r.known, Resumed: r.asked, Complete: r.complete,
		Head: r.head, Missing: r.missing, Reason: r.reason,
	})
}

// attach answers a subscribe and lets its messages in: what the client missed,
// then the live ones, each once and in order.
func (c *connection) attach(p *pendingSubscribe, r *resumption) *member {
	in := p.in
	m := &member{conn: c, in: in, index: -1}
	in.mu.Lock()
	defer in.mu.Unlock()
	t := in.trail
	if t == nil || !r.asked {
		// The position may have moved on since it was looked up, or the rule has
		// stopped to replay the topic.
		if t != nil {
			r.from, r.known = t.at, t.known
		} else {
			r = &resumption{asked: r.asked, complete: !r.asked}
		}
		c.begun(p, r)
		in.enter(m)
		return m
	}
	c.begun(p, r)
	if r.missing > 0 {
		c.g.metrics.truncations.Add(1)
		c.out.Send(wire.AppendTruncated(nil, p.topic, r.missing))
	}
	if r.page == nil && r.reason != "" {
		in.enter(m) // nobody can read the past: live messages only
		return m
	}
	catch := &catchUp{m: m, at: r.from, rule: in.rule.Load()}
	if r.page != nil {
		catch.todo, catch.more = r.page.Messages, r.page.More
	}
	if catch.advance() {
		return m
	}
	if len(catch.todo) > 0 && (catch.at.Ts != 0 || catch.at.Seq == 0) {
		// A connection may begin many topics and read none: what it does not
		// take now is read again in its turn.
		catch.todo, catch.more = nil, true
	}
	m.catch = catch
	if !c.g.mender.spawn(catch.run) {
		m.left = true
	}
	return m
}

// begun answers a subscribe. What the subscription brings does not take the place
// of messages that wait in front of the answer.
func (c *connection) begun(p *pendingSubscribe, r *resumption) {
	c.ok(p.id, r.subscribed(p.topic))
	c.out.Fence()
}

// catchUp brings a member from a position to the live messages. What it owes is
// paced by the connection: it never fills more than a quarter of its queue.
type catchUp struct {
	m    *member
	at   wire.Position
	todo []wire.ReplayMessage // read and not sent yet
	more bool                 // there is more behind them than the ring may have
	rule *rules.Topic
}

// detach takes out the members of a topic whose connections can't take a page
// of what was missed at once: each reads on at its own pace. in.mu is held.
func (g *Service) detach(in *interest, page *wire.ReplayPage) {
	size := 0
	for i := range page.Messages {
		size += len(page.Messages[i].Payload)
	}
	for i := len(in.members) - 1; i >= 0; i-- {
		m := in.members[i]
		if m.conn.out.Queued()+size <= g.cfg.Limits.OutboundBytes/4 || m.ahead.Seq > in.trail.at.Seq {
			continue
		}
		m.sendSkip()
		in.exit(m)
		catch := &catchUp{m: m, at: in.trail.at, more: true, rule: in.rule.Load()}
		m.catch = catch
		if !g.mender.spawn(catch.run) {
			m.left = true
		}
	}
}

// catchPause is how often a connection that is behind is looked at again.
const catchPause = 5 * time.Millisecond

// advance sends what the connection takes now, and reports whether the member
// has arrived, or left. in.mu is held, so that nothing comes between the last
// message of the past and the first live one.
func (u *catchUp) advance() (done bool) {
	in, c := u.m.in, u.m.conn
	if u.m.left || u.orphaned() {
		return true
	}
	room := c.g.cfg.Limits.OutboundBytes / 4
	for len(u.todo) > 0 {
		if u.waiting() > room {
			return false
		}
		m := &u.todo[0]
		u.send(trailed{at: m.Position, prev: m.Prev, frame: frameOf(in.topic, m, u.rule), exclude: m.Exclude})
		u.todo = u.todo[1:]
	}
	if u.more {
		return false
	}
	t := in.trail
	rest, ok := t.after(u.at, time.Now())
	switch {
	case ok:
		for _, e := range rest {
			if u.waiting() > room {
				return false
			}
			u.send(e)
		}
	case t.known && u.at.Seq < t.at.Seq:
		u.more = true
		return false
	case !t.known && !t.mending:
		t.reset(u.at)
	}
	if u.at.Seq > t.at.Seq {
		u.m.ahead = u.at // its live messages up to there are on their way still
	}
	u.m.catch = nil
	in.enter(u.m)
	return true
}

// waiting returns the bytes that the connection is to read before it is sent more.
// What other topics may lose makes room. What this one may lose does not: the
// peer would be told of it behind what follows.
func (u *catchUp) waiting() int {
	if u.rule != nil && u.rule.Slow == rules.DropOldest {
		return u.m.conn.out.Queued()
	}
	return u.m.conn.out.Firm()
}

// orphaned reports whether the rule has stopped to replay the topic. Then the
// member has heard of the change, and is where messages come. in.mu is held.
func (u *catchUp) orphaned() bool {
	in := u.m.in
	if in.trail != nil {
		return false
	}
	u.m.conn.out.Send(wire.AppendTruncated(nil, in.topic, u.at.Seq+1))
	u.m.catch = nil
	in.enter(u.m)
	return true
}

// send queues one message of the past, or moves the position past one that the
// same session published without wanting it back.
func (u *catchUp) send(e trailed) {
	c := u.m.conn
	u.at = e.at
	if e.exclude != "" && c.mine(e.exclude) {
		c.out.Send(wire.AppendSkip(nil, u.m.in.topic, e.at.Seq, e.prev, e.at.Ts))
		return
	}
	c.out.Send(e.frame)
	c.g.metrics.replayed.Add(1)
}

// run goes on until the member has arrived, the connection ends, or nobody can
// read the past any more.
func (u *catchUp) run(ctx context.Context) {
	in, c := u.m.in, u.m.conn
	failing := time.Time{}
	turn := false // to hold a page: the topics of a connection take turns
	yield := func() {
		if turn {
			<-c.paging
			turn = false
		}
	}
	defer yield()
	for {
		had := len(u.todo) > 0
		in.mu.Lock()
		done := u.advance()
		in.mu.Unlock()
		if done {
			return
		}
		if had && len(u.todo) == 0 {
			yield()
		}
		if len(u.todo) > 0 || !u.more || u.waiting() > c.g.cfg.Limits.OutboundBytes/4 {
			if clock.Sleep(ctx, catchPause) != nil {
				return
			}
			continue
		}
		if !turn {
			select {
			case c.paging <- struct{}{}:
				turn = true
			case <-ctx.Done():
				return
			}
			continue // the turn may have taken long
		}
		in.mu.Lock()
		var reached int64 // by the gateway itself, before it asks
		if t := in.trail; t != nil && t.known {
			reached = t.at.Seq
		}
		in.mu.Unlock()
		page, err := c.g.past(ctx, wire.ReplaySinceRequest{Topic: in.topic, After: u.at.Seq, Ts: u.at.Ts, Limit: maxHistory})
		switch {
		case err == nil:
			failing = time.Time{}
			u.take(page, reached)
			if len(page.Messages) == 0 {
				yield()
			}
			if len(page.Messages) == 0 && clock.Sleep(ctx, catchPause) != nil {
				return
			}
		case refused(err):
			u.abandon()
			return
		case failing.IsZero():
			failing = time.Now()
			fallthrough
		case time.Since(failing) < mendPatience || !c.g.link.up():
			if clock.Sleep(ctx, mendPause) != nil {
				return
			}
		default:
			u.abandon()
			return
		}
	}
}

// take takes the next page; reached is where the gateway was before it asked.
func (u *catchUp) take(page *wire.ReplayPage, reached int64) {
	in := u.m.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if u.m.left {
		return
	}
	if page.Truncated {
		u.m.conn.g.metrics.truncations.Add(1)
		u.m.conn.out.Send(wire.AppendTruncated(nil, in.topic, page.MissingFrom))
		u.at = page.Base
	}
	u.todo, u.more = page.Messages, page.More
	if len(page.Messages) == 0 && !page.More && !page.Truncated && page.At.Seq > u.at.Seq {
		u.at = page.At // nothing came in between: the topic has no message that could move it
	}
	if t := in.trail; t != nil && t.known && !t.mending && page.Head.Seq < reached {
		// The log ends before the gateway's own position: it is another one.
		t.mending = true
		u.m.conn.g.mend(in)
	}
}

// abandon says that the rest of the past can't be had, and lets live messages
// in.
func (u *catchUp) abandon() {
	in := u.m.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if u.m.left || u.orphaned() {
		return
	}
	u.m.conn.g.metrics.unrecovered.Add(1)
	u.m.conn.out.Send(wire.AppendTruncated(nil, in.topic, u.at.Seq+1))
	u.m.catch = nil
	in.enter(u.m)
}

// mine reports whether a message that was not to come back to a
// connection was published by this session, over this connection or an earlier
// one: the ids of a session's connections begin alike.
func (c *connection) mine(exclude string) bool {
	return exclude == c.id || c.kin != "" && strings.HasPrefix(exclude, c.kin)
}
