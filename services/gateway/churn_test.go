package gateway

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// A thousand subscribes and unsubscribes race over a few topics, between
// connections and within each, while messages flow: afterwards every topic has
// one NATS subscription if anybody listens and none otherwise, whoever listens
// gets each message once, and nobody else does.
func TestSubscribeAndUnsubscribeRace(t *testing.T) {
	const clients, rounds, topics = 20, 50, 7
	server := natsdev.Test(t)
	r := startGateway(t, server)
	busy := r.bus()
	peers := make([]*peer, clients)
	for i := range peers {
		peers[i] = r.dial()
		peers[i].hello("")
	}
	// Direct messages open a client's subjects: they are there before.
	before, goroutines := forClients(server), runtime.NumGoroutine()

	name := func(topic int) string { return fmt.Sprintf("race.%d", topic) }
	listens := make([][topics]bool, clients)
	var group sync.WaitGroup
	for i, p := range peers {
		group.Go(func() {
			for round := range rounds {
				topic := rand.IntN(topics)
				listens[i][topic] = round%3 != 0
				op := "unsubscribe"
				if listens[i][topic] {
					op = "subscribe"
				}
				p.sendf(`{"op":%q,"id":%d,"topic":%q}`, op, round+2, name(topic))
				if err := busy.Publish("fl.topic."+name(topic), []byte(`"noise"`)); err != nil {
					t.Error(err)
				}
				if round%5 == 4 {
					p.answered(round + 2)
				}
			}
			p.send(`{"op":"unsubscribe","id":9999,"topic":"none"}`)
			p.answered(9999)
		})
	}
	group.Wait()
	settled(t, busy)

	wanted := map[int]int{} // listeners by topic
	for i := range listens {
		for topic, yes := range listens[i] {
			if yes {
				wanted[topic]++
			}
		}
	}
	eventually(t, "one NATS subscription per topic that somebody wants", func() bool {
		return forClients(server) == before+len(wanted)
	})
	for topic := range topics {
		tell(t, busy, "fl.topic."+name(topic), `"marked"`)
	}
	tell(t, busy, "fl.topic."+name(0), `"end"`)
	settled(t, busy)
	for i, p := range peers {
		want := 0
		for _, yes := range listens[i] {
			if yes {
				want++
			}
		}
		if listens[i][0] {
			want++
		}
		got := map[string]int{}
		for n := 0; n < want; {
			frame := p.read()
			if got[frame]++; frame != "" && !isNoise(frame) {
				n++
			}
		}
		for topic, yes := range listens[i] {
			frame := fmt.Sprintf(`{"topic":%q,"event":"message","data":"marked"}`, name(topic))
			if n := got[frame]; n > 1 || (n == 1) != yes {
				t.Errorf("client %d listens to %s: %t; it got %d", i, name(topic), yes, n)
			}
		}
		p.silent()
	}

	for _, p := range peers {
		p.ws.CloseNow()
	}
	eventually(t, "nothing is left of the connections", func() bool {
		return r.g.connections.size() == 0 && r.g.fanout.hub.size() == 0 && runtime.NumGoroutine() <= goroutines-clients
	})
}

func isNoise(frame string) bool {
	return len(frame) > 9 && frame[len(frame)-8:] == `"noise"}`
}

// answered reads until the answer to id, past messages and other answers.
func (p *peer) answered(id int) {
	want := fmt.Sprintf(`{"id":%d,`, id)
	for {
		frame, err := p.next()
		if err != nil {
			p.t.Errorf("answer to %d: %v", id, err)
			return
		}
		if len(frame) > len(want) && string(frame[:len(want)]) == want {
			return
		}
	}
}

// What a client that vanishes in the middle of a subscribe leaves behind is
// nothing.
func TestVanishingSubscribers(t *testing.T) {
	server := natsdev.Test(t)
	r := startGateway(t, server)
	// What the gateway itself needs to ask other services comes with the first
	// question.
	first := r.dial()
	first.hello("")
	first.subscribe(2, "v.first")
	first.send(`{"op":"presence.join","id":3,"topic":"v.first"}`)
	first.expectError(3, "UNAVAILABLE")
	first.ws.CloseNow()
	eventually(t, "nobody is there", func() bool { return r.g.connections.size() == 0 && r.g.fanout.hub.size() == 0 })
	if err := r.g.live.FlushTimeout(patience); err != nil { // what it ended is ended on the server
		t.Fatal(err)
	}
	before, goroutines := forClients(server), runtime.NumGoroutine()
	for round := range 100 {
		p := r.dial()
		p.sendf(`[{"op":"subscribe","id":2,"topic":"v.%d"},{"op":"subscribe","id":3,"topic":"v.*"},{"op":"subscribe","id":4,"topic":"v.all"}]`, round)
		if round%2 == 0 {
			p.read()
		}
		p.ws.CloseNow()
	}
	eventually(t, "nothing is left", func() bool {
		return r.g.connections.size() == 0 && r.g.fanout.hub.size() == 0 && forClients(server) == before && runtime.NumGoroutine() <= goroutines
	})
}
