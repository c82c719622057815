package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// order sends a control message and returns what n gateways say. target is such
// as user.ann.
func order(t *testing.T, nc *nats.Conn, target, body string, n int) spoken {
	t.Helper()
	return poll(t, nc, &nats.Msg{Subject: "fl.control." + target, Data: []byte(body)}, n)
}

// ordered fails the test unless so many connections were reached and no gateway
// refused.
func ordered(t *testing.T, nc *nats.Conn, target, body string, gateways, reached int) {
	t.Helper()
	if said := order(t, nc, target, body, gateways); said.reached != reached || said.codes != nil {
		t.Fatalf("%s %s: %+v, want %d reached", target, body, said, reached)
	}
}

// left waits for the end of a connection.
func left(t *testing.T, c *client.Client, code wire.CloseCode, reason string) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(patience):
		t.Fatal("the connection stays")
	}
	if e := c.CloseError(); e == nil || e.Code != code || !strings.HasPrefix(e.Reason, reason) {
		t.Errorf("closed with %v, want %d %q", e, code, reason)
	}
}

func TestOperatorsDisconnectUsersAndConnections(t *testing.T) {
	t.Parallel()
	s := openStack(t, 3)
	gateways := s.size()
	worker := s.operator()
	long := strings.Repeat("ü", 100) // 200 bytes
	body, err := json.Marshal(map[string]any{"action": "disconnect", "code": 3999, "reason": long})
	must(t, err)

	ann := []*client.Client{s.as(0, "ann"), s.as(1, "ann"), s.as(2, "ann")}
	bob := s.as(0, "bob@example.com")
	ordered(t, worker, "conn."+ann[0].Welcome().Conn, `{"action":"disconnect"}`, gateways, 1)
	left(t, ann[0], wire.CloseForbidden, "disconnected by an operator")
	ordered(t, worker, "user.ann", string(body), gateways, 2)
	for _, c := range ann[1:] {
		left(t, c, 3999, "üü")
		if got := c.CloseError().Reason; len(got) > 123 || len(got) < 120 || !utf8.ValidString(got) || !strings.HasPrefix(long, got) {
			t.Errorf("the reason has %d bytes: %q, want as many whole characters as fit 123", len(got), got)
		}
	}
	ordered(t, worker, "user.ann", `{"action":"disconnect"}`, gateways, 0)
	ordered(t, worker, "user.bob=40example=2Ecom", `{"action":"disconnect","code":1000,"reason":"bye"}`, gateways, 1)
	left(t, bob, wire.CloseNormal, "bye")

	// A disconnect is no ban.
	again := s.as(1, "ann")
	publish(t, again, unique("back"), `1`)
	must(t, worker.Publish("fl.control.user.ann", []byte(`{"action":"disconnect"}`))) // nobody needs to ask
	left(t, again, wire.CloseForbidden, "disconnected by an operator")
}

func TestControlRefusesWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	gateways := s.size()
	worker := s.operator()
	ann := s.as(0, "ann")
	conn, gateway := "conn."+ann.Welcome().Conn, "gateway."+ann.Welcome().Gateway
	for _, test := range []struct{ target, body, says string }{
		{"user.ann", ``, "action"}, {"user.ann", `null`, "action"}, {"user.ann", `{}`, "action"}, {"user.ann", `[{"action":"disconnect"}]`, "action"},
		{"user.ann", `{"action":"delete"}`, "disconnect"}, {"user.ann", `{"action":"drain"}`, "disconnect"}, {conn, `{"action":"revoke"}`, "refresh"},
		{gateway, `{"action":"disconnect"}`, "drain"}, {"user.ann", `{"action":"disconnect","code":1006}`, "code"},
		{"user.ann", `{"action":"disconnect","code":"4403"}`, "code"}, {"user.ann", `{"action":"disconnect","reason":1}`, "reason"},
		{"user.ann", `{"action":"disconnect","before":1759999999999}`, "before"}, {"user.ann", `{"action":"revoke","before":1760000000}`, "before"},
		{"user.ann", `{"action":"revoke","before":9999999999999}`, "before"}, {"user.ann", `{"action":"subscribe"}`, "topic"},
		{"user.ann", `{"action":"subscribe","topic":"a b"}`, "topic"}, {"user.ann", `{"action":"refresh","topic":"a"}`, "topic"},
		{"user.a=4", `{"action":"disconnect"}`, "subject"}, {"user.a=61nn", `{"action":"disconnect"}`, "subject"},
	} {
		n := gateways
		if test.target == gateway {
			n = 1
		}
		said := order(t, worker, test.target, test.body, n)
		if len(said.codes) != n || said.codes[0] != "INVALID_ARGUMENT" || !strings.Contains(said.texts[0], test.says) {
			t.Errorf("%s %s: %+v, want INVALID_ARGUMENT with %q", test.target, test.body, said, test.says)
		}
	}
	for _, garbage := range []string{"\x00\xff", strings.Repeat("[", 10_000), strings.Repeat(`{"action":`, 1000), `{"action":"disconnect"} trailing`} {
		for _, target := range []string{"user.ann", conn, gateway, "user.*", "nothing.ann"} {
			must(t, worker.Publish("fl.control."+target, []byte(garbage)))
		}
	}
	publish(t, ann, unique("still"), `1`) // she is there, and so is the gateway
	ordered(t, worker, conn, `{"action":"refresh"}`, gateways, 1)
}

func TestOperatorsAskForANewerToken(t *testing.T) {
	t.Parallel()
	const clients = 3
	s := openStack(t, clients)
	gateways := s.size()
	worker := s.operator()
	asked := make(chan string, 8)
	for i := range clients {
		c := s.as(i, "ann")
		c.OnSystem(func(e client.SystemEvent) { asked <- fmt.Sprint(i, e.Event, e.What) })
	}
	ordered(t, worker, "user.ann", `{"action":"refresh"}`, gateways, clients)
	got := map[string]bool{}
	for range clients {
		got[receive(t, asked)] = true
	}
	if len(got) != clients || !got["0refresh"] || !got["1refresh"] || !got["2refresh"] {
		t.Errorf("got %v, want refresh on each", got)
	}
}

// Drain is what SIGTERM is, asked for on the bus: the process ends well, and its
// clients come back elsewhere.
func TestOperatorsDrainAGateway(t *testing.T) {
	t.Parallel()
	s := newStack(t, 2, "FAIRLEAD_DRAIN_WINDOW=500ms")
	worker := s.worker()
	ann, bob := s.as(0, "ann"), s.as(1, "bob")
	drains := make(chan client.Drain, 1)
	ann.OnDrain(func(d client.Drain) { drains <- d })
	ordered(t, worker, "gateway."+ann.Welcome().Gateway, `{"action":"drain"}`, 1, 1)
	receive(t, drains)
	if status, body := get(t, s.gateways[0].http("/readyz")); status == http.StatusOK {
		t.Errorf("/readyz while it drains: %d %s", status, body)
	}
	again := s.as(1, "ann")
	if code := s.gateways[0].exit(patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	left(t, ann, wire.CloseGoingAway, "")
	publish(t, again, unique("moved"), `1`)
	publish(t, bob, unique("stayed"), `1`)
}

// In a process with other services these end behind the gateway, in order.
func TestDrainEndsDevToo(t *testing.T) {
	t.Parallel()
	g, natsURL := startDev(t, "FAIRLEAD_DRAIN_WINDOW=200ms")
	worker := connect(t, natsURL)
	ann := dial(t, g.ws(), client.Options{})
	ordered(t, worker, "gateway."+ann.Welcome().Gateway, `{"action":"drain"}`, 1, 1)
	if code := g.exit(patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	left(t, ann, wire.CloseGoingAway, "")
}
