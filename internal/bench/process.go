package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Probe says how to learn what the server process costs. The zero value asks
// the process that listens on the target's port (Linux), and the admin address
// for what only the process itself knows.
type Probe struct {
	// Addr is host:port of the server; default the target's.
	Addr string
	// PID names the process instead.
	PID int
	// Admin is the base URL of the server's admin address. Default
	// http://127.0.0.1:9090, believed only if the same process listens there.
	Admin string
}

const defaultAdmin = "http://127.0.0.1:9090"

// Usage is what a process used up to a moment; fields that could not be learned are zero.
type Usage struct {
	PID        int
	Source     string // how it was learned; "" if it wasn't
	CPU        time.Duration
	RSS        int64 // bytes
	Goroutines int64
	Heap       int64 // bytes of live objects
	Stack      int64 // bytes
}

// server reads the usage of one process; which one is settled at the start.
type server struct {
	pid    int
	admin  string // "" if there is none to believe
	client http.Client
}

func (p Probe) find(ctx context.Context) *server {
	s := &server{pid: p.PID, admin: p.Admin, client: http.Client{Timeout: 5 * time.Second}}
	if s.pid == 0 {
		s.pid = listener(p.Addr)
	}
	if s.admin == "" {
		u, _ := url.Parse(defaultAdmin) // a constant
		if owner := listener(u.Host); owner != 0 && owner == s.pid || s.pid == 0 && owner == 0 {
			s.admin = defaultAdmin
		}
	}
	s.admin = strings.TrimSuffix(strings.TrimSuffix(s.admin, "/"), "/metrics")
	if s.admin != "" {
		if _, err := s.metrics(ctx); err != nil {
			s.admin = ""
		}
	}
	return s
}

// usage samples the process; whole also reads what only its admin address tells.
func (s *server) usage(ctx context.Context, whole bool) Usage {
	var u Usage
	if s.pid != 0 {
		if cpu, rss, err := processUsage(s.pid); err == nil {
			u = Usage{PID: s.pid, Source: fmt.Sprintf("pid %d", s.pid), CPU: cpu, RSS: rss}
		}
	}
	if s.admin == "" || !whole && u.Source != "" {
		return u
	}
	m, err := s.metrics(ctx)
	if err != nil {
		return u
	}
	u.Goroutines = int64(m["go_goroutines"])
	u.Heap = int64(m["go_memstats_heap_alloc_bytes"])
	u.Stack = int64(m["go_memstats_stack_inuse_bytes"])
	if u.Source == "" && m["process_cpu_seconds_total"] > 0 {
		u.Source = s.admin + "/metrics"
		u.CPU = time.Duration(m["process_cpu_seconds_total"] * 1e9)
		u.RSS = int64(m["process_resident_memory_bytes"])
	}
	return u
}

// collect asks the server to collect garbage n times, through its profiling
// address, and reports whether it did.
func (s *server) collect(ctx context.Context, n int) bool {
	for range n {
		if s.admin == "" || s.get(ctx, "/debug/pprof/heap?gc=1", func(io.Reader) error { return nil }) != nil {
			return false
		}
	}
	return true
}

// metrics reads the unlabelled metrics of the admin address.
func (s *server) metrics(ctx context.Context) (map[string]float64, error) {
	m := map[string]float64{}
	err := s.get(ctx, "/metrics", func(r io.Reader) error {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			name, value, ok := strings.Cut(lines.Text(), " ")
			if !ok || strings.HasPrefix(name, "#") {
				continue
			}
			if f, err := strconv.ParseFloat(value, 64); err == nil {
				m[name] = f
			}
		}
		return lines.Err()
	})
	return m, err
}

func (s *server) get(ctx context.Context, path string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.admin+path, nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: HTTP %d", path, resp.StatusCode)
	}
	if err := read(resp.Body); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func (s *server) close() { s.client.CloseIdleConnections() }
