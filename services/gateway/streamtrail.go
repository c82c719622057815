package gateway

import (
	"slices"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// streamTrail is how far a wildcard subscription has followed one stream. Its
// topics may be any number, so it knows none of them: it knows the stream, and
// which of the stream's newest messages it has passed on. Guarded by its
// interest's mutex.
type streamTrail struct {
	rule   string
	stream string
	filter string // the topics of the stream that the wildcard matches

	// at is the newest position that was passed on or looked at. Until known,
	// nothing is: the first message that comes is taken as it is.
	at    wire.Position
	known bool
	// whole is where the trail was whole: nothing of the stream up to it is
	// owed. passed holds what was passed on behind it, ascending.
	whole  int64
	passed []int64
	looked int64 // where the stream ended at the last look

	waiting
}

// widest is how many messages of a stream a wildcard subscription remembers,
// and reads to find what it missed.
const widest = 10_000

func newStreamTrail(rule, stream, filter string) *streamTrail {
	return &streamTrail{rule: rule, stream: stream, filter: filter, waiting: newWaiting()}
}

// judge compares a message with what was passed on. prev is the message before
// it on its topic: where that is owed, a message is missing.
func (t *streamTrail) judge(at wire.Position, prev int64) step {
	switch {
	case !t.known:
		return stepNext
	case at.Seq <= t.at.Seq && at.Ts <= t.at.Ts:
		if t.owes(at.Seq) {
			return stepUnproven
		}
		return stepOld
	case at.Seq <= t.at.Seq, at.Ts < t.at.Ts, t.owes(prev):
		return stepUnproven
	}
	return stepNext
}

// owes reports whether a message was stored since the trail was whole and not
// passed on.
func (t *streamTrail) owes(seq int64) bool {
	if seq <= t.whole {
		return false
	}
	_, found := slices.BinarySearch(t.passed, seq)
	return !found
}

// pass notes that a message was passed on.
func (t *streamTrail) pass(at wire.Position) {
	if !t.known {
		t.known, t.whole = true, at.Seq-1
	}
	if at.Seq > t.at.Seq {
		t.at = at
	}
	i, found := slices.BinarySearch(t.passed, at.Seq)
	if !found {
		t.passed = slices.Insert(t.passed, i, at.Seq)
	}
	if len(t.passed) > 2*widest {
		t.settle(t.passed[widest-1])
	}
}

// look notes that the stream was read to its end. Another replica of the stream
// may have answered than the one that knows its end, so what was read is whole
// only when it has been read again.
func (t *streamTrail) look(end wire.Position) {
	if !t.known {
		t.known, t.looked = true, end.Seq
		t.settle(end.Seq)
	}
	t.settle(t.looked)
	t.looked = max(t.looked, end.Seq)
	if end.Seq > t.at.Seq {
		t.at = end
	}
}

// settle gives up knowing what is owed up to seq.
func (t *streamTrail) settle(seq int64) {
	if seq <= t.whole {
		return
	}
	t.whole = seq
	i, found := slices.BinarySearch(t.passed, seq)
	if found {
		i++
	}
	t.passed = slices.Delete(t.passed, 0, i)
}

// forget gives up what is known: whatever comes next is taken as it is.
func (t *streamTrail) forget() {
	t.at, t.known, t.whole, t.looked, t.passed = wire.Position{}, false, 0, 0, nil
}
