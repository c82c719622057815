package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const clusterRules = `
topics:
  - {name: chat, match: "chat.>", subscribe: user, publish: user, from: true, replay: {size: 1000000, ttl: 1h, dedupe: 2m, replicas: 3}}
  - {match: ">", subscribe: user, publish: user}
`

// clusterStream is the stream of the replayed rule.
const clusterStream = "FL_CHAT"

// cluster is three NATS nodes with what runs on them.
type cluster struct {
	*stack
	nodes  natsdev.Nodes
	ledger *ledger
}

// startCluster starts three nodes and replay replicas on some of them, and
// returns when each answers. The nodes are where via leads, if it is not nil.
func startCluster(t *testing.T, via natsdev.Via, replicas ...int) (c *cluster, rules string) {
	t.Helper()
	c = &cluster{nodes: natsdev.ClusterVia(t, 3, via), ledger: newLedger()}
	c.stack = &stack{t: t, nats: c.nodes.URL()}
	c.ledger.complete = true
	rules = rulesFile(t, clusterRules)
	for _, i := range replicas {
		startReplay(t, c.nodes[i].ClientURL(), rules)
	}
	eventually(t, "the stream is on all nodes", func() (any, bool) { return c.current(), c.current() == len(c.nodes) })
	return c, rules
}

// hidden leaves the ways between nodes as they are; clients hear of no other
// node than theirs.
func hidden(_, _ int, addr string) string { return addr }

// newCluster starts a cluster with two replicas of the replay service and two
// gateways, each first connected to another node.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c, rules := startCluster(t, nil, 1, 2)
	for i := range 2 {
		c.addOn(c.nodes[i].ClientURL(), rules)
	}
	return c
}

func (c *cluster) addOn(url, rules string, env ...string) *gateway {
	c.t.Helper()
	g := startGateway(c.t, url, append([]string{"FAIRLEAD_TOPICS_FILE=" + rules}, env...)...)
	c.gateways, c.urls = append(c.gateways, g), append(c.urls, g.ws())
	return g
}

// current returns how many nodes have all of the stream.
func (c *cluster) current() (n int) {
	for _, node := range c.nodes {
		if node.Current(clusterStream) {
			n++
		}
	}
	return n
}

// leader waits until a node other than not leads the stream.
func (c *cluster) leader(not *natsdev.Server) (leader *natsdev.Server) {
	c.t.Helper()
	eventually(c.t, "the stream has another leader", func() (any, bool) {
		for i, node := range c.nodes {
			if node != not && c.nodes[i:i+1].Leader(clusterStream) != nil {
				leader = node // one that is cut off may think that it leads still
				return nil, true
			}
		}
		return "none", false
	})
	return leader
}

// lead makes a node the stream's leader.
func (c *cluster) lead(i int) {
	c.t.Helper()
	nc := c.worker()
	defer nc.Close()
	eventually(c.t, "the node leads the stream", func() (any, bool) {
		if c.nodes.Leader(clusterStream) == c.nodes[i] {
			return nil, true
		}
		reply, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+clusterStream, fmt.Appendf(nil, `{"placement":{"preferred":"test-%d"}}`, i), time.Second)
		if err != nil {
			return err, false
		}
		return string(reply.Data), false
	})
}

// reach waits until there are n more acknowledgements.
func (c *cluster) reach(n int) {
	c.t.Helper()
	want := c.ledger.acked() + n
	eventually(c.t, fmt.Sprintf("%d acknowledgements", want), func() (any, bool) {
		got := c.ledger.acked()
		return got, got >= want
	})
}

// watch makes a user of each gateway follow a topic from now on.
func (c *cluster) watch(topic string) {
	c.t.Helper()
	for i := range c.gateways {
		name := fmt.Sprintf("live at gateway %d", i)
		_, _, err := c.ledger.follow(within(c.t), c.as(i, "watcher"), name, topic, nil)
		must(c.t, err)
	}
}

// readFromStart resumes a topic from its beginning at each gateway, as soon as
// the past can be read there.
func (c *cluster) readFromStart(topic string) {
	c.t.Helper()
	for i, g := range c.gateways {
		g.ready()
		name := fmt.Sprintf("from the beginning at gateway %d", i)
		eventually(c.t, "the past can be read "+name, func() (any, bool) {
			conn := c.as(i, "late")
			r, at, err := c.ledger.follow(within(c.t), conn, name, topic, &wire.Position{})
			must(c.t, err)
			if at.Recovered != nil && *at.Recovered {
				return nil, true
			}
			c.unrecovered(conn, r)
			conn.Abort()
			return "not recovered", false
		})
	}
}

// tcp is the address of a node's clients.
func tcp(url string) string { return strings.TrimPrefix(url, "nats://") }

// stores waits until a topic has n messages.
func (c *cluster) stores(topic string, n int) {
	c.t.Helper()
	nc := connect(c.t, c.nodes[1].ClientURL())
	defer nc.Close()
	eventually(c.t, fmt.Sprintf("the stream has %d messages of %s", n, topic), func() (any, bool) {
		reply, err := nc.Request("$JS.API.STREAM.INFO."+clusterStream, fmt.Appendf(nil, `{"subjects_filter":"fl.topic.%s"}`, topic), time.Second)
		if err != nil {
			return err, false
		}
		var info struct {
			State struct{ Subjects map[string]int }
		}
		must(c.t, json.Unmarshal(reply.Data, &info))
		return info.State.Subjects, info.State.Subjects["fl.topic."+topic] == n
	})
}

// page reads a page of history behind a position that somebody was sent, and
// records it as what a reader got that reads no further. It reports whether
// there was one; a refusal must say that it is one.
func (c *cluster) page(conn *client.Client, name, topic string) bool {
	after, acked := c.ledger.some(topic)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	raw, err := conn.Request(ctx, "history", map[string]any{"topic": topic, "after": after, "limit": 1000})
	if err != nil {
		if code := wire.CodeOf(err); code != wire.Unavailable {
			c.t.Errorf("%s: %v, want UNAVAILABLE", name, err)
		}
		return false
	}
	var page struct {
		Messages []struct {
			Seq, Prev int64
			Data      message
		}
		Seq             int64
		Truncated, More bool
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		c.t.Errorf("%s: %v", name, err)
		return false
	}
	if page.Truncated || page.Seq < acked {
		c.t.Errorf("%s: truncated %v, head %d; %d was acknowledged before", name, page.Truncated, page.Seq, acked)
	}
	r := c.ledger.open(name, topic, after)
	last := after
	for _, m := range page.Messages {
		r.note(event{seq: m.Seq, prev: m.Prev, message: m.Data})
		last = m.Seq
	}
	if !page.More {
		last = max(last, page.Seq)
	}
	r.end(last)
	return true
}

// unrecovered takes out a reader whose past could not be read. Nothing is gone:
// that nobody answered is the only reason.
func (c *cluster) unrecovered(conn *client.Client, r *reader) {
	r.refused()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	raw, err := conn.Request(ctx, "gap", map[string]any{"topic": r.topic, "after": r.from})
	if err != nil {
		return
	}
	var gap struct{ Truncated bool }
	if err := json.Unmarshal(raw, &gap); err != nil || gap.Truncated {
		c.t.Errorf("%s: a log that lost nothing says %s", r.name, raw)
	}
}

// resumeOnce subscribes behind a position that somebody was sent, and goes away
// when it has caught up.
func (c *cluster) resumeOnce(gateway int, name, topic string) {
	after, _ := c.ledger.some(topic)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := client.Dial(ctx, c.url(gateway), client.Options{Token: token("resumer", nil), Batch: true, RequestTimeout: patience})
	if err != nil {
		c.t.Errorf("%s: %v", name, err)
		return
	}
	defer conn.Wait()
	defer conn.Abort()
	r, at, err := c.ledger.follow(ctx, conn, name, topic, &wire.Position{Seq: after})
	if err != nil {
		if code := wire.CodeOf(err); code != wire.Unavailable {
			c.t.Errorf("%s: %v, want UNAVAILABLE", name, err)
		}
		return
	}
	if at.Recovered == nil || !*at.Recovered {
		c.unrecovered(conn, r)
		return
	}
	for r.reached() < at.Head {
		select {
		case <-ctx.Done():
			c.t.Errorf("%s: at %d, and the head was %d", name, r.reached(), at.Head)
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
	r.leave()
}
