package replay

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A tail that the server has forgotten goes on where the index is: nothing is
// built again, and nothing is missing.
func TestTheIndexGoesOnBehindALostTail(t *testing.T) {
	server := natsdev.Test(t)
	s := openStream(t, server, Retention{Size: 1000, TTL: time.Hour, Dedupe: time.Minute}, time.Now)
	p := &probe{T: t, ctx: t.Context(), log: s, clock: &movedClock{}, retention: s.retention}
	watched(t, s)
	x := s.index.get()
	js, err := jetstream.New(s.publish)
	if err != nil {
		t.Fatal(err)
	}
	forget := func() {
		t.Helper()
		stream, err := js.Stream(p.ctx, s.name)
		if err != nil {
			t.Fatal(err)
		}
		names := stream.ConsumerNames(p.ctx)
		n := 0
		for name := range names.Name() {
			if err := stream.DeleteConsumer(p.ctx, name); err != nil {
				t.Fatal(err)
			}
			n++
		}
		if names.Err() != nil || n != 1 {
			t.Fatalf("%d consumers, %v; want the index's", n, names.Err())
		}
	}
	for range 3 {
		all := p.publishN("t.a", 20)
		wait := x.await(all[19].Seq)
		select {
		case <-wait:
		case <-time.After(10 * time.Second):
			t.Fatal("a message is not indexed")
		}
		forget()
	}
	all := p.publishN("t.a", 1)
	select {
	case <-x.await(all[0].Seq):
	case <-time.After(10 * time.Second):
		t.Fatal("the last message is not indexed")
	}
	if s.index.get() != x {
		t.Error("the index was built again")
	}
	if got := len(x.topic("t.a").seqs); got != 61 {
		t.Errorf("%d messages are indexed, want 61", got)
	}
}

// What was stored while the connection was away is indexed when it is back.
func TestTheIndexGoesOnAfterARestartOfNATS(t *testing.T) {
	server := natsdev.Test(t)
	s := openStream(t, server, Retention{Size: 1000, TTL: time.Hour, Dedupe: time.Minute}, time.Now)
	p := &probe{T: t, ctx: t.Context(), log: s, clock: &movedClock{}, retention: s.retention}
	watched(t, s)
	before := p.publishN("t.a", 20)
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	// The clients may not have noticed yet: only what has an id is sent again.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p.ctx = ctx
	var after []wire.Position
	for i := range 20 {
		stored := p.append(Entry{Topic: "t.a", Payload: []byte(`1`), ID: fmt.Sprint("id-", i)})
		head, _ := p.head("t.a")
		if head.Seq != stored.Seq || stored.Seq != int64(21+i) {
			t.Fatalf("stored at %d, head %v, want %d", stored.Seq, head, 21+i)
		}
		after = append(after, head)
	}
	select {
	case <-s.index.get().await(after[19].Seq):
	case <-ctx.Done():
		t.Fatal("what came after the restart is not indexed")
	}
	p.wantMessages(p.whole("t.a", before[4]), append(before[5:], after...))
	if got := len(s.index.get().topic("t.a").seqs); got != 40 {
		t.Errorf("%d messages are indexed, want 40", got)
	}
}
