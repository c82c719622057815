package gateway

import (
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// cursorPage is what changed on a board behind one version, up to another: as
// the insides of the objects and arrays that frames and messages hold.
type cursorPage struct {
	to          uint64
	moved, gone []byte
	count       int
}

// page returns what changed behind a version, oldest first, in about bytes.
// With all it returns what is there, and nothing of what is gone.
func (b *cursorBoard) page(since uint64, bytes int, all bool) cursorPage {
	r := b.list.prev
	for r != &b.list && r.version > since {
		r = r.prev
	}
	p := cursorPage{to: since}
	for r = r.next; r != &b.list; r = r.next {
		moved, gone := len(p.moved), len(p.gone)
		switch {
		case r.data != nil:
			p.moved = wire.AppendCursor(p.moved, r.user, r.data)
		case !all:
			p.gone = wire.AppendCursorGone(p.gone, r.user)
		}
		if len(p.moved)+len(p.gone) > bytes && moved+gone > 0 {
			p.moved, p.gone = p.moved[:moved], p.gone[:gone]
			return p
		}
		p.to = r.version
		p.count++
	}
	p.to = b.version
	return p
}

// untoldPage returns what other gateways don't know yet of the own cursors and of
// those that are gone, oldest first, in about bytes, and takes it off the queue.
func (b *cursorBoard) untoldPage(bytes int, now time.Time) (p cursorPage) {
	taken := 0
	for _, user := range b.untold {
		if r := b.records[user]; r != nil && (r.gateway == nil || r.data == nil) { // else it is another's by now
			moved, gone := len(p.moved), len(p.gone)
			r.append(&p, now)
			if len(p.moved)+len(p.gone) > bytes && moved+gone > 0 {
				p.moved, p.gone, p.count = p.moved[:moved], p.gone[:gone], p.count-1
				break
			}
			// Whoever said first that a cursor is gone, others hear it of this
			// gateway: of two equal stamps they would prefer another one than here.
			r.gateway = nil
		}
		delete(b.queued, user)
		taken++
	}
	if b.untold = b.untold[taken:]; len(b.untold) == 0 {
		b.untold = nil
	}
	return p
}

// snapshot returns all own cursors, in pages of about bytes: at least one. It
// says of those that went a moment ago that they are gone: whoever has an older
// move of such a user can't tell otherwise.
func (b *cursorBoard) snapshot(bytes int, now time.Time) (pages []cursorPage) {
	p := cursorPage{}
	for r := b.list.next; r != &b.list; r = r.next {
		if r.gateway != nil {
			continue
		}
		moved, gone := len(p.moved), len(p.gone)
		r.append(&p, now)
		if len(p.moved)+len(p.gone) > bytes && moved+gone > 0 {
			p.moved, p.gone, p.count = p.moved[:moved], p.gone[:gone], p.count-1
			pages = append(pages, p)
			p = cursorPage{}
			r.append(&p, now)
		}
	}
	return append(pages, p)
}

// append adds the record to a page as other gateways hear it.
func (r *cursorRecord) append(p *cursorPage, now time.Time) {
	p.count++
	age := max(now.Sub(r.moved).Milliseconds(), 0)
	if r.data == nil {
		p.gone = wire.AppendCursorEnd(p.gone, wire.CursorGone{User: r.user, At: r.at, AgeMs: age})
		return
	}
	p.moved = wire.AppendCursorMove(p.moved, &wire.CursorMove{User: r.user, At: r.at, AgeMs: age, Data: r.data})
}
