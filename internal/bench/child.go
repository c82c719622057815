package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// child is a process of a [site].
type child struct {
	name        string
	addr, admin string // host:port
	log         string // its file
	cmd         *exec.Cmd
	gone        chan struct{} // closed when it has ended
	once        sync.Once
}

const (
	childPatience = 30 * time.Second // until a process is ready
	childPoll     = 20 * time.Millisecond
)

// start runs the executable with what args makes of two free addresses, and
// returns when its admin address says that it is ready.
func (s *site) start(ctx context.Context, name string, args func(public, admin string) (argv, env []string)) (*child, error) {
	free, err := freeAddrs(2)
	if err != nil {
		return nil, err
	}
	c := &child{name: name, addr: free[0], admin: free[1], log: s.path(name + ".log"), gone: make(chan struct{})}
	argv, env := args(c.addr, c.admin)
	file, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	c.cmd = exec.Command(s.cfg.Executable, argv...)
	c.cmd.Env = append(foreignEnv(os.Environ()), env...)
	c.cmd.Stdout, c.cmd.Stderr = file, file
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { // ends with the process, which kill ends
		_ = c.cmd.Wait() // its log says why
		close(c.gone)
	}()
	if err := c.ready(ctx); err != nil {
		c.kill()
		return nil, fmt.Errorf("%s is not ready: %w: %s", name, err, c.last())
	}
	return c, nil
}

// foreignEnv is an environment without settings of ours.
func foreignEnv(env []string) (kept []string) {
	for _, kv := range env {
		if !strings.HasPrefix(kv, "FAIRLEAD_") {
			kept = append(kept, kv)
		}
	}
	return kept
}

func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end: no address twice
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func (c *child) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, childPatience)
	defer cancel()
	for {
		err := c.get(ctx, "/readyz", io.Discard)
		if err == nil {
			return nil
		}
		select {
		case <-c.gone:
			return errors.New("it ended")
		case <-ctx.Done():
			return err
		case <-time.After(childPoll):
		}
	}
}

func (c *child) get(ctx context.Context, path string, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.admin+path, nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: HTTP %d", path, resp.StatusCode)
	}
	_, err = io.Copy(to, resp.Body)
	return err
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// kill ends the process at once, as a crash would, and waits until it is gone.
func (c *child) kill() {
	c.once.Do(func() {
		_ = c.cmd.Process.Kill() // fails only if it has ended
	})
	<-c.gone
}

func (c *child) dead() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// last is the end of the process's log.
func (c *child) last() string {
	b, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	const most = 500
	b = bytes.TrimSpace(b)
	return string(b[max(0, len(b)-most):])
}

// profile takes CPU profiles of all processes for d, named after the part that
// is measured, and returns a function that waits for them.
func (s *site) profile(ctx context.Context, part string, d time.Duration) func() error {
	if !s.cfg.Profile {
		return func() error { return nil }
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	for _, c := range s.children() {
		group.Go(func() {
			var b bytes.Buffer
			path := fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(d.Seconds())))
			err := c.get(ctx, path, &b)
			if err == nil {
				err = os.WriteFile(s.path(part+"."+c.name+".pprof"), b.Bytes(), 0o644)
			}
			if err != nil && !c.dead() { // one that was killed on the way has none
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, fmt.Errorf("profile of %s: %w", c.name, err))
			}
		})
	}
	return func() error {
		group.Wait()
		return errors.Join(failed...)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
