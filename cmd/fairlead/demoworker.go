package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"

	"github.com/fairlead-io/fairlead/cmd/fairlead/demo"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
)

// DemoWorkerCmd is the worker of tasks that `fairlead dev` and `fairlead demo`
// start for the demo page to kill. Nobody else has a use for it, so that help hides it.
type DemoWorkerCmd struct{}

// Run works on the page's tasks, and ends when its standard input does: the
// process that started it is gone then, however that came.
func (c *DemoWorkerCmd) Run(ctx context.Context, env *Env) error {
	go func() { // lives as long as the process
		_, _ = io.Copy(io.Discard, env.Stdin)
		os.Exit(exitFailure)
	}()
	cfg, err := loadConfig(ctx, os.LookupEnv, nil)
	if err != nil {
		return usage(err)
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	opts := fairlead.Options{
		Namespace: cfg.Namespace, ReplyPrefixes: cfg.NATS.ReplyPrefixes, Log: slog.New(slog.NewTextHandler(env.Stderr, nil)),
	}
	return demo.Render(ctx, nc, opts, func() { fmt.Fprintln(env.Stdout, "ready") })
}

// demoTasks says who works on the tasks of the demo page: a process on dev's NATS,
// or nobody where there are no tasks.
func demoTasks(env *Env, natsURL, off string) demo.TaskOptions {
	program, err := os.Executable()
	switch {
	case off != "":
		return demo.TaskOptions{Off: off}
	case err != nil:
		return demo.TaskOptions{Off: "off: no worker can be started"}
	}
	return demo.TaskOptions{Renderer: demoRenderer(env, program, demoVariables(envPrefix+"NATS_URL="+natsURL), slog.New(slog.NewTextHandler(env.Stderr, nil)))}
}

// demoRenderer returns the worker of the page's tasks: this program again, in an
// environment of its own.
func demoRenderer(env *Env, program string, vars []string, log *slog.Logger) *demo.Renderer {
	return demo.NewRenderer(func() *exec.Cmd {
		process := exec.Command(program, "demo-worker")
		process.Env, process.Stderr = vars, env.Stderr
		return process
	}, log)
}
