package presence

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const seatRules = `
topics:
  - {name: two, match: "two.>", subscribe: any, presence: {watch: any, join: any, leaveDelay: 0s, maxMembers: 2}}
  - {name: open, match: "open.>", subscribe: any, presence: {watch: any, join: any, leaveDelay: 0s}}
`

// seatRig is replicas of the service on one store in memory.
type seatRig struct {
	clock    *testClock
	stores   map[string]*memory
	replicas []*Service
	stop     context.CancelFunc
	running  sync.WaitGroup
	version  uint64
}

func startSeats(t testing.TB, replicas int) *seatRig {
	t.Helper()
	r := &seatRig{clock: newTestClock(), stores: map[string]*memory{}}
	for range replicas {
		s, err := New(Config{Namespace: "fl"}, Deps{Rules: rulesOf(t, seatRules)})
		if err != nil {
			t.Fatal(err)
		}
		s.now = r.clock.now
		s.build(func(name string) Store {
			if r.stores[name] == nil {
				r.stores[name] = newMemory(r.clock.now)
			}
			return r.stores[name]
		})
		r.replicas = append(r.replicas, s)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	for _, s := range r.replicas {
		r.running.Go(func() { s.topics.run(ctx) })
		for !s.topics.ready() {
			_ = clock.Sleep(ctx, time.Millisecond)
		}
	}
	return r
}

func (r *seatRig) end() {
	r.stop()
	r.running.Wait()
}

// rulesOf are rules that nothing changes.
func rulesOf(t testing.TB, text string) *rules.Live {
	t.Helper()
	js, err := jetstream.New(&nats.Conn{}) // never connected: they stay as they are
	if err != nil {
		t.Fatal(err)
	}
	live, err := rules.Follow(rules.Options{Store: rules.Store{JetStream: js}, Mode: rules.Dev, File: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return live
}

// put stores what a gateway says of a user, by the i-th replica.
func (r *seatRig) put(i int, topic, user, gateway string, epoch uint64, ids ...string) error {
	r.version++
	_, err := r.replicas[i%len(r.replicas)].Put(context.Background(), wire.PresencePut{PresenceSection: wire.PresenceSection{
		Topic: topic, User: user, Gateway: gateway, Epoch: epoch, Version: r.version, Conns: conns(ids...),
	}})
	return err
}

// members are who is stored on a topic.
func (r *seatRig) members(topic string) map[string]bool {
	there := map[string]bool{}
	for _, e := range r.stores["presence"].Entries() {
		if t, user, _, err := parseKey(e.Key); err == nil && t == topic && !e.Deleted {
			var p wire.PresenceSection
			if json.Unmarshal(e.Value, &p) == nil && len(p.Conns) > 0 {
				there[user] = true
			}
		}
	}
	return there
}

// TestSeatsModel plays random joins and leaves over replicas: as many users are
// there as the rule allows and no more, a join is refused only when the topic is
// full, and a seat is free as soon as the last of its user's gateways left.
func TestSeatsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := startSeats(t, rapid.IntRange(1, 3).Draw(rt, "replicas"))
		defer r.end()
		seated := map[string]map[string]bool{} // user → gateways
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			replica := rapid.IntRange(0, 2).Draw(rt, "replica")
			user := rapid.SampledFrom([]string{"ann", "bob", "cid", "dan"}).Draw(rt, "user")
			gateway := rapid.SampledFrom([]string{"g1", "g2"}).Draw(rt, "gateway")
			if rapid.Bool().Draw(rt, "joins") {
				err := r.put(replica, "two.a", user, gateway, 1, "c")
				room := seated[user] != nil || len(seated) < 2
				if room != (err == nil) || err != nil && wire.CodeOf(err) != wire.ResourceExhausted {
					rt.Fatalf("%s joins on %s with %v there: %v", user, gateway, seated, err)
				}
				if err != nil {
					if got := wire.AsError(err).Details["limit"]; fmt.Sprint(got) != "2" {
						rt.Fatalf("got limit %v", got)
					}
					continue
				}
				if seated[user] == nil {
					seated[user] = map[string]bool{}
				}
				seated[user][gateway] = true
			} else {
				if err := r.put(replica, "two.a", user, gateway, 1); err != nil {
					rt.Fatalf("%s leaves: %v", user, err)
				}
				delete(seated[user], gateway)
				if len(seated[user]) == 0 {
					delete(seated, user)
				}
			}
			if got := r.members("two.a"); len(got) != len(seated) {
				rt.Fatalf("stored: %v, want %v", got, seated)
			}
		}
	})
}

// Joins that come at once, by all replicas and in batches, fill a topic exactly.
func TestSeatsUnderContention(t *testing.T) {
	r := startSeats(t, 3)
	defer r.end()
	for round := range 20 {
		topic := fmt.Sprintf("two.r%d", round)
		var work sync.WaitGroup
		var mu sync.Mutex
		in := 0
		for g := range 6 {
			work.Go(func() {
				req := wire.PresencePut{}
				for u := range 4 {
					req.Sections = append(req.Sections, wire.PresenceSection{
						Topic: topic, User: fmt.Sprintf("u%d.%d", g, u), Gateway: fmt.Sprintf("g%d", g), Epoch: 1, Version: 1, Conns: conns("c"),
					})
				}
				reply, err := r.replicas[g%3].Put(context.Background(), req)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				for _, result := range reply.Results {
					switch {
					case len(result.Error) == 0:
						in++
					default:
						if e := wire.DecodeError(result.Error); e.Code != wire.ResourceExhausted {
							t.Errorf("got %v", e)
						}
					}
				}
			})
		}
		work.Wait()
		if got := len(r.members(topic)); got != 2 || in != 2 {
			t.Fatalf("round %d: %d are stored, %d were let in, want 2", round, got, in)
		}
	}
}

// The seats of a gateway that is gone are free: while it is only known to be
// dead, and once its sections were taken out and it is forgotten.
func TestSeatsOfTheDeadAreFree(t *testing.T) {
	r := startSeats(t, 2)
	defer r.end()
	s := r.replicas[0]
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.put(0, "two.a", "ann", "g1", 5, "c"))
	must(r.put(0, "two.a", "bob", "g2", 5, "c"))
	if err := r.put(0, "two.a", "cid", "g3", 5, "c"); wire.CodeOf(err) != wire.ResourceExhausted {
		t.Fatalf("a third: %v", err)
	}
	s.deaths.asked("g1", 5, false, r.clock.now())
	must(r.put(0, "two.a", "cid", "g3", 5, "c"))
	// Ann's section is still there: she is taken out with her gateway.
	s.takeOut(context.Background(), s.topics, "g1", func(*wire.PresenceSection) bool { return true })
	s.deaths.asked("g2", 5, false, r.clock.now())
	s.takeOut(context.Background(), s.topics, "g2", func(*wire.PresenceSection) bool { return true })
	s.deaths.keep(nil)
	must(r.put(1, "two.a", "dan", "g3", 5, "c")) // by the replica that knows of no death
	if got := r.members("two.a"); len(got) != 2 || !got["cid"] || !got["dan"] {
		t.Errorf("there are %v", got)
	}
	if err := r.put(1, "two.a", "eve", "g3", 5, "c"); wire.CodeOf(err) != wire.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
}

// A worker's member keeps its seat as long as its TTL says, and no longer.
func TestSeatsOfWorkers(t *testing.T) {
	r := startSeats(t, 2)
	defer r.end()
	join := func(i int, user string) error {
		_, err := r.replicas[i].Join(context.Background(), wire.PresenceJoin{Topic: "two.a", User: user, TTL: "10s"})
		return err
	}
	for _, user := range []string{"ann", "bob"} {
		if err := join(0, user); err != nil {
			t.Fatal(err)
		}
	}
	r.clock.pass(5 * time.Second)
	if err := join(1, "ann"); err != nil { // renews
		t.Fatal(err)
	}
	if err := join(1, "cid"); wire.CodeOf(err) != wire.ResourceExhausted {
		t.Fatalf("a third: %v", err)
	}
	r.clock.pass(6 * time.Second) // bob's is over
	if err := join(1, "cid"); err != nil {
		t.Fatalf("a seat that is over: %v", err)
	}
	if got := r.members("two.a"); len(got) != 2 || !got["ann"] || !got["cid"] {
		t.Errorf("there are %v", got)
	}
}

// A topic whose rule gets a bound has those who are there in its seats, of
// whatever kind they are; one that loses it keeps no list of seats.
func TestSeatsFollowTheRule(t *testing.T) {
	r := startSeats(t, 1)
	defer r.end()
	s := r.replicas[0]
	if _, err := s.Join(context.Background(), wire.PresenceJoin{Topic: "open.a", User: "bot", TTL: "1m"}); err != nil {
		t.Fatal(err)
	}
	if err := r.put(0, "open.a", "ann", "g1", 5, "c"); err != nil {
		t.Fatal(err)
	}
	bounded, unbounded := rulesOf(t, `{topics: [{name: a, match: ">", subscribe: any, presence: {watch: any, join: any, maxMembers: 2}}]}`), s.deps.Rules
	s.deps.Rules = bounded
	if err := r.put(0, "open.a", "cid", "g1", 5, "c"); wire.CodeOf(err) != wire.ResourceExhausted {
		t.Fatalf("two are there already: %v", err)
	}
	if err := r.put(0, "open.a", "ann", "g2", 5, "c"); err != nil {
		t.Fatalf("ann is there: %v", err)
	}
	s.deps.Rules = unbounded
	if err := r.put(0, "open.a", "cid", "g1", 5, "c"); err != nil {
		t.Fatal(err)
	}
	if e, err := r.stores["presence"].Get(context.Background(), seatKey("open.a")); err == nil && !e.Deleted {
		t.Errorf("the seats are still there: %s", e.Value)
	}
}

// A topic that nobody is on leaves nothing behind.
func TestEmptyTopicsEnd(t *testing.T) {
	r := startSeats(t, 1)
	defer r.end()
	for _, ids := range [][]string{{"c"}, nil} {
		if err := r.put(0, "two.a", "ann", "g1", 5, ids...); err != nil {
			t.Fatal(err)
		}
	}
	r.clock.pass(tombstone + kv.MarkerTTL + 2*time.Second)
	r.clock.pass(kv.MarkerTTL + 2*time.Second)
	if left := r.stores["presence"].Entries(); len(left) != 0 {
		t.Errorf("%d keys are left", len(left))
	}
}
