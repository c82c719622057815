package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// presenceHealth is whether the presence service answers, as clients were told.
type presenceHealth struct {
	mu         sync.Mutex
	ever, down bool
	heard      time.Time // when the service was last asked
}

// healthEvery is how often the service is asked something where nothing else
// is asked of it.
const healthEvery = 3 * time.Second

// probePresence asks the presence service something, unless it was asked lately:
// clients are to hear that it is away before they need it.
func (g *Service) probePresence(ctx context.Context, now time.Time) {
	h := &g.presenceHealth
	h.mu.Lock()
	due := h.ever && now.Sub(h.heard) >= healthEvery
	h.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, healthEvery)
	defer cancel()
	_, err := bus.Call[wire.PresenceUsers, wire.PresenceOnline](ctx, g.reads, g.cfg.Namespace.Svc("presence", "online"), wire.PresenceUsers{})
	g.heardPresence(err)
}

// answers reports whether the presence service answered when it was last asked.
func (h *presenceHealth) answers() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ever && !h.down
}

// heardPresence notes the outcome of a request to the presence service, and
// tells every client when it goes away or comes back. A gateway that never had
// one does not miss it.
func (g *Service) heardPresence(err error) {
	away := false
	if err != nil {
		code := wire.CodeOf(err)
		if away = code == wire.Unavailable || code == wire.DeadlineExceeded; !away || !g.link.up() {
			return
		}
	}
	h := &g.presenceHealth
	h.mu.Lock()
	h.heard = time.Now()
	tell := ""
	switch {
	case away && h.ever && !h.down:
		h.down, tell = true, "degraded"
	case !away && h.down:
		h.down, tell = false, "recovered"
	}
	h.ever = h.ever || !away
	h.mu.Unlock()
	if tell != "" {
		g.log.Info("presence service", "state", tell)
		g.tellAll(tell, "presence")
	}
}
