package main

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/internal/bench"
)

type benchAsk struct {
	benchReplayFlags `embed:""`

	Users    int           `short:"n" default:"8" help:"Users, spread over both gateways (default ${default})."`
	Asks     int           `default:"1" placeholder:"N" help:"Asks under way at a time (default ${default})."`
	Duration time.Duration `default:"3s" help:"Measured time of one side in a round (default ${default})."`
}

// Run measures asks.
func (c *benchAsk) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Ask{Users: c.Users, InFlight: c.Asks, Rounds: c.Rounds, Duration: c.Duration})
}
