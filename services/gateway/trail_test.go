package gateway

import (
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func at(seq, ts int64) wire.Position { return wire.Position{Seq: seq, Ts: ts} }

// Only the exact successor continues a trail.
func TestTrailJudges(t *testing.T) {
	tests := []struct {
		name    string
		reached wire.Position
		unknown bool
		message wire.Position
		prev    int64
		want    step
	}{
		{"the successor", at(5, 100), false, at(7, 100), 5, stepNext},
		{"the same again", at(5, 100), false, at(5, 100), 3, stepOld},
		{"an older one", at(5, 100), false, at(3, 90), 1, stepOld},
		{"one is missing between", at(5, 100), false, at(9, 120), 7, stepUnproven},
		{"the predecessor is gone", at(5, 100), false, at(9, 120), 0, stepUnproven},
		{"a log that began again below", at(1_000_000, 100), false, at(1, 200), 0, stepUnproven},
		{"a log that began again and looks alike", at(5, 100), false, at(7, 200), 3, stepUnproven},
		{"time ran backwards", at(5, 100), false, at(7, 90), 5, stepUnproven},
		{"the first of an empty topic", at(5, -100), false, at(9, 120), 0, stepNext},
		{"not the first of an empty topic", at(5, -100), false, at(9, 120), 7, stepUnproven},
		{"anything, before the position is known", at(0, 0), true, at(9, 120), 7, stepNext},
	}
	for _, tt := range tests {
		tr := newTrail("FL_T", 10, 0, &ringBudget{})
		tr.reset(tt.reached)
		tr.known = !tt.unknown
		if got := tr.judge(tt.message, tt.prev); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

// The ring answers for positions that it holds itself, and for no other.
func TestTrailAnswersFromItsRing(t *testing.T) {
	budget := &ringBudget{}
	tr := newTrail("FL_T", 3, time.Minute, budget)
	tr.reset(at(10, 1000))
	tr.mending = false
	for i := range int64(5) {
		tr.push(trailed{at: at(11+i, 1001+i), prev: 10 + i, frame: []byte("frame")})
	}
	now := time.UnixMilli(2000)
	for _, tt := range []struct {
		name string
		from wire.Position
		want int // -1: no answer
	}{
		{"the head", at(15, 1005), 0},
		{"in the ring", at(13, 1003), 2},
		{"in the ring, without a time", at(13, 0), 2},
		{"just before the ring", at(12, 1002), 3},
		{"of another log", at(13, 999), -1},
		{"pushed out", at(11, 1001), -1},
		{"before it began", at(10, 1000), -1},
		{"the beginning", at(0, 0), -1},
	} {
		rest, ok := tr.after(tt.from, now)
		if got := len(rest); ok != (tt.want >= 0) || ok && got != tt.want {
			t.Errorf("%s: %d messages, %v; want %d", tt.name, got, ok, tt.want)
		}
	}
	if _, ok := tr.after(at(13, 1003), time.UnixMilli(1004+time.Minute.Milliseconds())); ok {
		t.Error("answered with a message that has expired")
	}
	tr.mending = true
	if _, ok := tr.after(at(15, 1005), now); ok {
		t.Error("answered while it is being mended")
	}
	if got, want := budget.used.Load(), int64(15); got != want {
		t.Errorf("the rings use %d bytes, want %d", got, want)
	}
	tr.forget()
	if got := budget.used.Load(); got != 0 {
		t.Errorf("the rings use %d bytes after all is forgotten", got)
	}
}
