package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/cmd/fairlead/demo"
	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/telemetry"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/services/gateway"
)

// DemoCmd is the demo page beside gateways that others run: the page, tokens for
// its users, and the workers behind it, with a worker's rights on NATS. A load
// balancer in front sends /ws to the gateways, and what begins with /demo or
// /fairlead here.
type DemoCmd struct{}

// demoStop bounds how long requests that are under way may take at the end.
const demoStop = 5 * time.Second

// Run serves until ctx is done.
func (c *DemoCmd) Run(ctx context.Context, env *Env) error {
	cfg, err := loadConfig(ctx, os.LookupEnv, nil)
	if err != nil {
		return usage(err)
	}
	secret, page, err := demoSettings(cfg)
	if err != nil {
		return usage(err)
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("which program is this: %w", err)
	}
	tel, stop, err := startTelemetry(ctx, cfg, "fairlead-demo")
	if err != nil {
		return usage(err)
	}
	defer stop()
	natsConfig := cfg.NATS.bus()
	natsConfig.Name, natsConfig.InboxPrefix = "fairlead demo", cfg.NATS.InboxPrefix
	nc, err := bus.Connect(ctx, natsConfig, demoHooks(tel.Log))
	if err != nil {
		return usage(err)
	}
	defer nc.Close()
	renderer := demoRenderer(env, program, withoutSecrets(os.Environ()), tel.Log)
	defer renderer.Close()
	worker, err := demo.StartWorker(nc, fairlead.Options{Namespace: cfg.Namespace, ReplyPrefixes: cfg.NATS.ReplyPrefixes, Log: tel.Log}, demo.TaskOptions{Renderer: renderer})
	if err != nil {
		return err
	}
	defer worker.Close()

	checks := new(telemetry.Checks)
	checks.Add("nats", func(context.Context) error { return connected(nc) })
	admin, err := adminServer(cfg, tel, checks, tel.Log)
	if err != nil {
		return err
	}
	if admin != nil {
		defer admin.Close()
	}
	listener, err := net.Listen("tcp", cfg.Gateway.Addr)
	if err != nil {
		return usage(fmt.Errorf("%sHTTP_ADDR=%s: %w", envPrefix, cfg.Gateway.Addr, cause(err)))
	}
	if page == "" {
		page = "http://" + listener.Addr().String() + "/demo"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", telemetry.Healthz)
	mux.Handle("GET /readyz", checks)
	mux.Handle("/", knownHosts(page, demoPages(secret, cfg, renderer)))
	tel.Log.Warn("whoever reaches this page gets tokens for any user: it is for trying out", "http", listener.Addr().String())

	group, ctx := errgroup.WithContext(ctx)
	serveHTTP(ctx, group, telemetry.Server(cfg.Gateway.Addr, mux, tel.Log), listener)
	group.Go(func() error {
		if awaitReady(ctx, nc) {
			fmt.Fprintln(env.Stdout, "demo page:", page)
			renderer.Keep(ctx)
		}
		return nil
	})
	return group.Wait()
}

// demoSettings returns the secret that signs tokens, and where browsers find the
// page, "" where nobody says.
func demoSettings(cfg *config) (secret []byte, page string, err error) {
	var errs []error
	if cfg.Gateway.Auth.JWTSecret == "" {
		errs = append(errs, errors.New(envPrefix+"AUTH_JWT_SECRET is not set: tokens are signed with the secret that the gateways check them with"))
	} else if _, err := mint([]byte(cfg.Gateway.Auth.JWTSecret), cfg, "ann"); err != nil {
		errs = append(errs, fmt.Errorf("%sAUTH_JWT_SECRET: %w", envPrefix, err))
	}
	if u, err := url.Parse(cfg.DemoURL); cfg.DemoURL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "") {
		errs = append(errs, fmt.Errorf("%sDEMO_URL=%s: an address such as http://127.0.0.1:8080/demo", envPrefix, cfg.DemoURL))
	}
	return []byte(cfg.Gateway.Auth.JWTSecret), cfg.DemoURL, errors.Join(errs...)
}

// demoPages is what the load balancer sends here.
func demoPages(secret []byte, cfg *config, renderer *demo.Renderer) http.Handler {
	mux := http.NewServeMux()
	mountDemo(mux, secret, cfg, &demo.Stack{Terminal: cfg.DemoTerminal})
	renderer.Mount(mux, true)
	mux.Handle("GET /{$}", http.RedirectHandler("/demo", http.StatusFound))
	return mux
}

// knownHosts serves requests by address, as localhost, or by the name in page. No
// page elsewhere gets tokens by letting a name of its own point here.
func knownHosts(page string, next http.Handler) http.Handler {
	var own []string
	if u, err := url.Parse(page); err == nil {
		own = append(own, u.Hostname())
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		_, notAddress := netip.ParseAddr(strings.Trim(host, "[]"))
		if notAddress != nil && gateway.CheckLocalHost(r.Host, own) != nil {
			http.Error(w, fmt.Sprintf("host %.100q: this page answers to addresses, to localhost, and to the name in %sDEMO_URL", r.Host, envPrefix), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// serveHTTP has the server run until ctx is done and what it answers then has
// come to its end.
func serveHTTP(ctx context.Context, group *errgroup.Group, server *http.Server, listener net.Listener) {
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the page: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), demoStop)
		defer cancel()
		if server.Shutdown(bounded) != nil {
			_ = server.Close() // what takes longer is cut off
		}
		return nil
	})
}

// awaitReady waits until NATS is there, for as long as it takes, and reports
// whether it is.
func awaitReady(ctx context.Context, nc *nats.Conn) bool {
	status := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(status)
	if nc.IsConnected() {
		return true
	}
	select {
	case <-status:
		return true
	case <-ctx.Done():
		return false
	}
}

func connected(nc *nats.Conn) error {
	if !nc.IsConnected() {
		return errors.New("NATS is away")
	}
	return nil
}

// demoHooks log what goes wrong between the demo's worker and NATS.
func demoHooks(log *slog.Logger) bus.Hooks {
	return bus.Hooks{OnError: func(subject string, err error) { log.Warn("the demo's worker", "subject", subject, "err", err) }}
}

// withoutSecrets is an environment without what signs tokens: a worker of tasks
// has no use for it.
func withoutSecrets(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool { return strings.HasPrefix(kv, envPrefix+"AUTH_") })
}
