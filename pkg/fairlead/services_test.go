package fairlead_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// What the services are asked, and what comes of their answers.
func TestServices(t *testing.T) {
	r := start(t, fairlead.Options{})
	ctx := t.Context()
	p, g := r.f.Presence(), r.f.Group("lobby")
	show := func(v any, err error) string {
		data, bad := json.Marshal(v)
		must(t, bad)
		return fmt.Sprint(string(data), " ", err)
	}
	tests := []struct {
		endpoint, want, reply string
		do                    func() string
		got                   string
	}{
		{
			"replay.publish", `{"topic":"chat","event":"e","data":{"a":1},"producer":"p","key":"k"}`, `{"seq":7,"duplicate":true}`,
			func() string {
				return show(r.f.Store(ctx, fairlead.Record{Topic: "chat", Event: "e", Data: raw(`{"a":1}`), Producer: "p", Key: "k"}))
			}, `{"Seq":7,"Duplicate":true,"Err":null} <nil>`,
		}, {
			"replay.batch", `{"messages":[{"topic":"a","data":1},{"topic":"b","data":null}],"atomic":true}`,
			`{"results":[{"seq":1},{"error":{"code":"RESOURCE_EXHAUSTED","message":"full","retryAfterMs":70}}]}`,
			func() string {
				results, err := r.f.StoreBatch(ctx, []fairlead.Record{{Topic: "a", Data: 1}, {Topic: "b"}}, true)
				return fmt.Sprint(results, err)
			}, `[{1 false <nil>} {0 false RESOURCE_EXHAUSTED: full}] <nil>`,
		}, {
			"replay.since", `{"topic":"chat","after":5,"ts":9,"limit":2}`,
			`{"messages":[{"event":"e","data":{"a":1},"seq":6,"prev":5,"ts":10},{"event":"e","text":"x","seq":7,"prev":6,"ts":11}],"seq":9,"ts":12,"truncated":false,"more":true}`,
			func() string {
				page, err := r.f.History(ctx, "chat", fairlead.HistoryOptions{After: wire.Position{Seq: 5, Ts: 9}, Limit: 2})
				return fmt.Sprintf("%s %s %d %d %v %v", page.Messages[0].Payload, page.Messages[1].Payload, page.Messages[1].Seq, page.Head.Seq, page.More, err)
			}, `{"a":1} x 7 9 true <nil>`,
		},
		{"presence.list", `{"topic":"room","limit":2,"cursor":"c"}`, `{"users":{"ann":{"data":1}},"count":1,"rev":3}`, func() string { return show(p.List(ctx, "room", 2, "c")) }, `{"users":{"ann":{"data":1}},"count":1,"rev":3} <nil>`},
		{"presence.count", `{"topic":"room"}`, `{"count":4}`, func() string { return show(p.Count(ctx, "room")) }, `4 <nil>`},
		{"presence.lookup", `{"user":"ann"}`, `{"connections":[{"conn":"c1","gateway":"g","since":1,"order":2}]}`, func() string { return show(p.Lookup(ctx, "ann")) }, `[{"conn":"c1","gateway":"g","since":1,"order":2}] <nil>`},
		{"presence.online", `{"users":["ann","bob"]}`, `{"online":{"ann":true,"bob":false}}`, func() string { return show(p.Online(ctx, "ann", "bob")) }, `{"ann":true,"bob":false} <nil>`},
		{"presence.join", `{"topic":"room","user":"bot","data":{"a":1},"ttl":"1m30s"}`, `{}`, func() string { return fmt.Sprint(p.Join(ctx, "room", "bot", raw(`{"a":1}`), 90*time.Second)) }, `<nil>`},
		{"presence.update", `{"topic":"room","user":"bot","data":2}`, `{}`, func() string { return fmt.Sprint(p.Update(ctx, "room", "bot", 2, 0)) }, `<nil>`},
		{"presence.leave", `{"topic":"room","user":"bot"}`, `{}`, func() string { return fmt.Sprint(p.Leave(ctx, "room", "bot")) }, `<nil>`},
		{"presence.group.create", `{"group":"lobby","meta":{"a":1},"maxMembers":5}`, `{}`, func() string {
			return fmt.Sprint(g.Create(ctx, fairlead.GroupOptions{Meta: raw(`{"a":1}`), MaxMembers: 5}))
		}, `<nil>`},
		{"presence.group.publish", `{"group":"lobby","role":"admin","data":1,"event":"e"}`, `{}`, func() string { return fmt.Sprint(g.Publish(ctx, "e", 1, "admin")) }, `<nil>`},
		{"presence.group.send", `{"group":"lobby","data":1,"event":"e","member":"c1"}`, `{}`, func() string { return fmt.Sprint(g.Send(ctx, "c1", "e", 1)) }, `<nil>`},
		{"presence.group.members", `{"group":"lobby"}`, `{"members":{"c1":{"role":"member"}},"count":1,"meta":null}`, func() string { return show(g.Members(ctx)) }, `{"members":{"c1":{"role":"member"}},"count":1,"meta":null} <nil>`},
		{"presence.group.meta", `{"group":"lobby","meta":3}`, `{"meta":3}`, func() string { return fmt.Sprint(g.SetMeta(ctx, 3)) }, `<nil>`},
		{"presence.group.close", `{"group":"lobby"}`, `{}`, func() string { return fmt.Sprint(g.Close(ctx)) }, `<nil>`},
	}
	for _, test := range tests {
		asked := r.serve("fl.svc."+test.endpoint, body(test.reply))
		if got := test.do(); got != test.got {
			t.Errorf("%s:\n got %s\nwant %s", test.endpoint, got, test.got)
		}
		msg := receive(t, asked)
		if string(msg.Data) != test.want {
			t.Errorf("%s was asked\n     %s\nwant %s", test.endpoint, msg.Data, test.want)
		}
		if msg.Header.Get("Fl-Deadline") == "" {
			t.Errorf("%s was asked without a deadline", test.endpoint)
		}
	}
}

func TestServiceErrors(t *testing.T) {
	r := start(t, fairlead.Options{Timeout: 200 * time.Millisecond})
	ctx := t.Context()
	_, err := r.f.Presence().Count(ctx, "room")
	if e := coded(t, err, wire.Unavailable); e.Details["outcome"] != "none" {
		t.Errorf("no service: details %v, want outcome none", e.Details)
	}
	r.serve("fl.svc.replay.publish", refusal("RESOURCE_EXHAUSTED", "full", `{"retryAfterMs":1500,"details":{"outcome":"none"}}`))
	_, err = r.f.Store(ctx, fairlead.Record{Topic: "chat", Data: 1})
	if e := coded(t, err, wire.ResourceExhausted); e.RetryAfter != 1500*time.Millisecond || e.Details["outcome"] != "none" {
		t.Errorf("the error is %+v, want retryAfter and details of the reply", e)
	}
	r.listen("fl.svc.presence.online") // never answers
	_, err = r.f.Presence().Online(ctx, "ann")
	coded(t, err, wire.DeadlineExceeded)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = r.f.Presence().Online(ended, "ann")
	coded(t, err, wire.Cancelled)
	r.serve("fl.svc.presence.lookup", body(`[`))
	if _, err = r.f.Presence().Lookup(ctx, "ann"); err == nil || wire.CodeOf(err) != wire.Internal {
		t.Errorf("a reply that is none: %v, want an error without a code", err)
	}
}

func TestSubscribeHandsOverMessages(t *testing.T) {
	r := start(t, fairlead.Options{})
	type got struct{ topic, event, user, conn, data string }
	heard := make(chan got, 100)
	_, err := r.f.Subscribe("chat.>", func(_ context.Context, m *fairlead.Message) {
		if string(m.Data) == `"panic"` {
			panic("at the message")
		}
		heard <- got{m.Topic, m.Event, m.User, m.Conn, string(m.Data)}
	}, fairlead.SubscribeOptions{})
	must(t, err)
	publish := func(data string, header nats.Header) {
		t.Helper()
		must(t, r.other.PublishMsg(&nats.Msg{Subject: "fl.topic.chat.lobby", Data: []byte(data), Header: header}))
	}
	publish(`{"text":"hi"}`, nats.Header{"Fl-User": {"ann"}, "Fl-Conn": {"c1"}, "fl-event": {"say"}})
	publish(`"panic"`, nil)
	publish(``, nats.Header{"Fl-Clear": {"7"}})
	publish(`[{"event":"a","data":1},{"data":{"b":2}}]`, nats.Header{"Fl-Batch": {"1"}, "Fl-User": {"bob"}})
	publish(`{`, nats.Header{"Fl-Batch": {"1"}})
	publish(`last`, nil)
	for _, want := range []got{
		{"chat.lobby", "say", "ann", "c1", `{"text":"hi"}`},
		{"chat.lobby", "a", "bob", "", `1`},
		{"chat.lobby", "message", "bob", "", `{"b":2}`},
		{"chat.lobby", "message", "", "", `last`},
	} {
		if got := receive(t, heard); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	_, err = r.f.Subscribe("chat.>.more", func(context.Context, *fairlead.Message) {}, fairlead.SubscribeOptions{})
	coded(t, err, wire.InvalidArgument)
}

func TestSubscribersOfAQueueShare(t *testing.T) {
	r := start(t, fairlead.Options{})
	heard := make(chan string, 100)
	var subs []*fairlead.Subscription
	for range 2 {
		s, err := r.f.Subscribe("chat", func(_ context.Context, m *fairlead.Message) {
			var text string
			if err := m.Decode(&text); err != nil {
				t.Error(err)
			}
			heard <- text
		}, fairlead.SubscribeOptions{Queue: "q"})
		must(t, err)
		subs = append(subs, s)
	}
	for i := range 20 {
		must(t, r.f.Publish(t.Context(), "chat", "", fmt.Sprint(i), fairlead.PublishOptions{}))
	}
	for _, s := range subs {
		must(t, s.Drain(t.Context()))
	}
	seen := map[string]bool{}
	for range len(heard) {
		seen[<-heard] = true
	}
	if len(seen) != 20 {
		t.Errorf("%d of 20 messages came", len(seen))
	}
}

func TestEvents(t *testing.T) {
	r := start(t, fairlead.Options{})
	heard := make(chan fairlead.Lifecycle, 10)
	_, err := r.f.Events("connection.*", func(_ context.Context, e fairlead.Lifecycle) { heard <- e }, fairlead.SubscribeOptions{})
	must(t, err)
	must(t, r.other.Publish("fl.event.backpressure", []byte(`{"at":1}`)))
	must(t, r.other.Publish("fl.event.connection.closed", []byte(`{"at":1760000000000,"gateway":"g","conn":"c1","user":"ann","code":1000}`)))
	e := receive(t, heard)
	if e.What != "connection.closed" || e.At.UnixMilli() != 1760000000000 || e.Gateway != "g" || e.Conn != "c1" || e.User != "ann" || len(e.Body) == 0 {
		t.Errorf("got %+v", e)
	}
}
