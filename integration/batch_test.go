package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// recipient sees WebSocket messages as they come.
type recipient struct {
	*peer
	conn string
}

// newRecipient connects with a subprotocol, or none, and subscribes.
func newRecipient(t *testing.T, url, user, protocol string, topics ...string) *recipient {
	t.Helper()
	o := &websocket.DialOptions{HTTPClient: web}
	if protocol != "" {
		o.Subprotocols = []string{protocol}
	}
	ws, _, err := websocket.Dial(within(t), url, o)
	must(t, err)
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(-1)
	r := &recipient{peer: &peer{t, ws}}
	r.send(`{"op":"hello","id":1,"token":"` + token(user, nil) + `"}`)
	var hello struct{ OK struct{ Conn string } }
	must(t, json.Unmarshal([]byte(r.read()), &hello))
	r.conn = hello.OK.Conn
	for i, topic := range topics {
		r.send(fmt.Sprintf(`{"op":"subscribe","id":%d,"topic":%q}`, i+2, topic))
		if got := r.read(); !strings.Contains(got, `"ok"`) {
			t.Fatalf("subscribe %s: %s", topic, got)
		}
	}
	return r
}

// gets expects these frames next: in one WebSocket message, or in one each.
func (r *recipient) gets(what string, together bool, want ...string) {
	r.t.Helper()
	if together && len(want) > 1 {
		if got, want := r.read(), "["+strings.Join(want, ",")+"]"; got != want {
			r.t.Fatalf("%s: got\n%s, want\n%s", what, got, want)
		}
		return
	}
	for _, want := range want {
		if got := r.read(); got != want {
			r.t.Fatalf("%s: got\n%s, want\n%s", what, got, want)
		}
	}
}

// batch publishes several events at once.
func batch(t *testing.T, nc *nats.Conn, subject string, events []string, headers ...string) {
	t.Helper()
	tell(t, nc, subject, "ignored", "["+strings.Join(events, ",")+"]", append([]string{"Fl-Batch", "1"}, headers...)...)
}

// Fifty events are one WebSocket message for who takes arrays, and fifty for who
// does not, the same ones in the same order, on two gateways, also by wildcard.
func TestABatchIsOneWebSocketMessage(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	worker := s.worker()
	for _, n := range []int{1, 50} {
		topic := unique("board")
		recipients := map[string]*recipient{}
		for g := range 2 {
			for _, protocol := range []string{"fairlead.v1", ""} {
				recipients[fmt.Sprintf("gateway %d, %q", g, protocol)] = newRecipient(t, s.url(g), "reader", protocol, topic)
				recipients[fmt.Sprintf("gateway %d, %q, wildcard", g, protocol)] = newRecipient(t, s.url(g), "reader", protocol, lent("board.*"))
			}
		}
		var events, frames []string
		for i := range n {
			events = append(events, fmt.Sprintf(`{"event":"moved","data":{"n": %d,  "x":1.50}}`, i))
			frames = append(frames, fmt.Sprintf(`{"topic":%q,"event":"moved","data":{"n": %d,  "x":1.50},"from":"ann"}`, topic, i))
		}
		for range 20 { // that they came together once proves little
			batch(t, worker, "fl.topic."+topic, events, "Fl-User", "ann")
			for name, r := range recipients {
				r.gets(name, strings.Contains(name, "v1"), frames...)
			}
		}
		tell(t, worker, "fl.topic."+topic, "after", `1`)
		for name, r := range recipients {
			r.gets(name, false, fmt.Sprintf(`{"topic":%q,"event":"after","data":1}`, topic))
		}
	}
}

func TestABatchExcludes(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	worker := s.worker()
	topic := unique("board")
	a, b := newRecipient(t, s.url(0), "ann", "fairlead.v1", topic), newRecipient(t, s.url(1), "bob", "", topic)
	frame := func(data string) string { return fmt.Sprintf(`{"topic":%q,"event":"message","data":%s}`, topic, data) }
	events := []string{
		`{"data":1}`, `{"data":2,"exclude":"` + a.conn + `"}`, `{"exclude":"` + b.conn + `"}`, `{"data":"4","exclude":"nobody"}`, `{"data":5,"exclude":null}`,
	}
	batch(t, worker, "fl.topic."+topic, events)
	a.gets("ann", true, frame("1"), frame("null"), frame(`"4"`), frame("5"))
	b.gets("bob", false, frame("1"), frame("2"), frame(`"4"`), frame("5"))

	batch(t, worker, "fl.topic."+topic, events, "Fl-Exclude", a.conn)
	batch(t, worker, "fl.topic."+topic, []string{`{"data":6,"exclude":"` + b.conn + `"}`})
	a.gets("ann", true, frame("6"))
	b.gets("bob", false, frame("1"), frame("2"), frame(`"4"`), frame("5"))
	tell(t, worker, "fl.topic."+topic, "message", "7")
	a.gets("ann", true, frame("7"))
	b.gets("bob", false, frame("7"))
}

// Nothing of a body that is no batch is delivered, and what comes next is.
func TestMalformedBatches(t *testing.T) {
	t.Parallel()
	admin := "127.0.0.1:" + freePort(t)
	s := newStack(t, 1, "FAIRLEAD_ADMIN_ADDR="+admin, "FAIRLEAD_LOG_LEVEL=debug")
	worker := s.worker()
	topic := unique("board")
	r := newRecipient(t, s.url(0), "ann", "", topic)
	bad := []string{
		``, `{}`, `[]`, `null`, `"[{}]"`, `[{}`, `[{},]`, `[{"data":1},2]`, `[{"data":1},{"event":"a b"}]`, `[{"data":1},{"exclude":7}]`, `[{"data":01}]`, "[{\"data\":\"\xff\"}]",
		`[` + strings.Repeat(`{},`, 1000) + `{}]`,
	}
	const counter = "fairlead_gateway_malformed_messages_total"
	before := metric(t, admin, counter)
	for _, subject := range []string{"fl.topic." + topic, "fl.user.ann", "fl.conn." + r.conn} {
		for _, body := range bad {
			tell(t, worker, subject, "message", body, "Fl-Batch", "1")
		}
		reply, err := worker.RequestMsg(&nats.Msg{Subject: "fl.user.ann", Header: nats.Header{"Fl-Batch": {"1"}}, Data: []byte(`[1]`)}, patience)
		must(t, err)
		if got, want := reply.Header.Get("Nats-Service-Error-Code"), string(wire.InvalidArgument); got != want {
			t.Errorf("a request with a malformed batch: got %q %s, want %s", got, reply.Data, want)
		}
		direct := `,"direct":true`
		if subject == "fl.topic."+topic {
			direct = ""
		}
		tell(t, worker, subject, "good", `[{"data":1}]`, "Fl-Batch", "true") // not the value that counts
		if got := r.read(); !strings.HasSuffix(got, `"event":"good","data":[{"data":1}]`+direct+`}`) {
			t.Fatalf("%s: got %s, want the message as it is", subject, got)
		}
	}
	if got, want := metric(t, admin, counter)-before, 3*(len(bad)+1); got != want {
		t.Errorf("%d counted as malformed, want %d", got, want)
	}
	s.gateways[0].line(s.gateways[0].stderr, "malformed batch")
}

// More than an array holds comes in several, in order.
func TestALargeBatch(t *testing.T) {
	t.Parallel()
	s := openStack(t, 1)
	worker := s.worker()
	topic := unique("board")
	r := newRecipient(t, s.url(0), "ann", "fairlead.v1", topic)
	for _, pad := range []int{0, 700} {
		var events []string
		for i := range 1000 {
			events = append(events, fmt.Sprintf(`{"data":{"n":%d,"pad":"%s"}}`, i, strings.Repeat("x", pad)))
		}
		batch(t, worker, "fl.topic."+topic, events)
		for n := 0; n < len(events); {
			frames, err := wire.DecodeServer([]byte(r.read()))
			must(t, err)
			if len(frames) > wire.MaxFrames {
				t.Fatalf("%d frames in one message", len(frames))
			}
			for _, f := range frames {
				var v struct{ N int }
				must(t, json.Unmarshal(f.Data, &v))
				if v.N != n {
					t.Fatalf("got event %d, want %d", v.N, n)
				}
				n++
			}
		}
	}
}

// Direct messages come in batches too; a request to a client is one request.
func TestABatchToAUserAndAConnection(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	worker := s.worker()
	a, b := newRecipient(t, s.url(0), "ann", "fairlead.v1"), newRecipient(t, s.url(1), "ann", "")
	frame := func(data string) string {
		return fmt.Sprintf(`{"topic":"orders","event":"message","data":%s,"from":"shop","direct":true}`, data)
	}
	events := []string{`{"data":1}`, `{"data":2,"exclude":"` + b.conn + `"}`, `{"data":3}`}
	batch(t, worker, "fl.user.ann", events, "Fl-Topic", "orders", "Fl-User", "shop", "Fl-Coalesce", "ignored")
	a.gets("by user", true, frame("1"), frame("2"), frame("3"))
	b.gets("by user", false, frame("1"), frame("3"))
	batch(t, worker, "fl.conn."+a.conn, events, "Fl-Topic", "orders", "Fl-User", "shop")
	a.gets("by connection", true, frame("1"), frame("2"), frame("3"))

	c := s.as(0, "bob")
	got := make(chan string, 1)
	c.Serve("confirm", func(_ context.Context, r client.Request) (any, error) {
		got <- string(r.Data)
		return true, nil
	})
	msg := nats.NewMsg("fl.conn." + c.Welcome().Conn)
	msg.Header.Set("Fl-Event", "confirm")
	msg.Header.Set("Fl-Batch", "1")
	msg.Data = []byte(`[{"data":1}]`)
	reply, err := worker.RequestMsg(msg, patience)
	must(t, err)
	if asked := receive(t, got); asked != `[{"data":1}]` || string(reply.Data) != "true" {
		t.Errorf("a request: the client got %s, the worker %s", asked, reply.Data)
	}
}

// A topic that is kept stores one message, and delivers it as it is.
func TestABatchOnAReplayedTopicIsOneMessage(t *testing.T) {
	t.Parallel()
	s := anyReplayed(t, 100, 1)
	worker := s.worker()
	topic := unique("chat")
	live := subscribe(t, s.as(0, "ann"), topic)
	body := `[{"event":"a","data":1},{"event":"b","data":2}]`
	tell(t, worker, "fl.topic."+topic, "both", body, "Fl-Batch", "1")
	if m := next(t, live); m.Event != "both" || string(m.Data) != body || m.Seq == 0 {
		t.Errorf("live: got %s %s at %d, want both as they are", m.Event, m.Data, m.Seq)
	}
	past := resume(t, s.as(0, "bob"), topic, wire.Position{})
	if m := next(t, past); m.Event != "both" || string(m.Data) != body {
		t.Errorf("later: got %s %s, want both as they are", m.Event, m.Data)
	}
}

// What a client publishes at once are messages of their own for a worker, in
// order, and the results come in order too.
func TestTheBatchOfAClientKeepsItsOrder(t *testing.T) {
	t.Parallel()
	const messages = 300
	s := newStack(t, 0)
	rules := rulesFile(t, "topics:\n  - {match: \"shut.>\", subscribe: user, publish: none}\n  - {match: \">\", subscribe: user, publish: user}\n")
	for range 2 {
		s.add("FAIRLEAD_TOPICS_FILE=" + rules)
	}
	topic := unique("board")
	ann := s.as(0, "ann")
	subs := []*client.Subscription{subscribe(t, ann, topic), subscribe(t, s.as(1, "bob"), topic)}
	worker := listen(t, s.worker(), "fl.topic."+topic)
	var batch []any
	var results []string
	for i := range messages {
		at := topic
		result := "{}"
		if i%100 == 50 {
			at, result = "shut.x", "PERMISSION_DENIED"
		}
		batch = append(batch, map[string]any{"topic": at, "event": "n", "data": i})
		results = append(results, result)
	}
	raw, err := ann.Request(within(t), "batch", map[string]any{"messages": batch})
	must(t, err)
	var answer struct{ Results []json.RawMessage }
	must(t, json.Unmarshal(raw, &answer))
	got := make([]string, len(answer.Results))
	for i, r := range answer.Results {
		got[i] = string(r)
		if strings.Contains(got[i], "PERMISSION_DENIED") {
			got[i] = "PERMISSION_DENIED"
		}
	}
	if !slices.Equal(got, results) {
		t.Fatalf("results: got %v, want %v", got, results)
	}
	for i := range messages {
		if i%100 == 50 {
			continue
		}
		want := fmt.Sprint(i)
		for _, sub := range subs {
			if m := next(t, sub); string(m.Data) != want || m.Event != "n" {
				t.Fatalf("got %s %s, want %s", m.Event, m.Data, want)
			}
		}
		if m := hear(t, worker); string(m.Data) != want || m.Header.Get("Fl-Batch") != "" || m.Header.Get("Fl-User") != "ann" {
			t.Fatalf("on the bus: got %s with %v, want %s", m.Data, m.Header, want)
		}
	}
}
