package integration

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// upgrade is a request to upgrade, on a connection of its own.
type upgrade struct {
	t    *testing.T
	conn net.Conn
}

// askUpgrade sends one and does not wait for the answer.
func askUpgrade(t *testing.T, g *gateway, jwt string) *upgrade {
	t.Helper()
	conn, err := net.DialTimeout("tcp", g.addr, patience)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	authorization := ""
	if jwt != "" {
		authorization = "Authorization: Bearer " + jwt + "\r\n"
	}
	_, err = fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", g.addr, authorization)
	must(t, err)
	return &upgrade{t, conn}
}

// answer returns what came of it.
func (u *upgrade) answer() (status int, retryAfter, body string) {
	u.t.Helper()
	must(u.t, u.conn.SetReadDeadline(time.Now().Add(patience)))
	resp, err := http.ReadResponse(bufio.NewReader(u.conn), nil)
	must(u.t, err)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp.StatusCode, "", ""
	}
	text, err := io.ReadAll(resp.Body)
	must(u.t, err)
	return resp.StatusCode, resp.Header.Get("Retry-After"), string(text)
}

// Only so many requests are upgraded at a time, the time that their
// authentication takes included. The next is told to come again at once, and
// places come back from whatever ends a request: an answer, or a client that goes
// away.
func TestUpgradesAtTheSameTimeAreBounded(t *testing.T) {
	t.Parallel()
	const most = 5
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(slow.Close)
	t.Cleanup(slow.CloseClientConnections)
	admin := "127.0.0.1:" + freePort(t)
	g := startGateway(t, natsdev.Test(t).ClientURL(), "FAIRLEAD_ADMISSION_UPGRADES=5", "FAIRLEAD_ADMIN_ADDR="+admin, "FAIRLEAD_AUTH_JWT_SECRET=",
		"FAIRLEAD_AUTH_JWT_JWKS_URL="+slow.URL, "FAIRLEAD_AUTH_JWT_ISSUER=me", "FAIRLEAD_AUTH_JWT_AUDIENCE=you")
	jwt := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"unknown"}`)) + "." +
		base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"sub":"ann","iss":"me","aud":"you","exp":%d}`, time.Now().Add(time.Hour).Unix())) + ".c2ln"
	under := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprint(want, " requests are under way"), func() (any, bool) {
			n := metric(t, admin, "fairlead_gateway_upgrades_pending")
			return n, n == want
		})
	}
	// full begins as many as may be, and sees one more refused. A token is
	// waited for only for seconds, which may be over when the machine is busy.
	full := func() (begun []*upgrade) {
		t.Helper()
		eventually(t, "one request too many is refused", func() (any, bool) {
			for _, u := range begun {
				u.conn.Close()
			}
			begun = nil
			under(0)
			for range most {
				begun = append(begun, askUpgrade(t, g, jwt))
			}
			deadline := time.Now().Add(2 * time.Second)
			for metric(t, admin, "fairlead_gateway_upgrades_pending") < most && time.Now().Before(deadline) {
			}
			status, retryAfter, body := askUpgrade(t, g, "").answer()
			return fmt.Sprint(status, retryAfter, body), status == http.StatusServiceUnavailable && retryAfter == "1" && strings.Contains(body, "being opened")
		})
		return begun
	}
	for _, u := range full() {
		u.conn.Close() // goes away while it waits
	}
	under(0)
	if status, _, body := askUpgrade(t, g, "").answer(); status != http.StatusSwitchingProtocols {
		t.Errorf("after they went away: got %d %s, want an upgrade", status, body)
	}
	for i, u := range full() {
		if status, retryAfter, body := u.answer(); status != http.StatusServiceUnavailable || strings.Contains(body, "being opened") {
			t.Errorf("request %d: got %d (%s) %s, want that its keys can't be had", i, status, retryAfter, body)
		}
	}
	under(0)
	if status, _, body := askUpgrade(t, g, "").answer(); status != http.StatusSwitchingProtocols {
		t.Errorf("after they were answered: got %d %s, want an upgrade", status, body)
	}
}

// More requests than the pace wait in line for a second at most; whoever finds
// the line full is told to come again.
func TestUpgradesArePaced(t *testing.T) {
	t.Parallel()
	g := startGateway(t, natsdev.Test(t).ClientURL(), "FAIRLEAD_ADMISSION_UPGRADES_PER_SECOND=5")
	began := time.Now()
	var asked []*upgrade
	for range 20 {
		asked = append(asked, askUpgrade(t, g, ""))
	}
	upgraded, refused := 0, 0
	for _, u := range asked {
		switch status, retryAfter, body := u.answer(); {
		case status == http.StatusSwitchingProtocols:
			upgraded++
		case status == http.StatusServiceUnavailable && retryAfter == "1":
			refused++
		default:
			t.Errorf("got %d (%s) %s", status, retryAfter, body)
		}
	}
	// Nobody hastens the pace: what was let in more than one and a line took time.
	most := 2 + int(time.Since(began)/(200*time.Millisecond))
	if upgraded < 6 || upgraded > most || upgraded+refused != 20 {
		t.Errorf("got %d upgraded and %d refused in %s, want from 6 to %d", upgraded, refused, time.Since(began), most)
	}
	eventually(t, "the line is short again", func() (any, bool) {
		status, _, body := askUpgrade(t, g, "").answer()
		return body, status == http.StatusSwitchingProtocols
	})
}

const classesRules = `
topics:
  - {match: "bg.>", subscribe: user, publish: user, class: background}
  - {match: "crit.>", subscribe: user, publish: user, class: critical}
  - {match: "flood.>", subscribe: user, publish: user, class: never}
  - {match: ">", subscribe: user, publish: user}
admission:
  classes: {never: []}
`

// pressureEvent is what fl.event.pressure says.
type pressureEvent struct {
	Gateway, Reason                      string
	Memory, PublishRate, SubscriberRatio float64
	TopPublishers                        []wire.TopicRate
}

// hearPressure returns what gateways say of their load from now on.
func hearPressure(t *testing.T, nc *nats.Conn) <-chan pressureEvent {
	t.Helper()
	events := make(chan pressureEvent, 100)
	_, err := nc.Subscribe("fl.event.pressure", func(m *nats.Msg) {
		var e pressureEvent
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Errorf("fl.event.pressure: %s", m.Data)
		}
		events <- e
	})
	must(t, err)
	must(t, nc.Flush())
	return events
}

// wasShed fails the test unless a message was shed as its class wants it.
func wasShed(t *testing.T, err error, class, reason string) {
	t.Helper()
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.Unavailable || e.RetryAfter != time.Second ||
		e.Details["class"] != class || e.Details["reason"] != reason || e.Details["outcome"] != "none" {
		t.Errorf("got %+v, want UNAVAILABLE of class %s for %s, after 1s", e, class, reason)
	}
}

// While more is published than the threshold, the messages of the classes that
// say so are shed, however they come, and nothing else is. It begins and ends
// once.
func TestPublishRateShedsTheClassesThatSaySo(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, classesRules), "FAIRLEAD_PRESSURE_PUBLISH_RATE=200", "FAIRLEAD_PRESSURE_MEMORY=0",
		"FAIRLEAD_LIMIT_FRAMES_PER_SECOND=0", "FAIRLEAD_HTTP_API=true", "FAIRLEAD_ADMISSION_UPGRADES=100")
	nc := s.worker()
	events := hearPressure(t, nc)
	ann, bob, flooder := s.as(0, "ann"), s.as(0, "bob"), s.as(0, "flooder")
	background := subscribe(t, bob, "bg.a")
	publish := func(topic string) error {
		_, err := ann.Publish(within(t), topic, "", 1, client.PublishOptions{})
		return err
	}
	must(t, publish("bg.a")) // not under pressure
	if m := next(t, background); string(m.Data) != "1" {
		t.Fatalf("got %s", m.Data)
	}

	stop, flooded := make(chan struct{}), make(chan error, 1)
	go func() { // some 2,000 a second
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		frames := []byte("[" + strings.Repeat(`{"op":"publish","topic":"flood.x","data":1},`, 39) + `{"op":"publish","topic":"flood.x","data":1}]`)
		for {
			select {
			case <-stop:
				flooded <- nil
				return
			case <-tick.C:
				if err := flooder.SendFrame(frames); err != nil {
					flooded <- err
					return
				}
			}
		}
	}()
	e := receive(t, events)
	if e.Reason != "PUBLISH_RATE" || e.PublishRate < 200 || len(e.TopPublishers) == 0 || e.TopPublishers[0].Topic != "flood.x" || e.Gateway == "" {
		t.Errorf("got the event %+v, want PUBLISH_RATE of flood.x", e)
	}
	wasShed(t, publish("bg.a"), "background", "PUBLISH_RATE")
	must(t, publish("crit.a"))
	must(t, publish("flood.a"))
	must(t, publish("normal.a"))
	subscribe(t, ann, "bg.b") // is no message
	results, err := ann.PublishBatch(within(t), []client.BatchMessage{{Topic: "crit.a", Data: 1}, {Topic: "bg.a", Data: 1}}, client.BatchOptions{})
	must(t, err)
	if len(results) != 2 || results[0].Err != nil {
		t.Fatalf("got the results %+v, want the first one published", results)
	}
	wasShed(t, results[1].Err, "background", "PUBLISH_RATE")
	may := bearer(token("cron", map[string]any{"publish": []string{"bg.a", "crit.a"}}))
	if status, text := post(t, s.gateways[0].http("/v1/topics/bg.a"), may, `1`); status != http.StatusServiceUnavailable || !strings.Contains(text, `"reason":"PUBLISH_RATE"`) {
		t.Errorf("over HTTP: got %d %s, want 503 for PUBLISH_RATE", status, text)
	}
	if status, text := post(t, s.gateways[0].http("/v1/topics/crit.a"), may, `1`); status != http.StatusOK {
		t.Errorf("over HTTP, critical: got %d %s, want 200", status, text)
	}
	for range 3 { // samples pass, and nothing changes
		wait := time.After(time.Second)
		select {
		case e := <-events:
			t.Errorf("got one more event %+v", e)
		case <-wait:
		}
	}
	close(stop)
	must(t, receive(t, flooded))
	if e := receive(t, events); e.Reason != "NONE" {
		t.Errorf("got the event %+v, want NONE", e)
	}
	must(t, publish("bg.a"))
	if m := next(t, background); string(m.Data) != "1" {
		t.Errorf("got %s", m.Data)
	}
	if len(events) != 0 {
		t.Errorf("got more events: %+v", <-events)
	}
}

// A process that has come to its memory limit sheds what its rules say, on
// connections that are there as on new ones.
func TestMemoryShedsEveryClass(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	events := hearPressure(t, connect(t, server.ClientURL()))
	s := stackOn(t, server.ClientURL(), 1, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, classesRules), "GOMEMLIMIT=4MiB")
	ann := s.as(0, "ann")
	if e := receive(t, events); e.Reason != "MEMORY" || e.Memory < 0.85 {
		t.Errorf("got the event %+v, want MEMORY", e)
	}
	for topic, class := range map[string]string{"bg.a": "background", "crit.a": "critical", "a": "normal"} {
		_, err := ann.Publish(within(t), topic, "", 1, client.PublishOptions{})
		wasShed(t, err, class, "MEMORY")
	}
	_, err := ann.Publish(within(t), "flood.a", "", 1, client.PublishOptions{})
	must(t, err)
	subscribe(t, ann, "crit.b")
}

// Many subscriptions for each connection are pressure, however little is published,
// and it ends with the connections.
func TestSubscribersShedTheClassesThatSaySo(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, classesRules), "FAIRLEAD_PRESSURE_SUBSCRIBERS=3", "FAIRLEAD_PRESSURE_MEMORY=0")
	events := hearPressure(t, s.worker())
	ann := s.as(0, "ann")
	publish := func(topic string) error {
		_, err := ann.Publish(within(t), topic, "", 1, client.PublishOptions{})
		return err
	}
	must(t, publish("bg.a"))
	const connections = 110
	crowd := make([]*client.Client, connections)
	many(t, connections, func(i int) error {
		c, err := tryDial(t, s.url(0), client.Options{Token: token("crowd", nil)})
		if err != nil {
			return err
		}
		crowd[i] = c
		for _, topic := range []string{"normal.a", "normal.b", "normal.c", "normal.d"} {
			if _, err := c.Request(within(t), "subscribe", map[string]any{"topic": topic}); err != nil {
				return err
			}
		}
		return nil
	})
	if e := receive(t, events); e.Reason != "SUBSCRIBERS" || e.SubscriberRatio < 3 {
		t.Errorf("got the event %+v, want SUBSCRIBERS", e)
	}
	wasShed(t, publish("bg.a"), "background", "SUBSCRIBERS")
	must(t, publish("normal.a"))
	for _, c := range crowd {
		c.Close(wire.CloseNormal)
	}
	if e := receive(t, events); e.Reason != "NONE" {
		t.Errorf("got the event %+v, want NONE", e)
	}
	must(t, publish("bg.a"))
}
