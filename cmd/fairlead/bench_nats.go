package main

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// benchNATS is the NATS server of a benchmark in a process of its own, so that
// its CPU time is told from the others'.
type benchNATS struct {
	Addr  string `required:"" help:"Listener."`
	Admin string `required:"" help:"Where readiness and profiles are served."`
	Data  string `required:"" help:"Where JetStream keeps its data."`
}

// Run serves until ctx is done.
func (c *benchNATS) Run(ctx context.Context) error {
	host, port, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return usage(fmt.Errorf("--addr %s: %w", c.Addr, err))
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return usage(fmt.Errorf("--addr %s: %w", c.Addr, err))
	}
	tel, err := telemetry.Start(ctx, telemetry.Config{LogLevel: "warn", LogFormat: "text", ServiceName: "bench-nats", Version: version()})
	if err != nil {
		return err
	}
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), telemetryWait)
		defer cancel()
		_ = tel.Shutdown(bounded) // nobody needs the last spans of a benchmark
	}()
	server, err := natsdev.Start(natsdev.Config{
		Host: host, Port: number, StoreDir: c.Data,
		Log: tel.Log,
	})
	if err != nil {
		return err
	}
	defer server.Shutdown()
	listener, err := net.Listen("tcp", c.Admin)
	if err != nil {
		return usage(fmt.Errorf("--admin %s: %w", c.Admin, cause(err)))
	}
	var checks telemetry.Checks
	checks.Add("nats", func(context.Context) error { return nil }) // it has started
	admin := telemetry.Server(c.Admin, telemetry.Admin(tel, &checks), tel.Log)
	served := make(chan error, 1)
	go func() { served <- admin.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		err := admin.Close()
		<-served // that it was closed
		return err
	}
}
