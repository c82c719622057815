package fairleadtest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/suite"
	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// Patience is how long the functions of this package wait before they fail the
// test: long enough for a machine that is busy with other tests.
const Patience = 20 * time.Second

// Stack is a NATS server with gateways and services on it, as one test sees it.
// Its methods may be called by any goroutine; those that can fail the test, by
// the test's own only.
type Stack struct {
	*core
	t testing.TB
}

// core is what tests share of a stack.
type core struct {
	settings *settings
	rules    []byte // nil: the built-in ones of dev
	server   *natsdev.Server
	log      *record
	database *database // nil: the stack has no tasks
	services *member   // presence, ratelimit, replay and tasks

	mu       sync.Mutex
	gateways []*Gateway // guarded by mu
}

// Start starts a stack and returns when it is ready. Everything ends with the
// test. At most one [Options] is taken; without it there is one gateway, with
// the rules of `fairlead dev`: anyone may do nearly everything, and topics under
// chat, doc and log keep a past.
func Start(t testing.TB, o ...Options) *Stack {
	t.Helper()
	var chosen Options
	switch len(o) {
	case 0:
	case 1:
		chosen = o[0]
	default:
		t.Fatal("fairleadtest: one Options, not several")
	}
	set, err := chosen.read()
	if err != nil {
		t.Fatalf("fairleadtest: %v", err)
	}
	s := &Stack{t: t, core: &core{settings: set, log: newRecord(chosen.LogLevel)}}
	if chosen.Rules != "" {
		s.rules = []byte(chosen.Rules)
		if _, err := rules.Parse(s.rules, rules.Dev); err != nil {
			t.Fatalf("fairleadtest: rules: %v", err)
		}
	}
	t.Cleanup(func() { s.log.print(t) })
	s.server = natsdev.Test(t)
	if chosen.Tasks {
		if s.database, err = newDatabase(t, chosen.PostgresURL); err != nil {
			t.Fatalf("fairleadtest: %v", err)
		}
	}
	t.Cleanup(s.close)

	for i := range max(1, chosen.Gateways) {
		g, err := s.newGateway(i)
		if err != nil {
			t.Fatalf("fairleadtest: gateway %d: %v", i, err)
		}
		s.gateways = append(s.gateways, g)
	}
	var starting sync.WaitGroup
	failed := make([]error, 1+len(s.gateways))
	starting.Go(func() { failed[0] = s.startServices() })
	for i, g := range s.gateways {
		starting.Go(func() { failed[i+1] = g.start() })
	}
	starting.Wait()
	for i, err := range failed {
		switch {
		case err != nil && i == 0:
			t.Fatalf("fairleadtest: the services: %v", err)
		case err != nil:
			t.Fatalf("fairleadtest: gateway %d: %v", i-1, err)
		}
	}
	return s
}

// In returns the stack for another test, which its clients end with, and which
// they fail: for a stack that several tests share.
func (s *Stack) In(t testing.TB) *Stack { return &Stack{core: s.core, t: t} }

func (s *core) startServices() error {
	link, err := newLink(s.natsAddr(), false)
	if err != nil {
		return err
	}
	s.services = &member{nats: link}
	cfg := suite.Config{Replay: &s.settings.Replay, Presence: &s.settings.Presence, Ratelimit: &s.settings.Ratelimit}
	if s.database != nil {
		s.settings.Tasks.PostgresURL = s.database.through()
		cfg.Tasks = &s.settings.Tasks
	}
	return s.services.run(s, cfg)
}

func (s *core) natsAddr() string { return hostOf(s.server.ClientURL()) }

// member is a process of the stack: services that live and die together, with a
// way of their own to NATS.
type member struct {
	nats   *Link
	parts  *suite.Process
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
	err    error         // why; set before done is closed
}

// run starts the process and returns when it is ready.
func (m *member) run(s *core, cfg suite.Config) error {
	ctx, cancel := context.WithCancel(context.Background())
	cfg.NATS = bus.Config{URL: "nats://" + m.nats.Addr()}
	cfg.Telemetry = &telemetry.Telemetry{Log: s.log.logger}
	cfg.Version = "test"
	live, closeRules, err := suite.FollowRules(ctx, cfg.NATS, rules.Options{
		Store: rules.Store{Namespace: namespace, Replicas: 1},
		Mode:  rules.Dev, File: s.rules, PutBuiltin: true, By: "a test", Log: s.log.logger,
	})
	if err != nil {
		cancel()
		return err
	}
	cfg.Rules = live
	ready := make(chan struct{})
	if m.parts, err = suite.New(withReady(cfg, ready)); err != nil {
		cancel()
		closeRules()
		return err
	}
	m.cancel, m.done = cancel, make(chan struct{})
	go func() {
		defer close(m.done)
		defer closeRules()
		m.err = m.parts.Run(ctx)
	}()
	patience := time.NewTimer(Patience)
	defer patience.Stop()
	select {
	case <-ready:
		return nil
	case <-m.done:
		return m.err
	case <-patience.C:
		return notReady(m.parts)
	}
}

// NATS returns a connection for workers: straight to the server, so that no cut
// of this package concerns it. Each call makes one; they are closed with the test.
func (s *Stack) NATS() *nats.Conn {
	s.t.Helper()
	nc, err := nats.Connect(s.server.ClientURL(), nats.Name("test"), nats.MaxReconnects(-1))
	if err != nil {
		s.t.Fatalf("fairleadtest: connect to NATS: %v", err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// NATSURL returns where the NATS server is, for workers in other processes.
func (s *Stack) NATSURL() string { return s.server.ClientURL() }

// URL returns the first gateway's WebSocket address.
func (s *Stack) URL() string { return s.Gateway(0).URL() }

// Gateway returns the i-th gateway, from 0, dead ones counted.
func (s *Stack) Gateway(i int) *Gateway {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if i < 0 || i >= len(s.gateways) {
		s.t.Fatalf("fairleadtest: there is no gateway %d of %d", i, len(s.gateways))
	}
	return s.gateways[i]
}

// AddGateway starts one more gateway and returns when it is ready.
func (s *Stack) AddGateway() *Gateway {
	s.t.Helper()
	s.mu.Lock()
	index := len(s.gateways)
	s.mu.Unlock()
	g, err := s.newGateway(index)
	if err != nil {
		s.t.Fatalf("fairleadtest: add a gateway: %v", err)
	}
	s.mu.Lock()
	s.gateways = append(s.gateways, g)
	s.mu.Unlock()
	if err := g.start(); err != nil {
		s.t.Fatalf("fairleadtest: add a gateway: %v", err)
	}
	return g
}

// CutNATS takes NATS away from every gateway and service, as an outage of the
// server does. Connections of [Stack.NATS] stay.
func (s *Stack) CutNATS() { s.eachNATS((*Link).Cut) }

// RestoreNATS is the end of [Stack.CutNATS].
func (s *Stack) RestoreNATS() { s.eachNATS((*Link).Restore) }

func (s *core) eachNATS(do func(*Link)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do(s.services.nats)
	for _, g := range s.gateways {
		do(g.nats)
	}
}

// close ends everything but the NATS server, which ends after it.
func (s *core) close() {
	s.mu.Lock()
	gateways := s.gateways
	s.mu.Unlock()
	var closing sync.WaitGroup
	for _, g := range gateways {
		closing.Go(g.close)
	}
	closing.Wait()
	if s.services != nil {
		s.services.close()
	}
	if s.database != nil {
		s.database.link.close()
	}
}

// close stops the process and waits for it.
func (m *member) close() {
	if m.cancel != nil {
		m.cancel()
		<-m.done
	}
	m.nats.close()
}

func hostOf(url string) string {
	for i := range len(url) - 2 {
		if url[i:i+3] == "://" {
			return url[i+3:]
		}
	}
	return url
}
