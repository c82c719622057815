package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/fairlead-io/fairlead/cmd/fairlead/demo"
	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// DevCmd runs everything on one machine: an embedded NATS server with
// JetStream, every service and the demo page; tasks where it finds a PostgreSQL.
type DevCmd struct {
	HTTP string   `name:"http" placeholder:"ADDR" help:"Public listener (default 127.0.0.1:8080, or FAIRLEAD_HTTP_ADDR)."`
	NATS string   `name:"nats" default:"127.0.0.1:4222" placeholder:"ADDR" help:"NATS listener (default ${default})."`
	Data string   `default:"./.fairlead" placeholder:"DIR" help:"Where NATS and Postgres keep their data, and the secret that signs tokens (default ${default})."`
	Host []string `placeholder:"NAME" help:"Answer to this host name too, beside localhost."`
}

// devHTTP is where dev listens when nobody says otherwise: on this machine only.
const devHTTP = "127.0.0.1:8080"

// devDefaults are the settings that dev changes: nothing of it is fit for a
// machine that others reach.
var devDefaults = map[string]string{
	"HTTP_ADDR":               devHTTP,
	"AUTH":                    auth.ModeDev,
	"ALLOW_ANONYMOUS":         "true",
	"DEMO":                    "true",
	"HTTP_API":                "true",
	"LIMIT_FRAMES_PER_SECOND": "0",
	"DRAIN_WINDOW":            "2s",
}

// Run serves until ctx is done, then drains and stops the NATS server last.
func (c *DevCmd) Run(ctx context.Context, env *Env) error {
	cfg, err := loadConfig(ctx, os.LookupEnv, devDefaults)
	if err != nil {
		return usage(err)
	}
	if c.HTTP != "" {
		cfg.Gateway.Addr = c.HTTP
	}
	cfg.Gateway.Development = true
	cfg.Gateway.Hosts = c.Host
	if adminIsDefault() {
		cfg.AdminAddr = "127.0.0.1:9090"
	}
	listener, err := net.Listen("tcp", cfg.Gateway.Addr)
	if err != nil {
		return usage(fmt.Errorf("--http %s: %w", cfg.Gateway.Addr, cause(err)))
	}
	defer listener.Close()
	if err := os.MkdirAll(c.Data, 0o755); err != nil {
		return usage(fmt.Errorf("--data %s: %w", c.Data, cause(err)))
	}
	secret, err := devSecret(cfg, c.Data)
	if err != nil {
		return usage(fmt.Errorf("--data %s: %w", c.Data, err))
	}
	database := c.postgres(cfg)
	defer database.stop() // last: everything else may have something to write
	server, err := c.startNATS()
	if err != nil {
		return err
	}
	defer server.Shutdown()
	database.launch(ctx, env)

	second := demoGateway(env, server.ClientURL(), secret)
	if second != nil {
		defer second.Close()
	}
	var tasks demo.TaskOptions
	if cfg.Demo {
		off := ""
		if cfg.Postgres == "" {
			off = database.String()
		}
		tasks = demoTasks(env, server.ClientURL(), off)
		if tasks.Renderer != nil {
			defer tasks.Renderer.Close()
		}
		log := slog.New(slog.NewTextHandler(env.Stderr, nil))
		nc, err := bus.Connect(ctx, bus.Config{InProcess: server.InProcess(), Name: "fairlead demo"}, demoHooks(log))
		if err != nil {
			return err
		}
		defer nc.Close()
		worker, err := demo.StartWorker(nc, fairlead.Options{Namespace: cfg.Namespace, ReplyPrefixes: cfg.NATS.ReplyPrefixes, Log: log}, tasks)
		if err != nil {
			return err
		}
		defer worker.Close()
	}
	p := process{
		mode: rules.Dev, what: "dev", gateway: true, replay: true, presence: true, ratelimit: true, tasks: cfg.Postgres != "",
		bus:  &bus.Config{InProcess: server.InProcess(), ReplyPrefixes: cfg.NATS.ReplyPrefixes},
		http: listener,
		mount: func(mux *http.ServeMux) {
			if cfg.Demo {
				mountDemo(mux, secret, cfg, nil)
				if second != nil {
					second.Mount(mux)
				}
				if tasks.Renderer != nil {
					tasks.Renderer.Mount(mux, false)
				}
			}
		},
		ready: func(*slog.Logger) { c.welcome(env, cfg, listener, server, database, secret) },
	}
	return serve(ctx, env, cfg, p)
}

func (c *DevCmd) startNATS() (*natsdev.Server, error) {
	host, port, err := net.SplitHostPort(c.NATS)
	if err != nil {
		return nil, usage(fmt.Errorf("--nats %s: host:port, such as 127.0.0.1:4222", c.NATS))
	}
	number, err := strconv.Atoi(port)
	if err != nil || number < 0 || number > 65535 {
		return nil, usage(fmt.Errorf("--nats %s: host:port, such as 127.0.0.1:4222", c.NATS))
	}
	server, err := natsdev.Start(natsdev.Config{Host: host, Port: number, StoreDir: filepath.Join(c.Data, "nats")})
	var taken *natsdev.ListenError
	var store *natsdev.StoreError
	switch {
	case errors.As(err, &taken):
		return nil, usage(fmt.Errorf("--nats %s: %w", c.NATS, cause(taken.Err)))
	case errors.As(err, &store):
		return nil, usage(fmt.Errorf("--data %s: %w", c.Data, cause(store.Err)))
	}
	return server, err
}

// devSecret returns the secret that signs tokens: the configured one, else one
// that is made once and kept in the data directory. With keys of another kind
// there is none, and dev can't make tokens.
func devSecret(cfg *config, dir string) ([]byte, error) {
	a := &cfg.Gateway.Auth
	switch {
	case a.JWTSecret != "":
		return []byte(a.JWTSecret), nil
	case a.JWKSURL != "" || a.PublicKeyFile != "":
		return nil, nil
	}
	secret, err := auth.DevSecret(dir)
	if err != nil {
		return nil, err
	}
	a.JWTSecret = string(secret)
	return secret, nil
}

// welcome says where everything is, once it is there.
func (c *DevCmd) welcome(env *Env, cfg *config, listener net.Listener, server *natsdev.Server, database *devPostgres, secret []byte) {
	at := listener.Addr().String()
	scheme, ws := "http", "ws"
	if cfg.Gateway.TLSCert != "" {
		scheme, ws = "https", "wss"
	}
	out := env.Stdout
	fmt.Fprintf(out, "\nFairlead is ready.\n\n")
	if cfg.Demo {
		fmt.Fprintf(out, "  demo     %s://%s/demo\n", scheme, at)
	}
	fmt.Fprintf(out, "  gateway  %s://%s/ws\n  nats     %s\n  tasks    %s\n", ws, at, server.ClientURL(), database)
	if cfg.AdminAddr != "off" {
		fmt.Fprintf(out, "  metrics  http://%s/metrics\n", cfg.AdminAddr)
	}
	fmt.Fprintf(out, "  data     %s\n", c.Data)
	if token, err := mint(secret, cfg, "ann"); err == nil {
		fmt.Fprintf(out, "\nA token for user ann, for 24 hours (anonymous works too):\n\n  %s\n", token)
	}
	url := ""
	if at != devHTTP {
		url = " --url " + ws + "://" + at + "/ws"
	}
	fmt.Fprintf(out, "\nTry next, each in a terminal of its own:\n\n"+
		"  go run ./cmd/fairlead sub chat.lobby%s\n"+
		"  go run ./cmd/fairlead pub chat.lobby '{\"text\":\"hi\"}'%s\n"+
		"  nats -s %s pub fl.topic.chat.lobby '{\"text\":\"hi from a worker\"}'\n\n", url, url, server.ClientURL())
}
