package gateway

import (
	"slices"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// section is what the gateway has of a user on a topic, or at all where the
// topic is "". It is pure state; its roster guards it.
type section struct {
	topic, user string
	conns       []wire.PresenceConn // in the order in which they came
	left        uint64              // order of the newest that left cleanly

	version uint64 // of what is to be stored
	stored  uint64 // the newest that is known to be; 0: none
	counted uint64 // the version that is in the roster's digest; 0: none
	queued  bool   // waits for its turn
	urgent  bool   // among those that somebody waits for
	flying  uint64 // version that is on its way; 0: none
	unheard bool   // something newer was stored, of which the gateway did not know
	maybe   bool   // a version may be stored that is not known to be
	dropped bool   // out of the roster, though it may wait for a turn still

	waiting []waiter
}

// waiter is somebody who needs a version to be stored.
type waiter struct {
	version uint64
	since   time.Time
	conn    string // whose join it is; "" where nothing is undone if it fails
	done    func(revision uint64, err *wire.Error)
}

func (s *section) index(conn string) int {
	return slices.IndexFunc(s.conns, func(c wire.PresenceConn) bool { return c.Conn == conn })
}

// join adds a connection, or gives one that is there new data. Those of the user
// that were lost stay until it is stored: only then is this their return.
func (s *section) join(c wire.PresenceConn) {
	if i := s.index(c.Conn); i >= 0 {
		c.Order, c.Since = s.conns[i].Order, s.conns[i].Since
		s.conns[i] = c
		return
	}
	s.conns = append(s.conns, c)
}

// leave takes a connection out that left cleanly, and with it those that were
// lost before it came: false if it is not there.
func (s *section) leave(conn string) bool {
	i := s.index(conn)
	if i < 0 {
		return false
	}
	order := s.conns[i].Order
	s.left = max(s.left, order)
	kept := s.conns[:0]
	for j, o := range s.conns {
		if j != i && !(o.Away && (j < i || o.Order != 0 && o.Order <= order)) {
			kept = append(kept, o)
		}
	}
	clear(s.conns[len(kept):])
	s.conns = kept
	return true
}

// lose marks a connection as lost: false if it is not there.
func (s *section) lose(conn string) bool {
	i := s.index(conn)
	if i < 0 {
		return false
	}
	s.conns[i].Away = true
	return true
}

// expire takes out a connection that was lost and did not return.
func (s *section) expire(conn string) bool {
	i := s.index(conn)
	if i < 0 || !s.conns[i].Away {
		return false
	}
	s.conns = slices.Delete(s.conns, i, i+1)
	return true
}

// ordered notes the revision by which connections without an order were stored;
// conns are those that were. Older ones that were lost are done with: the user is
// back. What is stored may have them for as long as it has the newer one, which
// speaks for the user.
func (s *section) ordered(conns []wire.PresenceConn, revision uint64) {
	back := false
	for _, c := range conns {
		if i := s.index(c.Conn); i >= 0 && s.conns[i].Order == 0 && c.Order == 0 {
			s.conns[i].Order = revision
			back = true
		}
	}
	if back {
		s.conns = slices.DeleteFunc(s.conns, func(o wire.PresenceConn) bool { return o.Away && o.Order != 0 && o.Order < revision })
	}
}

// undo takes out a connection that was refused, unless it was stored before.
func (s *section) undo(conn string) bool {
	i := s.index(conn)
	if i < 0 || s.conns[i].Order != 0 {
		return false
	}
	s.conns = slices.Delete(s.conns, i, i+1)
	return true
}

// settled reports whether nothing of the section is left to be stored or to be
// remembered.
func (s *section) settled() bool {
	if len(s.conns) > 0 || s.flying != 0 || len(s.waiting) > 0 {
		return false
	}
	return s.stored == s.version && !s.queued || s.stored == 0 && !s.maybe
}
