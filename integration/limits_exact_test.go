package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

const limitStream = "KV_fl_ratelimit"

// Three replicas count for eight clients. They are killed one after the other,
// and one of them loses its way to NATS, and the answers on it: never is more
// granted than there is, nor is anything denied that nobody can have taken, and
// everybody goes on getting answers.
func TestLimitsAreExactThoughReplicasAreKilled(t *testing.T) {
	t.Parallel()
	const rounds, operations = 10, 10_000 // 15 are killed
	url, rules := natsdev.Test(t).ClientURL(), rulesFile(t, countedRules)
	way := startValve(t, strings.TrimPrefix(url, "nats://"))
	startLimits(t, "nats://"+way.addr(), rules)
	replicas := []*process{startLimits(t, url, rules), startLimits(t, url, rules)}
	nc := connect(t, url)
	awaitLimits(t, nc, 3)
	r := startLimitRun(t, url)
	r.reach(3 * generation) // with nothing in the way, to which nothing is conceded
	for i := range rounds {
		victims := [][]int{{0}, {0, 1}, {1}, {1, 0}}[i%4]
		for _, v := range victims {
			r.fault(replicas[v].kill)
			replicas[v] = startLimits(t, url, rules)
		}
		switch i % 4 {
		case 1: // the third hears no answers, of what it wrote neither
			r.fault(func() { way.stop(back); passes(300 * time.Millisecond); way.release() })
		case 2:
			r.fault(way.cut)
		}
		awaitLimits(t, nc, 3)
		r.reach(200)
	}
	r.reach(operations - r.answered())
	r.right()
}

// The same on three nodes, where the bucket's leader changes too: answers to
// writes are lost that were made, and writes that were answered must stay.
func TestLimitsAreExactThoughLeadersChange(t *testing.T) {
	t.Parallel()
	const changes, operations = 4, 4_000
	nodes, rules := natsdev.Cluster(t, 3), rulesFile(t, countedRules)
	replicas := make([]*process, 3)
	for i := range replicas {
		replicas[i] = startLimits(t, nodes.URL(), rules, "FAIRLEAD_NATS_REPLICAS=3")
	}
	nc := connect(t, nodes.URL())
	awaitLimits(t, nc, 3)
	eventually(t, "the bucket is on all nodes", func() (any, bool) {
		for _, n := range nodes {
			if !n.Current(limitStream) {
				return nil, false
			}
		}
		return nil, true
	})
	led := func(not *natsdev.Server) (leader *natsdev.Server) {
		eventually(t, "the bucket has a leader", func() (any, bool) {
			leader = nodes.Leader(limitStream)
			return nil, leader != nil && leader != not
		})
		return leader
	}
	r := startLimitRun(t, nodes.URL())
	r.reach(300)
	for i := range changes {
		leader := led(nil)
		r.fault(func() {
			must(t, leader.StepDown(limitStream))
			led(leader)
		})
		r.reach(100)
		victim := i % len(replicas)
		r.fault(replicas[victim].kill)
		replicas[victim] = startLimits(t, nodes.URL(), rules, "FAIRLEAD_NATS_REPLICAS=3")
		awaitLimits(t, nc, 3)
		r.reach(100)
	}
	r.reach(operations - r.answered())
	r.right()
}
