package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// A request's reply subject is the requester's word: answering a forged one
// would lend it the gateway's rights. The good request at the end shows that
// the spies hear.
func TestForgedReplySubjects(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEEP", Subjects: []string{"keep"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "keep", []byte("precious")); err != nil {
		t.Fatal(err)
	}
	p, victim := r.dial(), r.dial()
	conn, _, _ := p.hello(token(t, auth.Claims{User: "ann"}))
	other, _, _ := victim.hello("")
	victim.subscribe(2, "chat.lobby")
	all := hear(t, nc, ">")

	forged := []string{
		"fl.topic.chat.lobby", "fl.control.user.ann", "fl.control.conn." + other, "fl.user.ann", "fl.conn." + other,
		"fl.call.orders.create", "fl.event.limit.exceeded", "fl.svc.tasks.cancel",
		"$JS.API.STREAM.PURGE.KEEP", "$JS.API.STREAM.DELETE.KEEP", "$KV.fl_config.rules", "_INBOXES.x",
	}
	ask := func(reply string) {
		if err := nc.PublishMsg(&nats.Msg{Subject: "fl.conn." + conn, Reply: reply, Data: []byte("1")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, reply := range forged {
		ask(reply)
	}
	inbox := nc.NewInbox()
	ask(inbox)
	p.send(`{"op":"reply","id":2,"ref":"` + asked(t, p) + `","data":"yes"}`) // the first one it is asked
	p.expect(`{"id":2,"ok":{}}`)
	if got, want := r.g.metrics.badReplies.Load(), int64(len(forged)); got != want {
		t.Errorf("%d bad reply subjects counted, want %d", got, want)
	}
	published := map[string]int{}
	for published[inbox] == 0 {
		published[heard(t, all).Subject]++
	}
	for _, reply := range forged {
		if published[reply] != 0 {
			t.Errorf("something was published to %s", reply)
		}
	}
	victim.silent()
	if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != 1 {
		t.Errorf("the stream has %+v (%v), want its one message", info, err)
	}
}

// A topic is no endpoint: who publishes there with a reply subject gets none. Who
// sends to a user that way hears how many connections that was.
func TestUsersAnswerTopicsDoNot(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	p := r.dial()
	_, user, _ := p.hello("")
	p.subscribe(2, "a.b")
	inbox := nc.NewInbox()
	answers := hear(t, nc, inbox)
	for _, subject := range []string{"fl.topic.a.b", "fl.user." + user} {
		if err := nc.PublishRequest(subject, inbox, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]bool{p.read(): true, p.read(): true}
	if !got[`{"topic":"a.b","event":"message","data":1}`] || !got[`{"event":"message","data":1,"direct":true}`] {
		t.Errorf("got %v, want two messages", got)
	}
	settled(t, nc)
	if got, want := string(heard(t, answers).Data), `{"reached":1}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if n, _, err := answers.Pending(); err != nil || n != 0 {
		t.Errorf("%d more answers (%v), want none", n, err)
	}
}

// A direct message reaches every device of its user, or one connection, and
// nobody else.
func TestDirectMessages(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	const user = "a b/c.d" // one token of a subject, escaped
	phone, laptop, other := r.dial(), r.dial(), r.dial()
	conn, _, _ := phone.hello(token(t, auth.Claims{User: user}))
	laptop.hello(token(t, auth.Claims{User: user}))
	other.hello(token(t, auth.Claims{User: "a b"}))
	send := func(subject, data string, header nats.Header) {
		if err := nc.PublishMsg(&nats.Msg{Subject: subject, Data: []byte(data), Header: header}); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range []struct {
		data, want string
		header     nats.Header
	}{
		{`{"n" : 1}`, `"event":"message","data":{"n" : 1},"direct":true`, nil},
		{`plain`, `"topic":"notifications","event":"incoming","text":"plain","direct":true`, nats.Header{"Fl-Topic": {"notifications"}, "fl-event": {"incoming"}}},
		{``, `"event":"message","data":null,"from":"shop","direct":true`, nats.Header{"Fl-User": {"shop"}}},
	} {
		send("fl.user.a=20b=2Fc=2Ed", c.data, c.header)
		for _, p := range []*peer{phone, laptop} {
			p.expect("{" + c.want + "}")
		}
		send("fl.conn."+conn, c.data, c.header)
		phone.expect("{" + c.want + "}")
		send("fl.user.a=20b", fmt.Sprint(i), nil) // nothing came to the others before
		other.expect(fmt.Sprintf(`{"event":"message","data":%d,"direct":true}`, i))
	}
	send("fl.user.a=20b=2Fc=2Ed", `2`, nats.Header{"Fl-Exclude": {conn}})
	send("fl.user.a=20b=2Fc=2Ed", `3`, nil)
	phone.expect(`{"event":"message","data":3,"direct":true}`)
	laptop.expect(`{"event":"message","data":2,"direct":true}`)
	laptop.expect(`{"event":"message","data":3,"direct":true}`)
	// Who is gone has no responders: a backend sees at once that nobody is there.
	phone.ws.CloseNow()
	laptop.ws.CloseNow()
	eventually(t, "the user is offline", func() bool {
		_, err := nc.Request("fl.user.a=20b=2Fc=2Ed", nil, 50*time.Millisecond)
		return err == nats.ErrNoResponders
	})
}

// inbox returns a subject for answers and what comes there: also what says that
// nobody listens, which a subscription's NextMsg makes an error of.
func inbox(t *testing.T, nc *nats.Conn) (subject string, answers chan *nats.Msg) {
	t.Helper()
	subject, answers = nc.NewInbox(), make(chan *nats.Msg, 64)
	if _, err := nc.ChanSubscribe(subject, answers); err != nil {
		t.Fatal(err)
	}
	settled(t, nc)
	return subject, answers
}

// question sends a request to a connection, whose answer comes to what is returned.
func question(t *testing.T, nc *nats.Conn, conn string, header nats.Header) chan *nats.Msg {
	t.Helper()
	reply, answers := inbox(t, nc)
	if err := nc.PublishMsg(&nats.Msg{Subject: "fl.conn." + conn, Reply: reply, Header: header}); err != nil {
		t.Fatal(err)
	}
	return answers
}

// A request that names another user is for nobody here, and one that is too late
// for nobody at all: the client never sees them.
func TestRequestsThatNoClientSees(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	p := r.dial()
	conn, _, _ := p.hello(token(t, auth.Claims{User: "ann"}))
	for _, c := range []struct{ header, value, status, code string }{
		{"Fl-Target", "bob", "503", "NOT_FOUND"},
		{"fl-target", "an", "503", "NOT_FOUND"},
		{"Fl-Deadline", "1", "", "DEADLINE_EXCEEDED"},
		{"Fl-Deadline", wire.Deadline(time.Now().UnixMilli()), "", "DEADLINE_EXCEEDED"},
		{"Fl-Deadline", "-1", "", "DEADLINE_EXCEEDED"},
	} {
		got := await(t, "an answer", question(t, nc, conn, nats.Header{c.header: {c.value}})).Header
		if got.Get("Status") != c.status || got.Get("Nats-Service-Error-Code") != c.code {
			t.Errorf("%s %s: answered with %v, want %s %s", c.header, c.value, got, c.status, c.code)
		}
	}
	p.silent()
	answer := question(t, nc, conn, nats.Header{"Fl-User": {"root"}, "Fl-Target": {"ann"}, "Fl-Deadline": {wire.Deadline(time.Now().Add(patience).UnixMilli())}})
	p.send(`{"op":"reply","id":2,"ref":"` + asked(t, p) + `","data":1}`)
	p.expect(`{"id":2,"ok":{}}`)
	if got := await(t, "an answer", answer); string(got.Data) != `1` || len(got.Header) != 0 {
		t.Errorf("answered with %s and %v", got.Data, got.Header)
	}
}

// What the client says can be told from what is said of it.
func TestErrorsOfTheClientAreMarked(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	p := r.dial()
	conn, _, _ := p.hello("")
	marked := func(answer chan *nats.Msg, code, want string) {
		t.Helper()
		got := await(t, "an answer", answer).Header
		if got.Get("Nats-Service-Error-Code") != code || got.Get("Fl-Client") != want {
			t.Errorf("answered with %v, want %s and the mark %q", got, code, want)
		}
	}
	answer := question(t, nc, conn, nil)
	p.send(`{"op":"reply","id":2,"ref":"` + asked(t, p) + `","error":{"code":"NOT_FOUND","message":"no such thing"}}`)
	p.expect(`{"id":2,"ok":{}}`)
	marked(answer, "NOT_FOUND", "1")
	answer = question(t, nc, conn, nil)
	asked(t, p)
	p.ws.CloseNow()
	marked(answer, "UNAVAILABLE", "")
}

// An answer that NATS does not take is lost, and both sides hear so at once.
func TestAnswersThatNATSDoesNotTake(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), limited(func(l *Limits) { l.PayloadBytes = 4 << 20 }))
	nc := r.bus()
	p := r.dial()
	conn, _, _ := p.hello("")
	answer := question(t, nc, conn, nil)
	p.send(`{"op":"reply","id":2,"ref":"` + asked(t, p) + `","data":"` + strings.Repeat("x", 1_500_000) + `"}`)
	p.exhausted(2, float64(nc.MaxPayload()), "null")
	got := await(t, "an answer", answer)
	if got.Header.Get("Nats-Service-Error-Code") != "RESOURCE_EXHAUSTED" || got.Header.Get("Fl-Client") != "" || string(got.Data) != `{"retryAfterMs":null}` {
		t.Errorf("answered with %s and %v", got.Data, got.Header)
	}
	question(t, nc, conn, nil)
	ref := asked(t, p)
	r.nats.Shutdown()
	p.system("degraded")
	p.send(`{"op":"reply","id":3,"ref":"` + ref + `","data":1}`)
	p.expectError(3, "UNAVAILABLE")
}
