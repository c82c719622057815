package main

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/internal/bench"
)

type benchPresence struct {
	benchReplayFlags `embed:""`

	Clients  int           `short:"n" default:"128" help:"Connections that join and leave in turn (default ${default})."`
	Members  int           `default:"1000" help:"Members of the full room (default ${default})."`
	Idle     int           `default:"1000" help:"Connections that join and stay (default ${default})."`
	Duration time.Duration `default:"4s" help:"Measured time of one side in a round (default ${default})."`
}

// Run measures joins, leaves and staying.
func (c *benchPresence) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Presence{Clients: c.Clients, Members: c.Members, Idle: c.Idle, Rounds: c.Rounds, Duration: c.Duration})
}
