//go:build unix

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// flickering is a client that joins and leaves in bursts, of which it waits for
// the last answer only.
type flickering struct {
	*client.Client
	topic  string
	random *rand.Rand
	joined bool   // as the last answer said
	data   string // what it said of itself then
}

// burst sends a few ops, and the last one until it is accepted.
func (f *flickering) burst(ctx context.Context, round int) error {
	op := func(join bool) (string, map[string]any) {
		if join {
			return "presence.join", map[string]any{"topic": f.topic, "data": round}
		}
		return "presence.leave", map[string]any{"topic": f.topic}
	}
	for range 1 + f.random.IntN(6) {
		name, fields := op(f.random.IntN(2) == 0)
		frame := fmt.Sprintf(`{"op":%q,"topic":%q}`, name, fields["topic"])
		if err := f.SendFrame([]byte(frame)); err != nil {
			return err
		}
	}
	f.joined, f.data = f.random.IntN(2) == 0, fmt.Sprint(round)
	for {
		name, fields := op(f.joined)
		_, err := f.Request(ctx, name, fields)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond): // a client's backoff
		case <-ctx.Done():
			return err
		}
	}
}

// storm lets clients join and leave in bursts, breaks something in the middle of
// it, and returns when every client has the answer to its last op, with who is
// there then.
func storm(t *testing.T, s *stack, topic string, clients, rounds int, breaks func()) roll {
	t.Helper()
	all := make([]*flickering, clients)
	many(t, clients, func(i int) error {
		c, err := tryDial(t, s.url(i), client.Options{Token: token(fmt.Sprintf("user%d", i), nil)})
		if err == nil {
			_, err = c.Subscribe(within(t), topic, client.SubscribeOptions{})
			all[i] = &flickering{Client: c, topic: topic, random: rand.New(rand.NewPCG(uint64(i), 4))}
		}
		return err
	})
	var done atomic.Int64
	underWay := make(chan struct{})
	var work errgroup.Group
	for i := range all {
		work.Go(func() error {
			for round := range rounds {
				if err := all[i].burst(within(t), round); err != nil {
					return fmt.Errorf("client %d, round %d: %w", i, round, err)
				}
				if done.Add(1) == int64(clients*rounds/4) {
					close(underWay)
				}
			}
			return nil
		})
	}
	receive(t, underWay)
	breaks()
	must(t, work.Wait())
	truth := roll{}
	for i, f := range all {
		if f.joined {
			truth[fmt.Sprintf("user%d", i)] = f.data
		}
	}
	t.Logf("%d bursts, %d are there in the end", done.Load(), len(truth))
	return truth
}

// A replica stops in the middle of joins and leaves, and goes on with what it
// had when everything has long changed: the last op of each client is what
// counts.
func TestTheLastOpCountsThoughAReplicaStalls(t *testing.T) {
	t.Parallel()
	s, replicas := presenceStack(t, 2, 2)
	const topic = "now.stall"
	eyes := []*witness{witnessing(t, s.as(0, "eye"), topic, "watch"), witnessing(t, s.as(1, "eye"), topic, "watch")}
	truth := storm(t, s, topic, 24, 12, func() {
		replicas[0].pause()
		passes(2 * time.Second)
		replicas[0].resume()
	})
	settles(t, s.worker(), topic, truth, eyes...)
	passes(testLease)
	settles(t, s.worker(), topic, truth, eyes...)
}

// The same where the replica is killed: requests that it had are lost.
func TestTheLastOpCountsThoughAReplicaIsKilled(t *testing.T) {
	t.Parallel()
	s, replicas := presenceStack(t, 2, 2)
	const topic = "now.killed"
	eyes := []*witness{witnessing(t, s.as(0, "eye"), topic, "watch"), witnessing(t, s.as(1, "eye"), topic, "watch")}
	truth := storm(t, s, topic, 24, 12, replicas[0].kill)
	settles(t, s.worker(), topic, truth, eyes...)
}

// Hundreds join while a replica is killed: whoever was told that they are there
// is there for everybody, and nobody else.
func TestAJoinStormOutlivesAKilledReplica(t *testing.T) {
	t.Parallel()
	const members, topics = 300, 3
	s, replicas := presenceStack(t, 2, 2)
	topic := func(i int) string { return fmt.Sprintf("room.storm%d", i%topics) }
	all := make([]*witness, members)
	truth := map[string]roll{}
	for i := range topics {
		truth[topic(i)] = roll{}
	}
	var joined atomic.Int64
	underWay := make(chan struct{})
	var work errgroup.Group
	work.SetLimit(64)
	join := func(i int) error {
		user := fmt.Sprintf("user%d", i)
		c, err := tryDial(t, s.url(i/topics), client.Options{Token: token(user, nil)})
		if err != nil {
			return err
		}
		ctx := within(t)
		for {
			if all[i], err = attest(ctx, t, c, topic(i), "join", fmt.Sprint(i)); err == nil {
				if joined.Add(1) == members/3 {
					close(underWay)
				}
				break
			}
			select {
			case <-time.After(20 * time.Millisecond): // a client's backoff
			case <-ctx.Done():
				return err
			}
		}
		if i%4 == 0 {
			return all[i].sub.Unsubscribe(ctx)
		}
		return nil
	}
	var storming sync.WaitGroup
	storming.Go(func() {
		for i := range members {
			work.Go(func() error { return join(i) })
		}
	})
	receive(t, underWay)
	replicas[1].kill()
	storming.Wait()
	must(t, work.Wait())
	nc := s.worker()
	byTopic := map[string][]*witness{}
	for i, w := range all {
		if i%4 != 0 {
			truth[topic(i)][fmt.Sprintf("user%d", i)] = fmt.Sprint(i)
			byTopic[topic(i)] = append(byTopic[topic(i)], w)
		}
	}
	for topic, witnesses := range byTopic {
		settles(t, nc, topic, truth[topic], witnesses...)
	}
}
