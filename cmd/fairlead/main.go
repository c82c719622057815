// Command fairlead is realtime for every backend that speaks NATS: the
// gateway, the services beside it, and the tools around them, in one binary.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// cli is the command line: one field per command.
type cli struct {
	Dev     DevCmd     `cmd:"" help:"Run everything on this machine: NATS, gateway, demo page."`
	Run     RunCmd     `cmd:"" help:"Run services against an external NATS."`
	Pub     PubCmd     `cmd:"" help:"Publish a message."`
	Sub     SubCmd     `cmd:"" help:"Print the messages of topics."`
	Call    CallCmd    `cmd:"" help:"Call a worker's method."`
	Ask     AskCmd     `cmd:"" help:"Ask a user's client, on the bus at FAIRLEAD_NATS_URL."`
	Send    SendCmd    `cmd:"" help:"Send to a user, a connection, or all with some attributes, on the bus."`
	Kick    KickCmd    `cmd:"" help:"Disconnect a user or a connection, on the bus."`
	Limit   LimitCmd   `cmd:"" help:"Look at buckets of limits, take from them, ban and unban, on the bus."`
	Tasks   TasksCmd   `cmd:"" help:"Look at tasks, ask for one, follow, cancel and retry them, on the bus."`
	Replay  ReplayCmd  `cmd:"" help:"Ask for the past of a topic, on the bus at FAIRLEAD_NATS_URL."`
	Top     TopCmd     `cmd:"" help:"Show the topics that clients publish to most, on the bus at FAIRLEAD_NATS_URL."`
	Token   TokenCmd   `cmd:"" help:"Make a token."`
	Rules   RulesCmd   `cmd:"" help:"Check, apply and explain the rules of topics."`
	Bench   BenchCmd   `cmd:"" help:"Measure a gateway on this machine."`
	Health  HealthCmd  `cmd:"" help:"Ask a process whether it is well; for container healthchecks."`
	Demo    DemoCmd    `cmd:"" help:"Serve the demo page beside gateways that run elsewhere, with tokens for whoever asks."`
	Version VersionCmd `cmd:"" help:"Print the version."`

	DemoGateway DemoGatewayCmd `cmd:"" hidden:""`
	DemoWorker  DemoWorkerCmd  `cmd:"" hidden:""`
}

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2) // room for both: none that comes early is missed
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // lives as long as the process
		<-signals
		stop()
		<-signals
		os.Exit(exitFailure) // a second signal ends the process at once
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var c cli
	exit := -1
	parser, err := kong.New(&c,
		kong.Name("fairlead"),
		kong.Description("Realtime for every backend that speaks NATS."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exit = code }),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		fmt.Fprintln(stderr, "fairlead:", err)
		return exitFailure
	}
	command, err := parser.Parse(args)
	if exit >= 0 { // --help
		return exit
	}
	if err != nil {
		fmt.Fprintf(stderr, "fairlead: %v\n(fairlead --help lists the commands)\n", err)
		return exitUsage
	}
	err = command.Run(newEnv(stdin, stdout, stderr))
	var coded *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		if coded.err != nil {
			fmt.Fprintln(stderr, "fairlead:", coded.err)
		}
		return coded.code
	}
	fmt.Fprintf(stderr, "fairlead: %v%s\n", err, whenAgain(err))
	return exitFailure
}

// whenAgain says when a retry of what a limit refused can succeed.
func whenAgain(err error) string {
	var refused *wire.Error
	if !errors.As(err, &refused) || refused.Code != wire.ResourceExhausted {
		return ""
	}
	ms, never, _ := refused.RetryAfterMs()
	if never {
		return " (no retry can succeed)"
	}
	return " (again in " + (time.Duration(ms) * time.Millisecond).String() + ")"
}
