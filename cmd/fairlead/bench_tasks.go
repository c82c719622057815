package main

import (
	"context"

	"github.com/fairlead-io/fairlead/internal/bench"
)

type benchTasks struct {
	benchReplayFlags `embed:""`

	Callers []int `default:"64,1024" help:"Callers that each wait until their task is stored, one part for each number (default ${default})."`
	Tasks   int   `short:"n" default:"30000" help:"Tasks of each such part (default ${default})."`
	Backlog int   `default:"60000" help:"Tasks of a backlog (default ${default})."`
	Idle    int   `default:"150" help:"Tasks of the idle part, at 50 a second (default ${default})."`
}

// Run measures durable tasks.
func (c *benchTasks) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Tasks{Callers: c.Callers, Tasks: c.Tasks, Backlog: c.Backlog, Idle: c.Idle, Rounds: c.Rounds})
}
