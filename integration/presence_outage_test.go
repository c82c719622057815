package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

// NATS is away for three leases, under a thousand members: nobody has left, so
// nobody is seen to leave, neither meanwhile nor when all leases turn out to be
// over.
func TestNobodyLeavesInAnOutageOfNATS(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	s, _ := presenceStackOn(t, server.ClientURL(), 2, 2)
	nobodyLeaves(t, s, server.ClientURL(), server.Shutdown, func() { must(t, server.Restart()) })
}

// The same where the server lives and the way to it is gone, for gateways and
// replicas alike.
func TestNobodyLeavesWhileTheLinkToNATSIsCut(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	link := startLink(t, to(strings.TrimPrefix(server.ClientURL(), "nats://")), nil)
	// A replica is known to answer once it has been reached: the link is up.
	s, _ := presenceStackOn(t, "nats://"+link.addr(), 2, 2)
	nobodyLeaves(t, s, server.ClientURL(), link.cut, link.restore)
}

func nobodyLeaves(t *testing.T, s *stack, natsURL string, lose, restore func()) {
	t.Helper()
	const topics = 20
	members := 1000
	if raceEnabled { // each frame of each of them costs ten times as much
		members = 400
	}
	topic := func(i int) string { return fmt.Sprintf("room.outage%d", i%topics) }
	user := func(i int) string { return fmt.Sprintf("user%d", i) }
	all := make([]*witness, members)
	truth := map[string]roll{}
	for i := range members {
		if truth[topic(i)] == nil {
			truth[topic(i)] = roll{}
		}
		truth[topic(i)][user(i)] = fmt.Sprint(i)
	}
	many(t, members, func(i int) error {
		c, err := tryDial(t, s.url(i/topics), client.Options{Token: token(user(i), nil)})
		if err == nil {
			all[i], err = attest(within(t), t, c, topic(i), "join", fmt.Sprint(i))
		}
		return err
	})
	nc := connect(t, natsURL)
	byTopic := map[string][]*witness{}
	for i, w := range all {
		byTopic[topic(i)] = append(byTopic[topic(i)], w)
	}
	for topic, witnesses := range byTopic {
		settles(t, nc, topic, truth[topic], witnesses...)
	}
	revs := make([]int64, members)
	for i, w := range all {
		revs[i] = w.view.Now().Rev
	}

	lose()
	passes(3 * testLease)
	restore()
	for _, g := range s.gateways {
		g.ready()
	}
	passes(2 * testLease) // whoever thinks that leases are over acts on it by now
	for i, w := range all {
		w.sawLeave()
		if rev := w.view.Now().Rev; rev != revs[i] {
			t.Errorf("%s: rev %d, was %d: frames though nothing happened", topic(i), rev, revs[i])
		}
		if err := w.CloseError(); err != nil {
			t.Fatalf("the connection did not live through it: %v", err)
		}
	}
	for i := range topics {
		joining(t, s.as(i, "late"), topic(i), `"late"`)
		truth[topic(i)]["late"] = `"late"`
	}
	for topic, witnesses := range byTopic {
		settles(t, nc, topic, truth[topic], witnesses...)
	}
}

// Clients vanish, and leave, while their gateway is cut off: nobody hears of it
// before the gateway is back, and then once.
func TestLeavesDuringACutAreSeenAfterIt(t *testing.T) {
	t.Parallel()
	s, links := presenceOn(t, 2, 2, "FAIRLEAD_GATEWAY_LEASE=10s")
	topics := []string{"now.cut", "room.cut"}
	var members []*client.Client
	for i := range 6 {
		c := s.as(0, fmt.Sprintf("user%d", i))
		for _, topic := range topics {
			joining(t, c, topic, "")
		}
		members = append(members, c)
	}
	stays := s.as(0, "stays")
	var witnesses []*witness
	for _, topic := range topics {
		joining(t, stays, topic, "")
		for i := range 2 {
			w := witnessing(t, s.as(i, "eye"), topic, "watch")
			w.until("everybody", func(m client.Members) bool { return len(m.Users) == 7 })
			witnesses = append(witnesses, w)
		}
	}

	links[0].cut()
	eventually(t, "the gateway knows that it is cut off", func() (any, bool) {
		status, body := get(t, s.gateways[0].http("/readyz"))
		return body, status == 503
	})
	for i, c := range members {
		switch i % 3 {
		case 0:
			c.Abort()
		case 1:
			c.Close(1000)
		case 2:
			for _, topic := range topics {
				must(t, c.Unsubscribe(within(t), topic))
			}
		}
	}
	passes(3 * time.Second) // longer than the delay of either topic
	for _, w := range witnesses {
		w.sawLeave()
	}
	links[0].restore()
	for _, w := range witnesses {
		w.sees("stays")
		w.sawLeave("user0", "user1", "user2", "user3", "user4", "user5")
	}
}
