package presence

import (
	"iter"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// hashRanges is how many ranges the sections of a gateway are kept in, so that
// an audit of a part of them looks at no other: parts are a power of two of them.
const hashRanges = 256

// holding is what a gateway has.
type holding struct {
	ranges  [hashRanges]map[*stored]struct{} // by hash
	count   int
	digest  wire.PresenceDigest // over versions, of sections with connections
	epochs  map[uint64]tally    // of sections by the epoch that they were said in
	arrived uint64              // sections that ever came
}

// tally counts sections, and those of them with connections.
type tally struct{ all, there int }

func newHolding() *holding { return &holding{epochs: map[uint64]tally{}} }

// rangeOf is the range that a section is in.
func rangeOf(s *stored) int { return int(wire.SectionHash(s.Topic, s.User, "", 0) % hashRanges) }

func (h *holding) add(s *stored) {
	at := &h.ranges[rangeOf(s)]
	if *at == nil {
		*at = map[*stored]struct{}{}
	}
	(*at)[s] = struct{}{}
	h.count++
	h.arrived++
	h.tally(s, 1)
	if s.there() {
		h.digest.Add(wire.SectionHash(s.Topic, s.User, s.Gateway, s.Version))
	}
}

func (h *holding) drop(s *stored) {
	at := rangeOf(s)
	if delete(h.ranges[at], s); len(h.ranges[at]) == 0 {
		h.ranges[at] = nil
	}
	h.count--
	h.tally(s, -1)
	if s.there() {
		h.digest.Remove(wire.SectionHash(s.Topic, s.User, s.Gateway, s.Version))
	}
}

func (h *holding) tally(s *stored, n int) {
	t := h.epochs[s.Epoch]
	t.all += n
	if s.there() {
		t.there += n
	}
	if t.all == 0 {
		delete(h.epochs, s.Epoch)
		return
	}
	h.epochs[s.Epoch] = t
}

// part yields the sections whose hash modulo parts is part.
func (h *holding) part(part, parts int) iter.Seq[*stored] {
	return func(yield func(*stored) bool) {
		for at := part; at < hashRanges; at += parts {
			for s := range h.ranges[at] {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// newest is the newest epoch in which the gateway has said anything.
func (h *holding) newest() (epoch uint64) {
	for e := range h.epochs {
		epoch = max(epoch, e)
	}
	return epoch
}
