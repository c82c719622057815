//go:build browser

package integration

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
)

const targetedRules = `
topics:
  - {match: "secret.>", subscribe: none, publish: none}
  - {match: "doc.>", subscribe: user, publish: user, cursors: {}}
  - {match: "chat.>", subscribe: user, publish: user, replay: {ttl: 1h}, cursors: {}}
  - {match: ">", subscribe: user, publish: user}
calls:
  - {match: ">", allow: user}
`

// page is the JavaScript client of a user on a gateway.
func (s *stack) page(i int, user string) *script {
	s.t.Helper()
	p := browse(s.t, s.url(i), user, nil)
	p.do("inbox", nil)
	p.state("open")
	return p
}

// state waits for a state of the client.
func (s *script) state(want string) happening {
	s.t.Helper()
	for {
		if e := s.await("state"); e.State == want {
			return e
		}
	}
}

// control asks every gateway for something as an operator does, and returns how
// many connections it was done to.
func control(t *testing.T, nc *nats.Conn, subject, body string, gateways int) int {
	t.Helper()
	msg := nats.NewMsg(subject)
	msg.Data = []byte(body)
	return poll(t, nc, msg, gateways).reached
}

// What a page's functions answer reaches whoever asked its user: data, errors
// with their code and message, and that there is no such function.
func TestJSClientIsAskedAndAnswers(t *testing.T) {
	t.Parallel()
	s := newStack(t, 2)
	startPresence(t, s.nats)
	ann := s.page(0, "ann")
	nc := s.worker()
	ask := func(event, data string) (string, string, string) {
		t.Helper()
		msg := nats.NewMsg("fl.ask.ann")
		msg.Header.Set("Fl-Event", event)
		msg.Data = []byte(data)
		reply, err := nc.RequestMsg(msg, patience)
		must(t, err)
		return string(reply.Data), reply.Header.Get("Nats-Service-Error-Code"), reply.Header.Get("Nats-Service-Error")
	}
	ann.do("serve", map[string]any{"event": "confirm", "answers": "yes"})
	ann.do("serve", map[string]any{"event": "refuse", "code": "ABORTED", "message": "not now"})
	ann.do("serve", map[string]any{"event": "never"})
	eventually(t, "the page serves", func() (any, bool) {
		got, code, _ := ask("confirm", `{"n":1}`)
		return got + code, got == `{"answers":"yes","data":{"n":1}}`
	})
	if _, code, text := ask("refuse", `1`); code != "ABORTED" || text != "not now" {
		t.Errorf("refuse: got %s, %q", code, text)
	}
	if _, code, _ := ask("nothing", `1`); code != "UNIMPLEMENTED" {
		t.Errorf("an event that nobody serves: got %s", code)
	}

	// Of two pages the newest answers; without it the other one does.
	newest := s.page(1, "ann")
	newest.do("serve", map[string]any{"event": "confirm", "answers": "newest"})
	eventually(t, "the newest page is asked", func() (any, bool) {
		got, code, _ := ask("confirm", `2`)
		return got + code, got == `{"answers":"newest","data":2}`
	})
	newest.leave()
	eventually(t, "the other page is asked", func() (any, bool) {
		got, code, _ := ask("confirm", `3`)
		return got + code, got == `{"answers":"yes","data":3}`
	})

	// A page that goes while it thinks is an error at once.
	lost := make(chan string, 1)
	go func() {
		_, code, _ := ask("never", `1`)
		lost <- code
	}()
	for ann.await("asked").Event != "never" {
	}
	ann.leave()
	if got, want := receive(t, lost), "UNAVAILABLE"; got != want {
		t.Errorf("a page that goes while it is asked: got %s, want %s", got, want)
	}
	if _, code, _ := ask("confirm", `4`); code != "NOT_FOUND" {
		t.Errorf("nobody is there: got %s", code)
	}
}

// Direct messages reach the inbox of every page of the user, and the listeners
// of a topic that they name.
func TestJSClientHearsDirectMessages(t *testing.T) {
	t.Parallel()
	s := newStack(t, 2)
	pages := []*script{s.page(0, "ann"), s.page(1, "ann"), s.page(1, "bob")}
	for _, p := range pages {
		p.subscribe("orders", "")
	}
	nc := s.worker()
	msg := nats.NewMsg("fl.user.ann")
	msg.Header.Set("Fl-Event", "shipped")
	msg.Header.Set("Fl-Topic", "orders")
	msg.Data = []byte(`{"order":7}`)
	must(t, nc.PublishMsg(msg))
	for _, p := range pages[:2] {
		if e := p.await("direct"); e.Event != "shipped" || e.Topic != "orders" || fmt.Sprint(e.Data) != "map[order:7]" {
			t.Errorf("the inbox heard %+v", e)
		}
		if e := p.await("message"); fmt.Sprint(e.Data) != "map[order:7]" {
			t.Errorf("the topic heard %+v", e)
		}
	}
	must(t, nc.Publish("fl.user.bob", []byte(`1`)))
	if e := pages[2].await("direct"); e.Event != "message" || fmt.Sprint(e.Data) != "1" {
		t.Errorf("Bob hears first %+v", e)
	}
}

// A call's progress has what the worker said, and an abort reaches the worker.
func TestJSClientHearsProgressAndCancels(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1)
	nc := s.worker()
	calls := listen(t, nc, "fl.call.report.build")
	ann := s.page(0, "ann")
	begin := func(id string) *nats.Msg {
		t.Helper()
		ann.do("call", map[string]any{"method": "report.build", "id": id, "data": map[string]int{"pages": 2}})
		call := hear(t, calls)
		progress := nats.NewMsg(call.Reply)
		progress.Header.Set("Fl-Progress", "1")
		for page := 1; page <= 2; page++ {
			progress.Data = fmt.Appendf(nil, `{"page":%d}`, page)
			must(t, nc.PublishMsg(progress))
			if e := ann.await("progress"); e.ID != id || fmt.Sprint(e.Data) != fmt.Sprintf("map[page:%d]", page) {
				t.Errorf("%s: progress %+v", id, e)
			}
		}
		return call
	}
	call := begin("one")
	must(t, nc.Publish(call.Reply, []byte(`"done"`)))
	if e := ann.await("answered"); e.ID != "one" || e.Data != "done" {
		t.Errorf("answered %+v", e)
	}
	call = begin("two")
	cancelled := listen(t, nc, call.Header.Get("Fl-Cancel"))
	ann.do("abort", map[string]any{"id": "two"})
	if e := ann.await("failed"); e.ID != "two" || e.Code != "CANCELLED" {
		t.Errorf("failed %+v", e)
	}
	hear(t, cancelled)
}

// Cursors pass between pages on two gateways, on topics that are kept too; a
// hundred moves are far fewer frames, and the last one counts.
func TestJSClientCursors(t *testing.T) {
	t.Parallel()
	rules := rulesFile(t, targetedRules)
	s := newStack(t, 2, "FAIRLEAD_TOPICS_FILE="+rules)
	startReplay(t, s.nats, rules)
	ann, bob := s.page(0, "ann"), s.page(1, "bob")
	for _, topic := range []string{"doc.7", "chat.7"} {
		sees := func(p *script, want map[string]any) (n int) {
			t.Helper()
			var last any
			for n = 1; ; n++ {
				e := p.await("cursors")
				if e.Topic != topic {
					t.Fatalf("cursors of %s", e.Topic)
				}
				if last = e.Data; cmp.Equal(last, any(want)) {
					return n
				}
			}
		}
		for _, p := range []*script{ann, bob} {
			p.do("cursors", map[string]any{"topic": topic})
			sees(p, map[string]any{})
		}
		for i := 1; i <= 100; i++ {
			ann.do("move", map[string]any{"topic": topic, "data": i})
		}
		for _, p := range []*script{ann, bob} { // one's own is among them
			if n := sees(p, map[string]any{"ann": 100.0}); n > 50 {
				t.Errorf("%s: %d changes for 100 moves at once", topic, n)
			}
		}
		bob.do("move", map[string]any{"topic": topic, "data": map[string]int{"x": 1}})
		sees(ann, map[string]any{"ann": 100.0, "bob": map[string]any{"x": 1.0}})
		ann.do("move", map[string]any{"topic": topic, "data": nil})
		sees(bob, map[string]any{"bob": map[string]any{"x": 1.0}})
		sees(ann, map[string]any{"bob": map[string]any{"x": 1.0}})
	}
}

// What an operator does to a page: subscribes it where it may not, ends that,
// wants a newer token, and disconnects it for good.
func TestJSClientObeysOperators(t *testing.T) {
	t.Parallel()
	const gateways = 2
	s := newStack(t, gateways, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, targetedRules))
	nc := s.worker()
	ann := s.page(0, "ann")
	system := func(event, topic string) {
		t.Helper()
		if e := ann.await("system"); e.Event != event || e.Topic != topic {
			t.Errorf("system %+v, want %s of %q", e, event, topic)
		}
	}
	tell := func(fields map[string]any) {
		t.Helper()
		body, err := json.Marshal(fields)
		must(t, err)
		if got, want := control(t, nc, "fl.control.user.ann", string(body), gateways), 1; got != want {
			t.Errorf("%s: reached %d, want %d", body, got, want)
		}
	}
	ann.do("subscribe", map[string]any{"topic": "secret.plan"})
	if e := ann.await("denied"); e.Code != "PERMISSION_DENIED" {
		t.Errorf("denied %+v", e)
	}
	tell(map[string]any{"action": "subscribe", "topic": "secret.plan"})
	ann.await("subscribed")
	system("subscribed", "secret.plan")
	must(t, nc.Publish("fl.topic.secret.plan", []byte(`"now"`)))
	if e := ann.await("message"); e.Data != "now" {
		t.Errorf("heard %+v", e)
	}
	tell(map[string]any{"action": "unsubscribe", "topic": "secret.plan"})
	ann.await("denied")
	system("unsubscribed", "secret.plan")
	must(t, nc.Publish("fl.topic.secret.plan", []byte(`"later"`)))
	tell(map[string]any{"action": "refresh"})
	system("refresh", "")
	ann.subscribe("doc.1", "")
	must(t, nc.Publish("fl.topic.doc.1", []byte(`"still there"`)))
	if e := ann.await("message"); e.Data != "still there" {
		t.Errorf("heard %+v", e)
	}
	tell(map[string]any{"action": "disconnect", "reason": "enough"})
	if e := ann.state("failed"); e.Code != "PERMISSION_DENIED" || e.Message != "enough" {
		t.Errorf("disconnected: %+v", e)
	}
}
