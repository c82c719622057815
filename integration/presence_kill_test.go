package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A gateway is killed: observers on the others hear who was on it leave, once
// the lease is over and the topic's delay, and of nobody else.
func TestLeavesOfAKilledGateway(t *testing.T) {
	const slack = 2 * time.Second // what the promise allows on top
	delays := []struct {
		topic string
		delay time.Duration
	}{{"now.kill", 0}, {"room.kill", time.Second}, {"long.kill", 6 * time.Second}}
	s, _ := presenceStack(t, 3, 2)
	var dead, living []string
	for i := range 10 {
		dead = append(dead, fmt.Sprintf("dead%d", i))
	}
	for i := range 3 {
		living = append(living, fmt.Sprintf("living%d", i))
	}
	witnesses := map[string][]*witness{}
	eyes := [2]*client.Client{s.as(0, "eye"), s.as(1, "eye")}
	for _, d := range delays {
		for _, eye := range eyes {
			witnesses[d.topic] = append(witnesses[d.topic], witnessing(t, eye, d.topic, "watch"))
		}
	}
	for i, user := range living {
		c := s.as(i%2, user)
		for _, d := range delays {
			joining(t, c, d.topic, "")
		}
	}
	both := [2]*client.Client{s.as(0, "both"), s.as(2, "both")}
	for i, c := range both { // the newest of them, which speaks, dies
		for _, d := range delays {
			joining(t, c, d.topic, fmt.Sprint(i))
		}
	}
	many(t, len(dead), func(i int) error {
		c, err := tryDial(t, s.url(2), client.Options{Token: token(dead[i], nil)})
		for _, d := range delays {
			if err == nil {
				_, err = c.Subscribe(within(t), d.topic, client.SubscribeOptions{Presence: "join"})
			}
		}
		return err
	})
	everybody := slices.Concat(dead, living, []string{"both"})
	for _, d := range delays {
		for _, w := range witnesses[d.topic] {
			w.sees(everybody...)
			w.says("both", "1")
		}
	}

	killed := time.Now()
	s.gateways[2].kill()
	stay := append(slices.Clone(living), "both")
	for _, d := range delays {
		for _, w := range witnesses[d.topic] {
			w.by(killed.Add(max(testLease, d.delay)+slack), fmt.Sprintf("only %v are left", stay), func(m client.Members) bool {
				return exactly(stay...)(m) && wire.EqualJSON(m.Users["both"].Data, []byte("0"))
			})
			t.Logf("%s: gone %s after the kill", d.topic, time.Since(killed).Round(10*time.Millisecond))
		}
		if took := time.Since(killed); took < d.delay-testLease/2 {
			t.Errorf("%s: gone after %s, before a delay of %s was over", d.topic, took, d.delay)
		}
		if d.delay == 0 {
			registryForgets(t, s, killed.Add(testLease+slack), dead, both[0])
		}
	}
	for _, all := range witnesses {
		for _, w := range all {
			w.sawLeave(dead...)
		}
	}
}

// registryForgets waits until nobody of users is online any more, and stayed's
// user has only that connection.
func registryForgets(t *testing.T, s *stack, deadline time.Time, users []string, stayed *client.Client) {
	t.Helper()
	nc := s.worker()
	ask, err := json.Marshal(wire.PresenceUsers{Users: append(slices.Clone(users), "both")})
	must(t, err)
	for {
		var now wire.PresenceOnline
		body, code := svc(t, nc, "online", string(ask))
		if err := json.Unmarshal([]byte(body), &now); err != nil || code != "" {
			t.Fatalf("online: %s %s", code, body)
		}
		online := 0
		for _, user := range users {
			if now.Online[user] {
				online++
			}
		}
		var found wire.PresenceConnections
		body, _ = svc(t, nc, "lookup", `{"user":"both"}`)
		must(t, json.Unmarshal([]byte(body), &found))
		if online == 0 && len(found.Connections) == 1 && found.Connections[0].Conn == stayed.Welcome().Conn && now.Online["both"] {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the registry still has %d users of the dead gateway online, and of who is on another too: %s", online, body)
		}
	}
	body, _ := svc(t, nc, "lookup", `{"user":"`+users[0]+`"}`)
	if body != `{"connections":[]}` {
		t.Errorf("lookup of who is gone: %s", body)
	}
}
