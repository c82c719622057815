package presence

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// hanging is a store whose writes nobody answers.
type hanging struct{ Store }

func (hanging) Put(ctx context.Context, _ kv.Write) (uint64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// A gateway whose sections can't be taken out holds up the sweep for a moment.
func TestTakeOutIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Namespace: "fl"}, Deps{Rules: rulesOf(t, seatRules)})
		if err != nil {
			t.Fatal(err)
		}
		s.build(func(string) Store { return hanging{newMemory(time.Now)} })
		s.topics.view = newView()
		for i := range 10 * sweepsAtOnce {
			s.topics.view.apply(sectionEntry(t, uint64(i+1), wire.PresenceSection{Topic: "open.a", User: fmt.Sprint("u", i), Gateway: "g", Conns: conns("c")}))
		}
		began := time.Now()
		if found := s.takeOut(context.Background(), s.topics, "g", func(*wire.PresenceSection) bool { return true }); found != 10*sweepsAtOnce {
			t.Errorf("found %d", found)
		}
		if took := time.Since(began); took > takeOutFor {
			t.Errorf("it took %s, want at most %s", took, takeOutFor)
		}
	})
}

// What a dead gateway left is looked through when something of it is due, and
// when it has said anything since.
func TestBurialRests(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	var d deaths
	d.of("g", now)
	in := newSections(nil)
	in.view = newView()
	section := wire.PresenceSection{Topic: "a", User: "ann", Gateway: "g", Epoch: 5, Conns: conns("c")}
	in.view.apply(sectionEntry(t, 1, section))
	b := burial{topics: in.standing("g"), epoch: 5, from: now}
	if d.rests("g", b, now) {
		t.Error("it was never looked through")
	}
	d.rest("g", b, now.Add(time.Minute))
	if !d.rests("g", b, now.Add(time.Minute-1)) || d.rests("g", b, now.Add(time.Minute)) {
		t.Error("it does not rest until something is due")
	}
	section.User = "bob"
	in.view.apply(sectionEntry(t, 2, section))
	b.topics = in.standing("g")
	if d.rests("g", b, now) {
		t.Error("something has come since")
	}
}

// Sections of an older epoch of a living gateway are looked for by epoch.
func TestHoldsByEpoch(t *testing.T) {
	in := newSections(nil)
	in.view = newView()
	put := func(revision uint64, user string, epoch uint64, ids ...string) {
		in.view.apply(sectionEntry(t, revision, wire.PresenceSection{Topic: "a", User: user, Gateway: "g", Epoch: epoch, Conns: conns(ids...)}))
	}
	old := func(epoch uint64) bool { return epoch < 7 }
	put(1, "ann", 5, "c")
	put(2, "bob", 7, "c")
	if !in.holds("g", old) || in.epoch("g") != 7 {
		t.Errorf("ann's is of epoch 5, the newest is %d", in.epoch("g"))
	}
	put(3, "ann", 7, "c")
	put(4, "cid", 5)
	if in.holds("g", old) {
		t.Error("nobody is there in an older epoch")
	}
}
