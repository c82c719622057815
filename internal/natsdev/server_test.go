package natsdev

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

// crashDir names the directory in which the re-executed test binary plays a
// server that is about to be killed.
const crashDir = "NATSDEV_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		os.Exit(serveUntilKilled(dir))
	}
	goleak.VerifyTestMain(m)
}

func connect(t *testing.T, s *Server) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// fill makes a stream and stores n messages in it.
func fill(ctx context.Context, nc *nats.Conn, replicas, n int) (jetstream.Stream, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	// A cluster may lose a request while it elects: each is tried until ctx ends.
	var stream jetstream.Stream
	err = insist(ctx, func(ctx context.Context) (err error) {
		stream, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Replicas: replicas})
		return err
	})
	for i := range n {
		if err == nil {
			err = insist(ctx, func(ctx context.Context) error {
				_, err := js.Publish(ctx, "s.x", fmt.Append(nil, i), jetstream.WithMsgID(strconv.Itoa(i)))
				return err
			})
		}
	}
	return stream, err
}

func insist(ctx context.Context, request func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := request(try)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

func stored(ctx context.Context, t *testing.T, nc *nats.Conn) uint64 {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

func TestRestartKeepsPortAndData(t *testing.T) {
	s := Test(t)
	nc := connect(t, s)
	if _, err := fill(t.Context(), nc, 1, 10); err != nil {
		t.Fatal(err)
	}
	before := s.ClientURL()
	s.Shutdown()
	if got := s.Connections(); got != 0 {
		t.Errorf("connections while down = %d, want 0", got)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := s.ClientURL(); got != before {
		t.Errorf("URL after restart = %s, want %s", got, before)
	}
	if got := stored(t.Context(), t, connect(t, s)); got != 10 {
		t.Errorf("messages after restart = %d, want 10", got)
	}
}

func TestInProcess(t *testing.T) {
	s := Test(t, func(c *Config) { c.InProcessOnly = true })
	if got := s.ClientURL(); got != "" {
		t.Errorf("URL = %q, want none", got)
	}
	reconnected := make(chan struct{}, 1)
	nc, err := nats.Connect("", nats.InProcessServer(s.InProcess()), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { reconnected <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := fill(t.Context(), nc, 1, 3); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-reconnected:
	case <-time.After(10 * time.Second):
		t.Fatal("not connected again after a restart")
	}
	if got := stored(t.Context(), t, nc); got != 3 {
		t.Errorf("messages after restart = %d, want 3", got)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Start(Config{Port: l.Addr().(*net.TCPAddr).Port, StoreDir: t.TempDir()})
	var listen *ListenError
	if !errors.As(err, &listen) || listen.Addr != l.Addr().String() {
		t.Fatalf("error = %v, want a ListenError for %s", err, l.Addr())
	}
	var op *net.OpError
	if !errors.As(err, &op) {
		t.Errorf("error = %v, want a *net.OpError inside", err)
	}
}

func TestUnusableStore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := Test(t)
	tests := []struct{ name, dir string }{
		{"a file", file},
		{"below a file", filepath.Join(file, "x")},
		{"none", ""},
		{"in use", taken.cfg.StoreDir},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Start(Config{StoreDir: tt.dir})
			var store *StoreError
			if !errors.As(err, &store) {
				if s != nil {
					s.Shutdown()
				}
				t.Fatalf("error = %v, want a StoreError", err)
			}
			t.Log(err)
		})
	}
}

func TestKilledServerStartsAgainWithItsData(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "stored\n" {
		t.Fatalf("child said %q, %v; want stored", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "killed" is what we asked for

	s := Test(t, func(c *Config) { c.StoreDir = dir })
	if got := stored(t.Context(), t, connect(t, s)); got != 100 {
		t.Errorf("messages after a kill = %d, want 100", got)
	}
}

func serveUntilKilled(dir string) int {
	s, err := Start(Config{StoreDir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := fill(ctx, nc, 1, 100); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("stored")
	<-ctx.Done()
	return 1
}
