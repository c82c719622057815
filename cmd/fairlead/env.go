package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Env is what a command needs of the outside: where to read and write, and
// NATS as the environment describes it.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Connect returns a connection that is there, and that the command closes;
	// UNAVAILABLE if the server can't be reached within a few seconds.
	Connect   func(ctx context.Context) (*nats.Conn, error)
	Namespace string
	Replicas  int // of streams and buckets
}

// newEnv reads the environment for the tools. What is wrong with it concerns
// only those that connect to NATS: they hear of it there.
func newEnv(stdin io.Reader, stdout, stderr io.Writer) *Env {
	env := &Env{Stdin: stdin, Stdout: stdout, Stderr: stderr, Namespace: "fl", Replicas: 1}
	cfg, err := loadConfig(context.Background(), os.LookupEnv, nil)
	if err != nil {
		env.Connect = func(context.Context) (*nats.Conn, error) { return nil, &exitError{exitUsage, err} }
		return env
	}
	env.Namespace, env.Replicas = string(cfg.Namespace), cfg.NATS.Replicas
	env.Connect = func(ctx context.Context) (*nats.Conn, error) {
		natsConfig := cfg.NATS.bus()
		natsConfig.Name, natsConfig.InboxPrefix = "fairlead cli", cfg.NATS.InboxPrefix
		nc, err := bus.Connect(ctx, natsConfig, bus.Hooks{})
		var invalid *bus.ConfigError
		if errors.As(err, &invalid) {
			return nil, &exitError{exitUsage, err}
		}
		if err != nil {
			return nil, err
		}
		if err := awaitConnected(ctx, nc); err != nil {
			nc.Close()
			return nil, err
		}
		return nc, nil
	}
	return env
}

const natsWait = 5 * time.Second

// awaitConnected waits for a connection that keeps trying by itself.
func awaitConnected(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, natsWait)
	defer cancel()
	connected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(connected)
	if nc.IsConnected() {
		return nil
	}
	select {
	case <-connected:
		return nil
	case <-ctx.Done():
		if err := nc.LastError(); err != nil {
			return wire.Errorf(wire.Unavailable, "NATS can't be reached: %v", err)
		}
		return wire.Errorf(wire.Unavailable, "NATS can't be reached")
	}
}

// Exit codes of every command.
const (
	exitFailure = 1
	exitUsage   = 2 // wrong usage or invalid configuration
)

// exitError ends the process with its code. The command has already said what
// is wrong where err is nil; main prints it otherwise.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }
