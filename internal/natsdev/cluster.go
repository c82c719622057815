package natsdev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

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
	return ClusterVia(t, n, nil)
}

// Via returns where node from reaches node to, whose routes listen at addr: a
// proxy of the test that can delay or cut that way. Either node may be the one
// that connects to the other; what it returns must work until the test ends.
type Via func(from, to int, addr string) string

// nowhere is what nodes with proxies between them tell each other of where they
// listen, so that nobody finds a way around.
const nowhere = "127.0.0.1:1"

// ClusterVia is [Cluster] with every way between two nodes led over a proxy. Its
// nodes tell clients of no node but themselves.
func ClusterVia(t TB, n int, via Via) Nodes {
	t.Helper()
	routes := make([][]*url.URL, n)
	ports := make([]int, n)
	for i := range n {
		ports[i] = FreePort(t)
	}
	for from := range n {
		for to, port := range ports {
			addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
			if via != nil && from == to {
				continue
			}
			if via != nil {
				addr = via(from, to, addr)
			}
			routes[from] = append(routes[from], &url.URL{Scheme: "nats", Host: addr})
		}
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
			cluster: &clusterConfig{port: ports[i], routes: routes[i], hidden: via != nil},
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

// Leader returns the node that leads a stream, nil while there is none.
func (n Nodes) Leader(stream string) *Server {
	for _, s := range n {
		if s.leads(stream) {
			return s
		}
	}
	return nil
}

// account is where streams are on a server without accounts of its own.
const account = "$G"

func (s *Server) leads(stream string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.srv != nil && s.srv.JetStreamIsStreamLeader(account, stream)
}

// Current reports whether the node has everything that a stream's leader has.
// It is false while the node is down or does not know the stream.
func (s *Server) Current(stream string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.srv != nil && s.srv.JetStreamIsCurrent() && s.srv.JetStreamIsStreamCurrent(account, stream)
}

// StepDown makes the node give up the lead of a stream, for another node to take
// it; on a node that does not lead it, it does nothing.
func (s *Server) StepDown(stream string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv == nil {
		return errors.New("the node is down")
	}
	if !s.srv.JetStreamIsStreamLeader(account, stream) {
		return nil
	}
	if err := s.srv.JetStreamStepdownStream(account, stream); err != nil {
		return fmt.Errorf("step down from stream %s: %w", stream, err)
	}
	return nil
}

// Destroy shuts the server down and removes what it had stored, as the loss of
// a machine with its disk does. [Server.Restart] begins with nothing.
func (s *Server) Destroy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	if err := os.RemoveAll(s.cfg.StoreDir); err != nil {
		return fmt.Errorf("destroy the store: %w", err)
	}
	return nil
}

type clusterConfig struct {
	port   int
	routes []*url.URL
	hidden bool
}

func (c *clusterConfig) apply(opts *server.Options) {
	opts.Cluster.Name = "test"
	opts.Cluster.Host = "127.0.0.1"
	opts.Cluster.Port = c.port
	opts.Routes = c.routes
	if c.hidden {
		opts.Cluster.Advertise, opts.Cluster.NoAdvertise = nowhere, true
	}
}
