package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"
)

// SiteConfig says how the processes of a replay benchmark are started. Such a
// benchmark brings its own: it needs rules of its own, and ends some of them.
type SiteConfig struct {
	// Executable is the fairlead binary.
	Executable string
	// Dir takes data, logs and profiles, and is kept. Default: a temporary
	// directory that is removed.
	Dir string
	// Profile writes CPU profiles of every process to Dir, for the parts that
	// are measured.
	Profile bool
	// Loops, InFlight and Portable are those of [Target].
	Loops, InFlight int
	Portable        bool
}

// Topics of the benchmarks: the same rights, with and without replay.
const (
	plainPrefix = "bench.plain."
	logPrefix   = "bench.log."
	// logKeeps is how many messages of a topic the rule keeps.
	logKeeps  = 1000
	logStream = "FL_BENCHLOG"
	siteRules = `topics:
  - {name: benchplain, match: "bench.plain.>", subscribe: any, publish: any}
  - {name: benchlog, match: "bench.log.>", subscribe: any, publish: any, replay: {size: 1000, ttl: 1h}}
  - {name: benchroom, match: "bench.room.>", subscribe: any, publish: any, presence: {watch: any, join: any, leaveDelay: 0s}}
`
)

// site is a NATS server, the replay service and gateways, each a process of
// its own, so that each has its own CPU time and can be killed.
type site struct {
	cfg      SiteConfig
	dir      string
	temp     bool
	nats     *child
	replay   *child
	gateways []*child
	presence *child // nil where nothing needs it
	limits   []*child
	tasks    *child // nil where nothing needs it
	postgres int    // its process; 0: none is there
}

// openSite starts a NATS server, the replay service and so many gateways, and
// returns when all are ready.
func openSite(ctx context.Context, cfg SiteConfig, gateways int) (*site, error) {
	s, err := prepareSite(cfg)
	if err != nil {
		return nil, err
	}
	if err := s.open(ctx, gateways); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// prepareSite makes the directory of a site in which nothing runs yet.
func prepareSite(cfg SiteConfig) (*site, error) {
	s := &site{cfg: cfg, dir: cfg.Dir}
	if cfg.Profile && cfg.Dir == "" {
		return nil, errors.New("profiles need a directory")
	}
	var err error
	if s.dir == "" {
		s.temp = true
		if s.dir, err = os.MkdirTemp("", "fairlead-bench-"); err != nil {
			return nil, err
		}
	} else if err = os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *site) open(ctx context.Context, gateways int) error {
	if err := os.WriteFile(s.path("rules.yaml"), []byte(siteRules), 0o600); err != nil {
		return err
	}
	err := s.startNATS(ctx)
	if err != nil {
		return err
	}
	if s.replay, err = s.service(ctx, "replay", "replay"); err != nil {
		return err
	}
	for range gateways {
		if _, err := s.gateway(ctx); err != nil {
			return err
		}
	}
	return s.awaitStream(ctx)
}

// startNATS starts the NATS server.
func (s *site) startNATS(ctx context.Context) error {
	data, err := os.MkdirTemp(s.dir, "nats-") // what an earlier run left is none of ours
	if err != nil {
		return err
	}
	s.nats, err = s.start(ctx, "nats", func(public, admin string) ([]string, []string) {
		return []string{"bench", "nats", "--addr", public, "--admin", admin, "--data", data}, nil
	})
	return err
}

// withRatelimit starts one more replica of the ratelimit service.
func (s *site) withRatelimit(ctx context.Context) error {
	l, err := s.service(ctx, fmt.Sprintf("ratelimit%d", len(s.limits)), "ratelimit")
	if err == nil {
		s.limits = append(s.limits, l)
	}
	return err
}

// withPresence starts the presence service too.
func (s *site) withPresence(ctx context.Context) (err error) {
	s.presence, err = s.service(ctx, "presence", "presence")
	return err
}

// awaitStream waits for the stream of the replayed rule.
func (s *site) awaitStream(ctx context.Context) error {
	nc, err := s.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	for end := time.Now().Add(childPatience); ; {
		_, err := streamState(ctx, nc)
		if err == nil || time.Now().After(end) {
			return err
		}
		if err := pause(ctx, childPoll); err != nil {
			return err
		}
	}
}

// gateway starts one more gateway.
func (s *site) gateway(ctx context.Context) (*child, error) {
	g, err := s.service(ctx, fmt.Sprintf("gateway%d", len(s.gateways)), "gateway")
	if err == nil {
		s.gateways = append(s.gateways, g)
	}
	return g, err
}

// service starts a service; env is added to what all have, and stands above it.
func (s *site) service(ctx context.Context, name, service string, env ...string) (*child, error) {
	return s.start(ctx, name, func(public, admin string) ([]string, []string) {
		return []string{"run", service}, append([]string{
			"FAIRLEAD_NATS_URL=nats://" + s.nats.addr, "FAIRLEAD_HTTP_ADDR=" + public, "FAIRLEAD_ADMIN_ADDR=" + admin,
			"FAIRLEAD_TOPICS_FILE=" + s.path("rules.yaml"), "FAIRLEAD_AUTH=anonymous", "FAIRLEAD_ALLOW_ANONYMOUS=true",
			"FAIRLEAD_LIMIT_FRAMES_PER_SECOND=0", "FAIRLEAD_LOG_FORMAT=text",
		}, env...)
	})
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// connect returns a NATS connection, as a worker has it.
func (s *site) connect() (*nats.Conn, error) {
	nc, err := nats.Connect("nats://"+s.nats.addr, nats.NoReconnect())
	if err != nil {
		return nil, fmt.Errorf("connect to the benchmark's NATS server: %w", err)
	}
	return nc, nil
}

// target is a gateway as a scenario loads it.
func (s *site) target(g *child) Target {
	u := url.URL{Scheme: "ws", Host: g.addr, Path: "/ws"}
	return Target{
		URL: u.String(), Loops: s.cfg.Loops, InFlight: s.cfg.InFlight, Portable: s.cfg.Portable,
		Server: Probe{PID: g.pid(), Admin: "http://" + g.admin},
	}
}

// close ends the processes and removes what nobody asked to keep.
func (s *site) close() {
	for _, c := range append(append(s.gateways, s.limits...), s.tasks, s.presence, s.replay, s.nats) {
		if c != nil {
			c.kill()
		}
	}
	if s.temp {
		_ = os.RemoveAll(s.dir) // what is left lies in the system's temporary directory
	}
}

// children are the processes that run.
func (s *site) children() (all []*child) {
	for _, c := range append(append([]*child{s.nats, s.replay, s.presence, s.tasks}, s.gateways...), s.limits...) {
		if c != nil && !c.dead() {
			all = append(all, c)
		}
	}
	return all
}

// usage is the CPU time of every process so far, this one's included.
func (s *site) usage() map[string]time.Duration {
	used := map[string]time.Duration{"generator": ownCPU()}
	for _, c := range s.children() {
		if cpu, _, err := processUsage(c.pid()); err == nil {
			used[c.name] = cpu
		}
	}
	if s.postgres != 0 {
		if cpu, err := familyUsage(s.postgres); err == nil {
			used["postgres"] = cpu
		}
	}
	return used
}

// costs are the shares of cores that processes used between two moments.
func costs(from, to map[string]time.Duration, took time.Duration) map[string]float64 {
	used := map[string]float64{}
	for name, cpu := range to {
		if was, ok := from[name]; ok && took > 0 {
			used[name] = (cpu - was).Seconds() / took.Seconds()
		}
	}
	return used
}

// busyOthers is the share of the machine that neither the site nor this
// process used; 0 where it is not known.
func busyOthers(busy, all time.Duration, own map[string]float64) float64 {
	if all <= 0 {
		return 0
	}
	cores := 0.0
	for _, c := range own {
		cores += c
	}
	return max(0, busy.Seconds()/all.Seconds()-cores/float64(runtime.NumCPU()))
}
