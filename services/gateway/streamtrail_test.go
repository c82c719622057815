package gateway

import (
	"testing"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// whole returns the trail of a stream that was followed from 100 on.
func wholeStream() *streamTrail {
	t := newStreamTrail("chat", "FL_CHAT", "chat.>")
	t.look(wire.Position{Seq: 100, Ts: 1000})
	t.finish()
	return t
}

func TestStreamTrailJudges(t *testing.T) {
	tr := wholeStream()
	tr.pass(wire.Position{Seq: 105, Ts: 1005}) // of another topic than those below
	for _, c := range []struct {
		name string
		at   wire.Position
		prev int64
		want step
	}{
		{"the first of its topic", wire.Position{Seq: 107, Ts: 1007}, 0, stepNext},
		{"behind one from before", wire.Position{Seq: 107, Ts: 1007}, 93, stepNext},
		{"behind one that was passed on", wire.Position{Seq: 107, Ts: 1007}, 105, stepNext},
		{"behind one that never came", wire.Position{Seq: 107, Ts: 1007}, 103, stepUnproven},
		{"passed on before", wire.Position{Seq: 105, Ts: 1005}, 93, stepOld},
		{"from before", wire.Position{Seq: 90, Ts: 900}, 80, stepOld},
		{"late, and never passed on", wire.Position{Seq: 103, Ts: 1003}, 93, stepUnproven},
		{"of a log that began again", wire.Position{Seq: 3, Ts: 2000}, 0, stepUnproven},
		{"with a clock that ran backwards", wire.Position{Seq: 107, Ts: 900}, 0, stepUnproven},
	} {
		if got := tr.judge(c.at, c.prev); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// A stream is whole up to where it ended at the look before the last one: the
// replica that was read may have lagged.
func TestStreamTrailIsWholeAfterTwoLooks(t *testing.T) {
	tr := wholeStream()
	tr.pass(wire.Position{Seq: 105, Ts: 1005})
	tr.look(wire.Position{Seq: 110, Ts: 1010})
	if !tr.owes(103) {
		t.Error("103 is not owed after one look")
	}
	tr.look(wire.Position{Seq: 120, Ts: 1020})
	if tr.owes(103) || !tr.owes(115) {
		t.Errorf("after two looks 103 is owed: %v, want false; 115: %v, want true", tr.owes(103), tr.owes(115))
	}
	if len(tr.passed) != 0 {
		t.Errorf("%d are remembered", len(tr.passed))
	}
}

// What a trail remembers is bounded.
func TestStreamTrailForgets(t *testing.T) {
	tr := wholeStream()
	for seq := int64(101); seq < 101+5*widest; seq++ {
		tr.pass(wire.Position{Seq: seq, Ts: seq})
	}
	if len(tr.passed) > 2*widest {
		t.Errorf("%d are remembered, want at most %d", len(tr.passed), 2*widest)
	}
	if tr.owes(101 + 5*widest - 1) {
		t.Error("the newest one is owed")
	}
}

// What may be gone from the stream is told by what it still has.
func TestStreamTrailLost(t *testing.T) {
	message := func(topic string, seq int64) loggedMessage {
		m := loggedMessage{topic: topic}
		m.Seq = seq
		return m
	}
	a := []loggedMessage{message("a", 104), message("a", 105), message("a", 106)}
	for _, c := range []struct {
		name string
		read stretch
		held []held
		want int64
	}{
		{"fewer than are kept", stretch{kept: 4, messages: a}, nil, 0},
		{"as many as are kept", stretch{kept: 3, messages: a}, nil, 101},
		{"of two topics", stretch{kept: 3, messages: append([]loggedMessage{message("b", 103)}, a[:2]...)}, nil, 0},
		{"the first one was passed on", stretch{kept: 3, messages: append([]loggedMessage{message("a", 102)}, a...)}, nil, 0},
		{"the stream is full", stretch{kept: 9, doubtful: true}, nil, 101},
		{"held behind one that is gone", stretch{kept: 9, messages: a}, []held{{prev: 103}}, 103},
		{"held behind one that was read", stretch{kept: 9, messages: a}, []held{{prev: 104}}, 0},
	} {
		tr := wholeStream()
		tr.pass(wire.Position{Seq: 102, Ts: 1002})
		if got := tr.lost(&c.read, c.held); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}
