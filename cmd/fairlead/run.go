package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/fairlead-io/fairlead/internal/rules"
)

// RunCmd runs services against an external NATS, as the environment says.
type RunCmd struct {
	Services []string `arg:"" help:"gateway, presence, replay, ratelimit, or all."`
}

// services are the services of the protocol, and whether they exist yet.
var services = map[string]bool{"gateway": true, "presence": true, "replay": true, "ratelimit": true, "tasks": false}

// Run serves until ctx is done, then drains.
func (c *RunCmd) Run(ctx context.Context, env *Env) error {
	for _, name := range c.Services {
		if exists, known := services[name]; name != "all" && !known {
			return &exitError{exitUsage, fmt.Errorf("run %s: no such service; there are gateway, presence, replay, ratelimit and all", name)}
		} else if name != "all" && !exists {
			return &exitError{exitUsage, fmt.Errorf("run %s: this service is not built yet; there are gateway, presence, replay, ratelimit and all", name)}
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
	}
	if cfg.Demo {
		p.mount = func(mux *http.ServeMux) { mountDemo(mux, nil, cfg) } // without tokens: who calls for them is unknown
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
