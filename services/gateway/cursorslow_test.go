package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A topic that loses its oldest messages keeps the queue of a slow reader full for
// ever. The reader comes to see cursors nevertheless.
func TestCursorsBesideATopicThatLosesMessages(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), narrow(t, 64<<10),
		withRules(`{topics: [{match: ">", subscribe: any, publish: any, slow: drop-oldest, cursors: {}}]}`))
	nc, p := r.bus(), r.dial(narrowly)
	p.hello("")
	p.subscribe(2, "flood")
	c := r.stall(t, nc, 50<<10)
	p.send(`{"op":"subscribe","id":3,"topic":"c","cursors":true}`)
	eventually(t, "cursors are sent", func() bool { return r.g.metrics.cursorFrames.Load() > 0 })
	if got := c.out.Queued(); got <= 16<<10 {
		t.Errorf("only %d bytes waited meanwhile", got)
	}
	if f := p.cursorFrame(1 << 10); f.All == nil {
		t.Errorf("got %s, want where all are", f.Raw)
	}
}

// Who ends the cursors of a topic hears no more of them when that is answered, and
// who begins them nothing before.
func TestCursorsEndBeforeTheAnswer(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(`{topics: [{match: ">", subscribe: any, cursors: {}}]}`))
	p := r.dial()
	p.hello("")
	p.subscribe(2, "doc.1")
	var c *connection
	r.g.fanout.hub.find(r.g.fanout.hub.shard("fl.topic.doc.1"), "fl.topic.doc.1").each(func(only *connection) { c = only })
	for _, cursors := range []bool{true, false, true} {
		done, err := c.replaceCursors(&wire.Frame{Op: wire.OpSubscribe, Topic: "doc.1", Cursors: cursors})
		if err != nil {
			t.Fatal(err)
		}
		answered := false
		done(true, func() {
			answered = true
			if o := r.g.cursors.watching(c, "doc.1"); (o != nil) != cursors || o != nil && !o.waits {
				t.Errorf("cursors %v: at the answer the watcher is %+v", cursors, o)
			}
		})
		if o := r.g.cursors.watching(c, "doc.1"); !answered || (o != nil) != cursors || o != nil && o.waits {
			t.Errorf("cursors %v: behind the answer (%v) the watcher is %+v", cursors, answered, o)
		}
	}
}

// heldTopic returns a topic with its mutex held, once the first client of it is
// a watcher of it.
func (r *rig) heldTopic(t *testing.T, topic string, watchers int) *cursorTopic {
	t.Helper()
	var held *cursorTopic
	eventually(t, "all watch", func() bool {
		if held = r.g.cursors.of(topic); held == nil {
			return false
		}
		held.mu.Lock()
		if len(held.watchers) == watchers && len(held.behind) == 0 {
			return true
		}
		held.mu.Unlock()
		return false
	})
	return held
}

// Watchers who are each behind by something else are told some at a time.
func TestCursorsOfManyWhoAreBehind(t *testing.T) {
	const watchers = cursorPages + 4
	r := startGateway(t, natsdev.Test(t), withRules(`{topics: [{match: ">", subscribe: any, cursors: {}}]}`))
	o := newOther(t, r, "other", "doc.1")
	for range watchers {
		p := r.dial()
		p.hello("")
		p.send(`{"op":"subscribe","id":2,"topic":"doc.1","cursors":true}`)
		p.expect(`{"id":2,"ok":{"topic":"doc.1"}}`)
	}
	o.hears() // the question of a gateway that listens
	o.say("fl.cursor.doc.1", wire.CursorMessage{Moved: manyCursors(watchers, "1")})
	eventually(t, "the cursors are there", func() bool { _, there := r.g.cursors.size(); return there == watchers })
	held := r.heldTopic(t, "doc.1", watchers)
	since := held.board.version - watchers
	for _, o := range held.watchers {
		o.since = since
		held.behind[o] = struct{}{}
		since++
	}
	now := time.Now()
	for _, want := range []int{watchers - cursorPages, 0} {
		if r.g.cursors.catchUp(held, now); len(held.behind) != want {
			t.Errorf("%d are still behind, want %d", len(held.behind), want)
		}
	}
	held.mu.Unlock()
}

// Many who ask at a time hear one answer together, a few one each; without a copy
// of it for each.
func TestManyAskForCursorsAtATime(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(`{topics: [{match: ">", subscribe: any, cursors: {}}]}`))
	p := r.dial()
	p.hello("")
	p.send(`{"op":"subscribe","id":2,"topic":"doc.1","cursors":true}`)
	p.expect(`{"id":2,"ok":{"topic":"doc.1"}}`)
	held := r.heldTopic(t, "doc.1", 1)
	defer held.mu.Unlock()
	held.ask, held.whole = false, false
	for _, c := range []struct {
		answers []string
		whole   bool
		want    string
	}{
		{[]string{"_INBOX.a", "_INBOX.b"}, false, "[_INBOX.a _INBOX.b]"},
		{[]string{"_INBOX.a", "_INBOX.b", "_INBOX.c"}, false, "[fl.cursor.doc.1]"},
		{[]string{"_INBOX.a"}, true, "[fl.cursor.doc.1]"},
		{nil, true, "[fl.cursor.doc.1]"},
	} {
		held.answers, held.whole = c.answers, c.whole
		msgs, err := r.g.cursors.compose(held, time.Now(), false)
		var got []string
		for _, m := range msgs {
			if got = append(got, m.Subject); &m.Data[0] != &msgs[0].Data[0] {
				t.Error("an answer was encoded twice")
			}
		}
		if err != nil || fmt.Sprint(got) != c.want || len(held.answers) > 0 || held.whole {
			t.Errorf("to %v, whole %v: answers to %v (%v), want %s", c.answers, c.whole, got, err, c.want)
		}
	}
}

// What was lost while no connection was comes to light by a roll call: every
// gateway says all it has, and what none says is gone.
func TestCursorRollCall(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(`{topics: [{match: ">", subscribe: any, cursors: {throttle: 0s}}]}`),
		func(cfg *Config, _ *Deps, _ *rules.Options) { cfg.GatewayLease = time.Hour }) // the other one has none
	o := newOther(t, r, "other", "doc.1")
	p := r.dial()
	_, user, _ := p.hello("")
	p.send(`{"op":"subscribe","id":2,"topic":"doc.1","cursors":true}`)
	p.expect(`{"id":2,"ok":{"topic":"doc.1"}}`)
	p.send(`{"op":"cursor","id":3,"topic":"doc.1","data":1}`)
	// The gateway listens a moment after it has answered, and nobody here answers what it asks then.
	eventually(t, "three are there", func() bool {
		o.say("fl.cursor.doc.1", wire.CursorMessage{Moved: moves(5, "1", "ann", "bob")})
		_, there := r.g.cursors.size()
		return there == 3
	})
	whole := func() *wire.CursorMessage {
		for {
			if m, _ := o.hears(); m.Whole {
				return m
			}
		}
	}
	held := r.g.cursors.of("doc.1")
	held.mu.Lock()
	if due := time.Until(held.rollAt); due < cursorRoll/2 || due > 2*cursorRoll {
		t.Errorf("a roll call is due in %s", due)
	}
	held.rollAt = time.Time{}
	held.mu.Unlock()
	for called := false; !called; {
		m, reply := o.hears()
		called = m.Ask && reply == ""
	}
	if m := whole(); len(m.Moved) != 1 || m.Moved[0].User != user {
		t.Errorf("the gateway says %+v, want its own cursor", m)
	}
	o.say("fl.cursor.doc.1", wire.CursorMessage{Whole: true, Moved: moves(6, "2", "bob")}) // ann's end was lost, and where bob went
	eventually(t, "one is gone", func() bool { _, there := r.g.cursors.size(); return there == 2 })

	// Another gateway calls, and this one answers all.
	if err := o.nc.PublishMsg(&nats.Msg{Subject: "fl.cursor.doc.1", Data: messageBytes(&wire.CursorMessage{Gateway: "third", Ask: true})}); err != nil {
		t.Fatal(err)
	}
	for m := whole(); len(m.Moved) != 1 || m.Moved[0].User != user; m = whole() {
		t.Errorf("the gateway says %+v, want its own cursor", m)
	}
	held.mu.Lock()
	defer held.mu.Unlock()
	if due := time.Until(held.rollAt); due < cursorRoll-patience {
		t.Errorf("a roll call is due in %s although there was one", due)
	}
}
