package gateway

import (
	"slices"
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
	// cursorClockSkew is how far ahead another gateway's clock may be before its
	// moves count as made now: those of others could not follow them.
	cursorClockSkew = 24 * time.Hour
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

	untold []string            // users whose own cursor other gateways don't know yet; oldest first
	queued map[string]struct{} // the same

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

// cursorGateway is another gateway that has cursors on the topic.
type cursorGateway struct {
	id       string
	cursors  int
	heard    time.Time
	round    uint64 // grows with each question to it and each of its snapshots
	page     int64  // the newest page of that
	paging   bool   // more of it follows
	answered bool   // it has sent one since it was asked
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

// hear takes what another gateway says, and returns how many of its cursors
// were one too many.
func (b *cursorBoard) hear(m *wire.CursorMessage, now time.Time) (refused int) {
	g := b.gateways[m.Gateway]
	if g == nil {
		if len(m.Moved)+len(m.Gone) == 0 {
			return 0
		}
		g = &cursorGateway{id: m.Gateway, answered: true} // nobody has asked it
		b.gateways[g.id] = g
	}
	g.heard = now
	if m.Whole {
		switch {
		case m.Page == 0:
			g.round++
			g.page, g.paging = 0, true
		case g.paging && m.Page == g.page+1:
			g.page++
		default:
			g.paging = false // a page is missing: it does not say who is gone
		}
	}
	for i := range m.Moved {
		if !b.hearMove(g, &m.Moved[i], now) {
			refused++
		}
	}
	for _, gone := range m.Gone {
		b.hearGone(g, gone, now)
	}
	if m.Whole && !m.More && g.paging {
		g.paging, g.answered = false, true
		for _, r := range b.records {
			if r.gateway == g && r.data != nil && r.round < g.round {
				b.remove(r, now)
			}
		}
	}
	if g.cursors == 0 && !g.paging {
		delete(b.gateways, g.id)
	}
	return refused
}

// hearMove takes one move; false where there are too many cursors for it.
func (b *cursorBoard) hearMove(g *cursorGateway, m *wire.CursorMove, now time.Time) bool {
	at := min(m.At, now.Add(cursorClockSkew).UnixMilli())
	r := b.records[m.User]
	if r != nil && !r.older(at, g.id, b.id) {
		if r.gateway == g {
			r.round = g.round
		}
		return true
	}
	if b.full(r) {
		return false
	}
	moved := now.Add(-time.Duration(min(m.AgeMs, int64(24*time.Hour/time.Millisecond))) * time.Millisecond)
	r = b.put(m.User, slices.Clone(m.Data), at, moved, g) // the message is larger than this
	r.round = g.round
	return true
}

// hearGone takes that a cursor is gone, also where the move has not come yet.
func (b *cursorBoard) hearGone(g *cursorGateway, gone wire.CursorGone, now time.Time) {
	at := min(gone.At, now.Add(cursorClockSkew).UnixMilli())
	r := b.records[gone.User]
	if r != nil && !r.older(at, g.id, b.id) && (r.gateway != g || r.at != at || r.data == nil) {
		return
	}
	switch {
	case r == nil:
		r = &cursorRecord{user: gone.User}
		b.records[r.user] = r
		b.count(r, 1)
		r.link(&b.list) // nobody here has heard of it, so that it has no version
		b.keepGone()
	case r.data != nil:
		b.remove(r, now)
	}
	r.at, r.moved, r.gateway = at, now, g
	if b.sweepAt.IsZero() {
		b.sweepAt = now.Add(cursorGoneKept)
	}
}

// older reports whether the record is of an earlier move than one of a gateway.
func (r *cursorRecord) older(at int64, gateway, self string) bool {
	if r.at != at {
		return r.at < at
	}
	if r.gateway != nil {
		self = r.gateway.id
	}
	return self < gateway
}

// forget takes away the cursors of a gateway that is no more.
func (b *cursorBoard) forget(gateway string, now time.Time) {
	g := b.gateways[gateway]
	if g == nil {
		return
	}
	for _, r := range b.records {
		if r.gateway == g && r.data != nil {
			b.lose(r, now)
		}
	}
	delete(b.gateways, gateway)
}

// question marks that all gateways are being asked for all they have. A snapshot
// under way is not the answer.
func (b *cursorBoard) question() {
	for _, g := range b.gateways {
		g.answered, g.paging = false, false
		g.round++
	}
}

// unanswered takes away the cursors of gateways that have not answered, but for
// those that they have moved since.
func (b *cursorBoard) unanswered(now time.Time) {
	for _, r := range b.records {
		if g := r.gateway; g != nil && r.data != nil && !g.answered && r.round < g.round {
			b.lose(r, now)
		}
	}
	for id, g := range b.gateways {
		if g.answered = true; g.cursors == 0 {
			delete(b.gateways, id)
		}
	}
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
		if g.cursors == 0 && !g.paging {
			delete(b.gateways, id)
		}
	}
	if b.sweepAt = next; !next.IsZero() {
		// Cursors that moved one after the other expire together.
		if soonest := now.Add(min(b.ttl/20, 250*time.Millisecond)); next.Before(soonest) {
			b.sweepAt = soonest
		}
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
	if end := moved.Add(b.ttl); b.sweepAt.IsZero() || end.Before(b.sweepAt) {
		b.sweepAt = end
	}
	return r
}

// remove marks a cursor as gone.
func (b *cursorBoard) remove(r *cursorRecord, now time.Time) {
	b.count(r, -1)
	r.data, r.conn, r.moved = nil, nil, now
	b.count(r, 1)
	b.touch(r)
	b.keepGone()
}

// keepGone bounds what is remembered of those that are gone.
func (b *cursorBoard) keepGone() {
	for b.gone > b.most {
		oldest := b.list.next
		for oldest.data != nil {
			oldest = oldest.next
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

// tell queues that other gateways are to hear of a user's own cursor.
func (b *cursorBoard) tell(user string) {
	if _, ok := b.queued[user]; !ok {
		b.queued[user] = struct{}{}
		b.untold = append(b.untold, user)
	}
}
