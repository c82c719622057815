package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/suite"
	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// process is what `dev` and `run` do differently.
type process struct {
	mode  rules.Mode
	what  string // the command, for the rules' log
	bus   *bus.Config
	mount func(*http.ServeMux)
	ready func(*slog.Logger) // called once, when every service is; may be nil
	http  net.Listener       // nil: the gateway listens by its address

	gateway, replay, presence, ratelimit, tasks bool // the services

	off string // what is off, and why; "" for nothing
}

// name is what telemetry calls the process.
func (p process) name() string {
	name, n := "fairlead", 0
	for _, s := range [...]struct {
		runs bool
		name string
	}{{p.gateway, "gateway"}, {p.replay, "replay"}, {p.presence, "presence"}, {p.ratelimit, "ratelimit"}, {p.tasks, "tasks"}} {
		if s.runs {
			name = "fairlead-" + s.name
			n++
		}
	}
	if n > 1 {
		return "fairlead"
	}
	return name
}

// telemetryWait bounds how long the last spans and metrics may take to leave.
const telemetryWait = 3 * time.Second

// startTelemetry starts the log, metrics and traces of a process, and warns of
// variables that nobody reads. stop sends what is left.
func startTelemetry(ctx context.Context, cfg *config, service string) (tel *telemetry.Telemetry, stop func(), err error) {
	tel, err = telemetry.Start(ctx, telemetry.Config{LogLevel: cfg.LogLevel, LogFormat: cfg.LogFormat, ServiceName: service, Version: version()})
	if err != nil {
		return nil, nil, err
	}
	for _, line := range unknownVariables(os.Environ()) {
		tel.Log.Warn("unknown variable", "variable", line)
	}
	return tel, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), telemetryWait)
		defer cancel()
		if err := tel.Shutdown(bounded); err != nil {
			tel.Log.Warn("telemetry shutdown", "err", err)
		}
	}, nil
}

// tasksGC is GOGC of a process that runs tasks and serves no connections.
const tasksGC = 400

// collectLess has the garbage of a process that runs tasks collected less often. It
// keeps little and makes much: with Go's default a collection is due again and again,
// and each takes a share of all cores. Who sets GOGC has the last word, and so has a
// memory limit.
func collectLess(p process) {
	if _, set := os.LookupEnv("GOGC"); p.tasks && !p.gateway && !set {
		debug.SetGCPercent(tasksGC)
	}
}

// serve runs services and what is around them until ctx is done. The gateway
// ends first: its clients may need the others until the last one has left.
func serve(ctx context.Context, env *Env, cfg *config, p process) error {
	tel, stop, err := startTelemetry(ctx, cfg, p.name())
	if err != nil {
		return usage(err)
	}
	defer stop()
	log := tel.Log
	collectLess(p)
	if p.off != "" {
		log.Info(p.off)
	}
	natsConfig := cfg.NATS.bus()
	if p.bus != nil {
		natsConfig = *p.bus
	}
	if err := natsConfig.Validate(); err != nil {
		return usage(err)
	}

	live, closeRules, err := followRules(ctx, cfg, natsConfig, p, log)
	if err != nil {
		return err
	}
	defer closeRules()

	parts, err := newProcess(cfg, natsConfig, p, live, tel)
	if err != nil {
		return err
	}
	admin, err := adminServer(cfg, tel, parts.Checks(), log)
	if err != nil {
		return err
	}
	if admin != nil {
		defer admin.Close()
	}
	return parts.Run(ctx)
}

// newProcess makes the services, and the listener of the gateway.
func newProcess(cfg *config, natsConfig bus.Config, p process, live *rules.Live, tel *telemetry.Telemetry) (*suite.Process, error) {
	composed := suite.Config{
		NATS: natsConfig, Rules: live, Telemetry: tel, Version: version(), Mount: p.mount, Ready: p.ready, Listener: p.http,
	}
	if p.replay {
		composed.Replay = &cfg.Replay
	}
	if p.presence {
		composed.Presence = &cfg.Presence
	}
	if p.ratelimit {
		composed.Ratelimit = &cfg.Ratelimit
	}
	if p.tasks {
		composed.Tasks = &cfg.Tasks
	}
	if !p.gateway {
		parts, err := suite.New(composed)
		return parts, usage(err)
	}
	composed.Gateway = &cfg.Gateway
	if composed.Listener == nil {
		var err error
		if composed.Listener, err = net.Listen("tcp", cfg.Gateway.Addr); err != nil {
			return nil, usage(fmt.Errorf("FAIRLEAD_HTTP_ADDR=%s: %w", cfg.Gateway.Addr, cause(err)))
		}
	}
	parts, err := suite.New(composed)
	if err != nil {
		composed.Listener.Close()
		return nil, usage(err)
	}
	tel.Log.Info("gateway starts", "http", composed.Listener.Addr().String(), "auth", cfg.Gateway.Auth.Mode, "gateway", parts.GatewayID(), "version", version())
	return parts, nil
}

// followRules makes the rules that count, on a NATS connection of their own.
func followRules(ctx context.Context, cfg *config, natsConfig bus.Config, p process, log *slog.Logger) (*rules.Live, func(), error) {
	var file []byte
	if cfg.TopicsFile != "" {
		var err error
		if file, err = os.ReadFile(cfg.TopicsFile); err != nil {
			return nil, nil, usage(fmt.Errorf("FAIRLEAD_TOPICS_FILE=%s: must be a readable file: %w", cfg.TopicsFile, cause(err)))
		}
	}
	live, closeRules, err := suite.FollowRules(ctx, natsConfig, rules.Options{
		Store: rules.Store{Namespace: cfg.Namespace, Replicas: cfg.NATS.Replicas},
		Mode:  p.mode, File: file, PutBuiltin: p.mode == rules.Dev, By: "fairlead " + p.what + " on " + hostname(), Log: log,
	})
	var problems rules.Problems
	if errors.As(err, &problems) {
		return nil, nil, usage(problemLines(cfg.TopicsFile, problems))
	}
	return live, closeRules, err
}

func problemLines(file string, problems rules.Problems) error {
	var lines []error
	for _, problem := range problems {
		lines = append(lines, fmt.Errorf("%s:%w", file, problem))
	}
	return errors.Join(lines...)
}

// adminServer starts the admin listener; nil where it is off, or where nobody
// chose an address and the default one is taken.
func adminServer(cfg *config, tel *telemetry.Telemetry, checks *telemetry.Checks, log *slog.Logger) (*http.Server, error) {
	if cfg.AdminAddr == "off" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", cfg.AdminAddr)
	switch {
	case err != nil && adminIsDefault():
		log.Warn("admin address taken: no admin listener", "addr", cfg.AdminAddr, "err", err)
		cfg.AdminAddr = "off"
		return nil, nil
	case err != nil:
		return nil, usage(fmt.Errorf("FAIRLEAD_ADMIN_ADDR=%s: %w", cfg.AdminAddr, cause(err)))
	}
	server := telemetry.Server(cfg.AdminAddr, telemetry.Admin(tel, checks), log)
	go func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("admin listener", "err", err)
		}
	}()
	return server, nil
}

// cause drops the operation and path that net and os repeat in their errors.
func cause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
