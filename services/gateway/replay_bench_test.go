package gateway

import (
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// replayedAt is message number seq of a topic, one step behind the one before.
func replayedAt(seq int64) *wire.ReplayMessage {
	return &wire.ReplayMessage{
		Position: wire.Position{Seq: seq, Ts: 1_700_000_000_000 + seq}, Prev: seq - 1, Event: "message",
		Payload: []byte(`{"text":"a message of a common length, for what it is worth"}`), User: "ann",
	}
}

// BenchmarkFrameOf is the frame of a replayed message, one for all who get it.
func BenchmarkFrameOf(b *testing.B) {
	m := replayedAt(1000)
	b.ReportAllocs()
	for b.Loop() {
		if len(frameOf("chat.lobby", m, nil)) == 0 {
			b.Fatal("no frame")
		}
	}
}

// BenchmarkTrail is what a live message costs the gateway's memory of a topic:
// judging that it is the next, and the ring.
func BenchmarkTrail(b *testing.B) {
	t := newTrail("FL_CHAT", 1000, time.Hour, &ringBudget{})
	t.reset(wire.Position{})
	frame := make([]byte, 200)
	seq := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		seq++
		at := wire.Position{Seq: seq, Ts: 1_700_000_000_000 + seq}
		if got := t.judge(at, seq-1); got != stepNext {
			b.Fatalf("message %d: got step %d, want the next", seq, got)
		}
		t.push(trailed{at: at, prev: seq - 1, frame: frame})
	}
}

// BenchmarkRing is a resume that the ring answers: looking for a position that
// is a hundred messages old.
func BenchmarkRing(b *testing.B) {
	t := newTrail("FL_CHAT", 1000, 0, &ringBudget{})
	t.reset(wire.Position{})
	t.mending = false
	for seq := int64(1); seq <= 1000; seq++ {
		t.push(trailed{at: wire.Position{Seq: seq, Ts: seq}, prev: seq - 1, frame: make([]byte, 200)})
	}
	now := time.UnixMilli(1000)
	b.ReportAllocs()
	for b.Loop() {
		if rest, ok := t.after(wire.Position{Seq: 900, Ts: 900}, now); !ok || len(rest) != 100 {
			b.Fatalf("got %d messages, %v, want 100", len(rest), ok)
		}
	}
}
