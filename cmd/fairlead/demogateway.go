package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/cmd/fairlead/demo"
	"github.com/fairlead-io/fairlead/internal/rules"
)

// DemoGatewayCmd is the gateway that `fairlead dev` starts beside its own for
// the demo page to kill. Nobody else has a use for it, so that help hides it.
type DemoGatewayCmd struct{}

// Run serves on a port of this machine's choice, says which, and ends when its
// standard input does: the process that started it is gone then, however that
// came.
func (c *DemoGatewayCmd) Run(ctx context.Context, env *Env) error {
	go func() { // lives as long as the process
		_, _ = io.Copy(io.Discard, env.Stdin)
		os.Exit(exitFailure)
	}()
	cfg, err := loadConfig(ctx, os.LookupEnv, nil)
	if err != nil {
		return usage(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return serve(ctx, env, cfg, process{
		mode: rules.Run, what: "demo-gateway", gateway: true, http: listener,
		ready: func(*slog.Logger) { fmt.Fprintln(env.Stdout, listener.Addr()) },
	})
}

// demoGateway returns the second gateway of the demo page; nil where there can
// be none: without the secret it would take nobody's token.
func demoGateway(env *Env, natsURL string, secret []byte) *demo.Second {
	program, err := os.Executable()
	if err != nil || secret == nil {
		return nil
	}
	vars := demoVariables(envPrefix+"NATS_URL="+natsURL, envPrefix+"AUTH=jwt", envPrefix+"AUTH_JWT_SECRET="+string(secret),
		envPrefix+"ADMIN_ADDR=off", envPrefix+"LOG_LEVEL=warn", envPrefix+"LIMIT_FRAMES_PER_SECOND=0")
	return demo.NewSecond(func() *exec.Cmd {
		process := exec.Command(program, "demo-gateway")
		process.Env, process.Stderr = vars, env.Stderr
		return process
	}, slog.New(slog.NewTextHandler(env.Stderr, nil)))
}

// demoVariables is the environment of a process of the demo page. What concerns
// dev's own listeners, NATS and rules is not for it; it follows the rules that dev
// has put into the bucket.
func demoVariables(more ...string) []string {
	vars := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, ok := strings.CutPrefix(kv, envPrefix)
		return ok && (strings.HasPrefix(name, "NATS_") || strings.HasPrefix(name, "TLS_") || strings.HasPrefix(name, "TOPICS_FILE") || strings.HasPrefix(name, "DEMO"))
	})
	return append(vars, more...)
}
