package natsdev

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

func TestCluster(t *testing.T) {
	nodes := Cluster(t, 3)
	nc := connect(t, nodes[0])
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := fill(ctx, nc, 3, 10)
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(info.Cluster.Replicas); got != 2 {
		t.Errorf("followers = %d, want 2", got)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// A leader gives up the lead, a node comes back without its disk, and what was
// stored is on all of them again.
func TestAClusterChangesLeadersAndLosesADisk(t *testing.T) {
	nodes := Cluster(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := fill(ctx, connect(t, nodes[0]), 3, 10); err != nil {
		t.Fatal(err)
	}
	if got := nodes.Leader("none"); got != nil {
		t.Error("a stream that is not there has a leader")
	}
	first := nodes.Leader("S")
	if err := first.StepDown("S"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another node leads", func() bool { l := nodes.Leader("S"); return l != nil && l != first })

	lost := nodes.Leader("S")
	if err := lost.Destroy(); err != nil {
		t.Fatal(err)
	}
	if err := lost.StepDown("S"); err == nil {
		t.Error("a node that is down stepped down")
	}
	if lost.Current("S") {
		t.Error("a node that is down is current")
	}
	eventually(t, "another node leads", func() bool { return nodes.Leader("S") != nil })
	if err := lost.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node has the stream", func() bool { return lost.Current("S") })
	if got := stored(ctx, t, connect(t, lost)); got != 10 {
		t.Errorf("messages = %d, want 10", got)
	}
}

// Every way between two nodes is the test's, both ways, and nodes tell clients
// of themselves only.
func TestClusterViaLeadsNodesOverTheirWays(t *testing.T) {
	var ways atomic.Int32
	nodes := ClusterVia(t, 3, func(from, to int, addr string) string {
		if from == to {
			t.Errorf("a way from node %d to itself", from)
		}
		ways.Add(1)
		return addr
	})
	if got := ways.Load(); got != 6 {
		t.Errorf("ways = %d, want 6", got)
	}
	if got := connect(t, nodes[0]).DiscoveredServers(); len(got) > 0 {
		t.Errorf("a client heard of %v", got)
	}
	if got := connect(t, Cluster(t, 3)[0]).DiscoveredServers(); len(got) == 0 {
		t.Error("a client of a cluster without ways of its own heard of no other node")
	}
}
