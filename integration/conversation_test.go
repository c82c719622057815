package integration

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// The main job: whoever speaks WebSocket and whoever speaks NATS are in one
// conversation, whatever gateway they are on.
func TestBrowsersOnTwoGatewaysAndPlainNATSShareOneConversation(t *testing.T) {
	t.Parallel()
	s := anyStack(t, 2)
	converse(t, s.as(0, "ann"), s.as(1, "bob"), s.worker())
}

func TestDevIsOneConversationToo(t *testing.T) {
	t.Parallel()
	g, natsURL := startDev(t)
	converse(t, dial(t, g.ws(), client.Options{Token: token("ann", nil)}), dial(t, g.ws(), client.Options{Token: token("bob", nil)}), connect(t, natsURL))
}

func converse(t *testing.T, ann, bob *client.Client, worker *nats.Conn) {
	t.Helper()
	topic := unique("chat.room")
	subject := "fl.topic." + topic
	atAnn, atBob, atWorker := subscribe(t, ann, topic), subscribe(t, bob, topic), listen(t, worker, subject)
	everywhere := func(from, data string) {
		t.Helper()
		expect(t, atAnn, from, data)
		expect(t, atBob, from, data)
		m := hear(t, atWorker)
		if got := string(m.Data); got != data {
			t.Fatalf("on the bus: got %s, want %s", got, data)
		}
		if got := m.Header.Get("Fl-User"); got != from {
			t.Fatalf("Fl-User on the bus: got %q, want %q", got, from)
		}
	}

	publish(t, ann, topic, `{"text":"hi, I am Ann",  "n":1.50}`) // odd spacing: bytes pass as they are
	everywhere("ann", `{"text":"hi, I am Ann",  "n":1.50}`)
	publish(t, bob, topic, `{"text":"hi Ann"}`)
	everywhere("bob", `{"text":"hi Ann"}`)
	must(t, worker.Publish(subject, []byte(`{"text":"hi both"}`)))
	everywhere("", `{"text":"hi both"}`)
	must(t, worker.Publish(subject, []byte("plain text")))
	everywhere("", "plain text")
	must(t, worker.Publish(subject, []byte{0xff, 0x00, 0xfe}))
	everywhere("", "\xff\x00\xfe")

	_, err := ann.Publish(within(t), topic, "typing", nil, client.PublishOptions{NoEcho: true})
	must(t, err)
	if m := next(t, atBob); m.Event != "typing" || string(m.Data) != "null" {
		t.Fatalf("got event %q data %s, want typing null", m.Event, m.Data)
	}
	publish(t, bob, topic, `"after"`)
	expect(t, atBob, "bob", `"after"`)
	expect(t, atAnn, "bob", `"after"`) // and not the one she sent with echo off

	workerServesBoth(t, ann, bob, worker)
	workerReachesOne(t, ann, bob, worker)
}

// workerServesBoth calls a method that a plain NATS worker answers.
func workerServesBoth(t *testing.T, ann, bob *client.Client, worker *nats.Conn) {
	t.Helper()
	method := unique("greet")
	_, err := worker.Subscribe("fl.call."+method, func(m *nats.Msg) {
		answer, err := json.Marshal(map[string]string{"user": m.Header.Get("Fl-User"), "data": string(m.Data)})
		if err == nil {
			err = m.Respond(answer)
		}
		if err != nil {
			t.Errorf("answer a call: %v", err)
		}
	})
	must(t, err)
	flush(t, worker)
	for user, c := range map[string]*client.Client{"ann": ann, "bob": bob} {
		answer, err := c.Call(within(t), method, json.RawMessage(`[1, 2]`), client.CallOptions{})
		must(t, err)
		if diff := cmp.Diff(`{"data":"[1, 2]","user":"`+user+`"}`, string(answer.Data)); diff != "" {
			t.Fatalf("answer to %s (-want +got):\n%s", user, diff)
		}
	}
}

// workerReachesOne sends to one user only, and asks one connection.
func workerReachesOne(t *testing.T, ann, bob *client.Client, worker *nats.Conn) {
	t.Helper()
	toAnn, toBob := make(chan client.Message, 8), make(chan client.Message, 8)
	ann.Inbox(func(m client.Message) { toAnn <- m })
	bob.Inbox(func(m client.Message) { toBob <- m })
	for _, user := range []string{"ann", "bob"} {
		msg := nats.NewMsg("fl.user." + user)
		msg.Header.Set("fl-event", "whisper") // any case
		msg.Data = []byte(`"for ` + user + `"`)
		must(t, worker.PublishMsg(msg))
	}
	for user, inbox := range map[string]chan client.Message{"ann": toAnn, "bob": toBob} {
		m := receive(t, inbox)
		if m.Event != "whisper" || string(m.Data) != `"for `+user+`"` || !m.Direct {
			t.Fatalf("direct message to %s: got %+v", user, m)
		}
	}
	bob.Serve("confirm", answerWith(`{"answer":"yes"}`))
	msg := nats.NewMsg("fl.conn." + bob.Welcome().Conn)
	msg.Header.Set("Fl-Event", "confirm")
	reply, err := worker.RequestMsg(msg, patience)
	must(t, err)
	if got, want := string(reply.Data), `{"answer":"yes"}`; got != want {
		t.Fatalf("bob's answer: got %s, want %s", got, want)
	}
}
