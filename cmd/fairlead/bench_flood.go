package main

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/internal/bench"
)

type benchFlood struct {
	benchReplayFlags `embed:""`

	Clients  int           `short:"n" default:"16" help:"Others, each with a connection (default ${default})."`
	Rate     float64       `default:"400" help:"Publishes a second of all others together (default ${default})."`
	Window   int           `default:"64" help:"Publishes of the flood without an answer at a time (default ${default})."`
	Limit    float64       `default:"0" placeholder:"N" help:"Publishes a second of the flood at most; 0: as fast as it can (default ${default})."`
	Duration time.Duration `default:"4s" help:"Measured time of one side in a round (default ${default})."`
}

// Run measures what others notice of a flood.
func (c *benchFlood) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Flood{Clients: c.Clients, Rate: c.Rate, Window: c.Window, Limit: c.Limit, Rounds: c.Rounds, Duration: c.Duration})
}
