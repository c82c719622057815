package natsdev

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// TB is what this package needs of a testing.TB. Naming it here keeps the
// testing package out of the binary, which links natsdev for `fairlead dev`.
type TB interface {
	Helper()
	TempDir() string
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Test starts a server for a test on a free port, with data in a temporary
// directory, and shuts it down when the test ends. Options change the
// configuration before the start.
func Test(t TB, options ...func(*Config)) *Server {
	t.Helper()
	cfg := Config{StoreDir: t.TempDir(), SyncInterval: time.Hour, Name: "test", Port: freePort(t)}
	for _, o := range options {
		o(&cfg)
	}
	s, err := Start(cfg)
	if err != nil {
		t.Fatalf("start embedded NATS: %v", err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// Nodes is a cluster for tests. Each node can be shut down and restarted by
// itself.
type Nodes []*Server

// URL lists every node, separated by commas, as FAIRLEAD_NATS_URL takes it.
func (n Nodes) URL() string {
	urls := make([]string, len(n))
	for i, s := range n {
		urls[i] = s.ClientURL()
	}
	return strings.Join(urls, ",")
}

// Cluster starts n servers with routes between them, waits until JetStream has
// a meta leader that knows all of them, and shuts them down when the test ends.
func Cluster(t TB, n int) Nodes {
	t.Helper()
	routes := make([]*url.URL, n)
	ports := make([]int, n)
	for i := range n {
		ports[i] = freePort(t)
		routes[i] = &url.URL{Scheme: "nats", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i]))}
	}
	dir := t.TempDir()
	type started struct {
		i   int
		s   *Server
		err error
	}
	results := make(chan started)
	for i := range n {
		cfg := Config{
			StoreDir: filepath.Join(dir, strconv.Itoa(i)), SyncInterval: time.Hour,
			Name:    fmt.Sprintf("test-%d", i),
			cluster: &clusterConfig{port: ports[i], routes: routes},
		}
		go func() {
			s, err := Start(cfg)
			results <- started{i, s, err}
		}()
	}
	nodes := make(Nodes, n)
	var failed error
	for range n {
		r := <-results
		if r.err != nil {
			failed = r.err
			continue
		}
		nodes[r.i] = r.s
		t.Cleanup(r.s.Shutdown)
	}
	if failed != nil {
		t.Fatalf("start embedded NATS cluster: %v", failed)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := nodes.awaitLeader(ctx); err != nil {
		t.Fatalf("start embedded NATS cluster: %v", err)
	}
	return nodes
}

func (n Nodes) awaitLeader(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		leader, current := 0, 0
		for _, s := range n {
			if s.srv.JetStreamIsLeader() && len(s.srv.JetStreamClusterPeers()) == len(n) {
				leader++
			}
			if s.srv.JetStreamIsCurrent() {
				current++
			}
		}
		if leader == 1 && current == len(n) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the JetStream leader: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

type clusterConfig struct {
	port   int
	routes []*url.URL
}

func (c *clusterConfig) apply(opts *server.Options) {
	opts.Cluster.Name = "test"
	opts.Cluster.Host = "127.0.0.1"
	opts.Cluster.Port = c.port
	opts.Routes = c.routes
}

// freePort finds a port that nothing listens on, below those that the system
// hands out by itself: a server that is restarted on it finds it free again.
func freePort(t TB) int {
	t.Helper()
	const from, to, tries = 12000, 32000, 100
	var err error
	for range tries {
		port := from + rand.IntN(to-from)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatalf("find a free port: %v", err)
	return 0
}
