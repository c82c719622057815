package replay

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// forgeries are headers by which servers and client libraries say something of
// their own to a consumer or a reader. Anybody may publish them.
func forgeries() (all []nats.Header) {
	for _, status := range []string{"100", "200", "204", "400", "404", "408", "409", "412", "423", "503", "x", ""} {
		all = append(all, nats.Header{"Status": {status}})
	}
	return append(all,
		nats.Header{"Status": {"409"}, "Description": {"Consumer Deleted"}},
		nats.Header{"Status": {"409"}, "Description": {"Message Size Exceeds MaxBytes"}},
		nats.Header{"Status": {"409"}, "Description": {"Leadership Change"}},
		nats.Header{"Status": {"100"}, "Description": {"FlowControl Request"}},
		nats.Header{"Status": {"100"}, "Description": {"Idle Heartbeat"}, "Nats-Last-Consumer": {"9999"}, "Nats-Last-Stream": {"9999"}},
		nats.Header{"Status": {"404"}, "Description": {"No Messages"}, "Nats-Pending-Messages": {"0"}, "Nats-Pending-Bytes": {"0"}},
		nats.Header{"Nats-Sequence": {"9999"}, "Nats-Last-Sequence": {"9998"}, "Nats-Time-Stamp": {"1999-01-01T00:00:00Z"}},
		nats.Header{"Nats-Subject": {"fl.topic.t.other"}, "Nats-Stream": {"OTHER"}, "Nats-Num-Pending": {"0"}, "Nats-UpTo-Sequence": {"1"}},
		nats.Header{"Nats-Msg-Size": {"0"}, "Nats-Pin-Id": {"x"}, "Nats-Consumer-Stalled": {"$JS.API.>"}},
		nats.Header{"Fl-Head": {"9999"}},
		nats.Header{"status": {"404"}, "STATUS": {"503"}},
	)
}

// Whatever headers a message has, it is indexed and read like any other.
func TestForgedHeadersAreRead(t *testing.T) {
	s := openStream(t, natsdev.Test(t), Retention{Size: 1000, TTL: time.Hour, Dedupe: time.Minute}, time.Now)
	p := &probe{T: t, ctx: t.Context(), log: s, clock: &movedClock{}, retention: s.retention}
	x := s.index.get()
	begin := p.at("t.a")
	n := int64(0)
	var positions []wire.Position
	for _, payload := range []string{"", `1`} {
		for _, h := range forgeries() {
			if _, err := s.publish.RequestMsg(&nats.Msg{Subject: "fl.topic.t.a", Header: h, Data: []byte(payload)}, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			n++
			head, _ := p.head("t.a")
			if head.Seq != n {
				t.Fatalf("%v: head %v, want %d", h, head, n)
			}
			if positions = append(positions, head); !s.await(p.ctx, x, n) {
				t.Fatalf("%v with %q is not indexed", h, payload)
			}
		}
	}
	if s.index.get() != x {
		t.Error("the index was thrown away")
	}
	if got := x.topic("t.a").seqs; int64(len(got)) != n {
		t.Errorf("%d of %d are indexed", len(got), n)
	}
	for _, at := range append([]wire.Position{begin}, positions...) {
		page := p.whole("t.a", at)
		p.wantMessages(page, positions[max(0, int(at.Seq)):])
		for i, m := range page.Messages {
			want := "null"
			if int(m.Seq) > len(forgeries()) {
				want = "1"
			}
			if payload := string(m.Payload); payload != want && !(want == "null" && payload == "") {
				t.Errorf("behind %v: message %d has %q, want %s", at, i, payload, want)
			}
		}
	}
	// And without the index.
	all, err := s.reads.scan(p.ctx, s.name, "fl.topic.t.a", 1000)
	if err != nil || int64(len(all)) != n {
		t.Errorf("scanned %d of %d: %v", len(all), n, err)
	}
	for i, f := range all {
		if f.at != positions[i] || f.subject != "fl.topic.t.a" {
			t.Errorf("scanned %v of %s, want %v", f.at, f.subject, positions[i])
		}
	}
}

// An index that is built of such messages is whole, and goes on.
func TestForgedHeadersAreIndexedAnew(t *testing.T) {
	s := openStream(t, natsdev.Test(t), Retention{Size: 1000, TTL: time.Hour, Dedupe: time.Minute}, time.Now)
	p := &probe{T: t, ctx: t.Context(), log: s, clock: &movedClock{}, retention: s.retention}
	for round := range 3 {
		var want []int64
		for i, h := range forgeries() {
			topic := fmt.Sprintf("t.%d", round)
			if _, err := s.publish.RequestMsg(&nats.Msg{Subject: "fl.topic." + topic, Header: h}, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			want = append(want, int64(round*len(forgeries())+i+1))
		}
		old := s.index.get()
		s.index.renew(old)
		x := s.index.get()
		select {
		case <-x.await(want[len(want)-1]):
		case <-time.After(20 * time.Second):
			upTo, _ := x.position()
			t.Fatalf("round %d: the index ends at %d, want %d", round, upTo, want[len(want)-1])
		}
		if got := x.topic(fmt.Sprintf("t.%d", round)).seqs; !slices.Equal(got, want) {
			t.Errorf("round %d: indexed %v, want %v", round, got, want)
		}
		p.wantTopics("", "", 10, p.summaries(round, len(forgeries()))...)
	}
}

func (p *probe) summaries(rounds, each int) (all []wire.ReplaySummary) {
	for round := range rounds + 1 {
		all = append(all, wire.ReplaySummary{Topic: fmt.Sprintf("t.%d", round), Count: each, Seq: int64((round + 1) * each)})
	}
	return all
}
