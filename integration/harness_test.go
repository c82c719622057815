package integration

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
)

// patience bounds every wait: it only runs out where a test fails.
const patience = 30 * time.Second

// binary is the built program; TestMain sets it before any test runs.
var binary string

func TestMain(m *testing.M) {
	if name := os.Getenv(actor); name != "" { // a worker that a test has started
		os.Exit(act(name))
	}
	flag.Parse()
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fairlead-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "fairlead")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	args := []string{"build", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../cmd/fairlead")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "integration: build the binary: %v\n%s", err, out)
		return 1
	}
	tests := pgdev.Main(m).Run
	code := 0
	if existing() {
		code = onExisting(tests)
	} else {
		code = tests()
	}
	if err := goleak.Find(ofTheServer()...); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	return code
}

// process is one run of the binary.
type process struct {
	t              *testing.T
	name           string
	cmd            *exec.Cmd
	stdout, stderr *transcript
	exited         chan struct{} // closed once it ended
}

// start runs the binary with a clean environment: what env says (NAME=value)
// and nothing else of ours. It is killed when the test ends, and what it wrote
// is shown if the test failed.
func start(t *testing.T, name string, env []string, args ...string) *process {
	t.Helper()
	if args[0] == "run" || args[0] == "dev" {
		ownProcesses(t)
	}
	return startProgram(t, name, env, binary, args...)
}

// startProgram is start for any program.
func startProgram(t *testing.T, name string, env []string, program string, args ...string) *process {
	t.Helper()
	home := t.TempDir()
	p := &process{t: t, name: name, stdout: newTranscript(), stderr: newTranscript(), exited: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir = home
	p.cmd.Env = append(system(home), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // its outcome is in ProcessState
	}()
	t.Cleanup(p.end)
	return p
}

// system is the part of the environment that programs need to run at all.
func system(home string) []string {
	env := []string{"HOME=" + home, "GORACE=halt_on_error=1 exitcode=66"}
	for _, name := range []string{"PATH", "TMPDIR", "SYSTEMROOT", "TEMP", "TMP"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func (p *process) end() {
	if !p.ended() {
		_ = p.cmd.Process.Kill() // it may end by itself meanwhile
	}
	<-p.exited
	for _, sign := range []string{"DATA RACE", "panic: ", "fatal error: "} {
		if strings.Contains(p.stderr.String(), sign) {
			p.t.Errorf("%s wrote %q", p.name, sign)
		}
	}
	if p.t.Failed() {
		p.t.Logf("%s: %v\n--- stdout\n%s--- stderr\n%s", p.name, p.cmd.ProcessState, clip(p.stdout.String()), clip(p.stderr.String()))
	}
}

// clip keeps the end of a long text.
func clip(s string) string {
	const most = 16 << 10
	if len(s) <= most {
		return s
	}
	return "…" + s[len(s)-most:]
}

func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// exit waits until the process has ended and returns its exit code (-1: by a
// signal).
func (p *process) exit(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(within):
		p.t.Fatalf("%s did not end within %s", p.name, within)
	}
	return p.cmd.ProcessState.ExitCode()
}

// kill ends the process as a crash would, and waits for it.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatalf("kill %s: %v", p.name, err)
	}
	p.exit(patience)
}

// line waits until the process has written a line that holds text, and returns
// it. A process that ends first fails the test.
func (p *process) line(of *transcript, text string) string {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		changed := of.changed()
		for line := range strings.Lines(of.String()) {
			if strings.HasSuffix(line, "\n") && strings.Contains(line, text) {
				return strings.TrimRight(line, "\r\n")
			}
		}
		select {
		case <-changed:
		case <-p.exited:
			if !strings.Contains(of.String(), text) {
				p.t.Fatalf("%s ended (%v) without writing %q", p.name, p.cmd.ProcessState, text)
			}
		case <-timeout:
			p.t.Fatalf("%s did not write %q", p.name, text)
		}
	}
}

// run runs a command to its end and returns what it wrote and its exit code.
func run(t *testing.T, env []string, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	home := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = home
	cmd.Env = append(system(home), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("fairlead %s: %v", strings.Join(args, " "), err)
	}
	if ctx.Err() != nil {
		t.Fatalf("fairlead %s did not end: %s%s", strings.Join(args, " "), out.String(), errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// transcript keeps what a process writes, and tells who waits for more.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed and replaced at every write
}

func newTranscript() *transcript { return &transcript{more: make(chan struct{})} }

func (w *transcript) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.more)
	w.more = make(chan struct{})
	return w.text.Write(b)
}

func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// changed returns a channel that is closed at the next write.
func (w *transcript) changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.more
}

// eventually polls what another process makes true; got says what is there
// instead, for the failure.
func eventually(t *testing.T, what string, ok func() (got any, done bool)) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got, done := ok()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s; last: %v", what, got)
		}
	}
}

// within returns a context for one wait of the test.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// receive takes the next value of a channel.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ofTheServer ignores what the embedded NATS server leaves behind.
func ofTheServer() (ignored []goleak.Option) {
	for _, name := range natsdev.Lingering() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	return ignored
}
