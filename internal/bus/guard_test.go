package bus

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

func TestMayReply(t *testing.T) {
	g := &Guard{Prefixes: []string{"_R_", "rpc.reply.", ""}}
	tests := []struct {
		subject string
		want    bool
	}{
		{"_INBOX.abc", true},
		{"_INBOX.abc.def", true},
		{"_INBOX_worker.abc", true},
		{"_R_.abc", true},
		{"rpc.reply.7", true},
		{"", false},
		{"_INBOX", false},
		{"_INBOX.", false},
		{"_INBOX..a", false},
		{"_INBOXES.a", false},
		{"_inbox.a", false},
		{"_INBOX.*", false},
		{"_INBOX.>", false},
		{"_INBOX.a b", false},
		{"_INBOX.a\r\nPUB x", false},
		{"_INBOX." + strings.Repeat("x", 2000), false},
		{"rpc.reply", false},
		{"rpc.replyx.7", false},
		{"fl.topic.chat", false},
		{"fl.control.user.u1", false},
		{"$JS.API.STREAM.PURGE.X", false},
		{"$SYS.REQ.SERVER.PING", false},
		{".abc", false},
	}
	for _, tt := range tests {
		if got := g.MayReply(tt.subject); got != tt.want {
			t.Errorf("MayReply(%q) = %v, want %v", tt.subject, got, tt.want)
		}
	}
	if g.MayReply("_INBOX.a") && g.Refused() != 0 {
		t.Error("asking counts as refusing")
	}
}

// FuzzMayReply: whatever is let through names one subject under an inbox.
func FuzzMayReply(f *testing.F) {
	f.Add("_INBOX.abc")
	f.Add("_INBOX_r.a.b")
	f.Add("$JS.API.STREAM.PURGE.X")
	f.Fuzz(func(t *testing.T, subject string) {
		if !new(Guard).MayReply(subject) {
			return
		}
		first, _, _ := strings.Cut(subject, ".")
		if first != "_INBOX" && !strings.HasPrefix(first, "_INBOX_") || strings.ContainsAny(subject, "*> \t\r\n\x00") || strings.Contains(subject, "..") {
			t.Errorf("let %q through", subject)
		}
	})
}

// forged are reply subjects that a caller has no right to and we may have.
var forged = []string{"fl.topic.chat.lobby", "fl.control.user.u1", "$JS.API.STREAM.PURGE.X"}

// TestRepliesGoToInboxesOnly sends requests with forged reply subjects to an
// endpoint, to an endpoint that fails, to one whose pool is full, and to
// discovery, and shows that nothing is published there.
func TestRepliesGoToInboxesOnly(t *testing.T) {
	server := natsdev.Test(t)
	nc, attacker := connect(t, server, Hooks{}), connect(t, server, Hooks{})
	stream := streamOf3(t, attacker)
	spy := spyOn(t, attacker)

	var worked atomic.Int64
	guard := &Guard{}
	s := serve(t, nc, ServeConfig{Guard: guard}, Handle("echo", "fl.svc.test.echo", func(_ context.Context, e echo) (echo, error) {
		worked.Add(1)
		return e, nil
	}))
	targets := []string{
		"fl.svc.test.echo",
		"$SRV.PING", "$SRV.PING.fairlead-test", "$SRV.PING.fairlead-test." + s.ID(),
		"$SRV.INFO", "$SRV.INFO.fairlead-test", "$SRV.INFO.fairlead-test." + s.ID(),
		"$SRV.STATS", "$SRV.STATS.fairlead-test", "$SRV.STATS.fairlead-test." + s.ID(),
	}
	for _, target := range targets {
		for _, reply := range forged {
			for _, body := range []string{`{"text":"forged"}`, `[]`} { // answered, and failing
				if err := attacker.PublishRequest(target, reply, []byte(body)); err != nil {
					t.Fatal(err)
				}
			}
		}
		// An honest request behind them on the same subject: its reply shows
		// that they have been through.
		if _, err := attacker.Request(target, []byte(`{"text":"honest"}`), patience); err != nil {
			t.Fatalf("honest request to %s: %v", target, err)
		}
	}
	if got, want := guard.Refused(), int64(len(targets)*len(forged)*2); got != want {
		t.Errorf("refused %d replies, want %d", got, want)
	}
	if got := worked.Load(); got != 1 {
		t.Errorf("worked on %d requests, want the honest one", got)
	}
	spy.sawNothingBefore(t, nc)
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := info.State.Msgs; got != 3 {
		t.Errorf("stream has %d messages, want 3: it was purged", got)
	}
}

func TestRespond(t *testing.T) {
	server := natsdev.Test(t)
	nc, attacker := connect(t, server, Hooks{}), connect(t, server, Hooks{})
	spy := spyOn(t, attacker)
	guard := &Guard{}
	sent := make(chan bool, 8)
	sub, err := nc.Subscribe("fl.conn.c1", func(msg *nats.Msg) {
		ok, err := guard.Respond(msg, []byte("answer"), nats.Header{"Fl-Event": {"x"}})
		if err != nil {
			t.Error(err)
		}
		sent <- ok
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, reply := range append([]string{""}, forged...) {
		if err := attacker.PublishMsg(&nats.Msg{Subject: "fl.conn.c1", Reply: reply}); err != nil {
			t.Fatal(err)
		}
		if await(t, "the request", sent) {
			t.Errorf("sent a reply to %q", reply)
		}
	}
	if got, want := guard.Refused(), int64(len(forged)); got != want {
		t.Errorf("refused %d, want %d: no reply subject is none to refuse", got, want)
	}
	msg, err := attacker.Request("fl.conn.c1", nil, patience)
	if err != nil || string(msg.Data) != "answer" || msg.Header.Get("Fl-Event") != "x" {
		t.Errorf("honest request got %v, %v", msg, err)
	}
	spy.sawNothingBefore(t, nc)
}

// TestForgedRepliesDoHarm is the control of the two tests above: without the
// guard the same requests purge the stream and reach the spy.
func TestForgedRepliesDoHarm(t *testing.T) {
	server := natsdev.Test(t)
	nc, attacker := connect(t, server, Hooks{}), connect(t, server, Hooks{})
	stream := streamOf3(t, attacker)
	spy := spyOn(t, attacker)
	sub, err := nc.Subscribe("open", func(msg *nats.Msg) {
		if err := msg.Respond(nil); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, reply := range forged {
		if err := attacker.PublishRequest("open", reply, nil); err != nil {
			t.Fatal(err)
		}
		if got := await(t, "the forged reply", spy).Subject; got != reply {
			t.Errorf("spy saw %s, want %s", got, reply)
		}
	}
	eventually(t, "the purge", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	})
}

type spyglass chan *nats.Msg

// spyOn sees everything that is published where forged replies point to.
func spyOn(t *testing.T, nc *nats.Conn) spyglass {
	t.Helper()
	spy := make(spyglass, 64)
	for _, subject := range []string{"fl.topic.>", "fl.control.>", "$JS.API.STREAM.PURGE.>"} {
		sub, err := nc.ChanSubscribe(subject, spy)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return spy
}

// sawNothingBefore publishes a marker on the connection that would have sent
// the forged replies: it arrives behind them.
func (s spyglass) sawNothingBefore(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.Publish("fl.topic.marker", nil); err != nil {
		t.Fatal(err)
	}
	if got := await(t, "the marker", s); got.Subject != "fl.topic.marker" {
		t.Errorf("published on %s: %s", got.Subject, got.Data)
	}
}

func streamOf3(t *testing.T, nc *nats.Conn) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "X", Subjects: []string{"x.>"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := js.Publish(t.Context(), "x.a", nil); err != nil {
			t.Fatal(err)
		}
	}
	return stream
}
