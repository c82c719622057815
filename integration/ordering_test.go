package integration

import (
	"fmt"
	"sync"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// Two publishers on two gateways, listeners on both: what was acknowledged
// comes once and in its publisher's order everywhere, and all listeners of a
// gateway see one order of both publishers. (Between gateways there is no such
// order on a topic without replay: a NATS server delivers what two connections
// publish at the same time to two others in either order.)
func TestTwoPublishersOnTwoGatewaysArriveOnceAndInOrder(t *testing.T) {
	t.Parallel()
	const each = 1000
	s := openStack(t, 2)
	c := newChecker()
	topics := []string{unique("order"), unique("order")}
	var listeners []*listener
	for i := range 4 {
		conn := s.as(i, fmt.Sprintf("reader%d", i))
		for _, topic := range topics {
			l := c.follow(t, conn, fmt.Sprintf("reader %d on gateway %d", i, i%2), topic)
			l.group = conn.Welcome().Gateway
			listeners = append(listeners, l)
		}
	}
	var publishers sync.WaitGroup
	for i, name := range []string{"x", "y"} {
		conn := s.as(i, name)
		publishers.Go(func() {
			for _, topic := range topics {
				c.publishMany(t, conn, topic, name, each)
			}
		})
	}
	publishers.Wait()
	for _, l := range listeners {
		eventually(t, l.name+" has everything", func() (any, bool) { return nil, l.has() })
	}
	c.verify(t, c.problems())
	c.verify(t, c.orderProblems())
}

// follow subscribes and records every delivery until the connection ends.
func (c *checker) follow(t *testing.T, conn *client.Client, name, topic string) *listener {
	t.Helper()
	l, err := c.attach(within(t), conn, name, topic, nil)
	if err != nil {
		t.Fatalf("%s: subscribe %s: %v", name, topic, err)
	}
	return l
}

// publishMany publishes with many frames outstanding.
func (c *checker) publishMany(t *testing.T, conn *client.Client, topic, publisher string, count int) {
	type sent struct {
		m message
		p *client.Publication
	}
	outstanding := make(chan sent, 100)
	ctx := within(t)
	var acks sync.WaitGroup
	acks.Go(func() {
		for s := range outstanding {
			if _, err := s.p.Wait(ctx); err != nil {
				t.Errorf("publish %s: %v", s.m, err)
				continue
			}
			c.ack(s.m)
		}
	})
	for n := 1; n <= count; n++ {
		m := message{topic, publisher, n}
		c.begin(m)
		p, err := conn.PublishAsync(topic, "", m.data(), client.PublishOptions{})
		if err != nil {
			t.Errorf("publish %s: %v", m, err)
			break
		}
		outstanding <- sent{m, p}
	}
	close(outstanding)
	acks.Wait()
}
