package gateway

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// serveCalls makes a worker of plain NATS.
func serveCalls(t *testing.T, nc *nats.Conn, method string, fn func(*nats.Msg)) {
	t.Helper()
	if _, err := nc.QueueSubscribe("fl.call."+method, "workers", fn); err != nil {
		t.Fatal(err)
	}
	settled(t, nc)
}

func answer(t *testing.T, msg *nats.Msg, data string, header nats.Header) {
	if err := msg.RespondMsg(&nats.Msg{Data: []byte(data), Header: header}); err != nil {
		t.Error(err)
	}
}

func TestCallIsAnswered(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	got := make(chan *nats.Msg, 1)
	serveCalls(t, nc, "orders.create", func(msg *nats.Msg) {
		got <- msg
		answer(t, msg, "1", nats.Header{"Fl-Progress": {"1"}})
		answer(t, msg, "half", nats.Header{"fl-progress": {"1"}})
		answer(t, msg, `{"order" : 17}`, nil)
		answer(t, msg, `{"order":18}`, nil) // nobody waits any more
		answer(t, msg, `late`, nats.Header{"Fl-Progress": {"1"}})
	})
	p := r.dial()
	conn, _, _ := p.hello(token(t, auth.Claims{User: "ann", Attributes: map[string]string{"role": "admin"}}))
	p.send(`{"op":"call","id":7,"method":"orders.create","data":{"item" : "tea"},"timeoutMs":9000}`)
	p.expect(`{"id":7,"progress":1}`)
	p.expect(`{"id":7,"progress":"half"}`)
	p.expect(`{"id":7,"ok":{"order" : 17}}`)
	msg := <-got
	if string(msg.Data) != `{"item" : "tea"}` || msg.Header.Get("Fl-User") != "ann" || msg.Header.Get("Fl-Conn") != conn || msg.Header.Get("Fl-Attributes") != `{"role":"admin"}` {
		t.Errorf("the worker got %s with %v", msg.Data, msg.Header)
	}
	ms, err := strconv.ParseInt(msg.Header.Get("Fl-Deadline"), 10, 64)
	if left := time.Until(time.UnixMilli(ms)); err != nil || left > 9*time.Second || left < 9*time.Second-patience {
		t.Errorf("Fl-Deadline %q is %s from now, %v", msg.Header.Get("Fl-Deadline"), left, err)
	}
	p.send(`{"op":"publish","id":8,"topic":"a"}`)
	p.expect(`{"id":8,"ok":{}}`) // and nothing of the second answer
	eventually(t, "late replies are counted", func() bool { return r.g.metrics.lateReplies.Load() == 2 })
}

func TestCallAnswersThatAreNoJSON(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	serveCalls(t, r.bus(), "m.>", func(msg *nats.Msg) {
		answer(t, msg, map[string]string{"fl.call.m.text": "plain", "fl.call.m.binary": "\xff\x00", "fl.call.m.empty": ""}[msg.Subject], nil)
	})
	p := r.dial()
	p.hello("")
	for method, want := range map[string]string{"text": `"text":"plain"`, "binary": `"base64":"/wA="`, "empty": `"ok":null`} {
		p.send(`{"op":"call","id":2,"method":"m.` + method + `"}`)
		p.expect(`{"id":2,` + want + `}`)
	}
}

func TestCallErrorsOfWorkers(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	serveCalls(t, r.bus(), "m.*", func(msg *nats.Msg) {
		code := strings.TrimPrefix(msg.Subject, "fl.call.m.")
		answer(t, msg, `{"retryAfterMs":1500}`, nats.Header{"Nats-Service-Error-Code": {code}, "Nats-Service-Error": {"no tea"}})
	})
	p := r.dial()
	p.hello("")
	for _, code := range []string{"NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED"} {
		p.send(`{"op":"call","id":2,"method":"m.` + code + `"}`)
		if details := p.expectError(2, code); details["message"] != "no tea" || details["op"] != "call" {
			t.Errorf("%s: details %v", code, details)
		}
	}
	p.send(`{"op":"call","id":3,"method":"m.TEAPOT"}`)
	if details := p.expectError(3, "INTERNAL"); details["code"] != "TEAPOT" {
		t.Errorf("unknown code: details %v", details)
	}
	p.send(`{"op":"publish","id":4,"topic":"a"}`)
	p.expect(`{"id":4,"ok":{}}`)
}

// Nobody home is said at once, not by a timeout.
func TestCallWithoutWorkerIsUnimplementedAtOnce(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	start := time.Now()
	p.send(`{"op":"call","id":2,"method":"nobody.home","timeoutMs":60000}`)
	p.expectError(2, "UNIMPLEMENTED")
	if took := time.Since(start); took > patience {
		t.Errorf("took %s", took)
	}
	if n := r.g.calls.size(); n != 0 {
		t.Errorf("%d calls are left", n)
	}
}

// cancellable serves a method that never answers, and returns what the worker
// hears on Fl-Cancel.
func cancellable(t *testing.T, r *rig, method string) (started, cancelled chan string) {
	nc := r.bus()
	started, cancelled = make(chan string, 10), make(chan string, 10)
	serveCalls(t, nc, method, func(msg *nats.Msg) {
		subject := msg.Header.Get("Fl-Cancel")
		if _, err := nc.Subscribe(subject, func(*nats.Msg) { cancelled <- subject }); err != nil {
			t.Error(err)
		}
		if err := nc.Flush(); err != nil {
			t.Error(err)
		}
		started <- subject
	})
	return started, cancelled
}

func await[T any](t *testing.T, what string, ch chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("never: %s", what)
	}
	return v
}

func TestCallEndsAndTheWorkerHearsIt(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), func(_ *Config, _ *Deps, o *rules.Options) {
		o.File = []byte(`{topics: [{match: ">"}], calls: [{match: "quick.*", timeout: 50ms}, {match: "shut.*", allow: none}, {match: ">"}]}`)
	})
	started, cancelled := cancellable(t, r, ">")
	p := r.dial()
	p.hello("")

	p.send(`{"op":"call","id":2,"method":"slow.a","timeoutMs":50}`)
	if details := p.expectError(2, "DEADLINE_EXCEEDED"); details["outcome"] != "unknown" {
		t.Errorf("timeout: details %v", details)
	}
	p.send(`{"op":"call","id":3,"method":"quick.a"}`) // by the rule's timeout
	p.expectError(3, "DEADLINE_EXCEEDED")
	for range 2 {
		await(t, "the call arrives", started)
		await(t, "the deadline cancels", cancelled)
	}

	p.send(`{"op":"call","id":4,"method":"slow.b"}`)
	subject := await(t, "the call arrives", started)
	p.send(`{"op":"call","id":4,"method":"slow.b"}`)
	p.expectError(4, "ALREADY_EXISTS")
	p.send(`{"op":"cancel","ref":4}`)
	p.expectError(4, "CANCELLED")
	if got := await(t, "cancel", cancelled); got != subject {
		t.Errorf("cancelled %s, want %s", got, subject)
	}
	p.send(`{"op":"cancel","ref":4}`) // too late is no error

	p.send(`{"op":"call","id":5,"method":"shut.a"}`)
	if details := p.expectError(5, "PERMISSION_DENIED"); details["rule"] != "shut.*" {
		t.Errorf("denied: details %v", details)
	}

	p.send(`{"op":"call","id":6,"method":"slow.c"}`)
	subject = await(t, "the call arrives", started)
	p.ws.CloseNow()
	if got := await(t, "a lost client cancels", cancelled); got != subject {
		t.Errorf("cancelled %s, want %s", got, subject)
	}
	eventually(t, "no call is left", func() bool { return r.g.calls.size() == 0 })
}

// asked serves requests to a client: it returns the ref of the next one.
func asked(t *testing.T, p *peer) string {
	t.Helper()
	var f struct{ Op, Ref, Event string }
	got := p.read()
	if err := json.Unmarshal([]byte(got), &f); err != nil || f.Op != "request" || f.Ref == "" {
		t.Fatalf("got %s, want a request", got)
	}
	return f.Ref
}

func TestRequestsToAClient(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	ann, eve := r.dial(), r.dial()
	conn, _, _ := ann.hello(token(t, auth.Claims{User: "ann"}))
	eve.hello(token(t, auth.Claims{User: "eve"}))

	ask := func(deadline time.Duration) chan *nats.Msg {
		answers := make(chan *nats.Msg, 1)
		msg := &nats.Msg{Subject: "fl.conn." + conn, Data: []byte(`{"q" : 1}`), Header: nats.Header{"Fl-Event": {"confirm"}}}
		if deadline > 0 {
			msg.Header.Set("Fl-Deadline", wire.Deadline(time.Now().Add(deadline).UnixMilli()))
		}
		go func() {
			answer, err := nc.RequestMsg(msg, patience)
			if err != nil {
				answer = &nats.Msg{Data: []byte(err.Error())}
			}
			answers <- answer
		}()
		return answers
	}
	answered := func(what string, answers chan *nats.Msg, data, code string) {
		t.Helper()
		select {
		case msg := <-answers:
			if string(msg.Data) != data || msg.Header.Get("Nats-Service-Error-Code") != code {
				t.Errorf("%s: got %s with %v, want %s and code %q", what, msg.Data, msg.Header, data, code)
			}
		case <-time.After(patience):
			t.Fatalf("%s: no answer", what)
		}
	}

	answers := ask(0)
	ref := asked(t, ann)
	eve.send(`{"op":"reply","id":2,"ref":"` + ref + `","data":"mine"}`) // another socket's answer counts for nothing
	eve.expectError(2, "NOT_FOUND")
	ann.send(`{"op":"reply","id":2,"ref":"` + ref + `","data":{"a" : 2}}`)
	ann.expect(`{"id":2,"ok":{}}`)
	answered("the answer", answers, `{"a" : 2}`, "")
	ann.send(`{"op":"reply","id":3,"ref":"` + ref + `","data":1}`)
	ann.expectError(3, "NOT_FOUND")

	answers = ask(0)
	ann.send(`{"op":"reply","ref":"` + asked(t, ann) + `","error":{"code":"FAILED_PRECONDITION","message":"not now"}}`)
	answered("the client's error", answers, `{}`, "FAILED_PRECONDITION")

	answers = ask(time.Second)
	asked(t, ann)
	answered("the deadline", answers, `{}`, "DEADLINE_EXCEEDED")

	answers = ask(0)
	asked(t, ann)
	ann.ws.CloseNow()
	answered("a client that is gone", answers, `{"retryAfterMs":100}`, "UNAVAILABLE")
	eventually(t, "nobody answers for a connection that is gone", func() bool {
		_, err := nc.Request("fl.conn."+conn, nil, 50*time.Millisecond)
		return err == nats.ErrNoResponders
	})
}

// What else a worker says of its error reaches the client.
func TestCallErrorsCarryDetails(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	serveCalls(t, r.bus(), "orders.create", func(msg *nats.Msg) {
		answer(t, msg, `{"details":{"field":"item","most":[1,2.50]},"retryAfterMs":7}`, nats.Header{"Nats-Service-Error-Code": {"INVALID_ARGUMENT"}})
	})
	p := r.dial()
	p.hello("")
	p.send(`{"op":"call","id":2,"method":"orders.create"}`)
	got := p.read()
	if !strings.Contains(got, `"field":"item"`) || !strings.Contains(got, `"most":[1,2.50]`) || strings.Contains(got, "retryAfterMs") {
		t.Errorf("the client got %s", got)
	}
}

// A worker that may answer one method sees where the answers go, and where it
// would hear of a cancel. It can't tell from that where those of others do: what
// it may publish to all of them it must not find.
func TestNothingThatWorkersSeeTellsOfOtherCalls(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	seen := make(chan *nats.Msg, 2)
	serveCalls(t, nc, "mine", func(msg *nats.Msg) {
		answer(t, msg, `1`, nil)
		seen <- msg
	})
	p := r.dial()
	conn, _, _ := p.hello("")
	secrets := map[string]string{ // what stands behind the part that is the same for all
		"the acknowledgements": strings.TrimPrefix(r.g.acks.prefix, "_INBOX."),
		"another inbox":        strings.TrimPrefix(nats.NewInbox(), "_INBOX."),
	}
	for i, s := range r.g.fanout.shards {
		secrets[fmt.Sprint("shard ", i)] = strings.TrimPrefix(s.inbox, "_INBOX.")
	}
	for id := range 2 {
		p.send(fmt.Sprintf(`{"op":"call","id":%d,"method":"mine"}`, id+2))
		p.expect(fmt.Sprintf(`{"id":%d,"ok":1}`, id+2))
		msg := await(t, "a call", seen)
		token := msg.Reply[strings.LastIndexByte(msg.Reply, '.')+1:]
		secrets["the calls"] = strings.TrimPrefix(msg.Reply, "_INBOX.")
		secrets[fmt.Sprint("the answer to call ", id)] = token
		secrets[fmt.Sprint("the cancel of call ", id)] = strings.TrimPrefix(msg.Header.Get("Fl-Cancel"), "fl.cancel.")
		if err := nc.PublishRequest("fl.conn."+conn, nc.NewInbox(), nil); err != nil {
			t.Fatal(err)
		}
		secrets[fmt.Sprint("request ", id)] = asked(t, p)
	}
	for a, one := range secrets {
		for b, other := range secrets {
			if a < b && one[:8] == other[:8] {
				t.Errorf("%s (%s) and %s (%s) begin alike", a, one, b, other)
			}
		}
	}
}
