package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

// NATS is killed and comes back under 200 live clients on two gateways.
func TestClientsOutliveANATSServerThatIsKilledAndRestarted(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	s := stackOn(t, server.ClientURL(), 2)
	outage(t, s, server.ClientURL(), server.Shutdown, func() { must(t, server.Restart()) })
}

// The server lives, the way to it is gone: what a gateway sees of a network
// that fails.
func TestClientsOutliveACutLinkToNATS(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	link := startLink(t, to(strings.TrimPrefix(server.ClientURL(), "nats://")), nil)
	s := stackOn(t, "nats://"+link.addr(), 2)
	outage(t, s, server.ClientURL(), link.cut, link.restore)
}

// survivor is a client through an outage: what it heard of the server's state,
// and what came on its topic.
type survivor struct {
	conn  *client.Client
	topic string
	sub   *client.Subscription

	mu     sync.Mutex
	system []string
}

func (s *survivor) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.system, " ")
}

func outage(t *testing.T, s *stack, natsURL string, lose, restore func()) {
	t.Helper()
	const clients, topics = 200, 10
	survivors := make([]*survivor, clients)
	for i := range survivors {
		v := &survivor{conn: s.as(i, fmt.Sprintf("user%d", i)), topic: fmt.Sprintf("outage.t%d", i%topics)}
		v.conn.OnSystem(func(e client.SystemEvent) {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.system = append(v.system, e.Event+":"+e.What)
		})
		v.sub = subscribe(t, v.conn, v.topic)
		survivors[i] = v
	}
	hear := func(want string) {
		t.Helper()
		for i, v := range survivors {
			eventually(t, fmt.Sprintf("client %d hears %q", i, want), func() (any, bool) { return v.heard(), v.heard() == want })
		}
	}

	lose()
	hear("degraded:nats")
	for _, g := range s.gateways {
		if status, body := get(t, g.http("/readyz")); status != 503 {
			t.Errorf("/readyz without NATS: got %d %s, want 503", status, body)
		}
	}
	_, err := survivors[0].conn.Publish(within(t), survivors[0].topic, "", []byte(`"lost"`), client.PublishOptions{})
	if got, want := errorText(err), "UNAVAILABLE none"; got != want {
		t.Errorf("publish without NATS: got %s (%v), want %s", got, err, want)
	}
	restore()
	hear("degraded:nats recovered:nats")
	for _, g := range s.gateways {
		g.ready()
	}

	worker := connect(t, natsURL)
	for _, data := range []string{`"marked"`, `"end"`} {
		for i := range topics {
			must(t, worker.Publish(fmt.Sprintf("fl.topic.outage.t%d", i), []byte(data)))
		}
		flush(t, worker)
	}
	for _, v := range survivors {
		expect(t, v.sub, "", `"marked"`)
		expect(t, v.sub, "", `"end"`) // so the marked one came exactly once
		if got, want := v.heard(), "degraded:nats recovered:nats"; got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
		if err := v.conn.CloseError(); err != nil {
			t.Errorf("the connection did not live through it: %v", err)
		}
	}
}
