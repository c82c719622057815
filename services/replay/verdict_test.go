package replay

import (
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestTruncated(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	r := Retention{Size: 3, TTL: time.Hour}
	// at is a message's position, taken one of a topic without messages.
	at := func(seq int64, age time.Duration) wire.Position {
		return wire.Position{Seq: seq, Ts: now.Add(-age).UnixMilli()}
	}
	taken := func(seq int64, age time.Duration) wire.Position {
		return wire.Position{Seq: seq, Ts: -now.Add(-age).UnixMilli()}
	}
	timeless := func(seq int64) wire.Position { return wire.Position{Seq: seq} }
	const m = time.Minute

	// full is a topic that has lost its oldest: 9 is gone, 10 is evidence, 11
	// to 13 are retained. Its log goes from 5 to 20.
	full := func(next, here wire.Position) evidence {
		return evidence{
			kept: 4, first: at(10, 14*m), head: at(13, 11*m), next: next,
			at: here, atTopic: here != wire.Position{}, streamFirst: at(5, 19*m), streamLast: 20,
		}
	}
	// idle is a topic of which all has expired; 12 and 13 are still stored.
	idle := func(next, here wire.Position) evidence {
		e := full(next, here)
		e.kept, e.first, e.head = 2, at(12, 3*time.Hour), at(13, 2*time.Hour)
		e.streamFirst = at(5, 4*time.Hour)
		return e
	}
	// none is a topic without messages in a log from first to 20.
	none := func(first wire.Position) evidence { return evidence{streamFirst: first, streamLast: 20} }

	for _, c := range []struct {
		name string
		p    wire.Position
		e    evidence
		want bool
	}{
		{"beginning", timeless(0), full(at(10, 14*m), wire.Position{}), false},
		{"beginning, the oldest has expired", timeless(0), idle(at(12, 3*time.Hour), wire.Position{}), false},
		{"beginning of an empty log", timeless(0), evidence{streamFirst: wire.Position{Seq: 1}}, false},
		{"beginning of a cleared topic", timeless(0), evidence{kept: 1, first: at(13, m), head: at(13, m), next: at(13, m), marker: 13, streamFirst: at(13, m), streamLast: 13}, false},

		{"caught up", at(13, 11*m), full(wire.Position{}, at(13, 11*m)), false},
		{"caught up, without time", timeless(13), full(wire.Position{}, at(13, 11*m)), false},
		{"one behind", at(12, 12*m), full(at(13, 11*m), at(12, 12*m)), false},
		{"one behind, without time", timeless(12), full(at(13, 11*m), at(12, 12*m)), false},
		{"size missed", at(10, 14*m), full(at(11, 13*m), at(10, 14*m)), false},
		{"size missed, without time", timeless(10), full(at(11, 13*m), at(10, 14*m)), false},
		{"size and one missed", at(9, 15*m), full(at(10, 14*m), wire.Position{}), true},
		{"size and one missed, without time", timeless(9), full(at(10, 14*m), wire.Position{}), true},

		{"past the head", at(30, m), full(wire.Position{}, wire.Position{}), true},
		{"past the head, without time", timeless(30), full(wire.Position{}, wire.Position{}), false},
		{"past the log of an empty topic, without time", timeless(30), none(at(5, 19*m)), false},
		{"within the log of an empty topic, without time", timeless(20), none(at(5, 19*m)), true},

		{"the topic was cleared behind it", at(13, 11*m), evidence{kept: 1, first: at(20, m), head: at(20, m), next: at(20, m), marker: 20, streamFirst: at(5, 19*m), streamLast: 20}, true},
		{"the topic was cleared behind it, without time", timeless(13), evidence{kept: 1, first: at(20, m), head: at(20, m), next: at(20, m), marker: 20, streamFirst: at(5, 19*m), streamLast: 20}, true},
		{"at the marker of the clear", at(20, m), evidence{kept: 1, first: at(20, m), head: at(20, m), at: at(20, m), atTopic: true, marker: 20, streamFirst: at(5, 19*m), streamLast: 20}, false},
		{"behind the marker of the clear", at(19, 2*m), evidence{kept: 2, first: at(18, 3*m), head: at(19, 2*m), at: at(19, 2*m), atTopic: true, marker: 18, streamFirst: at(5, 19*m), streamLast: 20}, false},
		{"all was cleared", at(13, 11*m), none(wire.Position{Seq: 21}), true},
		{"all was cleared, without time", timeless(13), none(wire.Position{Seq: 21}), true},
		{"all was cleared, what was stored behind an empty topic too", taken(10, 14*m), none(wire.Position{Seq: 21}), true},
		{"all was cleared, nothing was stored behind an empty topic", taken(20, m), none(wire.Position{Seq: 21}), false},
		{"all was cleared, then others were stored", taken(10, 14*m), func() evidence { e := none(at(18, m)); e.marker = 17; return e }(), true},

		{"wiped, another message under its sequence", at(13, 30*time.Hour), full(wire.Position{}, at(13, 11*m)), true},
		{"wiped, nothing under its sequence yet", at(500, 30*time.Hour), full(wire.Position{}, wire.Position{}), true},
		{"wiped, a message of another topic under its sequence", at(13, 11*m), func() evidence {
			e := full(wire.Position{}, at(13, 11*m))
			e.atTopic = false
			return e
		}(), true},
		{"wiped, taken when the topic was empty behind what the log has", taken(21, 20*m), none(at(5, 19*m)), true},
		{"wiped, taken when the topic was empty before what the log has", taken(13, 20*m), none(at(5, 19*m)), true},

		{"the next expires in a moment", at(12, 61*m), func() evidence {
			e := full(at(13, r.TTL-time.Millisecond), at(12, 61*m))
			return e
		}(), false},
		{"the next has expired", at(12, 61*m), full(at(13, r.TTL), at(12, 61*m)), true},
		{"the next has expired, without time", timeless(12), full(at(13, r.TTL), at(12, 61*m)), true},
		{"its own message has expired", at(10, 2*time.Hour), full(at(11, 13*m), at(10, 2*time.Hour)), false},

		{"idle, the last was seen", at(13, 2*time.Hour), idle(wire.Position{}, at(13, 2*time.Hour)), false},
		{"idle, the last was seen, without time", timeless(13), idle(wire.Position{}, at(13, 2*time.Hour)), false},
		{"idle, the last was not seen", at(12, 3*time.Hour), idle(at(13, 2*time.Hour), at(12, 3*time.Hour)), true},
		{"idle, nothing was seen when the topic was empty", taken(11, 3*time.Hour), idle(at(12, 3*time.Hour), wire.Position{}), true},

		{"empty topic, nothing since", taken(20, m), none(at(5, 19*m)), false},
		{"empty topic, others since", taken(7, 17*m), none(at(5, 19*m)), false},
		{"empty topic, others since, all that was there then is gone", taken(2, 40*m), none(at(5, 19*m)), false},
		{"empty topic in an empty log", taken(0, m), evidence{streamFirst: wire.Position{Seq: 1}}, false},
		{"empty topic, then as many as are retained", taken(10, 14*m), evidence{kept: 3, first: at(11, 13*m), head: at(13, 11*m), next: at(11, 13*m), streamFirst: at(5, 19*m), streamLast: 20}, false},
		{"empty topic, then one more than is retained", taken(9, 15*m), full(at(10, 14*m), wire.Position{}), true},
		{"empty topic, then cleared", taken(9, 15*m), evidence{kept: 1, first: at(20, m), head: at(20, m), next: at(20, m), marker: 20, streamFirst: at(5, 19*m), streamLast: 20}, true},
		{"empty topic, then the log began to keep more, the topic was full", taken(10, 14*m), evidence{kept: 2, first: at(12, 12*m), head: at(13, 11*m), next: at(12, 12*m), streamFirst: at(5, 19*m), streamLast: 20, grownAt: 15, grownFrom: 2}, true},
		{"empty topic, then the log began to keep more, the topic was not full", taken(10, 14*m), evidence{kept: 2, first: at(12, 12*m), head: at(13, 11*m), next: at(12, 12*m), streamFirst: at(5, 19*m), streamLast: 20, grownAt: 15, grownFrom: 3}, false},
		{"empty topic, after the log began to keep more", taken(10, 14*m), evidence{kept: 2, first: at(12, 12*m), head: at(13, 11*m), next: at(12, 12*m), streamFirst: at(5, 19*m), streamLast: 20, grownAt: 10, grownFrom: 2}, false},
		{"empty topic, as long ago as can be remembered", taken(4, r.TTL+memory), none(at(5, 19*m)), false},
		{"empty topic, longer ago", taken(4, r.TTL+memory+time.Millisecond), none(at(5, 19*m)), true},
		{"empty topic, the log ends before it", taken(21, m), none(at(5, 19*m)), true},

		{"empty topic, a message was seen to come and to go", taken(7, 17*m), func() evidence { e := none(at(5, 19*m)); e.lost = true; return e }(), true},
		{"empty topic, one of several was seen to go", taken(7, 17*m), evidence{kept: 1, first: at(13, m), head: at(13, m), next: at(13, m), lost: true, streamFirst: at(5, 19*m), streamLast: 20}, true},
	} {
		if got := truncated(c.p, c.e, r, now); got != c.want {
			t.Errorf("%s: %v of %+v is truncated: %v, want %v", c.name, c.p, c.e, got, c.want)
		}
	}
}

func TestWithoutTTLNothingExpiresOrIsForgotten(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	r := Retention{Size: 3}
	old := wire.Position{Seq: 10, Ts: 1}
	next := wire.Position{Seq: 11, Ts: 2}
	e := evidence{kept: 2, first: old, head: next, next: next, at: old, atTopic: true, streamFirst: wire.Position{Seq: 3, Ts: 1}, streamLast: 11}
	if truncated(old, e, r, now) {
		t.Error("a message's position is truncated after decades")
	}
	e.kept, e.first, e.at, e.atTopic = 1, next, wire.Position{}, false
	if truncated(wire.Position{Seq: 10, Ts: -2}, e, r, now) {
		t.Error("an empty topic's position is truncated after decades")
	}
}

// A log with a bound in bytes evicts the oldest of any topic without a trace:
// behind where it begins now, only a witness proves that nothing is gone.
func TestTruncatedWithABoundInBytes(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	r := Retention{Size: 3, TTL: time.Hour, Bytes: 1 << 20}
	ms := now.Add(-time.Minute).UnixMilli()
	taken := wire.Position{Seq: 7, Ts: -ms}
	at := func(seq int64) wire.Position { return wire.Position{Seq: seq, Ts: ms + seq} }
	for _, c := range []struct {
		name        string
		streamFirst int64
		kept, first int64
		seen, want  bool
	}{
		{"empty, begins before", 5, 0, 0, false, false},
		{"empty, begins right behind", 8, 0, 0, false, false},
		{"empty, begins later", 9, 0, 0, false, true},
		{"empty, begins later, watched", 9, 0, 0, true, false},
		{"empty log, nothing since", 8, 0, 0, false, false},
		{"two since, begins before", 5, 2, 12, false, false},
		{"two since, begins later", 9, 2, 12, false, true},
		{"two since, begins later, watched", 9, 2, 12, true, false},
		{"two since, begins with the first of them", 12, 2, 12, false, true},
		{"four since, watched", 9, 4, 12, true, true},
	} {
		e := evidence{kept: int(c.kept), streamFirst: wire.Position{Seq: c.streamFirst, Ts: ms - 1}, streamLast: 20, seen: c.seen}
		if c.streamFirst > 7 {
			e.streamFirst = at(c.streamFirst)
		}
		if c.kept > 0 {
			e.first, e.next, e.head = at(c.first), at(c.first), at(c.first+c.kept-1)
		}
		if got := truncated(taken, e, r, now); got != c.want {
			t.Errorf("%s: truncated %v, want %v", c.name, got, c.want)
		}
		r := r
		r.Bytes = 0
		if got, want := truncated(taken, e, r, now), c.kept > 3; got != want {
			t.Errorf("%s, without a bound: truncated %v, want %v", c.name, got, want)
		}
	}
}
