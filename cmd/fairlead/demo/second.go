package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Second is a gateway in a process of its own, for the page's second pane: one
// that the page may kill as a crash would, to see what that costs its user. It
// is started by the first connection that wants it, and again by the first one
// after a kill.
type Second struct {
	command func() *exec.Cmd
	log     *slog.Logger

	mu     sync.Mutex
	child  *child // nil: none was started, or it was killed
	closed bool
}

// child is one run of a process.
type child struct {
	process *exec.Cmd
	stdin   io.Closer     // its end tells the child that this process is gone
	said    string        // the first line of its standard output
	exited  chan struct{} // closed once it ended
}

// startPatience bounds how long a child may take until it serves.
const startPatience = 15 * time.Second

// NewSecond returns a second gateway that is not started yet. command makes the
// process: it must write its address, and nothing else, as the first line of
// its standard output once it serves, and end when its standard input does.
// Close ends what is running.
func NewSecond(command func() *exec.Cmd, log *slog.Logger) *Second {
	return &Second{command: command, log: log}
}

// Mount adds what the page uses: GET /demo/second.js says that there is a second
// gateway, /demo/ws leads to it, and POST /demo/kill kills it. They are there
// for this machine only: a process that anybody may kill is nobody's.
func (s *Second) Mount(mux *http.ServeMux) {
	mux.HandleFunc("GET /demo/second.js", func(w http.ResponseWriter, r *http.Request) { sayWhetherSecond(w, fromHere(r)) })
	mux.Handle("GET /demo/ws", onlyHere(s.forward))
	mux.Handle("POST /demo/kill", onlyHere(func(w http.ResponseWriter, _ *http.Request) {
		s.Kill()
		w.WriteHeader(http.StatusNoContent)
	}))
}

// onlyHere serves requests of this machine, and of the page itself.
func onlyHere(fn http.HandlerFunc) http.Handler {
	return onlyThePage(func(w http.ResponseWriter, r *http.Request) {
		if !fromHere(r) {
			http.Error(w, "only on the machine that runs fairlead dev", http.StatusForbidden)
			return
		}
		fn(w, r)
	})
}

// onlyThePage serves requests that no page of another origin has made.
func onlyThePage(fn http.HandlerFunc) http.Handler {
	return http.NewCrossOriginProtection().Handler(fn)
}

// fromHere reports whether a request comes from this machine.
func fromHere(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback()
}

// sayWhetherSecond tells the page whether there is a second gateway for it.
func sayWhetherSecond(w http.ResponseWriter, there bool) { tell(w, "second", there) }

// forward passes a connection on to the gateway, which sees it as if it had
// been meant for it: the page's origin stays its own.
func (s *Second) forward(w http.ResponseWriter, r *http.Request) {
	addr, err := s.running(r.Context())
	if err != nil {
		s.log.Warn("the demo's second gateway", "err", err)
		http.Error(w, "the second gateway does not start", http.StatusBadGateway)
		return
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = &url.URL{Scheme: "http", Host: addr, Path: "/ws", RawQuery: p.In.URL.RawQuery}
			p.Out.Host = p.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			s.log.Debug("the demo's second gateway", "err", err)
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	proxy.ServeHTTP(w, r)
}

// running returns the address of the gateway, which it starts where there is
// none.
func (s *Second) running(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", errors.New("closed")
	}
	if s.child != nil {
		if !s.child.ended() {
			return s.child.said, nil
		}
		s.end()
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	c, err := launch(ctx, s.command())
	if err != nil {
		return "", err
	}
	if _, _, err := net.SplitHostPort(c.said); err != nil {
		c.kill()
		return "", fmt.Errorf("start: it ended, or says %q in place of its address", c.said)
	}
	s.child = c
	return c.said, nil
}

// launch starts a process and waits for its first line.
func launch(ctx context.Context, process *exec.Cmd) (*child, error) {
	stdin, err := process.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	stdout, err := process.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	if err := process.Start(); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	c := &child{process: process, stdin: stdin, exited: make(chan struct{})}
	said := make(chan string, 1)
	go func() { // ends with the process, which close waits for
		defer close(c.exited)
		lines := bufio.NewReader(stdout)
		line, _ := lines.ReadString('\n')
		said <- strings.TrimSpace(line)
		_, _ = io.Copy(io.Discard, lines)
		_ = process.Wait() // killed, as a rule
	}()
	select {
	case c.said = <-said:
		return c, nil
	case <-ctx.Done():
		c.kill()
		return nil, fmt.Errorf("start: %w", ctx.Err())
	}
}

func (c *child) ended() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

// Kill ends the gateway as a crash does: its connections break, nobody is told.
func (s *Second) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
}

// Close kills the gateway for good.
func (s *Second) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.end()
}

// end kills the child, if there is one. s.mu is held.
func (s *Second) end() {
	if s.child != nil {
		s.child.kill()
		s.child = nil
	}
}

func (c *child) kill() {
	_ = c.process.Process.Kill() // it may have ended by itself
	_ = c.stdin.Close()
	<-c.exited
}
