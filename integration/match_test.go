package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// spoken is what gateways say to a request that all of them answer.
type spoken struct {
	reached int
	codes   []string // of errors
	texts   []string
}

// poll publishes a request and returns what n gateways say; that there are no
// more answers is for the caller to see by [silent].
func poll(t *testing.T, nc *nats.Conn, msg *nats.Msg, n int) (said spoken) {
	t.Helper()
	answers := listen(t, nc, nc.NewInbox())
	msg.Reply = answers.Subject
	must(t, nc.PublishMsg(msg))
	for range n {
		m := hear(t, answers)
		if code := m.Header.Get("Nats-Service-Error-Code"); code != "" {
			said.codes = append(said.codes, code)
			said.texts = append(said.texts, m.Header.Get("Nats-Service-Error"))
			continue
		}
		var body struct{ Reached *int }
		if err := json.Unmarshal(m.Data, &body); err != nil || body.Reached == nil {
			t.Fatalf("the answer to %s: %q, want reached", msg.Subject, m.Data)
		}
		said.reached += *body.Reached
	}
	return said
}

// matching is a message for whoever matches.
func matching(criteria, event, data string) *nats.Msg {
	msg := nats.NewMsg("fl.match")
	msg.Header.Set("Fl-Match", criteria)
	msg.Header.Set("Fl-Event", event)
	msg.Data = []byte(data)
	return msg
}

// target is a client with attributes and what it was sent.
type target struct {
	*client.Client
	user  string
	inbox chan client.Message
}

func (s *stack) target(gateway int, user string, attributes map[string]any) *target {
	s.t.Helper()
	claims := map[string]any{}
	if attributes != nil {
		claims["attributes"] = attributes
	}
	c := &target{Client: dial(s.t, s.url(gateway), client.Options{Token: token(user, claims)}), user: user, inbox: make(chan client.Message, 64)}
	c.Inbox(func(m client.Message) { c.inbox <- m })
	return c
}

// until reads what the target was sent until a message with this event, which the
// test sends last.
func (c *target) until(t *testing.T, event string) (events []string) {
	t.Helper()
	for {
		m := receive(t, c.inbox)
		if !m.Direct {
			t.Errorf("%s: %s is no direct message", c.user, m.Event)
		}
		if m.Event == event {
			return events
		}
		events = append(events, m.Event)
	}
}

// A message for {role: admin, region: eu} reaches exactly the sockets that have
// both, wherever they are; how many is the sum of what the gateways say.
func TestMatchReachesExactlyWhoHasTheAttributes(t *testing.T) {
	t.Parallel()
	s := openStack(t, 3)
	gateways := s.size()
	worker, operator := s.worker(), s.operator()
	var all []*target
	want := map[string][]string{}
	add := func(user string, attributes map[string]any, events ...string) {
		all = append(all, s.target(len(all), user, attributes))
		want[user] = events
	}
	for i := range 4 {
		add(fmt.Sprint("admin-eu-", i), map[string]any{"role": "admin", "region": "eu", "level": 3}, "both", "role", "three")
	}
	add("admin-us", map[string]any{"role": "admin", "region": "us"}, "role")
	add("admin-nowhere", map[string]any{"role": "admin"}, "role")
	add("guest-eu", map[string]any{"role": "guest", "region": "eu", "beta": true}, "beta")
	add("upper", map[string]any{"role": "Admin", "region": "EU", "level": "3"}, "three")
	add("crossed", map[string]any{"role": "eu", "region": "admin", "level": 3.5})
	add("nested", map[string]any{"role": map[string]any{"role": "admin"}, "region": nil, "beta": []any{true}})
	add("nobody", nil)

	both := 0
	for _, m := range []struct {
		criteria, event string
		reached         int
	}{
		{`{"role":"admin","region":"eu"}`, "both", 4},
		{`{"role":"admin"}`, "role", 6},
		{`{"level":3}`, "three", 5},
		{`{"beta":true}`, "beta", 1},
		{`{"role":"admin","region":"mars"}`, "none", 0},
		{`{"unheard":"of"}`, "none", 0},
		{`{"role":"admin","level":3,"region":"us"}`, "none", 0},
	} {
		if said := poll(t, operator, matching(m.criteria, m.event, `1`), gateways); said.reached != m.reached || said.codes != nil {
			t.Errorf("%s: %+v, want %d reached", m.criteria, said, m.reached)
		}
		both += m.reached
	}
	got := 0
	for _, c := range all {
		end := nats.NewMsg("fl.conn." + c.Welcome().Conn)
		end.Header.Set("Fl-Event", "end")
		must(t, worker.PublishMsg(end))
		events := c.until(t, "end")
		if fmt.Sprint(events) != fmt.Sprint(want[c.user]) {
			t.Errorf("%s got %v, want %v", c.user, events, want[c.user])
		}
		got += len(events)
	}
	if got != both {
		t.Errorf("gateways say that they reached %d, and %d came", both, got)
	}
}

// The headers of a direct message count for a match too.
func TestMatchCarriesTheHeadersOfADirectMessage(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	worker := s.operator()
	ann, bob := s.target(0, "ann", map[string]any{"team": 7}), s.target(1, "bob", map[string]any{"team": 7})
	msg := matching(`{"team":7}`, "shift", `{"a": 1}`)
	msg.Header.Set("Fl-Topic", "rota")
	msg.Header.Set("Fl-Exclude", bob.Welcome().Conn)
	if said := poll(t, worker, msg, s.size()); said.reached != 1 || said.codes != nil {
		t.Errorf("%+v, want 1 reached: bob is excluded", said)
	}
	if m := receive(t, ann.inbox); m.Event != "shift" || m.Topic != "rota" || string(m.Data) != `{"a": 1}` {
		t.Errorf("got %+v", m)
	}
	must(t, worker.PublishMsg(matching(`{"team":7}`, "unasked", `2`))) // without a reply subject
	for _, c := range []*target{ann, bob} {
		if m := receive(t, c.inbox); m.Event != "unasked" {
			t.Errorf("%s: got %s, want unasked", c.user, m.Event)
		}
	}
}

// What a newer token says counts from the answer to refresh on.
func TestATokenRefreshReindexesItsConnection(t *testing.T) {
	t.Parallel()
	s := openStack(t, 1)
	gateways := s.size()
	worker := s.operator()
	ann := s.target(0, "ann", map[string]any{"role": "guest", "region": "eu"})
	counts := func(criteria string, want int) {
		t.Helper()
		if said := poll(t, worker, matching(criteria, "m", `1`), gateways); said.reached != want {
			t.Errorf("%s: %+v, want %d reached", criteria, said, want)
		}
	}
	counts(`{"role":"guest"}`, 1)
	refresh := func(attributes map[string]any) {
		t.Helper()
		_, err := ann.Refresh(within(t), token("ann", map[string]any{"attributes": attributes}))
		must(t, err)
	}
	refresh(map[string]any{"role": "admin", "region": "eu"})
	counts(`{"role":"guest"}`, 0)
	counts(`{"role":"admin"}`, 1)
	counts(`{"role":"admin","region":"eu"}`, 1)
	refresh(nil)
	counts(`{"role":"admin"}`, 0)
	counts(`{"region":"eu"}`, 0)
	refresh(map[string]any{"role": "admin"})
	counts(`{"role":"admin"}`, 1)
	ann.Abort()
	eventually(t, "who has left is not matched", func() (any, bool) {
		said := poll(t, worker, matching(`{"role":"admin"}`, "m", `1`), gateways)
		return said, said.reached == 0
	})
}

// A gateway that starts late matches its own connections, and those of the
// others stay theirs.
func TestAGatewayStartedLateMatches(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1)
	worker := s.worker()
	ann := s.target(0, "ann", map[string]any{"role": "admin"})
	s.add("FAIRLEAD_TOPICS_FILE=" + rulesFile(t, openRules))
	bob := s.target(1, "bob", map[string]any{"role": "admin"})
	if said := poll(t, worker, matching(`{"role":"admin"}`, "late", `1`), 2); said.reached != 2 {
		t.Errorf("%+v, want 2 reached", said)
	}
	for _, c := range []*target{ann, bob} {
		if m := receive(t, c.inbox); m.Event != "late" {
			t.Errorf("%s: got %s", c.user, m.Event)
		}
	}
}

// Criteria that somebody got wrong reach nobody, and a requester hears why.
func TestMatchRefusesCriteriaThatAreWrong(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	gateways := s.size()
	worker := s.operator()
	ann, bob := s.target(0, "ann", map[string]any{"role": "admin"}), s.target(1, "bob", map[string]any{"role": "admin"})
	for _, criteria := range []string{
		"", "{}", "null", "[]", "true", `"role"`, "{", `{"role":"admin"`, `{"role":null}`, `{"role":{"is":"admin"}}`, `{"role":["admin"]}`,
		`{"role":"admin","region":null}`, `{"role":"admin","role":"admin"}`, "role=admin", `{"role":"` + strings.Repeat("a", 5000) + `"}`, "{\"role\":\"\xff\"}",
	} {
		msg := matching(criteria, "wrong", `1`)
		said := poll(t, worker, msg, gateways)
		if said.reached != 0 || len(said.codes) != gateways || said.codes[0] != "INVALID_ARGUMENT" || !strings.Contains(said.texts[0], "Fl-Match") {
			t.Errorf("%.40q: %+v, want INVALID_ARGUMENT of Fl-Match from each", criteria, said)
		}
		msg = matching(criteria, "wrong", `1`)
		must(t, worker.PublishMsg(msg))
	}
	bare := nats.NewMsg("fl.match")
	if said := poll(t, worker, bare, gateways); len(said.codes) != gateways {
		t.Errorf("without the header: %+v, want a refusal from each", said)
	}
	if said := poll(t, worker, matching(`{"role":"admin"}`, "right", `1`), gateways); said.reached != 2 {
		t.Errorf("afterwards: %+v, want 2 reached", said)
	}
	for _, c := range []*target{ann, bob} {
		if m := receive(t, c.inbox); m.Event != "right" {
			t.Errorf("%s: got %s first, want only what is right", c.user, m.Event)
		}
	}
}

// A message with a reply subject that may not be answered is dropped whole, and
// nothing is published there.
func TestMatchAndControlDoNotLendTheirRights(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1)
	worker := s.worker()
	ann := s.target(0, "ann", map[string]any{"role": "admin"})
	topic := unique("lent")
	for _, reply := range []string{"fl.topic." + topic, "fl.user.ann", "$JS.API.STREAM.PURGE.KV_fl_config", "fl.control.user.ann"} {
		spy := listen(t, worker, reply)
		for _, msg := range []*nats.Msg{
			matching(`{"role":"admin"}`, "lent", `1`),
			matching(`{}`, "lent", `1`),
			{Subject: "fl.control.user.ann", Data: []byte(`{"action":"disconnect"}`)},
			{Subject: "fl.control.user.ann", Data: []byte(`{"action":"revoke"}`)},
			{Subject: "fl.control.user.ann", Data: []byte(`{"action":"subscribe","topic":"a"}`)},
			{Subject: "fl.control.user.ann", Data: []byte(`nonsense`)},
			{Subject: "fl.control.conn." + ann.Welcome().Conn, Data: []byte(`{"action":"refresh"}`)},
			{Subject: "fl.control.gateway." + ann.Welcome().Gateway, Data: []byte(`{"action":"drain"}`)},
		} {
			msg.Reply = reply
			must(t, worker.PublishMsg(msg))
		}
		// One good question on each of the ways that these went.
		if said := poll(t, worker, matching(`{"role":"admin"}`, "good", `1`), 1); said.reached != 1 {
			t.Fatalf("afterwards: %+v, want 1 reached: ann was not disconnected", said)
		}
		for _, kind := range []string{"user.nobody", "conn.none"} {
			if said := order(t, worker, kind, `{"action":"unsubscribe","topic":"none"}`, 1); said.reached != 0 || said.codes != nil {
				t.Fatalf("control of %s: %+v", kind, said)
			}
		}
		ordered(t, worker, "gateway."+ann.Welcome().Gateway, `{"action":"renew"}`, 1, 1)
		flush(t, worker)
		heard, err := spy.NextMsg(time.Millisecond)
		for own := 0; err == nil && own < 8; own++ { // the test's own messages
			if strings.Contains(string(heard.Data), "reached") || heard.Header.Get("Nats-Service-Error-Code") != "" {
				t.Errorf("%s: %s was published there", reply, heard.Data)
			}
			heard, err = spy.NextMsg(time.Millisecond)
		}
		if err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		must(t, spy.Unsubscribe())
		if m := receive(t, ann.inbox); m.Event != "good" {
			t.Errorf("with reply subject %s: ann got %s, want nothing but what is good", reply, m.Event)
		}
	}
}
