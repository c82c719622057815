package integration

import (
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

const presenceStream = "KV_fl_presence"

// The bucket's leader steps down again and again while clients join and leave,
// and at last is shut down. JetStream may not republish what it commits
// meanwhile, and answers to writes are lost: in the end every observer, the
// service and the clients agree on who is there.
func TestLeadersOfPresenceChangeUnderLoad(t *testing.T) {
	t.Parallel()
	nodes := natsdev.Cluster(t, 3)
	s, _ := presenceStackOn(t, nodes.URL(), 2, 2, "FAIRLEAD_NATS_REPLICAS=3")
	current := func() bool {
		for _, n := range nodes {
			if !n.Current(presenceStream) {
				return false
			}
		}
		return true
	}
	eventually(t, "the bucket is on all nodes", func() (any, bool) { return nil, current() })
	const topic = "now.cluster"
	eyes := []*witness{witnessing(t, s.as(0, "eye"), topic, "watch"), witnessing(t, s.as(1, "eye"), topic, "watch")}
	led := func(not *natsdev.Server) (leader *natsdev.Server) {
		eventually(t, "the bucket has a leader", func() (any, bool) {
			leader = nodes.Leader(presenceStream)
			return nil, leader != nil && leader != not
		})
		return leader
	}
	truth := storm(t, s, topic, 12, 12, func() {
		for range 4 {
			leader := led(nil)
			must(t, leader.StepDown(presenceStream))
			led(leader)
		}
		leader := led(nil)
		leader.Shutdown()
		led(leader)
	})
	settles(t, s.worker(), topic, truth, eyes...)
}
