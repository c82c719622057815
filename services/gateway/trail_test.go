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

// What was read for one client is put in front of the ring for the next, where
// the two meet, as far as it fits.
func TestTrailTakesAPageInFrontOfItsRing(t *testing.T) {
	page := func(base wire.Position, from, to int64) *wire.ReplayPage {
		p := &wire.ReplayPage{Base: base}
		for seq := from; seq <= to; seq++ {
			p.Messages = append(p.Messages, wire.ReplayMessage{Position: at(seq, 1000+seq), Prev: seq - 1, Event: "message", Payload: []byte("1")})
		}
		return p
	}
	cut := page(at(5, 1005), 6, 10)
	cut.Truncated = true
	more := page(at(5, 1005), 6, 10)
	more.More = true
	other := page(at(5, 1005), 6, 10)
	other.Messages[4].Ts++
	for _, tt := range []struct {
		name string
		page *wire.ReplayPage
		size int
		from wire.Position // the oldest that is answered then
	}{
		{"up to the ring", page(at(5, 1005), 6, 10), 100, at(5, 1005)},
		{"into the ring", page(at(5, 1005), 6, 12), 100, at(5, 1005)},
		{"without a time", page(at(5, 0), 6, 10), 100, at(5, 0)},
		{"more than fits", page(at(5, 1005), 6, 10), 4, at(8, 1008)},
		{"a gap between them", page(at(5, 1005), 6, 9), 100, at(10, 1010)},
		{"of another log", other, 100, at(10, 1010)},
		{"truncated", cut, 100, at(10, 1010)},
		{"not to its end", more, 100, at(10, 1010)},
	} {
		budget := &ringBudget{}
		tr := newTrail("FL_T", tt.size, 0, budget)
		tr.reset(at(10, 1010))
		tr.finish()
		for seq := int64(11); seq <= 12; seq++ {
			tr.push(trailed{at: at(seq, 1000+seq), prev: seq - 1, frame: []byte("frame")})
		}
		tr.extend("t", tt.page, nil)
		rest, ok := tr.after(tt.from, time.UnixMilli(2000))
		if got, want := int64(len(rest)), 12-tt.from.Seq; !ok || got != want || tr.base.Seq != tt.from.Seq {
			t.Errorf("%s: %d messages behind %v (%v), want %d; base %v", tt.name, got, tt.from, ok, want, tr.base)
		}
		for i, e := range rest {
			if want := tt.from.Seq + 1 + int64(i); e.at.Seq != want || e.prev != want-1 {
				t.Errorf("%s: message %d is %d behind %d", tt.name, i, e.at.Seq, e.prev)
			}
		}
		tr.forget()
		if got := budget.used.Load(); got != 0 {
			t.Errorf("%s: the rings use %d bytes after all is forgotten", tt.name, got)
		}
	}
}
