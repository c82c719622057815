package main

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/internal/bench"
)

type benchRatelimit struct {
	benchReplayFlags `embed:""`

	Requests int           `short:"n" default:"512" help:"Requests of workers under way at a time (default ${default})."`
	Gateways int           `default:"4" help:"Clients that fold what is wanted of a key, as gateways do (default ${default})."`
	Callers  int           `default:"512" help:"Calls under way in each of them (default ${default})."`
	Keys     int           `default:"10000" help:"Keys of the part with many (default ${default})."`
	Duration time.Duration `default:"3s" help:"Measured time of one side in a round (default ${default})."`
}

// Run measures decisions about limits.
func (c *benchRatelimit) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Ratelimit{
		InFlight: c.Requests, Gateways: c.Gateways, Callers: c.Callers, Keys: c.Keys, Rounds: c.Rounds, Duration: c.Duration,
	})
}
