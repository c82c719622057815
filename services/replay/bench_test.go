package replay

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Under load the stream goes on between the feed's looks at it and at the
// index. That is no other log: without its index every read is a scan, which
// stops who publishes.
func TestIndexSurvivesLoad(t *testing.T) {
	server := natsdev.Test(t)
	s := openStream(t, server, Retention{Size: 10, TTL: time.Hour, Dedupe: time.Second}, time.Now)
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	before, sent := s.index.get(), 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); sent++ {
		subject := fmt.Sprintf("fl.topic.t.%d", sent%100)
		if sent%500 != 0 {
			err = nc.Publish(subject, []byte("1"))
		} else {
			_, err = nc.Request(subject, []byte("1"), 10*time.Second)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if s.index.get() != before {
		t.Errorf("the index was thrown away while %d messages were stored", sent)
	}
}

// BenchmarkIndexAdd is what each message of a stream costs a replica's index.
func BenchmarkIndexAdd(b *testing.B) {
	for _, topics := range []int{1, 100_000} {
		b.Run(fmt.Sprintf("topics=%d", topics), func(b *testing.B) {
			names := make([]string, topics)
			for i := range names {
				names[i] = fmt.Sprintf("chat.room-%d", i)
			}
			x := newIndex(1001, 1<<40)
			seq := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				seq++
				x.add(names[seq%int64(topics)], wire.Position{Seq: seq, Ts: 1_700_000_000_000 + seq}, false)
			}
			if upTo, _ := x.position(); upTo != seq {
				b.Fatalf("the index is at %d, want %d", upTo, seq)
			}
		})
	}
}

// BenchmarkIndexTopic is what a read costs the index, of a topic with a hundred
// messages and of one with as many as a rule keeps.
func BenchmarkIndexTopic(b *testing.B) {
	for _, kept := range []int{100, 1000} {
		b.Run(fmt.Sprintf("kept=%d", kept), func(b *testing.B) {
			x := newIndex(kept, 1<<40)
			for seq := int64(1); seq <= int64(kept)*1000; seq += 1000 {
				x.add("chat.lobby", wire.Position{Seq: seq, Ts: seq}, false)
			}
			b.ReportAllocs()
			for b.Loop() {
				if got := len(x.topic("chat.lobby").seqs); got != kept {
					b.Fatalf("got %d sequences, want %d", got, kept)
				}
			}
		})
	}
}

// BenchmarkPage is what a page of a hundred messages costs who sends it and who
// reads it.
func BenchmarkPage(b *testing.B) {
	page := &wire.ReplayPage{Base: wire.Position{Seq: 1, Ts: 1}, Head: wire.Position{Seq: 101, Ts: 101}, At: wire.Position{Seq: 101, Ts: 101}}
	payload := fmt.Appendf(nil, `{"text":"%0110d"}`, 7)
	for seq := int64(2); seq <= 101; seq++ {
		page.Messages = append(page.Messages, wire.ReplayMessage{
			Position: wire.Position{Seq: seq, Ts: 1_700_000_000_000}, Prev: seq - 1, Event: "message", Payload: payload, User: "ann",
		})
	}
	encoded := page.AppendJSON(nil)
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if got := len(page.AppendJSON(nil)); got != len(encoded) {
				b.Fatalf("got %d bytes, want %d", got, len(encoded))
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var got wire.ReplayPage
			if err := got.UnmarshalJSON(encoded); err != nil || len(got.Messages) != 100 {
				b.Fatalf("got %d messages, %v", len(got.Messages), err)
			}
		}
	})
}
