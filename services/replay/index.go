package replay

import (
	"encoding/binary"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// index is what one replica knows of a stream without its payloads: the
// sequences of each topic, and at which time the stream was how long. It can be
// thrown away at any time and is built again from the stream.
//
// The stream evicts a topic's oldest message when it has more than it keeps;
// the index does the same. What else vanishes (expiry, a purge) it is not told:
// a sequence in it may be gone, one that is missing in it is not there.
type index struct {
	keep int   // messages of each topic that the stream keeps
	most int64 // bytes of sequences; above it topics keep their newest only

	mu      sync.Mutex
	topics  map[string]*trail
	bytes   int64  // of sequences
	upTo    int64  // the stream's sequence up to which everything is here
	warm    bool   // it has once reached the end of the stream
	floor   int64  // the stream holds nothing before it
	clock   []tick // growing in both
	newest  tick   // of the last message
	waiting []waiter

	// whole is from where on every message that was ever stored has been seen,
	// also those that are gone by now; 0: not known.
	whole  int64
	pruned int64 // the newest head of a topic that was forgotten
}

// trail is the sequences of one topic: the first, and the steps from there.
type trail struct {
	head   wire.Position
	first  int64 // the oldest here; 0: none
	count  int
	steps  []byte // uvarint deltas, count-1 of them
	marker int64  // newest clear marker; 0: none
	cut    bool   // older ones that the stream may still hold were left out
	lost   int64  // the newest that was here and is gone from the stream; 0: none
	before int64  // the topic may have been forgotten with messages up to there
}

// tick says when the stream was at a sequence, in ms since 1970.
type tick struct{ seq, ts int64 }

type waiter struct {
	seq  int64
	done chan struct{}
}

// tickEvery is how far two ticks are apart at least, in ms; maxTicks bounds
// them, the oldest go first.
const (
	tickEvery = 1000
	maxTicks  = 1 << 16
	// leftOver is how many sequences of each topic stay above the byte bound.
	leftOver = 16
	// traceBytes is what a topic costs besides its steps, roughly.
	traceBytes = 160
)

func newIndex(keep int, most int64) *index {
	return &index{keep: keep, most: most, topics: map[string]*trail{}}
}

// add notes a message, in the order of the stream.
func (x *index) add(topic string, at wire.Position, marker bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if at.Seq <= x.upTo {
		return
	}
	t := x.topics[topic]
	if t == nil {
		t = &trail{before: x.pruned}
		x.topics[topic] = t
		x.bytes += int64(len(topic)) + traceBytes
	}
	if x.whole > 0 && at.Seq != x.upTo+1 {
		x.whole = at.Seq // what is between was gone before it came here
	}
	before := len(t.steps)
	t.push(at.Seq)
	t.head = at
	if marker { // what is before it is purged
		t.marker = at.Seq
		x.bytes -= int64(before)
		t.first, t.count, t.steps, before = at.Seq, 1, nil, 0
	}
	for t.count > x.keep {
		t.lost = t.first
		t.shift()
	}
	if x.bytes > x.most {
		for t.count > leftOver {
			t.shift()
			t.cut = true
		}
	}
	x.bytes += int64(len(t.steps) - before)
	if n := len(x.clock); n == 0 || at.Ts-x.clock[n-1].ts >= tickEvery {
		if n == maxTicks {
			x.clock = slices.Delete(x.clock, 0, maxTicks/2)
		}
		x.clock = append(x.clock, tick{at.Seq, at.Ts})
	}
	x.newest = tick{at.Seq, at.Ts}
	x.reach(at.Seq)
}

// reach says that everything up to seq is here.
func (x *index) reach(seq int64) {
	if seq <= x.upTo {
		return
	}
	x.upTo = seq
	left := x.waiting[:0]
	for _, w := range x.waiting {
		if w.seq <= seq {
			close(w.done)
		} else {
			left = append(left, w)
		}
	}
	clear(x.waiting[len(left):])
	x.waiting = left
}

// reached is [index.reach] for what the stream's state tells: it ends at seq,
// holds nothing before floor, and all of it has been seen.
func (x *index) reached(seq, floor int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.floor = max(x.floor, floor)
	x.warm = true
	if x.whole > 0 && seq > x.upTo {
		x.whole = seq + 1
	}
	x.reach(seq)
}

// raise says that the stream holds nothing before floor any more.
func (x *index) raise(floor int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.floor = max(x.floor, floor)
}

// complete says that the stream began at first at a moment when the index was
// up to date: only single messages can have been taken from behind that before.
func (x *index) complete(first int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.whole == 0 {
		x.whole = max(first, 1)
	}
}

// prune forgets the topics of which the stream holds nothing any more.
func (x *index) prune() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name, t := range x.topics {
		if t.head.Seq < x.floor {
			x.bytes -= int64(len(name)+len(t.steps)) + traceBytes
			x.pruned = max(x.pruned, t.head.Seq)
			delete(x.topics, name)
		}
	}
}

// position returns how far the index is, and whether it has once been whole.
func (x *index) position() (upTo int64, warm bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.upTo, x.warm
}

// await returns a channel that is closed when the index has reached seq.
func (x *index) await(seq int64) <-chan struct{} {
	done := make(chan struct{})
	x.mu.Lock()
	defer x.mu.Unlock()
	if seq <= x.upTo {
		close(done)
		return done
	}
	x.waiting = append(x.waiting, waiter{seq, done})
	return done
}

// giveUp ends a wait that has run out of time.
func (x *index) giveUp(done <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, w := range x.waiting {
		if w.done == done {
			x.waiting = slices.Delete(x.waiting, i, i+1)
			return
		}
	}
}

// known is what the index says of a topic at one moment.
type known struct {
	seqs   []int64 // ascending
	cut    bool    // the stream may hold older ones that are not here
	head   wire.Position
	marker int64
	upTo   int64
}

// topic returns what is known of a topic.
func (x *index) topic(name string) known {
	x.mu.Lock()
	defer x.mu.Unlock()
	k := known{upTo: x.upTo}
	t := x.topics[name]
	if t == nil {
		return k
	}
	x.trim(t)
	k.seqs, k.cut, k.head, k.marker = t.seqs(), t.cut, t.head, t.marker
	if t.count == 0 {
		k.head = wire.Position{}
	}
	return k
}

// witness says what the index has seen of a topic behind p: that a message is
// gone, or that none is. present is how far the topic is known to be empty now,
// 0 where it is not: a message that is here and not later is gone too. With the
// index not yet at upTo it has not seen enough to say that none is.
func (x *index) witness(name string, p, present, upTo int64) (lost, none bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	before, cut := x.pruned, false
	if t := x.topics[name]; t != nil {
		x.trim(t)
		before, cut, lost = t.before, t.cut, t.lost > p
		if seqs := t.seqs(); !lost && present > p {
			i := behind(seqs, p)
			lost = i < len(seqs) && seqs[i] <= present
		}
	}
	return lost, !lost && !cut && before <= p && x.whole > 0 && x.whole <= p+1 && x.upTo >= upTo
}

// heads returns the newest message of each topic, and how far the index is.
func (x *index) heads(names []string) (heads []wire.Position, upTo int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	heads = make([]wire.Position, len(names))
	for i, name := range names {
		if t := x.topics[name]; t != nil && t.head.Seq >= x.floor {
			heads[i] = t.head
		}
	}
	return heads, x.upTo
}

// evicted says that a topic's messages up to seq are gone.
func (x *index) evicted(name string, seq int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t := x.topics[name]; t != nil {
		x.drop(t, seq+1)
	}
}

// trim drops what the stream is known not to hold.
func (x *index) trim(t *trail) { x.drop(t, x.floor) }

func (x *index) drop(t *trail, before int64) {
	n := len(t.steps)
	for t.count > 0 && t.first < before {
		t.lost = t.first
		t.shift()
	}
	x.bytes -= int64(n - len(t.steps))
}

// expiredBefore returns a sequence up to which every message was stored before
// ts (ms); 0 where that is not known.
func (x *index) expiredBefore(ts int64) int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.newest.seq > 0 && x.newest.ts <= ts {
		return x.newest.seq
	}
	i := sort.Search(len(x.clock), func(i int) bool { return x.clock[i].ts > ts })
	if i == 0 {
		return 0
	}
	return x.clock[i-1].seq
}

// list returns topics with messages in order of their names.
func (x *index) list(match, cursor string, limit int) []wire.ReplaySummary {
	x.mu.Lock()
	defer x.mu.Unlock()
	var names []string
	for name, t := range x.topics {
		if name > cursor && t.head.Seq >= x.floor && (match == "" || wire.MatchPattern(match, name)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var out []wire.ReplaySummary
	for _, name := range names {
		t := x.topics[name]
		x.trim(t)
		kept := t.count
		if t.marker > 0 && t.marker >= t.first {
			kept = t.after(t.marker)
		}
		if kept = min(kept, x.keep-1); kept == 0 {
			continue
		}
		if out = append(out, wire.ReplaySummary{Topic: strings.Clone(name), Count: kept, Seq: t.head.Seq}); len(out) == limit {
			break
		}
	}
	return out
}

// size returns how many topics and bytes it holds.
func (x *index) size() (topics int, bytes int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.topics), x.bytes
}

func (t *trail) push(seq int64) {
	if t.count == 0 {
		t.first = seq
	} else {
		t.steps = binary.AppendUvarint(t.steps, uint64(seq-t.head.Seq))
	}
	t.count++
}

func (t *trail) shift() {
	t.count--
	if t.count <= 0 {
		t.count, t.first, t.steps = 0, 0, nil
		return
	}
	step, n := binary.Uvarint(t.steps)
	t.first += int64(step)
	t.steps = t.steps[n:]
}

func (t *trail) seqs() []int64 {
	if t.count == 0 {
		return nil
	}
	out := make([]int64, 1, t.count)
	out[0] = t.first
	seq := t.first
	for steps := t.steps; len(steps) > 0; {
		step, n := binary.Uvarint(steps)
		seq += int64(step)
		out = append(out, seq)
		steps = steps[n:]
	}
	return out
}

// after counts the messages behind a sequence.
func (t *trail) after(seq int64) int {
	seqs := t.seqs()
	i, found := slices.BinarySearch(seqs, seq)
	if found {
		i++
	}
	return len(seqs) - i
}
