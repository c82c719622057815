package gateway

import (
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// cursorsMost is the most cursors of one topic.
	cursorsMost = 10_000
	// cursorGoneKept bounds how long, and with cursorsMost how many, it is
	// remembered that a cursor is gone: for readers that are behind, and so that
	// a move which was overtaken does not bring it back.
	cursorGoneKept = 10 * time.Second
)

// cursorBoard is the cursors of one topic as one gateway knows them. A user has
// one, wherever it was moved last; everybody who knows the same moves agrees on
// it. It knows neither sockets nor NATS nor the clock.
//
// Every change has a version, and the records are listed by the one of their
// last change: whoever knows the board as of a version is owed what stands
// behind it, at most once per user, however long ago that was.
type cursorBoard struct {
	id       string // of this gateway
	most     int
	records  map[string]*cursorRecord // by user
	list     cursorRecord             // by version: next is the oldest
	version  uint64
	floor    uint64 // what is forgotten of those that are gone was at most so new
	gateways map[string]*cursorGateway

	there, gone, own int // records: of cursors that are there, gone, there and this gateway's

	untold []string            // users of whom other gateways don't know this yet; oldest first
	queued map[string]struct{} // the same
	unsaid bool                // some of those that others don't know to be gone are forgotten

	ttl     time.Duration // a cursor that does not move is gone after it
	sweepAt time.Time     // nothing expires before; zero: nothing does
}

// cursorRecord is one user's cursor, or that it is gone.
type cursorRecord struct {
	user    string
	data    []byte         // raw JSON; nil: gone
	at      int64          // of the move: orders those of one user
	moved   time.Time      // when that was, or when it went
	gateway *cursorGateway // nil: this one
	conn    *connection    // of an own cursor: who moved it
	round   uint64         // of its gateway when that last said it

	version    uint64
	prev, next *cursorRecord
}

func newCursorBoard(id string, most int) *cursorBoard {
	b := &cursorBoard{id: id, most: most, records: map[string]*cursorRecord{}, gateways: map[string]*cursorGateway{}, queued: map[string]struct{}{}}
	b.list.prev, b.list.next = &b.list, &b.list
	return b
}

// move takes a move by a connection of this gateway; false where there are too
// many cursors for one more.
func (b *cursorBoard) move(user string, conn *connection, data []byte, now time.Time) bool {
	r := b.records[user]
	if b.full(r) {
		return false
	}
	at := now.UnixMilli()
	if r != nil {
		at = min(max(at, r.at+1), wire.MaxID)
	}
	b.put(user, data, at, now, nil).conn = conn
	b.tell(user)
	return true
}

// leave takes away a user's cursor if that connection moved it last.
func (b *cursorBoard) leave(user string, conn *connection, now time.Time) bool {
	r := b.records[user]
	if r == nil || r.data == nil || r.gateway != nil || r.conn != conn {
		return false
	}
	b.remove(r, now)
	b.tell(user)
	return true
}

// live sets how long cursors live that do not move.
func (b *cursorBoard) live(ttl time.Duration, now time.Time) {
	if b.ttl != ttl && len(b.records) > 0 {
		b.sweepAt = now
	}
	b.ttl = ttl
}

// expire takes away the cursors that have not moved for their time, and forgets
// those that are gone for long. It does nothing before sweepAt, which it sets.
func (b *cursorBoard) expire(now time.Time) {
	if b.sweepAt.IsZero() || now.Before(b.sweepAt) {
		return
	}
	next := time.Time{}
	for user, r := range b.records {
		life := b.ttl
		if r.data == nil {
			life = cursorGoneKept
		}
		if now.Sub(r.moved) < life {
			if at := r.moved.Add(life); next.IsZero() || at.Before(next) {
				next = at
			}
			continue
		}
		_, queued := b.queued[user]
		switch {
		case r.data == nil && !queued:
			b.drop(r)
			continue
		case r.data == nil: // others are still to be told
		case r.gateway == nil:
			b.remove(r, now)
			b.tell(user)
		default:
			b.lose(r, now)
		}
		if at := now.Add(cursorGoneKept); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for id, g := range b.gateways {
		if g.cursors == 0 && (!g.paging || now.Sub(g.heard) >= cursorAnswer) {
			delete(b.gateways, id) // also one that died between two pages
		}
	}
	if b.sweepAt = next; !next.IsZero() {
		// Cursors that moved one after the other expire together.
		if soonest := now.Add(min(b.ttl/20, 250*time.Millisecond)); next.Before(soonest) {
			b.sweepAt = soonest
		}
	}
}

// sweepBy has expire look again at a time, or before.
func (b *cursorBoard) sweepBy(at time.Time) {
	if b.sweepAt.IsZero() || at.Before(b.sweepAt) {
		b.sweepAt = at
	}
}

// full reports whether there is no room for a cursor whose record is r.
func (b *cursorBoard) full(r *cursorRecord) bool {
	return (r == nil || r.data == nil) && b.there >= b.most
}

// put makes a cursor what a move says.
func (b *cursorBoard) put(user string, data []byte, at int64, moved time.Time, g *cursorGateway) *cursorRecord {
	r := b.records[user]
	if r == nil {
		r = &cursorRecord{user: user}
		b.records[user] = r
	} else {
		b.count(r, -1)
	}
	r.data, r.at, r.moved, r.gateway, r.conn = data, at, moved, g, nil
	b.count(r, 1)
	b.touch(r)
	b.sweepBy(moved.Add(b.ttl))
	return r
}

// remove marks a cursor as gone.
func (b *cursorBoard) remove(r *cursorRecord, now time.Time) {
	b.count(r, -1)
	r.data, r.conn, r.moved = nil, nil, now
	b.count(r, 1)
	b.touch(r)
	b.sweepBy(now.Add(cursorGoneKept))
	b.keepGone()
}

// keepGone bounds what is remembered of those that are gone. Where others don't
// know it yet, they have to be told all there is.
func (b *cursorBoard) keepGone() {
	for b.gone > b.most {
		oldest := b.list.next
		for oldest.data != nil {
			oldest = oldest.next
		}
		if _, untold := b.queued[oldest.user]; untold {
			b.unsaid = true
		}
		b.drop(oldest)
	}
}

// lose is remove where its gateway has not said so: it may say the same move
// again.
func (b *cursorBoard) lose(r *cursorRecord, now time.Time) {
	r.at--
	b.remove(r, now)
}

// drop forgets that a cursor is gone.
func (b *cursorBoard) drop(r *cursorRecord) {
	b.count(r, -1)
	r.unlink()
	delete(b.records, r.user)
	b.floor = max(b.floor, r.version)
}

func (b *cursorBoard) count(r *cursorRecord, n int) {
	switch {
	case r.data == nil:
		b.gone += n
		return
	case r.gateway == nil:
		b.own += n
	default:
		r.gateway.cursors += n
	}
	b.there += n
}

// touch gives a record the newest version.
func (b *cursorBoard) touch(r *cursorRecord) {
	r.unlink()
	b.version++
	r.version = b.version
	r.link(b.list.prev)
}

// link puts a record behind another.
func (r *cursorRecord) link(prev *cursorRecord) {
	r.prev, r.next = prev, prev.next
	r.prev.next, r.next.prev = r, r
}

func (r *cursorRecord) unlink() {
	if r.prev != nil {
		r.prev.next, r.next.prev = r.next, r.prev
		r.prev, r.next = nil, nil
	}
}

// tell queues that other gateways are to hear of a user's own cursor, or that it
// is gone.
func (b *cursorBoard) tell(user string) {
	if _, ok := b.queued[user]; !ok {
		b.queued[user] = struct{}{}
		b.untold = append(b.untold, user)
	}
}
