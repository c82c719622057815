package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/internal/rules"
)

// RunCmd runs services against an external NATS, as the environment says.
type RunCmd struct {
	Services []string `arg:"" help:"gateway, presence, replay, ratelimit, tasks, or all."`
}

// services are the services of the protocol.
var services = []string{"gateway", "presence", "replay", "ratelimit", "tasks"}

// Run serves until ctx is done, then drains.
func (c *RunCmd) Run(ctx context.Context, env *Env) error {
	for _, name := range c.Services {
		if name != "all" && !slices.Contains(services, name) {
			return &exitError{exitUsage, fmt.Errorf("run %s: no such service; there are %s and all", name, strings.Join(services, ", "))}
		}
	}
	cfg, err := loadConfig(ctx, os.LookupEnv, nil)
	if err != nil {
		return usage(err)
	}
	if cfg.Gateway.Auth.Mode == "dev" {
		return usage(errors.New("FAIRLEAD_AUTH=dev: only in fairlead dev; jwt or anonymous"))
	}
	p := process{mode: rules.Run, what: "run " + strings.Join(c.Services, " ")}
	for _, name := range c.Services {
		p.gateway = p.gateway || name == "gateway" || name == "all"
		p.presence = p.presence || name == "presence" || name == "all"
		p.replay = p.replay || name == "replay" || name == "all"
		p.ratelimit = p.ratelimit || name == "ratelimit" || name == "all"
		// Of all services only this one needs a database: without one `all` is the
		// others, and who asks for tasks by name is told what is missing.
		p.tasks = p.tasks || name == "tasks" || name == "all" && cfg.Postgres != ""
	}
	if cfg.Demo {
		p.mount = func(mux *http.ServeMux) { mountDemo(mux, nil, cfg, nil) } // without tokens: who calls for them is unknown
	}
	if !p.tasks && slices.Contains(c.Services, "all") {
		p.off = "tasks are off: FAIRLEAD_POSTGRES_URL says where they are to be kept"
	}
	return serve(ctx, env, cfg, p)
}

// usage is an error of the caller's: exit code 2.
func usage(err error) error {
	var coded *exitError
	if err == nil || errors.As(err, &coded) {
		return err
	}
	return &exitError{exitUsage, err}
}

// adminIsDefault reports whether nobody chose the admin address: then one that
// is taken only means no admin listener.
func adminIsDefault() bool {
	_, set := os.LookupEnv(envPrefix + "ADMIN_ADDR")
	return !set
}
