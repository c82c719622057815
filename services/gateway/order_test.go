package gateway

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A publish that JetStream refused at first is stored before those that came
// behind it.
func TestRefusedPublishIsNotOvertaken(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(wildcardRules))
	r.awaitStream("FL_CHAT")
	const topic, n = "chat.a", 20
	type stored struct {
		place int
		ack   streams.Ack
		err   *wire.Error
	}
	all := make(chan stored, n)
	done := func(place int) func(streams.Ack, *wire.Error) {
		return func(ack streams.Ack, err *wire.Error) { all <- stored{place, ack, err} }
	}
	message := func() *nats.Msg {
		return &nats.Msg{Subject: "fl.topic." + topic, Data: []byte("1"), Header: nats.Header{}}
	}
	first := &storing{msg: message(), topic: topic, until: time.Now().Add(ackWait), done: done(0)}
	if r.g.acks.behind(first) {
		t.Fatal("the first publish waits behind another")
	}
	r.g.acknowledged(first, &nats.Msg{Header: nats.Header{"Status": {"503"}}})
	for i := 1; i < n; i++ {
		r.g.put(message(), topic, false, done(i))
	}
	seqs := make([]int64, n)
	for range n {
		select {
		case s := <-all:
			if s.err != nil {
				t.Fatalf("publish %d: %v", s.place, s.err)
			}
			seqs[s.place] = s.ack.Seq
		case <-time.After(patience):
			t.Fatal("a publish is not answered")
		}
	}
	if !slices.IsSorted(seqs) {
		t.Errorf("stored at %v, want in the order of the publishes", seqs)
	}
}

// Publishes are sent again in the order in which they came, not in that in which
// they were refused.
func TestRefusedPublishesKeepTheirOrder(t *testing.T) {
	a := newAcks()
	all := make([]*storing, 4)
	for i := range all[:3] {
		all[i] = &storing{topic: "chat.a"}
		if a.behind(all[i]) {
			t.Fatalf("publish %d waits, with nothing refused", i)
		}
	}
	for n, i := range []int{1, 2, 0} {
		if got, want := a.repeat(all[i]), n == 0; got != want {
			t.Errorf("publish %d is the first that was refused: %v, want %v", i, got, want)
		}
	}
	all[3] = &storing{topic: "chat.a"}
	if !a.behind(all[3]) {
		t.Error("a publish does not wait for those before it")
	}
	if a.behind(&storing{topic: "chat.b"}) {
		t.Error("a publish waits for those of another topic")
	}
	for i, want := range all {
		if got := a.following("chat.a"); got != want {
			t.Errorf("place %d has another publish", i)
		}
	}
	if got := a.following("chat.a"); got != nil || a.waiting != 0 || len(a.again) != 0 {
		t.Errorf("%v, %d waiting, %d topics; want nothing left", got, a.waiting, len(a.again))
	}
	if a.behind(&storing{topic: "chat.a"}) {
		t.Error("a publish waits with nothing before it")
	}
}
