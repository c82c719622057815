package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// witness is an observer that remembers who came and who went, however the
// frames said so: a state that lacks somebody says it too.
type witness struct {
	*observer

	mu         sync.Mutex
	came, gone map[string]int
}

// witnessing makes a client a witness of a topic; presence is watch or join.
func witnessing(t *testing.T, c *client.Client, topic, presence string) *witness {
	t.Helper()
	w, err := attest(within(t), t, c, topic, presence, "")
	if err != nil {
		t.Fatalf("subscribe to the presence of %s: %v", topic, err)
	}
	return w
}

// attest is witnessing for any goroutine.
func attest(ctx context.Context, t *testing.T, c *client.Client, topic, presence, data string) (*witness, error) {
	w := &witness{observer: &observer{t: t, Client: c, view: client.NewPresence()}, came: map[string]int{}, gone: map[string]int{}}
	o := client.SubscribeOptions{Presence: presence, OnPresence: w.take}
	if data != "" {
		o.Data = json.RawMessage(data)
	}
	var err error
	w.sub, err = c.Subscribe(ctx, topic, o)
	return w, err
}

func (w *witness) take(f *wire.ServerFrame) {
	before := w.view.Now().Users
	w.view.Apply(f)
	after := w.view.Now().Users
	w.mu.Lock()
	defer w.mu.Unlock()
	for user := range before {
		if _, there := after[user]; !there {
			w.gone[user]++
		}
	}
	for user := range after {
		if _, there := before[user]; !there {
			w.came[user]++
		}
	}
}

// departures returns how often each user went.
func (w *witness) departures() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.gone)
}

// sawLeave reports an error unless exactly these users went, each once.
func (w *witness) sawLeave(users ...string) {
	w.t.Helper()
	gone := w.departures()
	for _, user := range users {
		if gone[user] != 1 {
			w.t.Errorf("%s: %q went %d times, want 1", w.sub.Topic(), user, gone[user])
		}
		delete(gone, user)
	}
	if len(gone) > 0 {
		w.t.Errorf("%s: went too, which nobody did: %v", w.sub.Topic(), gone)
	}
	if err := w.view.Err(); err != nil {
		w.t.Errorf("the frames contradict one another: %v", err)
	}
}

// by waits until the view is as ok says, at most until a moment.
func (w *witness) by(deadline time.Time, what string, ok func(client.Members) bool) {
	w.t.Helper()
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	if err := w.view.Wait(ctx, ok); err != nil {
		w.t.Errorf("%s is not so in time: %s: %v; there are %v", w.sub.Topic(), what, err, w.view.Now().Names())
	}
}

// exactly is true of a view with these users and no others.
func exactly(users ...string) func(client.Members) bool {
	return func(m client.Members) bool { return m.Rev > 0 && len(m.Users) == len(users) && m.Has(users...) }
}

// roll is who is on a topic, with their data as they gave it ("": none).
type roll map[string]string

// differs says how members are other than the roll; "" if they are not.
func (r roll) differs(users map[string]wire.PresenceMember) string {
	var said []string
	for user, data := range r {
		switch m, there := users[user]; {
		case !there:
			said = append(said, user+" is missing")
		case string(m.Data) != data && !wire.EqualJSON(m.Data, []byte(data)):
			said = append(said, fmt.Sprintf("%s has %s, want %s", user, m.Data, data))
		}
	}
	for user := range users {
		if _, there := r[user]; !there {
			said = append(said, user+" is a ghost")
		}
	}
	slices.Sort(said)
	return strings.Join(said, "; ")
}

// listed is what the service itself says of a topic, over all pages.
func listed(t *testing.T, nc *nats.Conn, topic string) map[string]wire.PresenceMember {
	t.Helper()
	all := map[string]wire.PresenceMember{}
	for cursor := ""; ; {
		req, err := json.Marshal(wire.PresenceListRequest{Topic: topic, Limit: 1000, Cursor: cursor})
		must(t, err)
		body, code := svc(t, nc, "list", string(req))
		var page wire.PresenceList
		if code != "" || json.Unmarshal([]byte(body), &page) != nil {
			return nil
		}
		maps.Copy(all, page.Users)
		if cursor = page.Cursor; cursor == "" {
			return all
		}
	}
}

// settles waits until every witness of a topic, and the service, say what the
// roll says, and checks that no frame contradicted another.
func settles(t *testing.T, nc *nats.Conn, topic string, truth roll, witnesses ...*witness) {
	t.Helper()
	for i, w := range witnesses {
		eventually(t, fmt.Sprintf("observer %d of %s sees the truth", i, topic), func() (any, bool) {
			d := truth.differs(w.view.Now().Users)
			return d, d == "" && w.view.Now().Rev > 0
		})
		if err := w.view.Err(); err != nil {
			t.Errorf("observer %d of %s: the frames contradict one another: %v", i, topic, err)
		}
	}
	eventually(t, "the service lists the truth of "+topic, func() (any, bool) {
		d := truth.differs(listed(t, nc, topic))
		return d, d == ""
	})
}

// many does n things, some at a time, and ends the test at the first error.
func many(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	var work errgroup.Group
	work.SetLimit(32)
	for i := range n {
		work.Go(func() error { return do(i) })
	}
	must(t, work.Wait())
}

// presenceOn starts what presenceStack does, with a link of its own to NATS for
// each gateway.
func presenceOn(t *testing.T, gateways, replicas int, env ...string) (s *stack, links []*link) {
	t.Helper()
	natsURL := natsdev.Test(t).ClientURL()
	s, _ = presenceStackOn(t, natsURL, 0, replicas)
	env = append([]string{"FAIRLEAD_TOPICS_FILE=" + rulesFile(t, presenceRules), "FAIRLEAD_GATEWAY_LEASE=" + testLease.String()}, env...)
	for range gateways {
		l := startLink(t, to(strings.TrimPrefix(natsURL, "nats://")), nil)
		s.nats = "nats://" + l.addr()
		s.add(env...)
		links = append(links, l)
	}
	s.nats = natsURL
	return s, links
}

// gatewayLease returns the lease of a gateway as it stands in the bucket, with
// its epoch; false while it has none.
func gatewayLease(t *testing.T, nc *nats.Conn, gateway string) (epoch uint64, held bool) {
	t.Helper()
	js, err := nc.JetStream(nats.MaxWait(patience))
	must(t, err)
	bucket, err := js.KeyValue(wire.DefaultNamespace.Bucket("gateways"))
	must(t, err)
	e, err := bucket.Get(wire.EscapeToken(gateway))
	if err != nil || len(e.Value()) == 0 { // never there, deleted, or over
		return 0, false
	}
	var lease wire.GatewayLease
	must(t, json.Unmarshal(e.Value(), &lease))
	if lease.Epoch == 0 {
		lease.Epoch = e.Revision()
	}
	return lease.Epoch, true
}

// passes lets time pass that is itself what a test is about: the length of an
// outage, a delay after which nothing may have happened.
func passes(d time.Duration) { <-time.After(d) }
