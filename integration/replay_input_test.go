package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Whoever sends garbage to the replay service hears which field is wrong and
// what it allows, and the service goes on.
func TestGarbageToTheReplayService(t *testing.T) {
	t.Parallel()
	s := replayed(t, natsdev.Test(t), 10, 1)
	nc := s.worker()
	ask := func(endpoint, body string) (data []byte, code, message string) {
		t.Helper()
		reply, err := nc.Request("fl.svc.replay."+endpoint, []byte(body), patience)
		must(t, err)
		return reply.Data, reply.Header.Get("Nats-Service-Error-Code"), reply.Header.Get("Nats-Service-Error")
	}
	for _, endpoint := range []string{"head", "heads", "since", "gap", "publish", "batch", "clear-topic", "topics", "clear"} {
		for _, garbage := range []string{`{`, `garbage`, `[1,2]`, `"x"`, "\xff\xfe\x00", strings.Repeat("[", 100_000), `{"topic":{}}{`, strings.Repeat("x", 900_000)} {
			_, code, message := ask(endpoint, garbage)
			if code != "INVALID_ARGUMENT" || !strings.Contains(message, "must be") {
				t.Errorf("%s %.20q: %s %q; want INVALID_ARGUMENT that says what it must be", endpoint, garbage, code, message)
			}
		}
	}
	for _, c := range []struct{ endpoint, body, field string }{
		{"head", `{}`, "topic"},
		{"clear-topic", `{"topic":"chat.>"}`, "topic"},
		{"since", `{"topic":"chat.a","after":-1}`, "after"},
		{"since", `{"topic":"chat.a","limit":1e9}`, "limit"},
		{"gap", `{"topic":"chat.a","ts":1e300}`, "ts"},
		{"heads", `{"topics":{"a":1}}`, "topics"},
		{"publish", `{"topic":"chat.a","event":"\r\n"}`, "event"},
		{"publish", `{"topic":"chat.a","key":"\u0000"}`, "key"},
		{"batch", `{"messages":[]}`, "messages"},
		{"topics", `{"match":"a b"}`, "match"},
	} {
		data, code, message := ask(c.endpoint, c.body)
		var body struct{ Details struct{ Field string } }
		must(t, json.Unmarshal(data, &body))
		if code != "INVALID_ARGUMENT" || body.Details.Field != c.field || !strings.HasPrefix(message, c.field+": ") {
			t.Errorf("%s %s: %s %q, field %q; want INVALID_ARGUMENT of %s", c.endpoint, c.body, code, message, body.Details.Field, c.field)
		}
	}
	// A reply subject that is no inbox is not answered: it would be published
	// to with the service's rights.
	must(t, nc.PublishRequest("fl.svc.replay.head", "fl.topic.chat.a", []byte(`{"topic":"chat.a"}`)))
	must(t, nc.Flush())
	if data, code, message := ask("since", `{"topic":"chat.a","after":0}`); code != "" || !strings.Contains(string(data), `"messages":[]`) {
		t.Errorf("afterwards: %s, %s %s; want no message", data, code, message)
	}
	if data, code, _ := ask("publish", `{"topic":"chat.a","data":1}`); code != "" || !strings.Contains(string(data), `"seq":1`) {
		t.Errorf("afterwards: %s %s", data, code)
	}
}

// A worker may write any header. Those of the server, of JetStream's replies
// and of Fairlead's own bookkeeping do no harm to who listens or resumes.
func TestForgedHeadersDoNoHarm(t *testing.T) {
	t.Parallel()
	s := anyReplayed(t, 1000, 2)
	topic := unique("chat.room")
	worker := s.worker()
	ann := s.as(0, "ann")
	live, err := ann.Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
	must(t, err)
	start := wire.Position{Seq: live.Position().Seq, Ts: live.Position().Ts}
	forgeries := []nats.Header{
		{"Nats-Sequence": {"1000000"}}, {"Nats-Sequence": {"1"}, "Nats-Last-Sequence": {"0"}, "Nats-Time-Stamp": {"1999-01-01T00:00:00Z"}},
		{"nats-sequence": {"1000000"}, "NATS-LAST-SEQUENCE": {"999999"}, "nats-time-stamp": {"2999-01-01T00:00:00Z"}},
		{"Nats-Stream": {"FL_OTHER"}, "Nats-Subject": {"fl.topic.chat.other"}},
		{"Status": {"404"}}, {"Status": {"503"}}, {"Status": {"100"}}, {"Status": {"409"}, "Description": {"Consumer Deleted"}}, {"status": {"408"}},
		{"Fl-Head": {"1000000"}}, {"Fl-Head": {"x"}}, {"Fl-Conn": {"x"}}, {"Fl-Topic": {"chat.other"}},
		{"Nats-Service-Error-Code": {"INTERNAL"}, "Nats-Service-Error": {"no"}},
		{"Nats-Msg-Id": {topic + "|1"}},
	}
	const empty = "no body" // and therefore null
	n := 0
	for _, h := range forgeries {
		for _, body := range []string{fmt.Sprint(n), empty} {
			msg := &nats.Msg{Subject: "fl.topic." + topic, Header: h, Data: []byte(body)}
			if body == empty {
				msg.Data = nil
				if h.Get("Nats-Msg-Id") != "" {
					msg.Data = []byte("the same id: not stored")
				}
			}
			must(t, worker.PublishMsg(msg))
		}
		n++
	}
	must(t, worker.Flush())
	publish(t, ann, topic, `"end"`)

	read := func(what string, sub *client.Subscription) {
		t.Helper()
		at, got := start, []string(nil)
		for len(got) == 0 || got[len(got)-1] != `"end"` {
			m := next(t, sub)
			if m.Control == "truncated" {
				t.Fatalf("%s: truncated at %v: %s", what, at, m.Raw)
			}
			if m.Prev > at.Seq || m.Seq != at.Seq+1 || m.Ts < at.Ts {
				t.Fatalf("%s: seq %d (prev %d) ts %d behind %v", what, m.Seq, m.Prev, m.Ts, at)
			}
			at = wire.Position{Seq: m.Seq, Ts: m.Ts}
			got = append(got, string(m.Data))
		}
		var want []string
		for i := range forgeries {
			want = append(want, fmt.Sprint(i))
			if i < len(forgeries)-1 {
				want = append(want, "null")
			}
		}
		if want = append(want, `"end"`); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\ngot  %v\nwant %v", what, got, want)
		}
	}
	read("live", live)
	// Another gateway has none of it in memory.
	read("resumed", resume(t, s.as(1, "bob"), topic, start))
	raw, err := s.as(1, "eve").Request(within(t), "gap", map[string]any{"op": "gap", "topic": topic, "after": start.Seq, "ts": start.Ts})
	must(t, err)
	if !strings.Contains(string(raw), `"truncated":false`) {
		t.Errorf("gap: %s", raw)
	}
}

// A clear that is forged is a clear of what came before it, and no more: whoever
// may publish on the topic says what is on it.
func TestAForgedClearIsAMarkerOnly(t *testing.T) {
	t.Parallel()
	s := anyReplayed(t, 100, 1)
	topic, other := unique("chat.room"), unique("chat.room")
	ann := s.as(0, "ann")
	for i := range 3 {
		publish(t, ann, topic, fmt.Sprint(i))
		publish(t, ann, other, fmt.Sprint(i))
	}
	sub, err := ann.Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
	must(t, err)
	worker := s.worker()
	must(t, worker.PublishMsg(&nats.Msg{Subject: "fl.topic." + topic, Header: nats.Header{"Fl-Clear": {"1"}}, Data: []byte("x")}))
	must(t, worker.Flush())
	publish(t, ann, topic, `"after"`)
	if m := next(t, sub); m.Control != "truncated" {
		t.Errorf("got %s, want truncated", m.Raw)
	}
	if m := next(t, sub); m.Control != "skip" {
		t.Errorf("got %s, want the marker as a skip", m.Raw)
	}
	if m := next(t, sub); string(m.Data) != `"after"` {
		t.Errorf("got %s, want the message after the clear", m.Raw)
	}
	history := func(topic string) int {
		t.Helper()
		raw, err := ann.Request(within(t), "history", map[string]any{"op": "history", "topic": topic, "after": 0})
		must(t, err)
		var ok struct{ Messages []json.RawMessage }
		must(t, json.Unmarshal(raw, &ok))
		return len(ok.Messages)
	}
	if got := history(topic); got != 1 {
		t.Errorf("the topic has %d messages, want the one after the clear", got)
	}
	if got := history(other); got != 3 {
		t.Errorf("the other topic has %d messages, want 3", got)
	}
}

// What comes on fl.seq without the server's numbers was not stored: nobody is
// sent it.
func TestUnnumberedMessagesAreDropped(t *testing.T) {
	t.Parallel()
	s := replayed(t, natsdev.Test(t), 100, 1)
	topic := unique("chat.room")
	ann := s.as(0, "ann")
	sub, err := ann.Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
	must(t, err)
	worker := s.worker()
	stamp := time.Now().Format(time.RFC3339Nano)
	for _, h := range []nats.Header{
		nil,
		{"Nats-Sequence": {"1"}},
		{"Nats-Last-Sequence": {"0"}},
		{"Nats-Sequence": {"1"}, "Nats-Last-Sequence": {"0"}},
		{"Nats-Sequence": {"1"}, "Nats-Time-Stamp": {stamp}},
		{"Nats-Last-Sequence": {"0"}, "Nats-Time-Stamp": {stamp}},
		{"Nats-Sequence": {"0"}, "Nats-Last-Sequence": {"0"}, "Nats-Time-Stamp": {stamp}},
		{"Nats-Sequence": {"x"}, "Nats-Last-Sequence": {"0"}, "Nats-Time-Stamp": {stamp}},
		{"Nats-Sequence": {"1"}, "Nats-Last-Sequence": {"-1"}, "Nats-Time-Stamp": {stamp}},
		{"Nats-Sequence": {"1"}, "Nats-Last-Sequence": {"0"}, "Nats-Time-Stamp": {"now"}},
		{"Fl-Head": {"5"}}, {"Fl-Head": {"-5"}}, {"Fl-Head": {"x"}}, {"Fl-Clear": {"1"}},
	} {
		must(t, worker.PublishMsg(&nats.Msg{Subject: "fl.seq." + topic, Header: h, Data: []byte(`"forged"`)}))
	}
	must(t, worker.Flush())
	publish(t, ann, topic, `"stored"`)
	if m := next(t, sub); string(m.Data) != `"stored"` || m.Seq != 1 {
		t.Errorf("got %s, want the stored message", m.Raw)
	}
}

// The largest messages that NATS takes are read as they were published, as far
// as an answer can hold them; what can't is said, and does not stop the rest.
func TestLargeMessagesAreReadable(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	s := &stack{t: t, nats: server.ClientURL()}
	file := rulesFile(t, `
topics:
  - {name: chat, match: "chat.>", subscribe: user, publish: user, replay: {size: 100, ttl: 1h, maxMessageBytes: 1MiB}}
`)
	startReplay(t, s.nats, file)
	s.add("FAIRLEAD_TOPICS_FILE=" + file)
	s.add("FAIRLEAD_TOPICS_FILE=" + file)
	worker := s.worker()
	most := int(worker.MaxPayload())
	topic := unique("chat.room")
	publications := [][]byte{
		[]byte(`"` + strings.Repeat("x", most-4<<10) + `"`),
		bytes.Repeat([]byte{0xff}, 700<<10),
		bytes.Repeat([]byte{1}, 150<<10), // six bytes each in JSON
		bytes.Repeat([]byte{2}, 150<<10),
		[]byte(`"end"`),
	}
	for _, p := range publications {
		_, err := worker.Request("fl.topic."+topic, p, patience)
		must(t, err)
	}
	sub := resume(t, s.as(0, "ann"), topic, wire.Position{})
	for i, want := range publications {
		m := next(t, sub)
		if m.Control != "" || m.Seq != int64(i+1) {
			t.Fatalf("message %d: got %.200s", i, m.Raw)
		}
		if got := payload(t, m.Raw); !bytes.Equal(got, want) {
			t.Errorf("message %d: %d bytes, want %d", i, len(got), len(want))
		}
	}
	// Larger than any answer: the client is told, and goes on with what is live.
	topic = unique("chat.room")
	for _, p := range [][]byte{[]byte(`1`), bytes.Repeat([]byte{0xff}, most-4<<10)} {
		_, err := worker.Request("fl.topic."+topic, p, patience)
		must(t, err)
	}
	reply, err := worker.Request("fl.svc.replay.since", fmt.Appendf(nil, `{"topic":%q,"after":6}`, topic), patience)
	must(t, err)
	if code := reply.Header.Get("Nats-Service-Error-Code"); code != "RESOURCE_EXHAUSTED" || !strings.Contains(string(reply.Data), `"seq":7`) {
		t.Errorf("got %s %s, want RESOURCE_EXHAUSTED of 7", code, reply.Data)
	}
	sub = resume(t, s.as(1, "bob"), topic, wire.Position{})
	if m := next(t, sub); string(m.Data) != "1" {
		t.Errorf("got %.200s, want 1", m.Raw)
	}
	if m := next(t, sub); m.Control != "truncated" || !strings.Contains(string(m.Raw), `"missingFrom":7`) {
		t.Errorf("got %.200s, want truncated from 7", m.Raw)
	}
	must(t, worker.Publish("fl.topic."+topic, []byte(`3`)))
	if m := next(t, sub); string(m.Data) != "3" {
		t.Errorf("got %.200s, want 3", m.Raw)
	}
	if status, body := get(t, s.gateways[1].http("/readyz")); status != http.StatusOK {
		t.Errorf("readyz: %d %s", status, body)
	}
}

// payload returns what a frame carries.
func payload(t *testing.T, frame []byte) []byte {
	t.Helper()
	frames, err := wire.DecodeServer(frame)
	must(t, err)
	p, err := frames[0].Payload()
	must(t, err)
	return p
}
