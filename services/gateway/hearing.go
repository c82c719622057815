package gateway

import (
	"maps"
	"slices"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// hearing is what a connection was told of the services behind the gateway. It
// is guarded by dependencies.telling.
type hearing struct {
	hears bool            // it has been answered, or has a token that came with it
	away  map[string]bool // what it was told is away; nil: nothing
}

// tellDependency tells every connection that a service went away or is back.
// One that has not been greeted hears what is away behind its greeting.
func (g *Service) tellDependency(event, what string) {
	ds := g.dependencies
	ds.telling.Lock()
	defer ds.telling.Unlock()
	if event == "degraded" {
		ds.away[what] = true
	} else {
		delete(ds.away, what)
	}
	frame := wire.AppendSystem(nil, event, what, time.Now().UnixMilli())
	g.connections.each(func(c *connection) { c.hearing.told(c, event, what, frame) })
}

// told sends what is news to a connection.
func (h *hearing) told(c *connection, event, what string, frame []byte) {
	switch {
	case event == "degraded" && h.hears && !h.away[what]:
		if h.away == nil {
			h.away = map[string]bool{}
		}
		h.away[what] = true
	case event == "recovered" && h.away[what]:
		delete(h.away, what)
	default:
		return
	}
	c.out.Send(frame)
}

// inform tells a connection that has just been greeted what is away, unless it
// knows.
func (c *connection) inform() {
	ds := c.g.dependencies
	ds.telling.Lock()
	defer ds.telling.Unlock()
	c.hearing.hears = true
	for _, what := range slices.Sorted(maps.Keys(ds.away)) {
		c.hearing.told(c, "degraded", what, wire.AppendSystem(nil, "degraded", what, time.Now().UnixMilli()))
	}
}

// hear lets a connection that may say nothing hear what changes from now on.
func (c *connection) hear() {
	ds := c.g.dependencies
	ds.telling.Lock()
	defer ds.telling.Unlock()
	c.hearing.hears = true
}
