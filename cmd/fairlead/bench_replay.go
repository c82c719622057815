package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/fairlead-io/fairlead/internal/bench"
)

// benchReplayFlags are the same for all benchmarks of replay, which start the
// processes that they measure.
type benchReplayFlags struct {
	Dir      string `placeholder:"DIR" help:"Where data, logs and profiles go, and stay; default: a temporary directory, removed at the end."`
	Profile  bool   `help:"Write CPU profiles of every process to --dir."`
	Rounds   int    `placeholder:"N" help:"How often the sides take turns; a figure is the median."`
	Loops    int    `placeholder:"N" help:"Threads that generate the load; default: one per core."`
	InFlight int    `default:"64" placeholder:"N" help:"Connections that are being opened at a time (default ${default})."`
	JSON     bool   `name:"json" help:"Print the report as JSON."`
}

// replayScenario is one of bench's that bring their own processes.
type replayScenario interface {
	Run(context.Context, bench.SiteConfig) (*bench.Comparison, error)
}

// run prints what a scenario measured. One that lost something fails.
func (f *benchReplayFlags) run(ctx context.Context, env *Env, s replayScenario) error {
	if f.Profile && f.Dir == "" {
		return usage(fmt.Errorf("--profile needs --dir"))
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	c, err := s.Run(ctx, bench.SiteConfig{Executable: exe, Dir: f.Dir, Profile: f.Profile, Loops: f.Loops, InFlight: f.InFlight})
	if err != nil {
		return stopped(ctx, err)
	}
	if f.JSON {
		e := json.NewEncoder(env.Stdout)
		e.SetIndent("", "  ")
		err = e.Encode(c)
	} else {
		err = c.WriteTable(env.Stdout)
	}
	if err == nil && c.Failed() {
		err = fmt.Errorf("%d messages lost, %d repeated, %d damaged, %d errors, %d connections closed", c.Lost, c.Repeated, c.Damaged, c.Errors, c.Closed)
	}
	return err
}

type benchReplayLive struct {
	benchReplayFlags `embed:""`

	Rate     float64       `default:"200" help:"Messages a second of each side (default ${default})."`
	Size     int           `default:"128" help:"Bytes of a payload (default ${default})."`
	Duration time.Duration `default:"4s" help:"Measured time of a round (default ${default})."`
	Warmup   time.Duration `default:"2s" help:"Time before the first (default ${default})."`
}

// Run measures what replay adds to a delivery.
func (c *benchReplayLive) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.ReplayLive{Rate: c.Rate, Size: c.Size, Rounds: c.Rounds, Duration: c.Duration, Warmup: c.Warmup})
}

type benchReplayPublish struct {
	benchReplayFlags `embed:""`

	Pairs       int           `default:"200" help:"Pairs of a publisher and a subscriber (default ${default})."`
	Outstanding int           `default:"8" help:"Unacknowledged publishes of each (default ${default})."`
	Size        int           `default:"128" help:"Bytes of a payload (default ${default})."`
	Duration    time.Duration `default:"5s" help:"Measured time of one side in a round (default ${default})."`
	Warmup      time.Duration `default:"1s" help:"Time before each (default ${default})."`
}

// Run measures acknowledged publishes.
func (c *benchReplayPublish) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.ReplayPublish{
		Pairs: c.Pairs, Outstanding: c.Outstanding, Size: c.Size, Rounds: c.Rounds, Duration: c.Duration, Warmup: c.Warmup,
	})
}

type benchReplaySince struct {
	benchReplayFlags `embed:""`

	Messages int           `default:"1000000" help:"Messages in the stream (default ${default})."`
	Sparse   int           `default:"200" help:"Topics of 101 messages spread over all of it (default ${default})."`
	Recent   int           `default:"20" help:"Topics of 101 messages at its end (default ${default})."`
	Each     int           `default:"10" help:"Messages of each of the topics that make up the rest (default ${default})."`
	Size     int           `default:"128" help:"Bytes of a payload (default ${default})."`
	Workers  int           `default:"16" help:"Requests at a time in the part under load (default ${default})."`
	Duration time.Duration `default:"3s" help:"Measured time of one side in a round (default ${default})."`
}

// Run measures reading the past.
func (c *benchReplaySince) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.ReplaySince{
		Messages: c.Messages, Sparse: c.Sparse, Recent: c.Recent, Each: c.Each, Size: c.Size,
		Workers: c.Workers, Rounds: c.Rounds, Duration: c.Duration,
	})
}

type benchReplayResumes struct {
	benchReplayFlags `embed:""`

	Clients  int           `short:"n" default:"1000" help:"Clients that resume at once, each a topic of its own (default ${default})."`
	Messages int           `default:"1000000" help:"Messages in the stream (default ${default})."`
	Rate     float64       `default:"200" help:"Publishes a second (default ${default})."`
	Size     int           `default:"128" help:"Bytes of a payload (default ${default})."`
	Waves    int           `default:"2" help:"How often all of them resume in a round (default ${default})."`
	Duration time.Duration `default:"5s" help:"Measured time of the quiet side in a round (default ${default})."`
}

// Run measures publishing while clients resume.
func (c *benchReplayResumes) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.ReplayResumes{
		Clients: c.Clients, Messages: c.Messages, Rate: c.Rate, Size: c.Size, Rounds: c.Rounds, Waves: c.Waves, Duration: c.Duration,
	})
}

type benchReplayStorm struct {
	benchReplayFlags `embed:""`

	Clients int     `short:"n" default:"5000" help:"Clients of the gateway that is killed (default ${default})."`
	Topics  int     `default:"50" help:"Topics; client i listens to topic i mod N (default ${default})."`
	Missed  int     `default:"20" help:"Messages of each topic that come before the first client is back (default ${default})."`
	Rate    float64 `default:"50" help:"Messages a second over all topics, all the while (default ${default})."`
	Size    int     `default:"128" help:"Bytes of a payload (default ${default})."`
}

// Run measures how long the clients of a killed gateway take to be whole again.
func (c *benchReplayStorm) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.ReplayStorm{Clients: c.Clients, Topics: c.Topics, Missed: c.Missed, Rate: c.Rate, Size: c.Size, Rounds: c.Rounds})
}
