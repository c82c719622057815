package gateway

import (
	"slices"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// cursorGateways bounds the gateways whose cursors one topic has.
	cursorGateways = 1024
	// cursorClockSkew is how far ahead another gateway's clock may be before its
	// moves count as made now: those of others could not follow them.
	cursorClockSkew = 24 * time.Hour
)

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

// hear takes what another gateway says, and returns how many of its cursors
// were one too many.
func (b *cursorBoard) hear(m *wire.CursorMessage, now time.Time) (refused int) {
	g := b.gateways[m.Gateway]
	if g == nil {
		if len(m.Moved)+len(m.Gone) == 0 || len(b.gateways) >= cursorGateways {
			return len(m.Moved)
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
	r, moved := b.records[m.User], ago(m.AgeMs, now)
	switch {
	case r != nil && !r.older(at, g.id, b.id):
		switch {
		case r.gateway == nil || r.data == nil:
			b.tell(r.user) // its gateway does not know it, and may know better: see contest
		case r.gateway == g:
			r.round = g.round
		}
		return true
	case b.contest(r, at, moved):
		return true
	case b.full(r):
		return false
	}
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
	case b.contest(r, at, ago(gone.AgeMs, now)):
		return
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
	b.sweepBy(now.Add(cursorGoneKept))
}

// contest keeps an own cursor that moved behind what another gateway says of its
// user, although the stamp of that is the greater: one of the clocks is wrong.
// How long ago something was does not depend on them, and the way here makes it
// look newer only, so that of two gateways at most one does this.
func (b *cursorBoard) contest(r *cursorRecord, at int64, when time.Time) bool {
	if r == nil || r.data == nil || r.gateway != nil || at >= wire.MaxID || !r.moved.After(when) {
		return false
	}
	r.at = at + 1
	b.tell(r.user)
	return true
}

// ago returns the time that was so many ms before now.
func ago(ms int64, now time.Time) time.Time {
	return now.Add(-time.Duration(min(ms, int64(24*time.Hour/time.Millisecond))) * time.Millisecond)
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
