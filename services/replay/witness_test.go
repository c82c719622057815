package replay

import (
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestWitness(t *testing.T) {
	at := func(seq int64) wire.Position { return wire.Position{Seq: seq, Ts: 1000 + seq} }
	for _, c := range []struct {
		name       string
		do         func(x *index)
		p, present int64
		lost, none bool
	}{
		{"not known from where on it is whole", func(*index) {}, 0, 0, false, false},
		{"nothing came", func(x *index) { x.complete(1) }, 4, 0, false, true},
		{"it began later", func(x *index) { x.complete(6) }, 4, 0, false, false},
		{"it began right behind", func(x *index) { x.complete(5) }, 4, 0, false, true},
		{"others came", func(x *index) { x.complete(1); x.add("b", at(5), false); x.add("b", at(6), false) }, 4, 0, false, true},
		{"one came and is there", func(x *index) { x.complete(1); x.add("a", at(5), false) }, 4, 0, false, true},
		{"one came and is not there", func(x *index) { x.complete(1); x.add("a", at(5), false) }, 4, 5, true, false},
		{"one came later than it was not there", func(x *index) { x.complete(1); x.add("b", at(5), false); x.add("a", at(6), false) }, 4, 5, false, true},
		{"one was there before", func(x *index) { x.add("a", at(4), false); x.complete(1); x.raise(5) }, 4, 4, false, true},
		{"one came and went with the stream's beginning", func(x *index) { x.complete(1); x.add("a", at(5), false); x.raise(6) }, 4, 0, true, false},
		{"one was found to be gone", func(x *index) { x.add("a", at(5), false); x.evicted("a", 5) }, 4, 0, true, false},
		{"more came than are kept", func(x *index) {
			x.complete(1)
			for seq := range int64(4) {
				x.add("a", at(5+seq), false)
			}
		}, 4, 0, true, false},
		{"one of another topic is forgotten", func(x *index) { x.complete(1); x.add("b", at(5), false); x.raise(6); x.prune() }, 4, 0, false, false},
		{"and then one comes", func(x *index) {
			x.complete(1)
			x.add("b", at(5), false)
			x.raise(6)
			x.prune()
			x.add("a", at(6), false)
		}, 4, 0, false, false},
		{"one of another topic is forgotten, the topic is known", func(x *index) {
			x.complete(1)
			x.add("b", at(5), false)
			x.add("a", at(6), false)
			x.raise(6)
			x.prune()
		}, 4, 0, false, true},
		{"some were gone before they came here", func(x *index) { x.complete(1); x.add("b", at(5), false); x.add("b", at(8), false) }, 4, 0, false, false},
		{"and the position is behind them", func(x *index) { x.complete(1); x.add("b", at(5), false); x.add("b", at(8), false) }, 7, 0, false, true},
		{"the stream was emptied", func(x *index) { x.complete(1); x.reached(9, 10) }, 4, 0, false, false},
	} {
		x := newIndex(3, 1<<20)
		c.do(x)
		upTo, _ := x.position()
		if lost, none := x.witness("a", c.p, c.present, upTo); lost != c.lost || none != c.none {
			t.Errorf("%s: lost %v, none %v; want %v, %v", c.name, lost, none, c.lost, c.none)
		}
		if _, none := x.witness("a", c.p, c.present, upTo+1); none {
			t.Errorf("%s: none, although it is not that far", c.name)
		}
	}
}

// watched waits until the index of a stream knows from where on it is whole.
func watched(t *testing.T, s *stream) {
	t.Helper()
	deadline, tick := time.After(10*time.Second), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		x := s.index.get()
		x.mu.Lock()
		whole := x.whole > 0
		x.mu.Unlock()
		if whole {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the index is never whole")
		}
	}
}

// A topic without messages keeps its position while others are evicted for the
// stream's bytes: the index has seen that none of its own went.
func TestAnIdleTopicKeepsItsPositionInAFullStream(t *testing.T) {
	r := Retention{Size: 1000, TTL: time.Hour, Dedupe: time.Minute, Bytes: 16 << 10}
	p := &probe{T: t, ctx: t.Context(), log: openStream(t, natsdev.Test(t), r, time.Now), clock: &movedClock{}, retention: r}
	s := p.log.(*stream)
	watched(t, s)
	// The index comes along: what is evicted before it is seen proves nothing.
	fill := func(n int) {
		t.Helper()
		for range n / 4 {
			all := p.fill("t.b", 4)
			if !s.await(p.ctx, s.index.get(), all[3].Seq) {
				t.Fatal("the index does not come along")
			}
		}
	}
	idle, busy := p.at("t.idle"), p.at("t.busy")
	for range 3 {
		fill(40)
		p.wantMessages(p.whole("t.idle", idle), nil)
	}
	all := p.fill("t.idle", 2)
	p.wantMessages(p.whole("t.idle", idle), all)
	all = p.fill("t.busy", 3)
	p.wantMessages(p.whole("t.busy", busy), all)
	fill(40)
	all = p.fill("t.busy", 1)
	p.wantMessages(p.truncated("t.busy", busy), all)
}

// A purge of one topic by hand is noticed by whoever saw the messages, also
// where nothing of the topic is left to prove anything.
func TestAPurgeByHandIsNoticedOnAnEmptyTopic(t *testing.T) {
	r := Retention{Size: 50, TTL: time.Hour, Dedupe: time.Minute}
	for name, before := range map[string]func(all []wire.Position) int64{
		"all":  func([]wire.Position) int64 { return 0 },
		"some": func(all []wire.Position) int64 { return all[2].Seq },
	} {
		s := openStream(t, natsdev.Test(t), r, time.Now)
		p := &probe{T: t, ctx: t.Context(), log: s, clock: &movedClock{}, retention: r}
		watched(t, s)
		empty, other := p.at("t.a"), p.at("t.b")
		all := p.publishN("t.a", 5)
		others := p.publishN("t.b", 1)
		p.wantMessages(p.whole("t.a", empty), all)
		if err := s.reads.purge(p.ctx, s.name, "fl.topic.t.a", before(all)); err != nil {
			t.Fatal(err)
		}
		var left []wire.Position
		if name == "some" {
			left = all[2:]
		}
		p.wantMessages(p.truncated("t.a", empty), left)
		left = append(left, p.publishN("t.a", 1)...)
		p.wantMessages(p.truncated("t.a", empty), left)
		p.wantMessages(p.whole("t.b", other), others)
	}
}

// A rule that keeps more from now on doesn't make good what the smaller one
// evicted.
func TestALargerSizeProvesNothingOfBefore(t *testing.T) {
	server := natsdev.Test(t)
	small := openStream(t, server, Retention{Size: 3, TTL: time.Hour, Dedupe: time.Minute}, time.Now)
	p := &probe{T: t, ctx: t.Context(), log: small, clock: &movedClock{}, retention: small.retention}
	full, few := p.at("t.full"), p.at("t.few")
	all, some := p.publishN("t.full", 10), p.publishN("t.few", 2)
	p.truncated("t.full", full)
	p.log = openStream(t, server, Retention{Size: 50, TTL: time.Hour, Dedupe: time.Minute}, time.Now)
	p.wantMessages(p.truncated("t.full", full), all[6:])
	p.wantMessages(p.truncated("t.full", all[5]), all[6:])
	p.wantMessages(p.whole("t.full", all[6]), all[7:])
	p.wantMessages(p.whole("t.few", few), some)
	later := p.at("t.later")
	all = p.publishN("t.later", 10)
	p.wantMessages(p.whole("t.later", later), all)
}
