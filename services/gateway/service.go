package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/internal/telemetry"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// shardsPerCore is how many shards there are for each core: more of them even
// out topics of different weight.
const shardsPerCore = 2

// Deps are what a gateway needs and does not make.
type Deps struct {
	NATS   bus.Config  // the gateway opens, and drains, connections of its own
	Rules  *rules.Live // run by whoever made it
	Log    *slog.Logger
	Meter  metric.Meter         // nil: nothing is measured
	Trace  telemetry.Tracer     // the zero value traces nothing
	Checks *telemetry.Checks    // the process's, for /readyz; the gateway adds its own
	Ready  func()               // called once, when the gateway first is ready; may be nil
	Mount  func(*http.ServeMux) // more handlers for the public listener; may be nil
	// Listener takes the place of one on Config.Addr; it is closed by Run.
	Listener net.Listener
	Version  string // shown by discovery
}

// Service is a gateway.
type Service struct {
	cfg  Config
	deps Deps
	id   string
	log  *slog.Logger

	auth        auth.Authenticator
	authorizer  Authorizer
	origins     Origins
	proxies     Proxies
	tls         *tls.Config // nil without TLS
	rules       *rules.Live
	guard       bus.Guard
	outbox      *outbox.Outbox
	connections *connections
	calls       *calls
	answers     *answers
	limiter     *limiter
	handshake   *handshake
	admission   *admission
	top         *top
	fanout      *fanout
	sent        *liveness // of what was published
	link        *link
	metrics     metrics

	mender  *mender
	checks  checklist
	skips   skipping
	rings   ringBudget
	acks    *acks
	batches chan struct{} // one element per open atomic batch
	reading chan struct{} // one element per page that is read for a client
	ledgers ledgers
	streams streams.Store
	// readStreams is JetStream on the connection for reads.
	readStreams jetstream.JetStream
	lost        chan struct{} // has an element when a stream was deleted

	live           *nats.Conn // what it listens to
	requests       *nats.Conn // what it publishes and asks
	reads          *nats.Conn // what it asks for that may be long
	connectContext context.Context

	tracer telemetry.Tracer

	roster       *roster
	departures   *departures
	rooms        *rooms
	groups       *groups
	cursors      *cursors
	topServed    *bus.Served // the endpoints of top
	lease        *lease
	leaseOf      atomic.Pointer[lease] // the same, for hooks of its connection
	dependencies *dependencies

	attributes  *attributeIndex[*connection]
	matching    chan *nats.Msg // what came on fl.match
	controls    *controls
	revocations *revocations

	serving  atomic.Bool
	leaving  atomic.Bool // not ready any more, and still taking in whoever comes
	draining atomic.Bool
}

// New returns a gateway that does nothing yet. Its error has one line per
// setting that can't be used: the variable, its value, what is allowed.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Checks == nil {
		deps.Checks = &telemetry.Checks{}
	}
	g := &Service{
		cfg: cfg, deps: deps, id: newID(), rules: deps.Rules,
		authorizer:  ruleAuthorizer{deps.Rules},
		guard:       bus.Guard{Prefixes: deps.NATS.ReplyPrefixes},
		connections: newConnections(),
		calls:       newCalls(),
		answers:     newAnswers(),
		lost:        make(chan struct{}, 1),
		acks:        newAcks(),
		batches:     make(chan struct{}, batchesAtOnce),
		reading:     make(chan struct{}, pastPerCore*runtime.GOMAXPROCS(0)),
		tracer:      deps.Trace,
		attributes:  newAttributeIndex[*connection](),
		controls:    newControls(),
		revocations: newRevocations(),
	}
	g.roster, g.rooms, g.groups = newRoster(g), newRooms(g), newGroups(g)
	g.departures, g.cursors = newDepartures(g.roster), newCursors(g)
	g.dependencies = newDependencies(g)
	g.log = deps.Log.With("service", "gateway", "gateway", g.id)
	g.limiter = newLimiter(g.log, func() bool { return g.link.up() }, g.limitExceeded)
	g.limiter.guard = g.dependencies.ratelimit.breaker
	g.dependencies.ratelimit.decided = g.limiter.pulse.answeredSince
	g.handshake, g.admission, g.top = newHandshake(cfg.Admission), newAdmission(), newTop(g)
	var errs []error
	var err error
	g.auth, err = auth.New(auth.Config{
		Mode: cfg.Auth.Mode, Development: cfg.Development, AllowAnonymous: cfg.AllowAnonymous,
		JWT: auth.JWTConfig{
			Secret: []byte(cfg.Auth.JWTSecret), JWKSURL: cfg.Auth.JWKSURL, PublicKeyFile: cfg.Auth.PublicKeyFile,
			Issuer: cfg.Auth.Issuer, Audience: cfg.Auth.Audience, MaxAge: cfg.Auth.MaxAge,
		},
	}, g.log)
	errs = append(errs, err)
	if g.origins, err = ParseOrigins(cfg.Origins); cfg.Development && len(cfg.Origins) == 0 {
		g.origins = DevOrigins()
	}
	errs = append(errs, err)
	if g.origins.Any() && cfg.Auth.Cookie != "" {
		errs = append(errs, problem("ORIGINS", "*", "not together with FAIRLEAD_AUTH_COOKIE: name the origins"))
	}
	g.tls, err = g.tlsConfig()
	errs = append(errs, err)
	g.proxies, err = ParseProxies(cfg.TrustedProxies)
	if errs = append(errs, err); errors.Join(errs...) != nil {
		return nil, errors.Join(errs...)
	}
	deps.Checks.Add("gateway", func(context.Context) error { return g.Ready() })
	g.outbox = outbox.New(outbox.Config{
		QueueBytes: cfg.Limits.OutboundBytes, Heartbeat: cfg.Heartbeat, ReadLimit: cfg.Limits.PayloadBytes,
		OnSlow: func(oc *outbox.Conn, queued int) {
			g.event("backpressure", "", eventBody{Conn: oc.Owner.(*connection), Queued: queued})
		},
	})
	return g, nil
}

// ID returns the gateway's id, new with every start.
func (g *Service) ID() string { return g.id }

// Run serves until ctx is done, or an operator has it drain; then it drains: clients are asked to leave over
// the drain window, the rest is closed with 1001, and what was published is
// flushed. It returns nil after a clean stop. NATS may be away when it begins.
func (g *Service) Run(ctx context.Context) error {
	listener := g.deps.Listener
	if listener == nil {
		var err error
		if listener, err = net.Listen("tcp", g.cfg.Addr); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	defer listener.Close()
	// work goes on while the gateway drains; halt ends it.
	work, halt := context.WithCancel(context.WithoutCancel(ctx))
	defer halt()
	g.connectContext = work
	g.mender = newMender(work)
	defer g.mender.close()
	if err := g.openLink(); err != nil {
		return err
	}
	g.sent = newLiveness(g.requests)
	g.fanout = newFanout(g.live, shardsPerCore*runtime.GOMAXPROCS(0), g.deliver)
	g.fanout.prepare, g.fanout.answered = g.listenTo, g.cursors.answered
	js, err := jetstream.New(g.requests)
	if err != nil {
		return errors.Join(fmt.Errorf("jetstream: %w", err), g.closeLink(work))
	}
	if g.readStreams, err = jetstream.New(g.reads); err != nil {
		return errors.Join(fmt.Errorf("jetstream: %w", err), g.closeLink(work))
	}
	g.streams = streams.Store{JetStream: js, Namespace: g.cfg.Namespace, Replicas: g.cfg.Replicas}
	if err := errors.Join(g.acks.subscribe(g.requests), g.watchStreams(), g.calls.subscribe(g.requests), g.fanout.subscribeProbes(g.cfg.Namespace, g.id),
		g.fanout.subscribeInboxes(), g.subscribeMatch(), g.subscribeControl(), g.top.subscribe(g.requests)); err != nil {
		return errors.Join(err, g.closeLink(work))
	}
	client := limits.NewClient(limits.Config{NATS: g.requests, Namespace: g.cfg.Namespace, Log: g.log, Remember: true})
	g.limiter.service, g.limiter.counts = client, client.Counts
	if g.topServed, err = g.top.serve(g.requests); err != nil {
		return errors.Join(err, g.closeLink(work))
	}
	g.link.connected(nil)
	if err := g.observe(); err != nil {
		return errors.Join(err, g.closeLink(work))
	}

	group, work := errgroup.WithContext(work)
	background := func(fn func(context.Context)) {
		group.Go(func() error { fn(work); return nil })
	}
	for _, s := range g.fanout.shards {
		background(func(ctx context.Context) { g.fanout.run(ctx, s) })
	}
	background(g.fanout.live.run)
	background(g.sent.run)
	background(func(ctx context.Context) { g.calls.run(ctx, g) })
	background(func(ctx context.Context) { g.answers.run(ctx, g.publishAnswer) })
	background(g.sweep)
	background(g.probe)
	background(g.followRules)
	background(g.announce)
	background(g.reconcile)
	background(g.keepStreams)
	background(g.lease.run)
	background(g.departures.run)
	background(g.rooms.run)
	background(g.rooms.look)
	background(g.dependencies.run)
	background(g.groups.run)
	background(g.cursors.run)
	background(g.cursors.look)
	background(g.runMatch)
	background(g.watchPressure)
	background(g.top.run)
	background(g.followRevoked)
	background(g.keepRevoked)
	for _, queue := range g.controls.queues() {
		background(func(ctx context.Context) { g.controls.run(ctx, queue) })
	}
	background(func(ctx context.Context) { g.acks.run(ctx, g) })
	group.Go(func() error { return client.Run(work) })
	group.Go(func() error { return g.outbox.Run(work) })
	group.Go(func() error { return g.auth.Run(work) })

	server := telemetry.Server(g.cfg.Addr, g.handler(), g.log)
	server.TLSConfig = g.tls
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true) // what WebSockets upgrade from
	group.Go(func() error {
		var err error
		if g.tls != nil {
			err = server.ServeTLS(listener, "", "")
		} else {
			err = server.Serve(listener)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serve: %w", err)
	})
	g.serving.Store(true)

	select {
	case <-ctx.Done():
	case <-g.controls.drain:
	case <-work.Done(): // something failed: group.Wait has its error
	}
	g.leaving.Store(true)
	if g.cfg.DrainDelay > 0 && work.Err() == nil {
		// Until load balancers have noticed they send clients here.
		g.log.Info("leaving", "delay", g.cfg.DrainDelay.String())
		pause(g.cfg.DrainDelay, work.Done())
	}
	g.draining.Store(true)
	gone := g.connections.close()
	if work.Err() == nil {
		g.drain(gone)
	}
	err = g.stop(server, gone)
	halt()
	g.mender.close()
	return errors.Join(group.Wait(), err)
}

// stop ends the server, the connections that are left, and then, when nobody
// publishes any more, the NATS connections.
func (g *Service) stop(server *http.Server, gone <-chan struct{}) error {
	grace, cancel := context.WithTimeout(context.Background(), drainGrace)
	defer cancel()
	err := server.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close() // an HTTP request that does not end is cut
	}
	g.connections.each(func(c *connection) { c.out.Abort() })
	<-gone
	g.cursors.farewell()
	g.top.stop(g.topServed)
	g.farewell()
	return errors.Join(err, g.closeLink(context.Background()))
}

func (g *Service) closeLink(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushWait)
	defer cancel()
	return errors.Join(bus.Drain(ctx, g.live), bus.Drain(ctx, g.requests), bus.Drain(ctx, g.reads), bus.Drain(ctx, g.lease.nc))
}

// handler is the public listener's.
func (g *Service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ws", g.accept)
	mux.HandleFunc("GET /healthz", telemetry.Healthz)
	mux.Handle("GET /readyz", g.deps.Checks)
	if g.cfg.HTTPAPI {
		g.httpAPI(mux)
	}
	if g.deps.Mount != nil {
		g.deps.Mount(mux)
	}
	if !g.cfg.Development {
		return mux
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := CheckLocalHost(r.Host, g.cfg.Hosts); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// remove forgets a connection that has ended.
func (g *Service) remove(c *connection) {
	g.connections.remove(c, c.user(), LimitKey(c.address))
}

// followRules gives every interest its new rule when the rules change.
func (g *Service) followRules(ctx context.Context) {
	for {
		changed := g.rules.Changed()
		g.fanout.hub.all(func(in *interest) {
			if in.kind == kindTopic || in.kind == kindPattern {
				g.govern(in)
			}
		})
		g.cursors.rulesChanged()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// announce calls Ready once, when the gateway first is.
func (g *Service) announce(ctx context.Context) {
	if g.deps.Ready == nil {
		return
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for g.Ready() != nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	g.deps.Ready()
}
