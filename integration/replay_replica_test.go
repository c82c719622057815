package integration

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Without any replica of the replay service messages are stored and delivered
// as before. A resume has what the gateway itself still holds; else it is told
// that the past can't be had, and why, and goes on. Once a replica is there
// again the same position has everything.
func TestReplayReplicasAreAway(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	file := rulesFile(t, fmt.Sprintf(replayedRules, 10_000))
	replica := startReplay(t, server.ClientURL(), file)
	s := &stack{t: t, nats: server.ClientURL()}
	for range 2 {
		s.add("FAIRLEAD_TOPICS_FILE=" + file)
	}
	topic := unique("chat.room")
	ann := s.as(0, "ann")
	probe := subscribe(t, ann, topic)
	var positions []wire.Position
	say := func(n int) {
		t.Helper()
		publish(t, ann, topic, fmt.Sprint(n))
		m := next(t, probe)
		if got := string(m.Data); got != fmt.Sprint(n) {
			t.Fatalf("live: got %s, want %d", got, n)
		}
		positions = append(positions, wire.Position{Seq: m.Seq, Ts: m.Ts})
	}
	for i := range 50 {
		say(i)
	}
	replica.kill()
	for i := 50; i < 60; i++ {
		say(i)
	}
	warm := behind(t, "a resume where the topic is known", s.as(0, "bob"), topic, positions[20])
	began := time.Now()
	sub := resume(t, s.as(1, "bob"), topic, positions[20])
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("a resume that nobody can answer took %s", took)
	}
	if p := sub.Position(); p.Recovered == nil || *p.Recovered {
		t.Errorf("a resume that nobody can answer: got %+v, want recovered:false", p)
	}
	cold := following(t, "a resume that nobody can answer", sub)
	for i := 60; i < 70; i++ {
		say(i)
	}
	warm.whole(21, 70)
	got := cold.until(69)
	if len(got.cuts) != 1 || got.cuts[0] != 0 || len(got.broken) > 0 {
		t.Errorf("a resume that nobody can answer: cut at %v, want once before the first message; broken: %v", got.cuts, got.broken)
	}
	ascending(t, "a resume that nobody can answer", got.got, 60, 70)

	startReplay(t, s.nats, file)
	for i := range s.gateways {
		behind(t, fmt.Sprintf("gateway %d, with a replica again", i), s.as(i, "cas"), topic, positions[20]).whole(21, 70)
	}
	say(70)
	warm.whole(21, 71)
}

// One of two replicas is killed during a storm of resumes: each of them has
// everything, on whichever replica it was.
func TestAReplicaIsKilledInAStormOfResumes(t *testing.T) {
	t.Parallel()
	const topics, each, clients, rounds = 10, 150, 20, 12
	server := natsdev.Test(t)
	file := rulesFile(t, fmt.Sprintf(replayedRules, 10_000))
	first := startReplay(t, server.ClientURL(), file)
	startReplay(t, server.ClientURL(), file)
	s := &stack{t: t, nats: server.ClientURL()}
	for range 2 {
		s.add("FAIRLEAD_TOPICS_FILE=" + file)
	}
	js, err := jetstream.New(s.worker(), jetstream.WithPublishAsyncMaxPending(32_000))
	must(t, err)
	prefix := unique("chat.storm")
	name := func(i int) string { return fmt.Sprintf("%s.%d", prefix, i) }
	for i := range topics {
		for n := range each {
			_, err := js.PublishAsync("fl.topic."+name(i), fmt.Append(nil, n))
			must(t, err)
		}
	}
	receive(t, js.PublishAsyncComplete())

	var resumed, slowest atomic.Int64
	var all sync.WaitGroup
	for i := range clients {
		c := s.as(i, fmt.Sprintf("user%d", i))
		all.Go(func() {
			for round := range rounds {
				began := time.Now()
				if err := readAgain(t, c, name((i+round)%topics), each); err != nil {
					t.Errorf("client %d, round %d: %v", i, round, err)
					return
				}
				if took := int64(time.Since(began)); took > slowest.Load() {
					slowest.Store(took)
				}
				resumed.Add(1)
			}
		})
	}
	eventually(t, "a quarter of the resumes is done", func() (any, bool) { return resumed.Load(), resumed.Load() >= clients*rounds/4 || t.Failed() })
	first.kill()
	all.Wait()
	t.Logf("the slowest resume took %s", time.Duration(slowest.Load()))
}

// readAgain reads a topic with the numbers of [0, n) from its beginning.
func readAgain(t *testing.T, c *client.Client, topic string, n int) error {
	ctx := within(t)
	sub, err := c.Subscribe(ctx, topic, client.SubscribeOptions{After: new(int64), Control: true})
	if err != nil {
		return err
	}
	if p := sub.Position(); p.Recovered == nil || !*p.Recovered {
		return fmt.Errorf("%s: %+v, want recovered:true", topic, p)
	}
	for want := range n {
		m, err := sub.Next(ctx)
		if err != nil {
			return fmt.Errorf("%s, message %d: %w", topic, want, err)
		}
		if m.Control != "" || string(m.Data) != fmt.Sprint(want) {
			return fmt.Errorf("%s: got %s %s, want %d", topic, m.Control, m.Data, want)
		}
	}
	return sub.Unsubscribe(ctx)
}
