package integration

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The stream's leader steps down again and again and at last is shut down, all
// under load: nothing that was acknowledged is lost or comes twice.
func TestLeadersOfAReplayedStreamChangeUnderLoad(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	busy, quiet := unique("chat.busy"), unique("chat.quiet")
	c.watch(busy)
	c.watch(quiet)
	load, ctx := c.load()
	for i, user := range []string{"ann", "bob", "cid", "dan", "eve", "fay"} {
		c.keyed(ctx, load, i, user, busy)
	}
	c.plain(ctx, load, 2, busy)
	c.keyed(ctx, load, 0, "ann", quiet)
	for range 6 {
		c.reach(300)
		leader := c.leader(nil)
		must(t, leader.StepDown(clusterStream))
		c.leader(leader)
	}
	c.reach(150)
	leader := c.leader(nil)
	leader.Shutdown()
	c.leader(leader)
	c.reach(150)
	load.stop()
	c.readFromStart(busy)
	c.readFromStart(quiet)
	c.ledger.settle(t)
	t.Logf("%d acknowledged, %d of them as duplicates", c.ledger.acked(), c.ledger.duplicates())
}

// The leader dies between storing a message and saying so to the gateway: the
// publisher's retry is answered with the place of the first, and nobody is sent
// it twice, or told that something is missing.
func TestTheLeaderDiesBetweenAPublishAndItsAcknowledgement(t *testing.T) {
	t.Parallel()
	c, rules := startCluster(t, nil, 1, 2)
	c.lead(0)
	way := startValve(t, tcp(c.nodes[0].ClientURL()))
	c.addOn("nats://"+way.addr(), rules)
	c.addOn(c.nodes[1].ClientURL(), rules)
	topic := unique("chat.room")
	c.watch(topic)
	ann := c.as(0, "ann")
	must(t, c.insist(ann, message{topic, "ann", 1}))

	sent := way.deafenAt("PUB fl.topic." + topic + " ")
	published := make(chan error, 1)
	go func() { published <- c.insist(ann, message{topic, "ann", 2}) }()
	receive(t, sent)
	c.stores(topic, 2)
	leader := c.nodes[0]
	leader.Shutdown()
	way.cut()
	c.leader(leader)
	must(t, receive(t, published))
	if got := c.ledger.duplicates(); got != 1 {
		t.Errorf("%d publishes were answered as duplicates, want the retry", got)
	}
	must(t, c.insist(ann, message{topic, "ann", 3}))
	c.readFromStart(topic)
	c.ledger.settle(t)
}

// Only one answer of a leader is lost, and it goes on leading: the gateway asks
// again by itself.
func TestALostAcknowledgementIsAskedForAgain(t *testing.T) {
	t.Parallel()
	c, rules := startCluster(t, hidden, 1)
	way := startValve(t, tcp(c.nodes[0].ClientURL()))
	c.addOn("nats://"+way.addr(), rules)
	c.addOn(c.nodes[1].ClientURL(), rules)
	topic := unique("chat.room")
	c.watch(topic)
	ann := c.as(0, "ann")
	for n := 1; n <= 5; n++ {
		sent := way.deafenAt("PUB fl.topic." + topic + " ")
		published := make(chan error, 1)
		go func() { published <- c.insist(ann, message{topic, "ann", n}) }()
		receive(t, sent)
		c.stores(topic, n)
		way.cut()
		must(t, receive(t, published))
		if got := c.ledger.duplicates(); got != n {
			t.Fatalf("%d of %d publishes were answered as duplicates", got, n)
		}
		c.gateways[0].ready()
	}
	c.readFromStart(topic)
	c.ledger.settle(t)
}

// An acknowledged message is on a majority: the loss of any one node, with its
// disk, costs nothing.
func TestAnyOneNodeMayLoseItsDisk(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	topic := unique("chat.room")
	c.watch(topic)
	ann := c.as(0, "ann")
	n := 0
	for i, node := range c.nodes {
		for range 100 {
			n++
			must(t, c.insist(ann, message{topic, "ann", n}))
		}
		must(t, node.Destroy())
		eventually(t, "the stream is led without the node", func() (any, bool) { l := c.nodes.Leader(clusterStream); return l, l != nil })
		c.readFromStart(topic)
		for range 20 {
			n++
			must(t, c.insist(ann, message{topic, "ann", n}))
		}
		must(t, node.Restart())
		eventually(t, "the new node has the stream", func() (any, bool) { return i, c.nodes[i].Current(clusterStream) && c.current() == len(c.nodes) })
	}
	c.readFromStart(topic)
	c.ledger.settle(t)
}

// With one node of three nothing can be stored: publishers are told so in time,
// nobody sees what is not stored, and all goes on when the others are back.
func TestTooFewNodesStoreNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	topic := unique("chat.room")
	c.watch(topic)
	ann := c.as(0, "ann")
	for n := 1; n <= 10; n++ {
		must(t, c.insist(ann, message{topic, "ann", n}))
	}
	c.nodes[1].Shutdown()
	c.nodes[2].Shutdown()
	for _, g := range c.gateways {
		g.ready()
	}
	c.ledger.settle(t)
	before := c.ledger.sent()
	begun := time.Now()
	waiting := map[message]*client.Publication{}
	for n := 11; n <= 13; n++ {
		m := message{topic, "ann", n}
		c.ledger.try(m)
		p, err := ann.PublishAsync(topic, "", m.data(), client.PublishOptions{Key: m.String()})
		must(t, err)
		waiting[m] = p
	}
	for m, p := range waiting {
		_, err := p.Wait(within(t))
		if took := time.Since(begun); took > 7*time.Second {
			t.Errorf("publish with one node of three took %s", took)
		}
		e := wire.AsErrorOrNil(err)
		if e == nil || e.Code != wire.Unavailable && e.Code != wire.DeadlineExceeded {
			t.Fatalf("publish with one node of three: %v, want UNAVAILABLE or DEADLINE_EXCEEDED", err)
		}
		outcome, _ := e.Details["outcome"].(string)
		if outcome != "none" && outcome != "unknown" {
			t.Errorf("publish with one node of three: outcome %q", outcome)
		}
		c.ledger.refuse(m, outcome)
	}
	if got := c.ledger.sent(); got != before {
		t.Errorf("readers were sent %d messages that are not stored", got-before)
	}
	must(t, c.nodes[1].Restart())
	must(t, c.nodes[2].Restart())
	for n := 11; n <= 20; n++ {
		must(t, c.insist(ann, message{topic, "ann", n}))
	}
	c.readFromStart(topic)
	c.ledger.settle(t)
}

// What is read of the past while leaders change is exact, or is refused.
func TestResumeWhileLeadersChange(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	topic := unique("chat.room")
	c.watch(topic)
	load, ctx := c.load()
	c.keyed(ctx, load, 0, "ann", topic)
	c.keyed(ctx, load, 1, "bob", topic)
	c.reach(100)
	var pages atomic.Int64
	for i := range c.gateways {
		conn := c.as(i, "reader")
		load.all.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				if c.page(conn, fmt.Sprintf("page %d at gateway %d", round, i), topic) {
					pages.Add(1)
				}
			}
		})
		load.all.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				c.resumeOnce(i, fmt.Sprintf("resumer %d at gateway %d", round, i), topic)
			}
		})
	}
	for range 6 {
		c.reach(60)
		leader := c.leader(nil)
		must(t, leader.StepDown(clusterStream))
		c.leader(leader)
	}
	c.reach(60)
	load.stop()
	c.ledger.settle(t)
	t.Logf("%d pages, %d acknowledged", pages.Load(), c.ledger.acked())
	if pages.Load() < 20 {
		t.Errorf("only %d pages could be read", pages.Load())
	}
}

// A gateway's interest in a topic reaches the stream's leader after the gateway
// has been told that the topic is subscribed: what is stored in between is
// republished to nobody there, and fetched a moment later.
func TestInterestThatHasNotSpreadCostsNoMessage(t *testing.T) {
	t.Parallel()
	// The leader is node 0, the gateway is on node 1, and only what goes from
	// there to the leader is held up: what node 1 asks for comes by node 2.
	ways := newWays(t)
	c, rules := startCluster(t, ways.via, 2)
	c.lead(0)
	c.addOn(c.nodes[1].ClientURL(), rules)
	ann := connect(t, c.nodes[0].ClientURL())
	for round := range 3 {
		topic := unique("chat.room")
		ways.stop(1, 0)
		c.watch(topic)
		for n := 1; n <= 10; n++ {
			m := message{topic, "worker", n}
			c.ledger.try(m)
			seq, err := request(ann, m)
			must(t, err)
			c.ledger.ack(m, seq, false)
		}
		if got := c.ledger.sent(); got != round*10 {
			t.Errorf("round %d: %d messages came before the interest had spread, and the test tests nothing", round, got)
		}
		ways.release()
		c.ledger.settle(t)
	}
}

// The leader is cut off from the other nodes, not from its gateway and
// publishers: what it takes meanwhile is not acknowledged and reaches nobody, the
// others go on with a new leader, and the gateway gets what it missed when the
// nodes are together again.
func TestALeaderThatIsCutOffInventsNothing(t *testing.T) {
	t.Parallel()
	ways := newWays(t)
	c, rules := startCluster(t, ways.via, 1, 2)
	c.lead(0)
	for i := range 2 {
		c.addOn(c.nodes[i].ClientURL(), rules)
	}
	topic := unique("chat.room")
	c.watch(topic)
	load, ctx := c.load()
	c.keyed(ctx, load, 0, "ann", topic)
	c.plain(ctx, load, 0, topic)
	c.keyed(ctx, load, 1, "bob", topic)
	c.reach(200)
	for other := range 3 {
		ways.stop(0, other)
		ways.stop(other, 0)
	}
	c.leader(c.nodes[0])
	c.reach(200)
	ways.renew() // what was republished for the gateway that is cut off is lost
	eventually(t, "the nodes are together again", func() (any, bool) { return c.current(), c.current() == len(c.nodes) })
	c.reach(200)
	load.stop()
	c.readFromStart(topic)
	c.ledger.settle(t)
	t.Logf("%d acknowledged, %d of them as duplicates", c.ledger.acked(), c.ledger.duplicates())
}
