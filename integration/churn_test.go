package integration

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

// Clients that come and go on the same topics leave nothing behind: neither
// subscriptions on the server nor goroutines in the gateway.
func TestSubscribeRacesLeaveOneSubscriptionPerTopicAndNoGoroutine(t *testing.T) {
	t.Parallel()
	const clients, topics, races = 20, 10, 1000
	server := natsdev.Test(t)
	admin := "127.0.0.1:" + freePort(t)
	s := stackOn(t, server.ClientURL(), 1, "FAIRLEAD_ADMIN_ADDR="+admin)
	conns := make([]*client.Client, clients)
	for i := range conns {
		conns[i] = s.as(0, fmt.Sprintf("user%d", i))
	}
	topic := func(i int) string { return fmt.Sprintf("churn.t%d", i) }
	goroutines := func() int { return metric(t, admin, "go_goroutines") }
	baseGoroutines := goroutines()

	held := make([]map[string]bool, clients)
	var all sync.WaitGroup
	for i, conn := range conns {
		held[i] = map[string]bool{}
		all.Go(func() {
			ctx := within(t)
			for range races / clients {
				name := topic(rand.IntN(topics / 2)) // the upper half nobody holds in the end
				op := "subscribe"
				if held[i][name] {
					op = "unsubscribe"
				}
				if _, err := conn.Request(ctx, op, map[string]string{"topic": name}); err != nil {
					t.Errorf("%s %s: %v", op, name, err)
					return
				}
				held[i][name] = !held[i][name]
				brief := topic(topics/2 + rand.IntN(topics/2))
				pair := fmt.Sprintf(`[{"op":"subscribe","id":%d,"topic":%q},{"op":"unsubscribe","id":%d,"topic":%q}]`, 1<<40, brief, 1<<40+1, brief)
				if err := conn.SendFrame([]byte(pair)); err != nil {
					t.Errorf("send %s: %v", pair, err)
				}
			}
			// What is answered behind all others: nothing is under way any more.
			if _, err := conn.Request(ctx, "unsubscribe", map[string]string{"topic": "churn.none"}); err != nil {
				t.Errorf("unsubscribe: %v", err)
			}
		})
	}
	all.Wait()
	wanted := map[string]bool{}
	for _, topics := range held {
		for name, has := range topics {
			if has {
				wanted[name] = true
			}
		}
	}
	eventually(t, fmt.Sprintf("the server has %d subscriptions for topics", len(wanted)), func() (any, bool) {
		got := server.SubscriptionsTo("fl.topic.churn.")
		return got, got == len(wanted)
	})

	// Everyone gets exactly what it holds.
	worker := s.worker()
	got := make([]chan string, clients)
	for i, conn := range conns {
		got[i] = make(chan string, 2*topics)
		conn.OnMessage(func(m client.Message) { got[i] <- m.Topic + " " + string(m.Data) })
	}
	for _, data := range []string{"1", "2"} {
		for i := range topics {
			must(t, worker.Publish("fl.topic."+topic(i), []byte(data)))
		}
	}
	for i := range conns {
		want := map[string]bool{}
		for name, has := range held[i] {
			if has {
				want[name+" 1"], want[name+" 2"] = true, true
			}
		}
		for len(want) > 0 {
			m := receive(t, got[i])
			if !want[m] {
				t.Fatalf("client %d got %q, which it does not hold or had already", i, m)
			}
			delete(want, m)
		}
	}

	for i, conn := range conns {
		for name, has := range held[i] {
			if has {
				must(t, conn.Unsubscribe(within(t), name))
			}
		}
	}
	eventually(t, "the server has no subscription for topics", func() (any, bool) {
		got := server.SubscriptionsTo("fl.topic.churn.")
		return got, got == 0
	})
	// Each NATS connection makes the inbox for its answers with its first question.
	const inboxes = 2
	eventually(t, fmt.Sprintf("the gateway has %d goroutines again", baseGoroutines), func() (any, bool) {
		n := goroutines()
		return n, n <= baseGoroutines+inboxes
	})
}

// metric reads one figure of the admin address, without labels.
func metric(t *testing.T, admin, name string) int {
	t.Helper()
	status, body := get(t, "http://"+admin+"/metrics")
	if status != 200 {
		t.Fatalf("/metrics: %d %s", status, body)
	}
	lines := bufio.NewScanner(strings.NewReader(body))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			must(t, err)
			return int(n)
		}
	}
	t.Fatalf("/metrics has no %s", name)
	return 0
}
