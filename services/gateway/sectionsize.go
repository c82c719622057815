package gateway

import (
	"slices"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// sectionBytes bounds what is told of one section.
const sectionBytes = 200 << 10

// told is what the service is told of the section's connections: all of them,
// or the newest where others need not hear of more.
func (s *section) told() []wire.PresenceConn {
	if s.topic != "" {
		return slices.Clone(s.conns)
	}
	from, size := len(s.conns), 0
	for from > 0 && len(s.conns)-from < maxConns {
		if size += connBytes(&s.conns[from-1]); size > sectionBytes {
			break
		}
		from--
	}
	return slices.Clone(s.conns[from:])
}

// size is about how many bytes the section takes in a request.
func (s *section) size() int {
	n := len(s.topic) + len(s.user) + 128
	for i := range s.conns {
		n += connBytes(&s.conns[i])
	}
	return n
}

func connBytes(c *wire.PresenceConn) int {
	n := len(c.Data) + len(c.Info) + len(c.Conn) + 64
	for k, v := range c.Attributes {
		n += len(k) + len(v) + 6
	}
	return n
}
