//go:build unix

package integration

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// A gateway that was cut off for too long has lost its users in the eyes of the
// others, not in its own: when it is back it says them again.
func TestACutOffGatewayReturns(t *testing.T) {
	t.Parallel()
	s, links := presenceOn(t, 2, 2)
	absence(t, s, links[0].cut, links[0].restore)
}

// The same for one that was stopped as a whole, and does not know.
func TestAStoppedGatewayReturns(t *testing.T) {
	t.Parallel()
	s, _ := presenceStack(t, 2, 2)
	absence(t, s, s.gateways[0].pause, s.gateways[0].resume)
}

func absence(t *testing.T, s *stack, lose, restore func()) {
	t.Helper()
	topics := []string{"now.away", "room.away"}
	var away []string
	var members []*client.Client
	for i := range 5 {
		away = append(away, fmt.Sprintf("away%d", i))
		members = append(members, s.as(0, away[i]))
		for _, topic := range topics {
			joining(t, members[i], topic, fmt.Sprint(i))
		}
	}
	stays := s.as(1, "stays")
	everybody := append([]string{"stays"}, away...)
	var others, own []*witness
	for _, topic := range topics {
		joining(t, stays, topic, "")
		for i := range 2 {
			w := witnessing(t, s.as(i, "eye"), topic, "watch")
			w.sees(everybody...)
			if i == 0 {
				own = append(own, w)
			} else {
				others = append(others, w)
			}
		}
	}
	nc := s.worker()
	gateway := members[0].Welcome().Gateway
	before, _ := gatewayLease(t, nc, gateway)

	lose()
	for _, w := range others {
		w.sees("stays")
		w.sawLeave(away...)
	}
	if _, held := gatewayLease(t, nc, gateway); held {
		t.Error("the gateway still has a lease")
	}
	restore()
	for _, w := range others {
		w.sees(everybody...)
	}
	after, held := gatewayLease(t, nc, gateway)
	if !held || after <= before {
		t.Errorf("the lease has epoch %d, was %d: want a new one", after, before)
	}
	for _, w := range own {
		w.sees(everybody...)
	}
	s.gateways[0].ready() // with all its connections
	// What it says counts again, and stays.
	truth := roll{"stays": ""}
	for i, c := range members {
		truth[away[i]] = `"back"`
		for _, topic := range topics {
			_, err := c.Request(within(t), "presence.update", map[string]any{"topic": topic, "data": "back"})
			must(t, err)
		}
	}
	passes(2 * testLease)
	for i, topic := range topics {
		settles(t, nc, topic, truth, own[i], others[i])
		others[i].sawLeave(away...)
	}
	online(t, nc, everybody...)
}

// online checks that the registry has users.
func online(t *testing.T, nc *nats.Conn, users ...string) {
	t.Helper()
	for _, user := range users {
		if body, _ := svc(t, nc, "online", `{"users":["`+user+`"]}`); body != `{"online":{"`+user+`":true}}` {
			t.Errorf("online: %s", body)
		}
	}
}

// A client whose network is gone says nothing any more, and its connection does
// not end by itself: two silent heartbeats end it.
func TestAHalfOpenClientLeaves(t *testing.T) {
	const heartbeat = time.Second
	s, _ := presenceStack(t, 2, 1, "FAIRLEAD_HEARTBEAT="+heartbeat.String())
	hole := startHole(t, s.gateways[0].addr)
	delays := map[string]time.Duration{"now.half": 0, "room.half": time.Second}
	ann := dial(t, "ws://"+hole.addr()+"/ws", client.Options{Token: token("ann", nil)})
	var witnesses []*witness
	for topic := range delays {
		joining(t, ann, topic, "")
		joining(t, s.as(0, "bob"), topic, "")
		for i := range 2 {
			w := witnessing(t, s.as(i, "eye"), topic, "watch")
			w.sees("ann", "bob")
			witnesses = append(witnesses, w)
		}
	}
	hole.open()
	began := time.Now()
	for _, w := range witnesses {
		const slack = 5 * time.Second // TCP itself would take minutes to find out
		w.by(began.Add(2*heartbeat+delays[w.sub.Topic()]+slack), "ann is gone", exactly("bob"))
		w.sawLeave("ann")
	}
}

// hole is a TCP proxy that can begin to swallow everything, the end of a
// connection too.
type hole struct {
	listener net.Listener
	swallows atomic.Bool
	pipes    sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func startHole(t *testing.T, to string) *hole {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	h := &hole{listener: listener}
	h.pipes.Go(func() {
		for {
			front, err := listener.Accept()
			if err != nil {
				return
			}
			rear, err := net.Dial("tcp", to)
			if err != nil {
				front.Close()
				continue
			}
			h.mu.Lock()
			h.conns = append(h.conns, front, rear)
			h.mu.Unlock()
			h.pipes.Go(func() { h.pass(rear, front) })
			h.pipes.Go(func() { h.pass(front, rear) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		h.mu.Lock()
		for _, c := range h.conns {
			c.Close()
		}
		h.mu.Unlock()
		h.pipes.Wait()
	})
	return h
}

func (h *hole) addr() string { return h.listener.Addr().String() }

// open lets nothing through any more.
func (h *hole) open() { h.swallows.Store(true) }

func (h *hole) pass(to, from net.Conn) {
	_, _ = io.Copy(swallower{h, to}, from)
	if !h.swallows.Load() {
		to.Close()
	}
}

type swallower struct {
	h  *hole
	to net.Conn
}

func (s swallower) Write(b []byte) (int, error) {
	if s.h.swallows.Load() {
		return len(b), nil
	}
	return s.to.Write(b)
}
