//go:build compose

package compose

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"
)

var (
	report = flag.Bool("report", false, "write the table of docs/reliability.md")
	only   = flag.String("only", "", "do the faults that this regular expression matches")
)

// theLimit is one of deploy/rules.yaml.
const theLimit = "demo"

// fault is something that happens to the stack.
type fault struct {
	what  string
	away  bool // clients hear nothing for longer than users stay present: they may seem to leave
	costs bounds
	do    func(s *stack)
}

var (
	// little is what it may cost where whoever publishes hardly notices, or is
	// connected again at once.
	little = bounds{longest: 10 * time.Second, after: 20 * time.Second}
	// orphaned is where the only tasks replica dies: what it supervised waits for the
	// end of its lease, FAIRLEAD_TASKS_OWNER_LEASE, 15 s.
	orphaned = bounds{longest: 10 * time.Second, after: 35 * time.Second}
	// broken is where connections break and come back.
	broken = bounds{longest: 15 * time.Second, after: 20 * time.Second}
	// silent is where a gateway with half of the clients says nothing for a while.
	silent = bounds{longest: 30 * time.Second, after: 30 * time.Second}
	// halt is where NATS is away, and nobody can publish.
	halt = bounds{longest: 20 * time.Second, after: 25 * time.Second, halts: true}
	// election is where a leader has to be found first.
	election = bounds{longest: 40 * time.Second, after: 40 * time.Second, halts: true}
)

// One stack, one crowd, one fault after the other; then down and up again.
func TestFaults(t *testing.T) {
	s := newStack(t, "fairlead-faults", ".env")
	p := start(t, s, "gateway=2")
	p.watch()
	p.suffer([]fault{
		{what: "gateways: from 2 to 4", costs: little, do: scale("gateway", 4)},
		{what: "kill -9 of the ratelimit service", costs: little, do: kill("ratelimit")},
		{what: "kill -9 of the presence service", costs: little, do: kill("presence")},
		{what: "rolling restart of the presence service", costs: little, do: roll("presence")},
		{what: "kill -9 of the replay service", costs: little, do: kill("replay")},
	})
	p.sees(4)
	p.suffer([]fault{
		{what: "gateways: from 4 to 1", costs: little, do: scale("gateway", 1)},
		{what: "rolling restart of the only gateway", costs: little, do: roll("gateway")},
		{what: "kill -9 of the tasks service", costs: orphaned, do: kill("tasks")},
		{what: "gateways: from 1 to 2", costs: little, do: scale("gateway", 2)},
		// Whoever restarts the load balancer has the clients spread over the gateways:
		// what then happens to one of them happens to some clients, and not to the others.
		{what: "kill -9 of the load balancer", costs: broken, do: kill("lb")},
		{what: "kill -9 of a gateway", costs: broken, do: kill("gateway")},
		{what: "rolling restart of the replay service", costs: little, do: roll("replay")},
		{what: "rolling restart of the ratelimit service", costs: little, do: roll("ratelimit")},
		{what: "rolling restart of the tasks service", costs: little, do: roll("tasks")},
		{what: "kill -9 of the demo page", costs: little, do: kill("demo")},
		{what: "restart of the load balancer", costs: broken, do: roll("lb")},
		// Longer than a gateway's lease, and shorter than users stay present without one.
		{what: "pause of a gateway for 11 s", costs: silent, do: hang("gateway", 11*time.Second)},
		{what: "kill -9 of Postgres", costs: little, do: kill("postgres")},
		{what: "the presence service cut off for 5 s", costs: little, do: cut("presence", 5*time.Second)},
		{what: "kill -9 of NATS", costs: halt, do: kill("nats")},
		{what: "a gateway cut off for 10 s", away: true, costs: silent, do: cut("gateway", 10*time.Second)},
		{what: "restart of Postgres", costs: little, do: restart("postgres")},
		{what: "restart of NATS", costs: halt, do: restart("nats")},
	})
	p.sees(2)
	p.watched()
	p.downAndUp()
	p.finish()
}

// The same on three NATS nodes, of which one is lost.
func TestFaultsOfACluster(t *testing.T) {
	s := newStack(t, "fairlead-cluster", ".env", "deploy/cluster.env")
	p := start(t, s, "gateway=2")
	p.suffer([]fault{
		{what: "three NATS nodes: one cut off for 5 s", costs: election, do: cut("nats-2", 5*time.Second)},
		{what: "three NATS nodes: kill -9 of one", costs: election, do: kill("nats-3")},
	})
	p.finish()
}

func scale(service string, n int) func(*stack) {
	return func(s *stack) {
		s.compose("up", "-d", "--no-recreate", "--no-deps", "--scale", fmt.Sprintf("%s=%d", service, n), service)
		s.eventually(fmt.Sprintf("%d of %s are there", n, service), func() (any, bool) {
			all := s.containers(service)
			well := 0
			for _, c := range all {
				if c.well() {
					well++
				}
			}
			return well, well == n && len(all) == n
		})
	}
}

func kill(service string) func(*stack) {
	return func(s *stack) { s.kill(s.one(service)) }
}

func restart(service string) func(*stack) {
	return func(s *stack) { s.compose("restart", service) }
}

// roll restarts a service in the way that users are told to.
func roll(service string) func(*stack) {
	return func(s *stack) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		if out, err := s.command(ctx, "deploy/rolling.sh", service).CombinedOutput(); err != nil {
			s.t.Fatalf("deploy/rolling.sh %s: %v\n%s", service, err, out)
		}
	}
}

// hang stops every process of a container for a while, without the end of any.
func hang(service string, d time.Duration) func(*stack) {
	return func(s *stack) {
		c := s.one(service)
		s.engine("pause", c.ID)
		<-time.After(d) // the fault itself
		s.engine("unpause", c.ID)
	}
}

func cut(service string, d time.Duration) func(*stack) {
	return func(s *stack) {
		join := s.cut(s.one(service))
		<-time.After(d) // the fault itself
		join()
	}
}
