package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/internal/bench"
)

// BenchCmd measures a gateway that runs on this machine.
type BenchCmd struct {
	Fanout  benchFanout  `cmd:"" help:"Few publishers, many subscribers: deliveries a second, latency, CPU per message."`
	Publish benchPublish `cmd:"" help:"Pairs of clients: acknowledged publishes a second, round trip."`
	Connect benchConnect `cmd:"" help:"Connections and subscriptions a second."`
	Idle    benchIdle    `cmd:"" help:"Memory and goroutines of an idle connection."`

	ReplayLive    benchReplayLive    `cmd:"" help:"What replay adds to the time from publish to delivery. Like all replay-*: on processes that it starts."`
	ReplayPublish benchReplayPublish `cmd:"" help:"Acknowledged publishes a second, stored and not."`
	ReplaySince   benchReplaySince   `cmd:"" help:"Reading the past: recent, sparse, and of very many topics."`
	ReplayResumes benchReplayResumes `cmd:"" help:"What publishing costs while many clients resume."`
	Presence      benchPresence      `cmd:"" help:"Joins and leaves a second in an empty and a full room, and what members who stay cost."`
	Ask           benchAsk           `cmd:"" help:"Asking a user over two gateways, and one who is offline, against a bare NATS request."`
	Ratelimit     benchRatelimit     `cmd:"" help:"Decisions about limits: one hot key, many keys, and a flood that is denied."`
	Flood         benchFlood         `cmd:"" help:"A user floods what a limit denies: what the others notice, with the flood and without it in turn."`
	Tasks         benchTasks         `cmd:"" help:"Durable tasks: stored one by one and done, a backlog, and the time to start in an idle system. Needs an installed Postgres."`
	ReplayStorm   benchReplayStorm   `cmd:"" help:"A gateway is killed: until all its clients have what they missed, against plain connects."`
	NATS          benchNATS          `cmd:"" name:"nats" hidden:""`
}

// benchFlags are the same for all scenarios.
type benchFlags struct {
	socketFlags `embed:""`

	Protocol    string `enum:"fairlead,centrifugo" default:"fairlead" help:"What the server speaks: fairlead, or centrifugo's JSON protocol, to compare (default ${default})."`
	PID         int    `name:"pid" placeholder:"PID" help:"The server's process; default: who listens on the URL's port (Linux)."`
	Admin       string `placeholder:"URL" help:"The server's admin address; default http://127.0.0.1:9090 where it is the same process."`
	Loops       int    `placeholder:"N" help:"Threads that generate the load; default: one per core."`
	InFlight    int    `default:"64" placeholder:"N" help:"Connections that are being opened at a time (default ${default})."`
	AllowRemote bool   `help:"Load another machine. Ask its owner first."`
	Portable    bool   `hidden:"" help:"Goroutines in place of epoll."`
	JSON        bool   `name:"json" help:"Print the report as JSON."`
}

func (f *benchFlags) target(env *Env) (bench.Target, error) {
	token, err := f.token(env)
	if err != nil {
		return bench.Target{}, err
	}
	d, err := bench.ParseDialect(f.Protocol)
	if err != nil {
		return bench.Target{}, usage(err)
	}
	return bench.Target{
		URL: f.URL, Dialect: d, Token: token, Loops: f.Loops, InFlight: f.InFlight, AllowRemote: f.AllowRemote, Portable: f.Portable,
		Server: bench.Probe{PID: f.PID, Admin: f.Admin},
	}, nil
}

// scenario is one of bench's.
type scenario interface {
	Run(context.Context, bench.Target) (*bench.Report, error)
}

// run prints the report of a scenario. One that lost something fails.
func (f *benchFlags) run(ctx context.Context, env *Env, s scenario) error {
	t, err := f.target(env)
	if err != nil {
		return err
	}
	r, err := s.Run(ctx, t)
	switch {
	case errors.Is(err, bench.ErrRemote):
		return usage(err)
	case err != nil:
		return stopped(ctx, err)
	}
	if f.JSON {
		e := json.NewEncoder(env.Stdout)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		err = r.WriteTable(env.Stdout)
	}
	if err == nil && r.Failed() {
		err = fmt.Errorf("%d messages lost, %d damaged, %d errors, %d connections closed", r.Lost, r.Damaged, r.Errors, r.Closed)
	}
	return err
}

type benchFanout struct {
	benchFlags `embed:""`

	Subscribers int           `short:"n" default:"100" help:"Connections that subscribe (default ${default})."`
	Topics      int           `default:"1" help:"Topics; subscriber i listens to topic i mod N (default ${default})."`
	Publishers  int           `placeholder:"N" help:"Connections that publish, each to its own topics; default: one per 500 topics."`
	Size        int           `default:"128" help:"Bytes of a payload (default ${default})."`
	Window      int           `default:"16" help:"Closed loop: messages of a topic that not every subscriber has yet (default ${default})."`
	Outstanding int           `placeholder:"N" help:"Closed loop: the same over all topics."`
	Rate        float64       `placeholder:"N" help:"Publish so many messages a second instead, whatever comes back."`
	Duration    time.Duration `default:"10s" help:"Measured time (default ${default})."`
	Warmup      time.Duration `default:"2s" help:"Time before it (default ${default})."`
}

// Run measures a fan-out.
func (c *benchFanout) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Fanout{
		Subscribers: c.Subscribers, Topics: c.Topics, Publishers: c.Publishers, Size: c.Size, Window: c.Window,
		Outstanding: c.Outstanding, Rate: c.Rate, Duration: c.Duration, Warmup: c.Warmup,
	})
}

type benchPublish struct {
	benchFlags `embed:""`

	Pairs       int           `default:"100" help:"Pairs of a publisher and a subscriber (default ${default})."`
	Outstanding int           `default:"1" help:"Unacknowledged publishes of each (default ${default})."`
	Size        int           `default:"128" help:"Bytes of a payload (default ${default})."`
	Duration    time.Duration `default:"10s" help:"Measured time (default ${default})."`
	Warmup      time.Duration `default:"2s" help:"Time before it (default ${default})."`
}

// Run measures acknowledged publishes.
func (c *benchPublish) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Publish{Pairs: c.Pairs, Outstanding: c.Outstanding, Size: c.Size, Duration: c.Duration, Warmup: c.Warmup})
}

type benchConnect struct {
	benchFlags `embed:""`

	Connections int `short:"n" default:"1000" help:"Connections, each with a topic of its own (default ${default})."`
}

// Run measures connecting.
func (c *benchConnect) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Connect{Connections: c.Connections})
}

type benchIdle struct {
	benchFlags `embed:""`

	Connections int           `short:"n" default:"1000" help:"Connections, each with a topic of its own (default ${default})."`
	Settle      time.Duration `default:"5s" help:"Time between the last connection and the measuring (default ${default})."`
}

// Run measures idle connections.
func (c *benchIdle) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, bench.Idle{Connections: c.Connections, Settle: c.Settle})
}
