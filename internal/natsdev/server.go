// Package natsdev runs a NATS server with JetStream inside the process: the
// server of `fairlead dev`, and the real NATS that every test talks to. It is
// the only package that imports nats-server.
package natsdev

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// startTimeout bounds how long a server may take until it accepts clients;
// recovering large streams after a crash is what takes time.
const startTimeout = 30 * time.Second

// Config says how the server listens and where it keeps its data.
type Config struct {
	// Host is the address to listen on; 127.0.0.1 when empty.
	Host string
	// Port to listen on; 0 and -1 both mean any free port.
	Port int
	// InProcessOnly opens no TCP listener: only [Server.InProcess] reaches it.
	InProcessOnly bool
	// StoreDir holds the JetStream data and is made where missing. It must not
	// be empty: a temporary default would lose data unnoticed.
	StoreDir string
	// SyncInterval is how often JetStream flushes to the disk; 1s when 0. It
	// matters for a power cut only: a killed process loses nothing.
	SyncInterval time.Duration
	// Name of the server; it appears in logs and connection listings. A
	// cluster needs distinct names. "fairlead-dev" when empty.
	Name string
	// File is a configuration file of nats-server, whose accounts, users and
	// permissions count. Where the server listens and keeps its data is said here.
	File string
	// Log receives the server's log: warnings and errors as they are, notices
	// at debug level. Nothing is logged when nil.
	Log *slog.Logger

	cluster *clusterConfig
}

// Server is a running server. Its methods may be called concurrently.
type Server struct {
	cfg Config

	mu   sync.Mutex // guards srv and lock; held while starting and stopping
	srv  *server.Server
	lock *dirLock
}

// ListenError is returned by [Start] when the address cannot be listened on,
// most often because something else does. Err is a *net.OpError.
type ListenError struct {
	Addr string
	Err  error
}

func (e *ListenError) Error() string { return "listen on " + e.Addr + ": " + cause(e.Err).Error() }
func (e *ListenError) Unwrap() error { return e.Err }

// StoreError is returned by [Start] when the store directory cannot be used:
// not writable, not a directory, or in use by another server.
type StoreError struct {
	Dir string
	Err error
}

func (e *StoreError) Error() string { return "store directory " + e.Dir + ": " + cause(e.Err).Error() }
func (e *StoreError) Unwrap() error { return e.Err }

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

// Start starts a server and returns when it accepts clients. What a user can
// mend comes back as *[ListenError] or *[StoreError], before anything runs.
func Start(cfg Config) (*Server, error) {
	cfg.Host = cmp.Or(cfg.Host, "127.0.0.1")
	cfg.SyncInterval = cmp.Or(cfg.SyncInterval, time.Second)
	cfg.Name = cmp.Or(cfg.Name, "fairlead-dev")
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Port == 0 {
		cfg.Port = server.RANDOM_PORT
	}
	s := &Server{cfg: cfg}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, nil
}

// start needs mu.
func (s *Server) start() error {
	if err := probePort(s.cfg); err != nil {
		return err
	}
	lock, err := openStore(s.cfg.StoreDir)
	if err != nil {
		return err
	}
	srv, err := run(s.cfg)
	if err != nil {
		lock.release()
		return err
	}
	if addr, ok := srv.Addr().(*net.TCPAddr); ok && addr != nil {
		s.cfg.Port = addr.Port // a restart keeps the port
	}
	s.srv, s.lock = srv, lock
	return nil
}

func run(cfg Config) (*server.Server, error) {
	opts := &server.Options{}
	if cfg.File != "" {
		if err := opts.ProcessConfigFile(cfg.File); err != nil {
			return nil, fmt.Errorf("configure nats server: %w", err)
		}
	}
	opts.ServerName, opts.NoSigs = cfg.Name, true
	opts.Host, opts.Port, opts.DontListen = cfg.Host, cfg.Port, cfg.InProcessOnly
	opts.HTTPHost, opts.HTTPPort = "", 0
	opts.JetStream, opts.StoreDir, opts.SyncInterval = true, cfg.StoreDir, cfg.SyncInterval
	opts.DisableJetStreamBanner = true
	if cfg.cluster != nil {
		cfg.cluster.apply(opts)
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("configure nats server: %w", err)
	}
	log := &serverLog{log: cfg.Log}
	srv.SetLoggerV2(log, log.debug(), false, false)
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		srv.Shutdown()
		srv.WaitForShutdown()
		if fatal := log.fatal(); fatal != "" {
			return nil, fmt.Errorf("start nats server: %s", fatal)
		}
		return nil, fmt.Errorf("start nats server: not ready after %s", startTimeout)
	}
	return srv, nil
}

// probePort finds out before the start whether the port is free: the server
// itself only logs that it is not.
func probePort(cfg Config) error {
	if cfg.InProcessOnly {
		return nil
	}
	addr := net.JoinHostPort(cfg.Host, strconv.Itoa(max(cfg.Port, 0)))
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return &ListenError{Addr: addr, Err: err}
	}
	return l.Close()
}

// SlowConsumers returns how many connections the server has given up because
// they did not take what it had for them.
func (s *Server) SlowConsumers() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.srv.NumSlowConsumers()
}

// ClientURL is the nats:// URL for clients; empty when the server listens
// nowhere. It stays the same over [Server.Restart].
func (s *Server) ClientURL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.InProcessOnly {
		return ""
	}
	host := s.cfg.Host
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	u := url.URL{Scheme: "nats", Host: net.JoinHostPort(host, strconv.Itoa(s.cfg.Port))}
	return u.String()
}

// InProcess connects clients without a socket (about half the latency of
// loopback TCP). The provider outlives a restart; while the server is down its
// connections fail.
func (s *Server) InProcess() nats.InProcessConnProvider { return inProcess{s} }

type inProcess struct{ s *Server }

func (p inProcess) InProcessConn() (net.Conn, error) {
	p.s.mu.Lock()
	srv := p.s.srv
	p.s.mu.Unlock()
	if srv == nil {
		return nil, errors.New("nats server is down")
	}
	return srv.InProcessConn()
}

// Shutdown stops the server and waits until its goroutines are gone and its
// data is on the disk. Calling it again does nothing.
func (s *Server) Shutdown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

// stop needs mu.
func (s *Server) stop() {
	if s.srv == nil {
		return
	}
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
	s.lock.release()
	s.srv, s.lock = nil, nil
}

// Restart shuts the server down, if it runs, and starts it on the same port
// and data. Between Shutdown and Restart clients see an outage.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	return s.start()
}

// Connections is the number of clients connected now; 0 while it is down.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv == nil {
		return 0
	}
	return s.srv.NumClients()
}

// Subscriptions is the number of client subscriptions the server holds,
// system subscriptions of the server itself included; 0 while it is down.
func (s *Server) Subscriptions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv == nil {
		return 0
	}
	return int(s.srv.NumSubscriptions())
}

// SubscriptionsTo returns how many client subscriptions the server has to
// subjects that begin with prefix, 0 when it is down.
func (s *Server) SubscriptionsTo(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv == nil {
		return 0
	}
	all, err := s.srv.Subsz(&server.SubszOptions{Subscriptions: true, Limit: maxListed})
	if err != nil {
		return 0
	}
	for _, sub := range all.Subs {
		if strings.HasPrefix(sub.Subject, prefix) {
			n++
		}
	}
	return n
}

// maxListed bounds the subscriptions that are looked at.
const maxListed = 100_000
