package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// cursorMessage bounds a message to other gateways.
	cursorMessage = 256 << 10
	// cursorGather is how long the other gateways have to say where their
	// cursors are before a topic's first watcher is told; what comes later is a
	// move like any other.
	cursorGather = 50 * time.Millisecond
	// cursorAskAgain is when they are asked once more: in a cluster interest
	// takes a moment to spread, and what was said meanwhile did not come.
	cursorAskAgain = 2 * time.Second
	// cursorAnswer is how long a gateway that was asked has to answer until it
	// counts as one that has none.
	cursorAnswer = 5 * time.Second
	// cursorAnswers bounds the gateways that wait for an answer on one topic.
	cursorAnswers = 256
	// cursorInboxes is how many of them are answered one by one; more are all told
	// at once.
	cursorInboxes = 2
	// cursorRoll is the time from one roll call of a topic to the next, and half of
	// it again by chance.
	cursorRoll = 30 * time.Second
	// cursorLook is the longest time between two looks at the leases of gateways
	// that have cursors and say nothing.
	cursorLook = 2 * time.Second
)

// meet asks the other gateways for a topic's cursors, once what they say can be
// heard; t.mu is held.
func (cs *cursors) meet(t *cursorTopic) {
	spawned := cs.g.mender.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, flushWait)
		defer cancel()
		err := cs.g.fanout.waitLive(ctx, t.in)
		cs.with(t, func(now time.Time) {
			t.againAt = now.Add(cursorAskAgain)
			if t.ask = err == nil; !t.ask {
				t.all()
			}
		})
	})
	if !spawned {
		t.all()
	}
}

// all notes that what is known of other gateways is what watchers begin with;
// t.mu is held.
func (t *cursorTopic) all() { t.gathered, t.caughtAt = true, time.Time{} }

// hear takes a message of another gateway; without a topic it is an answer,
// which names its own.
func (cs *cursors) hear(topic string, msg *nats.Msg) {
	m, err := wire.DecodeCursorMessage(msg.Data)
	if err != nil {
		cs.g.metrics.malformed.Add(1)
		return
	}
	if m.Gateway == cs.g.id {
		return
	}
	if topic == "" {
		topic, m.Ask = m.Topic, false
	}
	t := cs.of(topic)
	cs.with(t, func(now time.Time) {
		switch {
		case !m.Ask:
			cs.g.metrics.cursorRefusals.Add(int64(t.board.hear(m, now)))
		case msg.Reply == "":
			t.rollCall(now)
		case !cs.g.guard.MayReply(msg.Reply):
			cs.g.metrics.badReplies.Add(1)
		case len(t.answers) < cursorAnswers:
			t.answers = append(t.answers, msg.Reply)
		}
	})
}

// answered takes an answer to what this gateway asked. It comes through the
// shard of its topic, in order with what the topic's own subject brings.
func (cs *cursors) answered(msg *nats.Msg) {
	cs.hear("", msg)
}

// say has a topic's news published; t.mu is held.
func (cs *cursors) say(t *cursorTopic) {
	if t.due {
		return
	}
	t.due = true
	cs.dueMu.Lock()
	cs.due = append(cs.due, t)
	cs.dueMu.Unlock()
	select {
	case cs.wake <- struct{}{}:
	default:
	}
}

// run publishes until ctx is done. A publish may wait for the socket, which
// neither a client's reader nor a shard may.
func (cs *cursors) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-cs.wake:
		}
		cs.dueMu.Lock()
		due := cs.due
		cs.due = nil
		cs.dueMu.Unlock()
		for _, t := range due {
			cs.speak(t, false)
		}
	}
}

// speak publishes what a topic has to say; with last whatever the window.
func (cs *cursors) speak(t *cursorTopic, last bool) {
	cs.saying.Lock()
	defer cs.saying.Unlock()
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	msgs, err := cs.compose(t, time.Now(), last)
	t.mu.Unlock()
	for _, m := range msgs {
		if err == nil {
			err = cs.g.requests.PublishMsg(m)
		}
	}
	cs.g.metrics.cursorMessages.Add(int64(len(msgs)))
	cs.with(t, func(now time.Time) {
		t.due = false
		if err != nil {
			t.failed, t.againAt = true, now.Add(cursorAskAgain)
		}
	})
}

var errNATSAway = errors.New("NATS is away")

// compose makes the messages that a topic has to publish; t.mu is held.
func (cs *cursors) compose(t *cursorTopic, now time.Time, last bool) (msgs []*nats.Msg, err error) {
	if !cs.g.link.up() {
		t.answers = nil
		return nil, errNATSAway
	}
	bytes := int(min(cursorMessage, cs.g.requests.MaxPayload()/2))
	add := func(subject, reply string, m wire.CursorMessage, moved, gone []byte) {
		m.Gateway = cs.g.id
		data := wire.AppendCursorMessage(make([]byte, 0, len(moved)+len(gone)+len(m.Topic)+128), &m, moved, gone)
		msgs = append(msgs, &nats.Msg{Subject: subject, Reply: reply, Data: data})
	}
	if t.roll {
		t.roll = false
		t.rollCall(now)
		add(t.in.subject, "", wire.CursorMessage{Ask: true}, nil, nil)
	}
	if t.ask {
		t.ask, t.dropAt = false, now.Add(cursorAnswer)
		if t.gatherBy.IsZero() {
			t.gatherBy = now.Add(cursorGather)
		}
		t.board.question()
		add(t.in.subject, cs.g.fanout.shards[t.in.shard].inbox, wire.CursorMessage{Ask: true}, nil, nil)
	}
	if to := t.answers; t.whole || len(to) > 0 {
		if t.whole || len(to) > cursorInboxes { // who asks listens there too
			to = []string{t.in.subject}
		}
		t.whole, t.answers = false, nil
		pages := t.board.snapshot(bytes, now)
		for i, page := range pages {
			add(to[0], "", wire.CursorMessage{Topic: t.topic, Whole: true, Page: int64(i), More: i < len(pages)-1}, page.moved, page.gone)
			for _, subject := range to[1:] {
				msgs = append(msgs, &nats.Msg{Subject: subject, Data: msgs[len(msgs)-1].Data})
			}
		}
	}
	for len(t.board.untold) > 0 && (last || !now.Before(t.toldAt.Add(t.window))) {
		if page := t.board.untoldPage(bytes, now); page.count > 0 {
			add(t.in.subject, "", wire.CursorMessage{}, page.moved, page.gone)
			if t.toldAt = now; t.window > 0 && !last {
				break
			}
		}
	}
	return msgs, nil
}

// refresh asks the other gateways again for what was not heard; with retell they
// are told all that is here too.
func (cs *cursors) refresh(retell bool) {
	for _, t := range cs.all() {
		cs.with(t, func(time.Time) {
			t.ask = true
			t.whole = t.whole || retell
		})
	}
}

// farewell publishes what is left, and ends all timers. No connection is left.
func (cs *cursors) farewell() {
	for _, t := range cs.all() {
		cs.speak(t, true)
	}
	cs.mu.Lock()
	cs.closed = true
	for topic, t := range cs.topics {
		t.mu.Lock()
		t.closed = true
		cs.disarm(t)
		t.mu.Unlock()
		delete(cs.topics, topic)
	}
	cs.mu.Unlock()
	cs.timers.Wait()
}

// look takes away the cursors of gateways that died until ctx is done: those of
// which nothing is heard and whose lease is over. A lease that can't be read
// changes nothing.
func (cs *cursors) look(ctx context.Context) {
	lease := cs.g.cfg.GatewayLease
	bucket := kv.Open(cs.g.reads, cs.g.cfg.Namespace, "gateways")
	tick := time.NewTicker(min(lease/2, cursorLook))
	defer tick.Stop()
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return
		case now = <-tick.C:
		}
		if !cs.g.link.up() {
			continue
		}
		cs.callRolls(now)
		for id := range cs.silent(now.Add(-lease / 2)) {
			e, err := bucket.Get(ctx, wire.EscapeToken(id))
			if !errors.Is(err, kv.ErrNotFound) && (err != nil || !e.Deleted) {
				continue
			}
			cs.g.log.Info("a gateway with cursors is gone", "other", id)
			for _, t := range cs.all() {
				cs.with(t, func(at time.Time) {
					if g := t.board.gateways[id]; g != nil && g.heard.Before(now) {
						t.board.forget(id, at)
					}
				})
			}
		}
	}
}

// callRolls has every gateway of a topic, this one too, say all it has, once in a
// while: what was lost on its way, while no connection was, comes to light so.
func (cs *cursors) callRolls(now time.Time) {
	for _, t := range cs.all() {
		t.mu.Lock()
		due := t.board.there > 0 && now.After(t.rollAt)
		t.mu.Unlock()
		if due {
			cs.with(t, func(time.Time) { t.roll = true })
		}
	}
}

// rollCall notes that all gateways are asked for all they have; t.mu is held.
func (t *cursorTopic) rollCall(now time.Time) {
	t.whole, t.dropAt = true, now.Add(cursorAnswer)
	t.rollAt = now.Add(cursorRoll + rand.N(cursorRoll/2))
	t.board.question()
}

// silent returns the gateways with cursors of which nothing was heard since.
func (cs *cursors) silent(since time.Time) map[string]bool {
	quiet := map[string]bool{}
	for _, t := range cs.all() {
		t.mu.Lock()
		for id, g := range t.board.gateways {
			if old, ok := quiet[id]; g.cursors > 0 && (old || !ok) {
				quiet[id] = g.heard.Before(since)
			}
		}
		t.mu.Unlock()
	}
	for id, is := range quiet {
		if !is {
			delete(quiet, id)
		}
	}
	return quiet
}
