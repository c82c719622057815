package gateway

import (
	"context"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// probePresence asks about nobody: a replica answers from memory, whoever leads
// the streams.
func (g *Service) probePresence(ctx context.Context) (asked bool, err error) {
	_, err = bus.Call[wire.PresenceUsers, wire.PresenceOnline](ctx, g.reads, g.cfg.Namespace.Svc("presence", "online"), wire.PresenceUsers{})
	return true, err
}

// probeReplay asks whether a replica is there.
func (g *Service) probeReplay(ctx context.Context) (asked bool, err error) {
	_, err = bus.Call[struct{}, struct{}](ctx, g.reads, g.cfg.Namespace.Svc("replay", "ping"), struct{}{})
	return true, err
}

// probeRatelimit looks at a bucket that nothing is ever taken from: a replica
// answers if it can decide.
func (g *Service) probeRatelimit(ctx context.Context) (asked bool, err error) {
	all := g.rules.Current().Limits
	if len(all) == 0 {
		return false, nil
	}
	req := wire.LimitRequest{LimitTake: wire.LimitTake{Policy: all[0].Name, Key: "gateway " + g.id}}
	_, err = bus.Call[wire.LimitRequest, wire.LimitReply](ctx, g.requests, g.cfg.Namespace.Svc("ratelimit", "peek"), req)
	return true, err
}
