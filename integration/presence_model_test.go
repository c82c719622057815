package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// population is members who come and go at random, and the model of who is there:
// the newest connection of a user on a topic speaks for them.
type population struct {
	t        *testing.T
	s        *stack
	random   *rand.Rand
	gateways []int // that live
	topics   []string
	joins    int
	members  []*member // connections that are open
	ops      map[string]int
}

// member is one connection of a user.
type member struct {
	*client.Client
	user    string
	gateway int
	on      map[string]*standing // topics it has joined
	subs    map[string]*client.Subscription
}

// standing is what a connection is on a topic.
type standing struct {
	order int // counts joins over all connections
	data  string
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// step does one thing at random, and returns when it is done.
func (c *population) step(n int) error {
	const users, connections = 8, 20
	data := fmt.Sprintf(`{"step":%d}`, n)
	if len(c.members) == 0 || len(c.members) < connections && c.random.IntN(6) == 0 {
		m := &member{user: fmt.Sprintf("user%d", c.random.IntN(users)), gateway: pick(c.random, c.gateways), on: map[string]*standing{}, subs: map[string]*client.Subscription{}}
		m.Client = c.s.as(m.gateway, m.user)
		c.members = append(c.members, m)
		c.ops["connect"]++
		return nil
	}
	m, topic := pick(c.random, c.members), pick(c.random, c.topics)
	at := m.on[topic]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ask := func(op string, fields map[string]any) error {
		c.ops[op]++
		fields["topic"] = topic
		_, err := m.Request(ctx, op, fields)
		return err
	}
	joined := func() {
		if at == nil {
			c.joins++
			m.on[topic] = &standing{c.joins, data}
		} else {
			at.data = data
		}
	}
	switch k := c.random.IntN(12); {
	case m.subs[topic] == nil: // whatever it is: nothing goes without
		c.ops["subscribe"]++
		o := client.SubscribeOptions{}
		if k%2 == 0 {
			o.Presence, o.Data = "join", json.RawMessage(data)
			joined()
		}
		var err error
		m.subs[topic], err = m.Subscribe(ctx, topic, o)
		return err
	case k < 4:
		joined()
		return ask("presence.join", map[string]any{"data": json.RawMessage(data)})
	case k < 6:
		delete(m.on, topic)
		return ask("presence.leave", map[string]any{})
	case k < 8 && at != nil:
		at.data = data
		return ask("presence.update", map[string]any{"data": json.RawMessage(data)})
	case k < 9:
		c.ops["unsubscribe"]++
		sub := m.subs[topic]
		delete(m.on, topic)
		delete(m.subs, topic)
		return sub.Unsubscribe(ctx)
	case k == 9:
		c.ops["abort"]++
		c.drop(func(o *member) bool { return o == m })
		m.Abort()
	case k == 10:
		c.ops["close"]++
		c.drop(func(o *member) bool { return o == m })
		m.Close(wire.CloseNormal)
	}
	return nil
}

func (c *population) drop(which func(*member) bool) { c.members = slices.DeleteFunc(c.members, which) }

// kill ends a gateway and with it everybody on it.
func (c *population) kill(gateway int) {
	c.s.gateways[gateway].kill()
	c.gateways = slices.DeleteFunc(c.gateways, func(g int) bool { return g == gateway })
	c.drop(func(m *member) bool { return m.gateway == gateway })
}

// truth is who is on a topic.
func (c *population) truth(topic string) roll {
	newest, r := map[string]int{}, roll{}
	for _, m := range c.members {
		if at := m.on[topic]; at != nil && at.order > newest[m.user] {
			newest[m.user], r[m.user] = at.order, at.data
		}
	}
	return r
}

// Members come and go at random on three gateways, by every way there is, and
// one gateway is killed: in the end every observer sees what the model says.
func TestEveryObserverSeesTheTruth(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{1, 2} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { model(t, seed, 600) })
	}
}

func model(t *testing.T, seed uint64, steps int) {
	s, _ := presenceStack(t, 3, 2)
	c := &population{
		t: t, s: s, random: rand.New(rand.NewPCG(seed, 3)), gateways: []int{0, 1, 2},
		topics: []string{"now.model", "room.model", "room.other"}, ops: map[string]int{},
	}
	witnesses := map[string]map[int]*witness{}
	for _, topic := range c.topics {
		witnesses[topic] = map[int]*witness{}
		for g := range 3 {
			witnesses[topic][g] = witnessing(t, s.as(g, "eye"), topic, "watch")
		}
	}
	nc := s.worker()
	agree := func() {
		for _, topic := range c.topics {
			settles(t, nc, topic, c.truth(topic), slices.Collect(maps.Values(witnesses[topic]))...)
		}
	}
	for n := range steps {
		if n == steps*2/3 {
			killed := c.random.IntN(3)
			c.kill(killed)
			for _, topic := range c.topics {
				delete(witnesses[topic], killed)
			}
		}
		if err := c.step(n); err != nil {
			t.Fatalf("step %d: %v", n, err)
		}
		if n == steps/3 {
			agree()
		}
	}
	agree()
	t.Logf("%v; %d connections are left", c.ops, len(c.members))

	// The comparison itself: a model that is a little other is told apart.
	for _, topic := range c.topics {
		truth := c.truth(topic)
		truth["nobody"] = ""
		for _, w := range witnesses[topic] {
			now := w.view.Now().Users
			if truth.differs(now) == "" {
				t.Error("the comparison misses who is not there")
			}
			for user := range now {
				other := c.truth(topic)
				delete(other, user)
				ghost := other.differs(now)
				other[user] = `{"step":-1}`
				if changed := other.differs(now); ghost == "" || changed == "" {
					t.Error("the comparison misses a ghost or other data")
				}
			}
		}
	}
}
