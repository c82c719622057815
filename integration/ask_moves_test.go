package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A user goes from gateway to gateway while being asked all the time, each new
// connection open before the old one is closed: nobody is told that the user is
// offline, and nobody waits in vain. Who asks a connection that closes hears that.
func TestAskWhileTheUserMoves(t *testing.T) {
	t.Parallel()
	s, _ := presenceStack(t, 3, 2)
	moves(t, s, 200)
}

// The same on a cluster, where the servers take a moment to tell each other who
// listens.
func TestAskWhileTheUserMovesInACluster(t *testing.T) {
	t.Parallel()
	nodes := natsdev.Cluster(t, 3)
	s, _ := presenceStackOn(t, nodes[0].ClientURL(), 0, 2)
	for i := range 3 {
		s.nats = nodes[i].ClientURL()
		s.add("FAIRLEAD_TOPICS_FILE="+rulesFile(t, presenceRules), "FAIRLEAD_GATEWAY_LEASE="+testLease.String())
	}
	moves(t, s, 60)
}

func moves(t *testing.T, s *stack, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	var numbers sync.Map // of connections, by id
	connected := func(i int64) (*extra, error) {
		e, err := newExtra(within(t), s.url(int(i)), "ann")
		if err == nil {
			numbers.Store(e.conn, i)
			running.Go(func() { e.run(ctx) })
		}
		return e, err
	}
	last, err := connected(0)
	must(t, err)
	nc := s.worker()
	// Asking begins when the first connection is known everywhere.
	eventually(t, "ann answers", func() (any, bool) {
		a := askFor(nc, "fl.ask.ann", "1", patience)
		return a, a.code == "" && a.err == nil
	})
	var closed atomic.Int64 // all connections before this one are
	stop := make(chan struct{})
	var asking sync.WaitGroup
	var answered, gone atomic.Int64
	for range 4 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				first := closed.Load()
				a := askFor(nc, "fl.ask.ann", "1", patience)
				switch {
				case a.err != nil || a.took > patience/2:
					t.Errorf("got %s", a)
					return
				case a.code == wire.Unavailable && a.text == "the connection closed":
					gone.Add(1)
				case a.code != "":
					t.Errorf("got %s", a)
					return
				default:
					var said testimony
					if err := json.Unmarshal([]byte(a.body), &said); err != nil {
						t.Errorf("got %s", a)
						return
					}
					if from, ok := numbers.Load(said.Conn); ok && from.(int64) < first {
						t.Errorf("got %s from connection %d, want one from %d on", a, from, first)
						return
					}
					answered.Add(1)
				}
			}
		})
	}
	for i := int64(1); i <= int64(n) && !t.Failed(); i++ {
		next, err := connected(i)
		if err != nil {
			t.Errorf("move %d: %v", i, err)
			break
		}
		if i%2 == 0 {
			_ = last.ws.Close(websocket.StatusNormalClosure, "") // whatever the other end makes of it
		}
		last.ws.CloseNow()
		closed.Store(i) // nobody can answer on an earlier one
		last = next
		before := answered.Load()
		eventually(t, "an answer after the move", func() (any, bool) { return nil, t.Failed() || answered.Load() > before })
	}
	close(stop)
	asking.Wait()
	if gone.Load() > answered.Load() {
		t.Errorf("%d times the connection closed, of %d asks", gone.Load(), gone.Load()+answered.Load())
	}
	t.Logf("%d moves: %d answers, %d times the connection that was asked closed", n, answered.Load(), gone.Load())
}

// A replica of the service is killed under load: the asks that it had end by
// their askers' timeout, all others are answered, and so is every one after.
func TestAskWhileAReplicaIsKilled(t *testing.T) {
	t.Parallel()
	s, replicas := presenceStack(t, 3, 2)
	nc := s.worker()
	const users, askers, each = 9, 40, 25
	for i := range users {
		echo(s.as(i, fmt.Sprintf("u%d", i)), fmt.Sprint(i))
	}
	for i := range users {
		answers(t, nc, fmt.Sprintf("u%d", i), "1", fmt.Sprintf(`{"from":"%d","asked":1}`, i))
	}
	const deadline = 2 * time.Second
	var asked, lost atomic.Int64
	killed := make(chan struct{})
	var all sync.WaitGroup
	for asker := range askers {
		all.Go(func() {
			for i := range each {
				if asked.Add(1) == askers*each/3 {
					must(t, replicas[0].cmd.Process.Kill())
					close(killed)
				}
				user := (asker + i) % users
				a := askUntil(nc, fmt.Sprintf("fl.ask.u%d", user), fmt.Sprint(i), deadline)
				switch {
				case a.late():
					lost.Add(1)
				case a.err != nil || a.code != "" || a.body != fmt.Sprintf(`{"from":"%d","asked":%d}`, user, i):
					t.Errorf("u%d: got %s", user, a)
				}
			}
		})
	}
	all.Wait()
	receive(t, killed)
	replicas[0].exit(patience)
	if lost.Load() > askers {
		t.Errorf("%d asks were lost, more than were under way", lost.Load())
	}
	t.Logf("%d of %d asks were lost with the replica", lost.Load(), askers*each)
	for i := range 10 * users {
		answers(t, nc, fmt.Sprintf("u%d", i%users), "1", fmt.Sprintf(`{"from":"%d","asked":1}`, i%users))
	}
}

// A gateway is killed while its client thinks: who asked need not wait for the
// deadline.
func TestAskWhileTheGatewayIsKilled(t *testing.T) {
	t.Parallel()
	s, _ := presenceStack(t, 3, 2)
	nc := s.worker()
	phone := s.as(0, "ann")
	echo(phone, "phone")
	has(t, nc, "ann", phone.Welcome().Conn)
	desk := newGuest(t, s.url(1), "ann", "g")
	has(t, nc, "ann", desk.conn, phone.Welcome().Conn)
	got := make(chan answer, 1)
	go func() { got <- askFor(nc, "fl.ask.ann", "1", 2*patience) }()
	desk.next()
	s.gateways[1].kill()
	if a := receive(t, got); a.code != wire.Unavailable || a.took > patience {
		t.Errorf("got %s, want UNAVAILABLE long before the deadline", a)
	}
	answers(t, nc, "ann", "1", `{"from":"phone","asked":1}`)
}

// A gateway that loses NATS while its client thinks takes the answer along, and
// finds its way back: every ask ends in time, and is answered again after.
func TestAskWhileNATSIsCut(t *testing.T) {
	t.Parallel()
	s, links := presenceOn(t, 2, 2)
	nc := s.worker()
	const users = 6
	for i := range users {
		echo(s.as(i, fmt.Sprintf("u%d", i)), fmt.Sprint(i))
	}
	work := func(i int) answer {
		return askUntil(nc, fmt.Sprintf("fl.ask.u%d", i%users), fmt.Sprint(i), time.Second)
	}
	right := func(i int, a answer) bool {
		return a.err == nil && a.code == "" && a.body == fmt.Sprintf(`{"from":"%d","asked":%d}`, i%users, i)
	}
	stop := make(chan struct{})
	var asking sync.WaitGroup
	var answered, refused atomic.Int64
	for asker := range 4 {
		asking.Go(func() {
			for i := asker; ; i += 4 {
				select {
				case <-stop:
					return
				default:
				}
				switch a := work(i); {
				case right(i, a):
					answered.Add(1)
				case a.code == wire.NotFound, a.code == wire.DeadlineExceeded, a.code == wire.Unavailable, a.late():
					refused.Add(1)
				default:
					t.Errorf("got %s", a)
					return
				}
			}
		})
	}
	for range 3 {
		for _, l := range links {
			l.cut()
			passes(200 * time.Millisecond)
			l.restore()
		}
		for i := range users {
			eventually(t, "the user answers again", func() (any, bool) {
				a := work(i)
				return a, right(i, a)
			})
		}
	}
	close(stop)
	asking.Wait()
	if answered.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d answers, %d errors: want some of either", answered.Load(), refused.Load())
	}
	for i := range 10 * users {
		if a := work(i); !right(i, a) {
			t.Errorf("after it all: got %s", a)
		}
	}
}
