package gateway

import (
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// trail is how far the gateway has followed a replayed topic, with the newest
// messages of it. Guarded by its interest's mutex.
type trail struct {
	stream string
	size   int           // what the rule retains
	ttl    time.Duration // 0: for ever
	budget *ringBudget

	// at is the position that every live member has reached. Until known, the
	// first message that comes is taken as it is.
	at    wire.Position
	known bool

	// ring holds the messages behind base, without a hole, up to at.
	ring  []trailed
	base  wire.Position
	bytes int

	waiting

	reads chan struct{} // an element for each page that is being read for a client

	checked time.Time // the log was seen to be ahead then, and was not read yet
}

// trailed is a message of the ring: its frame is what every member was sent.
type trailed struct {
	at      wire.Position
	prev    int64
	frame   []byte
	exclude string // connection that does not get it
}

const (
	ringMessages = 1024
	ringBytes    = 256 << 10
	// allRingsBytes bounds the rings of a gateway together.
	allRingsBytes = 64 << 20
)

// ringBudget bounds the rings of all topics.
type ringBudget struct{ used atomic.Int64 }

func newTrail(stream string, size int, ttl time.Duration, budget *ringBudget) *trail {
	return &trail{stream: stream, size: size, ttl: ttl, budget: budget, waiting: newWaiting(), reads: make(chan struct{}, pastOfTopic)}
}

// step says what a message is to a trail.
type step uint8

const (
	stepNext     step = iota // it continues the trail
	stepOld                  // it was delivered before
	stepUnproven             // something may be missing, or it is another log
)

// judge compares a message with the position that was reached. Only the exact
// successor continues it: with the stream wiped and begun again, any other
// number can mean anything.
func (t *trail) judge(at wire.Position, prev int64) step {
	reached := t.at.Ts
	if reached < 0 {
		reached = 0 // the clock of another machine said it: it proves nothing
	}
	switch {
	case !t.known:
		return stepNext
	case at.Seq <= t.at.Seq && (at.Ts <= reached || reached == 0 && t.at.Ts == 0):
		return stepOld
	case at.Seq > t.at.Seq && at.Ts >= reached && (prev == t.at.Seq || prev == 0 && t.at.Empty()):
		return stepNext
	}
	return stepUnproven
}

// push notes that a message was delivered.
func (t *trail) push(e trailed) {
	if !t.known {
		t.base, t.known = wire.Position{Seq: e.prev}, true
	}
	t.at = e.at
	t.ring = append(t.ring, e)
	t.bytes += len(e.frame)
	t.budget.used.Add(int64(len(e.frame)))
	for len(t.ring) > 1 && (len(t.ring) > ringMessages || t.bytes > ringBytes || len(t.ring) > t.size || t.budget.used.Load() > allRingsBytes) {
		t.shift()
	}
}

func (t *trail) shift() {
	e := &t.ring[0]
	t.base = e.at
	t.bytes -= len(e.frame)
	t.budget.used.Add(-int64(len(e.frame)))
	*e = trailed{}
	t.ring = t.ring[1:]
}

// reset begins again at a position, with nothing in the ring.
func (t *trail) reset(at wire.Position) {
	t.forget()
	t.at, t.base, t.known = at, at, true
}

// forget empties the ring.
func (t *trail) forget() {
	t.budget.used.Add(-int64(t.bytes))
	t.ring, t.bytes, t.base = nil, 0, t.at
}

// after returns the messages behind a position, if the ring can prove that
// these are all: it holds the position's message itself, nothing in it has
// expired, and the trail is whole. A position without a time is taken by its
// number alone.
func (t *trail) after(p wire.Position, now time.Time) ([]trailed, bool) {
	if !t.known || t.mending {
		return nil, false
	}
	same := func(q wire.Position) bool {
		return q.Seq == p.Seq && (q.Ts == p.Ts && q.Ts != 0 || p.Ts == 0 && q.Seq > 0)
	}
	from := -1
	if same(t.base) {
		from = 0
	} else {
		for i := len(t.ring) - 1; i >= 0; i-- {
			if t.ring[i].at.Seq <= p.Seq {
				if !same(t.ring[i].at) {
					return nil, false
				}
				from = i + 1
				break
			}
		}
	}
	if from < 0 {
		return nil, false
	}
	rest := t.ring[from:]
	if len(rest) > 0 && t.ttl > 0 && now.UnixMilli()-rest[0].at.Ts >= t.ttl.Milliseconds() {
		return nil, false
	}
	return rest, true
}
