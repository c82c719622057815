package fairlead_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// What is sent is what a worker in any language would send.
func TestWhatIsPublished(t *testing.T) {
	r := start(t, fairlead.Options{})
	all := r.listen("fl.>")
	ctx := t.Context()
	tests := []struct {
		name          string
		do            func() error
		subject, data string
		header        nats.Header
	}{
		{
			"publish", func() error { return r.f.Publish(ctx, "chat.lobby", "", order{"<tea>", 2}, fairlead.PublishOptions{}) },
			"fl.topic.chat.lobby", `{"item":"<tea>","count":2}`, nats.Header{},
		}, {
			"publish with options", func() error {
				return r.f.Publish(ctx, "chat.lobby", "notice", raw(`{"a" : 1.0}`), fairlead.PublishOptions{Exclude: "c1", Coalesce: "k"})
			},
			"fl.topic.chat.lobby", `{"a" : 1.0}`, nats.Header{"Fl-Event": {"notice"}, "Fl-Exclude": {"c1"}, "Fl-Coalesce": {"k"}},
		}, {
			"batch", func() error {
				return r.f.PublishBatch(ctx, "board.7", []fairlead.Event{{Name: "moved", Data: 1, Exclude: "c1"}, {Data: nil}})
			},
			"fl.topic.board.7", `[{"event":"moved","data":1,"exclude":"c1"},{"data":null}]`, nats.Header{"Fl-Batch": {"1"}},
		}, {
			"send", func() error {
				return r.f.Send(ctx, "ann@example.com", "incoming", []byte(`"hi"`), fairlead.SendOptions{Topic: "news", Exclude: "c1", Coalesce: "k"})
			},
			"fl.user.ann=40example=2Ecom", `"hi"`, nats.Header{"Fl-Event": {"incoming"}, "Fl-Topic": {"news"}, "Fl-Exclude": {"c1"}, "Fl-Coalesce": {"k"}},
		}, {
			"send to a connection", func() error { return r.f.SendConn(ctx, "c1", "", nil, fairlead.SendOptions{}) },
			"fl.conn.c1", `null`, nats.Header{},
		},
	}
	for _, test := range tests {
		must(t, test.do())
		msg := r.next(all)
		if msg.Subject != test.subject || string(msg.Data) != test.data || fmt.Sprint(msg.Header) != fmt.Sprint(test.header) {
			t.Errorf("%s:\n got %s %s %v\nwant %s %s %v", test.name, msg.Subject, msg.Data, msg.Header, test.subject, test.data, test.header)
		}
	}
	refused := map[string]error{
		"a topic with a wildcard": r.f.Publish(ctx, "chat.*", "", 1, fairlead.PublishOptions{}),
		"an event with a space":   r.f.Publish(ctx, "chat", "a b", 1, fairlead.PublishOptions{}),
		"data that is no JSON":    r.f.Publish(ctx, "chat", "", raw(`{`), fairlead.PublishOptions{}),
		"data that can't be JSON": r.f.Publish(ctx, "chat", "", func() {}, fairlead.PublishOptions{}),
		"a header injection":      r.f.SendConn(ctx, "c", "", 1, fairlead.SendOptions{Topic: "a\r\nFl-User: bob"}),
		"no user":                 r.f.Send(ctx, "", "", 1, fairlead.SendOptions{}),
		"an empty batch":          r.f.PublishBatch(ctx, "chat", nil),
		"a large batch":           r.f.PublishBatch(ctx, "chat", make([]fairlead.Event, fairlead.MaxBatch+1)),
		"more than NATS takes":    r.f.Publish(ctx, "chat", "", strings.Repeat("x", 2<<20), fairlead.PublishOptions{}),
	}
	for name, err := range refused {
		if wire.CodeOf(err) != wire.InvalidArgument {
			t.Errorf("%s: got %v, want INVALID_ARGUMENT", name, err)
		}
	}
	must(t, r.f.Publish(ctx, "end", "", 1, fairlead.PublishOptions{}))
	if msg := r.next(all); msg.Subject != "fl.topic.end" {
		t.Errorf("%s was published though it was refused", msg.Subject)
	}
}

func TestPublishWhereNATSIsAway(t *testing.T) {
	r := start(t, fairlead.Options{Timeout: 100 * time.Millisecond})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	e := coded(t, r.f.Publish(ended, "chat", "", 1, fairlead.PublishOptions{}), wire.Cancelled)
	if e.Details["outcome"] != "none" {
		t.Errorf("a context that had ended: details %v, want outcome none", e.Details)
	}
	r.nc.Close()
	e = coded(t, r.f.Publish(t.Context(), "chat", "", 1, fairlead.PublishOptions{}), wire.Unavailable)
	if e.Details["outcome"] == nil {
		t.Errorf("NATS away: details %v, want an outcome", e.Details)
	}
}

func TestAsk(t *testing.T) {
	r := start(t, fairlead.Options{})
	_, err := r.f.Ask(t.Context(), "ann", "confirm", 1, fairlead.AskOptions{})
	coded(t, err, wire.Unavailable) // no presence service
	_, err = r.f.AskConn(t.Context(), "c1", "confirm", 1)
	coded(t, err, wire.NotFound) // no such connection

	asked := r.serve("fl.ask.ann", body(`{"yes" : true}`))
	answer, err := r.f.Ask(t.Context(), "ann", "confirm", map[string]string{"text": "Delete it?"}, fairlead.AskOptions{Conn: "c1"})
	must(t, err)
	if got, want := string(answer), `{"yes" : true}`; got != want {
		t.Errorf("the answer is %s, want %s", got, want)
	}
	msg := receive(t, asked)
	if h := msg.Header; string(msg.Data) != `{"text":"Delete it?"}` || h.Get("Fl-Event") != "confirm" || h.Get("Fl-Conn") != "c1" || h.Get("Fl-Deadline") == "" {
		t.Errorf("asked %s with %v", msg.Data, msg.Header)
	}
	r.serve("fl.ask.bob", refusal("NOT_FOUND", "bob is not connected", ``))
	_, err = r.f.Ask(t.Context(), "bob", "confirm", 1, fairlead.AskOptions{})
	if e := coded(t, err, wire.NotFound); e.Message != "bob is not connected" {
		t.Errorf("the error says %q", e.Message)
	}
	r.listen("fl.ask.cyd") // somebody who never answers
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = r.f.Ask(ctx, "cyd", "confirm", 1, fairlead.AskOptions{})
	coded(t, err, wire.DeadlineExceeded)
}

func TestMatchAddsUpWhomItReached(t *testing.T) {
	r := start(t, fairlead.Options{})
	admins := map[string]string{"role": "admin"}
	if n, err := r.f.Match(t.Context(), admins, "news", 1, fairlead.MatchOptions{}); n != 0 || err != nil {
		t.Errorf("nobody there: %d, %v, want 0", n, err)
	}
	_, err := r.f.Match(t.Context(), nil, "news", 1, fairlead.MatchOptions{})
	coded(t, err, wire.InvalidArgument)

	first := r.serve("fl.match", body(`{"reached":2}`))
	r.serve("fl.match", body(`{"reached":3}`))
	n, err := r.f.Match(t.Context(), admins, "news", "hi", fairlead.MatchOptions{Gateways: 2, Window: patience, SendOptions: fairlead.SendOptions{Topic: "t"}})
	if n != 5 || err != nil {
		t.Errorf("reached %d, %v, want 5", n, err)
	}
	msg := receive(t, first)
	if h := msg.Header; string(msg.Data) != `"hi"` || h.Get("Fl-Match") != `{"role":"admin"}` || h.Get("Fl-Event") != "news" || h.Get("Fl-Topic") != "t" {
		t.Errorf("sent %s with %v", msg.Data, msg.Header)
	}
	// The third never answers: the window ends the wait.
	if n, err := r.f.Match(t.Context(), admins, "news", "hi", fairlead.MatchOptions{Gateways: 3, Window: 300 * time.Millisecond}); n != 5 || err != nil {
		t.Errorf("reached %d, %v, want 5", n, err)
	}
}

func TestMatchThatIsRefused(t *testing.T) {
	r := start(t, fairlead.Options{})
	r.serve("fl.match", refusal("INVALID_ARGUMENT", "criteria: none", ``))
	_, err := r.f.Match(t.Context(), map[string]string{"a": "b"}, "", 1, fairlead.MatchOptions{Gateways: 1, Window: patience})
	coded(t, err, wire.InvalidArgument)
}

func TestControl(t *testing.T) {
	r := start(t, fairlead.Options{})
	asked := r.serve("fl.control.>", body(`{"reached":1}`))
	ctx := t.Context()
	ann, conn := r.f.OfUser("ann"), r.f.OfConn("c1")
	before := time.UnixMilli(1_760_000_000_123)
	tests := []struct {
		do            func() (int, error)
		subject, data string
	}{
		{func() (int, error) { return ann.Disconnect(ctx, 0, "bye") }, "fl.control.user.ann", `{"action":"disconnect","reason":"bye"}`},
		{func() (int, error) { return conn.Disconnect(ctx, 4001, "") }, "fl.control.conn.c1", `{"action":"disconnect","code":4001}`},
		{func() (int, error) { return ann.Revoke(ctx, before, "") }, "fl.control.user.ann", `{"action":"revoke","before":1760000000123}`},
		{func() (int, error) { return conn.Subscribe(ctx, "news") }, "fl.control.conn.c1", `{"action":"subscribe","topic":"news"}`},
		{func() (int, error) { return conn.Unsubscribe(ctx, "news") }, "fl.control.conn.c1", `{"action":"unsubscribe","topic":"news"}`},
		{func() (int, error) { return conn.Refresh(ctx) }, "fl.control.conn.c1", `{"action":"refresh"}`},
	}
	for _, test := range tests {
		if n, err := test.do(); n != 1 || err != nil {
			t.Errorf("%s: reached %d, %v, want 1", test.data, n, err)
		}
		if msg := receive(t, asked); msg.Subject != test.subject || string(msg.Data) != test.data {
			t.Errorf("got %s %s, want %s %s", msg.Subject, msg.Data, test.subject, test.data)
		}
	}
	must(t, r.f.DrainGateway(ctx, "g1"))
	if msg := receive(t, asked); msg.Subject != "fl.control.gateway.g1" || string(msg.Data) != `{"action":"drain"}` {
		t.Errorf("got %s %s, want the drain of g1", msg.Subject, msg.Data)
	}
	_, err := ann.Subscribe(ctx, "a b")
	coded(t, err, wire.InvalidArgument)
	_, err = r.f.OfUser("").Refresh(ctx)
	coded(t, err, wire.InvalidArgument)
	nobody := fairlead.New(r.nc, fairlead.Options{Namespace: "other"})
	_, err = nobody.OfConn("c1").Refresh(ctx)
	coded(t, err, wire.Unavailable)
	coded(t, nobody.DrainGateway(ctx, "g1"), wire.NotFound)
}

// Of the gateways that answer, one may refuse: the others have done it all the
// same. A single connection is waited for only until one has it.
func TestControlOfSeveralGateways(t *testing.T) {
	r := start(t, fairlead.Options{})
	r.serve("fl.control.user.ann", body(`{"reached":2}`))
	r.serve("fl.control.user.ann", refusal("UNAVAILABLE", "not stored", ``))
	n, err := r.f.OfUser("ann").Revoke(t.Context(), time.Time{}, "")
	if coded(t, err, wire.Unavailable); n != 2 {
		t.Errorf("reached %d, want 2", n)
	}
	r.serve("fl.control.conn.c1", body(`{"reached":0}`))
	r.serve("fl.control.conn.c1", body(`{"reached":1}`))
	if n, err := r.f.OfConn("c1").Disconnect(t.Context(), 0, ""); n != 1 || err != nil {
		t.Errorf("reached %d, %v, want 1", n, err)
	}
}
