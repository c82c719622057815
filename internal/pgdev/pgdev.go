// Package pgdev runs a real Postgres: the database of `fairlead dev`, and the
// one that tests talk to. It uses the PostgreSQL that is installed and brings
// none along.
package pgdev

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	startTimeout = 30 * time.Second // recovery after a crash takes time
	stopTimeout  = 10 * time.Second // for each of: asked kindly, asked firmly

	user     = "fairlead" // superuser of the cluster
	database = "postgres"

	// socketMax is the longest directory that a Unix socket in it can have.
	socketMax = 90
)

// Config says where a server keeps its data and how it listens.
type Config struct {
	// Dir holds the cluster and is made where missing. A cluster that is there
	// is used. It must not be empty: a temporary default would lose data
	// unnoticed.
	Dir string
	// Port on 127.0.0.1; any free one when 0.
	Port int
	// Bin is the directory of initdb and postgres; searched for when empty.
	Bin string
	// Unsafe never waits for the disk: fast, and a power cut destroys the
	// cluster. For tests.
	Unsafe bool
	// Log receives the server's log at debug level. Nothing is logged when nil.
	Log *slog.Logger
}

// Server is a Postgres that this process runs. It dies with the process (on
// Linux even when that is killed). Its methods may be called concurrently.
type Server struct {
	cfg     Config
	bin     string
	sockets string // "" where the directory is too long for one

	mu   sync.Mutex // guards proc; held while starting and stopping
	proc *process
}

// Start starts a server on cfg.Dir and returns when it accepts clients; ctx
// bounds the start only. Where no PostgreSQL is installed the error is a
// *[MissingError]. As root the server runs as the user nobody, who needs a way
// into the directory: one made with os.MkdirTemp has it.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s, err := Find(cfg)
	if err != nil {
		return nil, err
	}
	if err := s.Launch(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Find returns a server that has yet to be launched: its URL is known already.
// Its errors are those of [Start] that need no server.
func Find(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("start postgres: the directory must be named")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	cfg.Dir = dir
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg}
	if s.bin, err = find(cmp.Or(cfg.Bin, os.Getenv("FAIRLEAD_PGBIN")), s.version()); err != nil {
		return nil, err
	}
	if s.cfg.Port == 0 {
		if s.cfg.Port, err = freePort(); err != nil { // a restart keeps it
			return nil, fmt.Errorf("start postgres: %w", err)
		}
	}
	return s, nil
}

// Launch starts a server that [Find] has found, as [Start] does.
func (s *Server) Launch(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.prepare(ctx); err != nil {
		return fmt.Errorf("prepare postgres in %s: %w", s.cfg.Dir, err)
	}
	if err := s.start(ctx); err != nil {
		return fmt.Errorf("start postgres in %s: %w", s.cfg.Dir, err)
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.cfg.Dir, "data") }

// version is the major version of the cluster, "" where there is none.
func (s *Server) version() string {
	b, err := os.ReadFile(filepath.Join(s.data(), "PG_VERSION"))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// prepare makes the directory and the cluster where they are missing. The
// cluster is made beside its place and moved there: a start that was cut short
// leaves no half of one.
func (s *Server) prepare(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return err
	}
	if err := own(s.cfg.Dir); err != nil {
		return err
	}
	if runtime.GOOS != "windows" && len(s.cfg.Dir) <= socketMax {
		s.sockets = s.cfg.Dir
	}
	if s.version() != "" {
		return nil
	}
	half := s.data() + ".new"
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	args := []string{"-D", half, "-U", user, "-A", "trust", "-E", "UTF8", "--locale=" + locale}
	if s.cfg.Unsafe {
		args = append(args, "-N") // no wait for the disk here either
	}
	cmd := exec.CommandContext(ctx, s.tool("initdb"), args...)
	cmd.Dir = s.cfg.Dir
	cmd.Env = environment()
	isolate(cmd)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("initdb: %w: whoever runs it (nobody, where this is root) needs a way into the directory", err)
	}
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, lastLines(out))
	}
	return os.Rename(half, s.data())
}

func (s *Server) tool(name string) string { return filepath.Join(s.bin, name+exe) }

// environment is what a tool of Postgres gets to see: a PGDATA or PGPORT that
// is set for something else must not reach it.
func environment() []string {
	env := []string{"LC_MESSAGES=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "SystemRoot", "TEMP", "TMP"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// start needs mu.
func (s *Server) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	args := []string{
		"-D", s.data(), "-p", strconv.Itoa(s.cfg.Port), "-k", s.sockets,
		"-c", "listen_addresses=127.0.0.1", "-c", "logging_collector=off", "-c", "log_destination=stderr",
	}
	if s.cfg.Unsafe {
		args = append(args, "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
	}
	cmd := exec.Command(s.tool("postgres"), args...)
	cmd.Dir = s.cfg.Dir
	cmd.Env = environment()
	isolate(cmd)
	proc, err := run(cmd, s.cfg.Log)
	if err != nil {
		return err
	}
	if err := s.await(ctx, proc); err != nil {
		proc.stop(s.bin, s.data())
		return err
	}
	s.proc = proc
	return nil
}

// await returns when the server answers a client, or has ended.
func (s *Server) await(ctx context.Context, proc *process) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, s.url())
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-proc.done:
			return fmt.Errorf("it ended: %w: %s", proc.err, lastLines(proc.tail.bytes()))
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w: %s", err, lastLines(proc.tail.bytes()))
		case <-tick.C:
		}
	}
}

// URL is the postgres:// URL of the superuser on the database `postgres`. It
// stays the same over [Server.Restart].
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url()
}

func (s *Server) url() string { return s.urlOf(database) }

func (s *Server) urlOf(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User(user), Host: "127.0.0.1:" + strconv.Itoa(s.cfg.Port),
		Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Stop stops the server; clients are cut off. Calling it again does nothing.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

// stop needs mu.
func (s *Server) stop() {
	if s.proc != nil {
		s.proc.stop(s.bin, s.data())
		s.proc = nil
	}
}

// Restart stops the server, if it runs, and starts it on the same port and
// data. Between Stop and Restart clients see an outage.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	if err := s.start(context.Background()); err != nil {
		return fmt.Errorf("restart postgres in %s: %w", s.cfg.Dir, err)
	}
	return nil
}

// process is one run of the server.
type process struct {
	cmd  *exec.Cmd
	tail *tail
	done chan struct{} // closed when it has ended
	err  error         // how; valid after done
}

// run starts a command and waits for its end in a goroutine. That keeps its
// thread: on Linux a child is told that its parent died when the thread that
// started it ends.
func run(cmd *exec.Cmd, log *slog.Logger) (*process, error) {
	p := &process{cmd: cmd, tail: &tail{log: log}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = io.Discard, p.tail
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmp.Or(cmd.Wait(), errors.New("exit status 0"))
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// stop returns when the process has ended, whatever that takes.
func (p *process) stop(bin, data string) {
	for _, how := range []func(){
		func() { interrupt(p.cmd.Process, bin, data) },
		func() { quit(p.cmd.Process) },
	} {
		how()
		timer := time.NewTimer(stopTimeout)
		select {
		case <-p.done:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
	_ = p.cmd.Process.Kill() // it may just have ended
	<-p.done
}
