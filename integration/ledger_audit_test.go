package integration

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// stretch is a range of sequences, both ends included.
type stretch struct{ from, to int64 }

func inside(spans []stretch, seq int64) bool {
	return slices.ContainsFunc(spans, func(s stretch) bool { return s.from <= seq && seq <= s.to })
}

// reading is what a reader's events come to.
type reading struct {
	got       map[int64]bool
	truncated []stretch
	withheld  []stretch
	last      int64
}

// read goes through what a reader was sent and says what is wrong with it by
// itself.
func (r *reader) read(say func(format string, args ...any)) reading {
	out := reading{got: map[int64]bool{}, last: r.from}
	gone := int64(0) // the beginning of a truncation whose end is not known yet
	for _, e := range r.events {
		switch e.control {
		case "truncated":
			gone = e.missing
			continue
		case "skip":
			if gone > 0 {
				out.truncated = append(out.truncated, stretch{gone, e.seq})
			} else {
				out.withheld = append(out.withheld, stretch{max(e.prev, out.last) + 1, e.seq})
				if !r.withheld {
					say("%d to %d were withheld", e.prev+1, e.seq)
				}
			}
		case "":
			switch {
			case e.seq <= out.last:
				say("%s at %d came behind %d", e.message, e.seq, out.last)
			case gone > 0:
				out.truncated = append(out.truncated, stretch{gone, e.seq - 1})
			case e.prev > out.last && out.last > 0:
				say("%s at %d follows %d, and the last was %d", e.message, e.seq, e.prev, out.last)
			}
			out.got[e.seq] = true
		default:
			say("was sent %q", e.control)
			continue
		}
		gone, out.last = 0, max(out.last, e.seq)
	}
	if gone > 0 {
		out.truncated = append(out.truncated, stretch{gone, math.MaxInt64})
	}
	return out
}

// stored is where messages lie, by all that was said.
type stored map[string]map[int64]message // by topic

// lie notes that a message lies at a sequence, and says what contradicts it.
func (s stored) lie(places map[message]int64, m message, topic string, seq int64, say func(string, ...any)) {
	if s[topic] == nil {
		s[topic] = map[int64]message{}
	}
	if other, ok := s[topic][seq]; ok && other != m {
		say("%d is %s here and %s elsewhere", seq, m, other)
		return
	}
	if at, ok := places[m]; ok && at != seq {
		say("%s lies at %d and at %d", m, at, seq)
		return
	}
	s[topic][seq], places[m] = m, seq
}

// audit goes through all that was recorded. owed lists, per reader, what it has
// to get still.
func (l *ledger) audit() (found []string, owed map[*reader][]int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	whose := func(who string) func(string, ...any) {
		return func(format string, args ...any) { found = append(found, who+": "+fmt.Sprintf(format, args...)) }
	}
	all, places := stored{}, map[message]int64{}
	first := map[message]int{} // acknowledgements that are not duplicates
	for _, r := range l.receipts {
		all.lie(places, r.message, r.Topic, r.seq, whose("acknowledgements"))
		if !r.duplicate {
			first[r.message]++
		}
	}
	for m, n := range first {
		if n > 1 {
			whose("acknowledgements")("%s was stored %d times", m, n)
		}
	}
	whats := map[*reader]reading{}
	for _, r := range l.readers {
		say := whose(r.name)
		whats[r] = r.read(say)
		for _, e := range r.events {
			switch {
			case e.control != "":
			case e.message.Topic != r.topic:
				say("%s is of another topic", e.message)
			case !l.tried[e.message]:
				say("%s was never published", e.message)
			default:
				all.lie(places, e.message, r.topic, e.seq, say)
			}
		}
	}
	owed = map[*reader][]int64{}
	for _, r := range l.readers {
		is := whats[r]
		lost := is.lost(slices.Sorted(maps.Keys(all[r.topic])), r)
		for _, s := range is.truncated {
			if l.complete || !slices.ContainsFunc(slices.Collect(maps.Keys(all[r.topic])), func(seq int64) bool { return s.from <= seq && seq <= s.to && !is.got[seq] }) {
				whose(r.name)("was told that %d to %d are gone", s.from, s.to)
			}
		}
		if len(lost) > 0 {
			owed[r] = lost
		}
	}
	for m, outcomes := range l.refusals {
		if at, ok := places[m]; ok && first[m] == 0 && !outcomes["unknown"] {
			whose("refusals")("%s lies at %d, and every answer was that it was not stored", m, at)
		}
	}
	return append(found, l.disorder()...), owed
}

// lost lists what a reader is owed and has not got.
func (is *reading) lost(seqs []int64, r *reader) (lost []int64) {
	for _, seq := range seqs {
		if seq > r.from && (!r.left || seq < is.last) && (r.ends == 0 || seq <= r.ends) && !is.got[seq] && !inside(is.truncated, seq) && !inside(is.withheld, seq) {
			lost = append(lost, seq)
		}
	}
	return lost
}

// disorder compares the order in which each publisher's messages were
// acknowledged, one after the other, with the order in which they are stored.
func (l *ledger) disorder() (found []string) {
	type publisher struct{ topic, name string }
	of := map[publisher][]receipt{}
	for _, r := range l.receipts {
		p := publisher{r.Topic, r.Publisher}
		of[p] = append(of[p], r)
	}
	for _, all := range of {
		slices.SortStableFunc(all, func(a, b receipt) int { return cmp.Compare(a.N, b.N) })
		for i := 1; i < len(all); i++ {
			if a, b := all[i-1], all[i]; a.N < b.N && a.seq >= b.seq {
				found = append(found, fmt.Sprintf("%s is stored at %d, behind %s at %d", a.message, a.seq, b.message, b.seq))
			}
		}
	}
	return found
}
