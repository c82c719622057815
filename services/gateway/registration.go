package gateway

import (
	"slices"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// register makes the connection known as its user's.
func (c *connection) register() {
	entry := wire.PresenceConn{Conn: c.id, Attributes: c.identity.Load().Attributes, Since: c.opened.UnixMilli()}
	c.g.roster.change("", c.user(), func(s *section) bool {
		s.join(entry)
		return true
	}, "", nil)
}

// registered returns what the registry is told of a user's connections here.
func (r *roster) registered(user string) []wire.PresenceConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sections[sectionKey{"", user}]; s != nil {
		return slices.Clone(s.conns)
	}
	return nil
}

// reintroduce tells others what a newer token says.
func (c *connection) reintroduce() {
	c.register()
	c.index()
	info := c.publicInfo()
	c.mu.Lock()
	var topics []string
	for topic, a := range c.presence {
		if a.joined {
			topics = append(topics, topic)
		}
	}
	c.mu.Unlock()
	for _, topic := range topics {
		c.g.roster.change(topic, c.user(), func(s *section) bool {
			i := s.index(c.id)
			if i < 0 || wire.EqualJSON(s.conns[i].Info, info) {
				return false
			}
			s.conns[i].Info = info
			return true
		}, "", nil)
	}
}
