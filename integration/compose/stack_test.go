//go:build compose

package compose

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait: it only runs out where a test fails.
const patience = 90 * time.Second

// stack is a compose project of the files at the root of the repository.
type stack struct {
	t     *testing.T
	name  string
	files []string // of settings, in order
	env   map[string]string
}

// container is what the engine says of one.
type container struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status    string
		Pid       int
		StartedAt string
		Health    *struct{ Status string }
	}
	Config struct {
		Labels map[string]string
	}
	NetworkSettings struct {
		Networks map[string]struct{ Aliases []string }
	}
}

func (c container) service() string { return c.Config.Labels["com.docker.compose.service"] }

// well reports whether the container does what it is there for.
func (c container) well() bool {
	return c.State.Status == "running" && (c.State.Health == nil || c.State.Health.Status == "healthy")
}

// newStack returns a project with settings from files, later ones first, and
// ports of its own. Nothing runs yet; what runs at the end is taken away.
func newStack(t *testing.T, name string, files ...string) *stack {
	t.Helper()
	s := &stack{t: t, name: name, files: files, env: map[string]string{
		"FAIRLEAD_PORT": freePort(t), "FAIRLEAD_NATS_PORT": freePort(t), "FAIRLEAD_PROMETHEUS_PORT": freePort(t), // somebody may run the stack here
	}}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := s.try("logs", "--no-color", "--tail", "60") // for people: what there is of it
			t.Log(out)
		}
		s.compose("--profile", "cluster", "--profile", "obs", "down", "-v", "--timeout", "3", "--remove-orphans")
	})
	return s
}

// freePort finds a port that nothing listens on, below those that the system
// hands out by itself: what is started again finds it free.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(10000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return strings.TrimPrefix(addr, "127.0.0.1:")
		}
	}
	t.Fatal("no port is free")
	panic("unreachable")
}

// setting is a variable as compose sees it: of the environment, else of the files.
func (s *stack) setting(name string) (value string) {
	s.t.Helper()
	for _, file := range s.files {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			s.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
				value = strings.Trim(v, `"'`)
			}
		}
	}
	if v, ok := s.env[name]; ok {
		value = v
	}
	if value == "" {
		s.t.Fatalf("%v do not say what %s is", s.files, name)
	}
	return value
}

// root is where compose.yaml lies.
const root = "../.."

// command returns a command that sees the project's settings.
func (s *stack) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "COMPOSE_PROJECT_NAME="+s.name)
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (s *stack) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	prefix := []string{"compose", "--progress", "quiet"}
	for _, file := range s.files {
		prefix = append(prefix, "--env-file", file)
	}
	out, err := s.command(ctx, "docker", append(prefix, args...)...).CombinedOutput()
	return string(out), err
}

// compose runs `docker compose`, which must succeed.
func (s *stack) compose(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	if err != nil {
		s.t.Fatalf("docker compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// engine runs `docker`, which must succeed.
func (s *stack) engine(args ...string) string {
	s.t.Helper()
	out, err := s.ask(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *stack) ask(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := s.command(ctx, "docker", args...)
	out, err := cmd.Output()
	if err != nil {
		said := ""
		if e, ok := err.(*exec.ExitError); ok {
			said = string(e.Stderr)
		}
		return "", fmt.Errorf("docker %s: %w %s", strings.Join(args, " "), err, said)
	}
	return strings.TrimSpace(string(out)), nil
}

// containers returns those of a service, or of all where it is empty.
func (s *stack) containers(service string) []container {
	s.t.Helper()
	args := []string{"ps", "-aq", "--no-trunc", "--filter", "label=com.docker.compose.project=" + s.name}
	if service != "" {
		args = append(args, "--filter", "label=com.docker.compose.service="+service)
	}
	out, err := s.ask(args...)
	ids := strings.Fields(out)
	if err != nil || len(ids) == 0 {
		return nil
	}
	out, err = s.ask(append([]string{"inspect"}, ids...)...)
	if err != nil {
		return nil // one of them has just gone
	}
	var all []container
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		s.t.Errorf("docker inspect: %v", err)
	}
	slices.SortFunc(all, func(a, b container) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// one returns the container of a service that has the most clients, once all of them
// do what they are there for: what is broken one after the other is not broken at
// the same time, and to break what nobody uses would prove nothing.
func (s *stack) one(service string) (c container) {
	s.t.Helper()
	s.eventually("all of "+service+" are well", func() (any, bool) {
		all := s.containers(service)
		if len(all) == 0 || slices.ContainsFunc(all, func(c container) bool { return !c.well() }) {
			return all, false
		}
		c = slices.MaxFunc(all, func(a, b container) int { return cmp.Compare(s.clients(a), s.clients(b)) })
		return nil, true
	})
	if service == "gateway" && s.clients(c) < leastClients {
		s.t.Errorf("%s has %d clients, want %d", c.Name, s.clients(c), leastClients)
	}
	return c
}

// leastClients is how many a gateway has to have to be worth breaking.
const leastClients = 50

// clients returns how many connections to its public port a container has.
func (s *stack) clients(c container) (n int) {
	s.t.Helper()
	const established, port = "01", ":1F90" // 8080
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", c.State.Pid, table))
		if err != nil {
			return 0 // it has just ended
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], port) && f[3] == established {
				n++
			}
		}
	}
	return n
}

// kill ends the container's own process, as a crash would: `docker kill` would
// count as the wish of an operator, and nothing would start it again.
func (s *stack) kill(c container) {
	s.t.Helper()
	if err := syscall.Kill(c.State.Pid, syscall.SIGKILL); err != nil {
		s.t.Fatalf("kill %s, process %d: %v", c.Name, c.State.Pid, err)
	}
	s.eventually(c.Name+" was started again", func() (any, bool) {
		for _, now := range s.containers(c.service()) {
			if now.ID == c.ID && now.State.Status == "running" && now.State.StartedAt != c.State.StartedAt {
				return nil, true
			}
		}
		return nil, false
	})
}

// cut takes a container off its networks, without a word to anybody. It returns
// what brings it back.
func (s *stack) cut(c container) (join func()) {
	s.t.Helper()
	for network := range c.NetworkSettings.Networks {
		s.engine("network", "disconnect", network, c.ID)
	}
	return func() {
		s.t.Helper()
		for network, as := range c.NetworkSettings.Networks {
			args := []string{"network", "connect"}
			for _, alias := range as.Aliases {
				args = append(args, "--alias", alias)
			}
			s.engine(append(args, network, c.ID)...)
		}
	}
}

// stopped lists the containers that do not run.
func (s *stack) stopped() (names []string) {
	s.t.Helper()
	all := s.containers("")
	if len(all) == 0 {
		return []string{"everything"}
	}
	for _, c := range all {
		if c.State.Status != "running" {
			names = append(names, strings.TrimPrefix(c.Name, "/"))
		}
	}
	return names
}

// eventually polls what another process makes true; got says what is there
// instead, for the failure.
func (s *stack) eventually(what string, ok func() (got any, done bool)) {
	s.t.Helper()
	if got, done := poll(ok); !done {
		s.t.Fatalf("never: %s; last: %v", what, got)
	}
}

func poll(ok func() (got any, done bool)) (got any, done bool) {
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if got, done = ok(); done {
			return got, true
		}
		select {
		case <-tick.C:
		case <-deadline:
			return got, false
		}
	}
}
