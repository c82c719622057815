package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// listen subscribes to what reaches NATS on a topic or pattern.
func (r *rig) listen(topic string) *nats.Subscription {
	r.t.Helper()
	nc := r.bus()
	sub, err := nc.SubscribeSync("fl.topic." + topic)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := nc.FlushTimeout(patience); err != nil {
		r.t.Fatal(err)
	}
	return sub
}

func nextMsg(t *testing.T, sub *nats.Subscription) *nats.Msg {
	t.Helper()
	msg, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// What reaches NATS is what the client sent, byte for byte, under headers that
// only the gateway writes.
func TestPublishReachesNATS(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	conn, _, _ := p.hello(token(t, auth.Claims{User: "ann"}))
	sub := r.listen("p.x")
	plain := nats.Header{"Fl-Event": {"message"}, "Fl-User": {"ann"}, "Fl-Conn": {conn}}
	with := func(name, value string) nats.Header {
		h := nats.Header{}
		for k, v := range plain {
			h[k] = v
		}
		h[name] = []string{value}
		return h
	}
	for _, c := range []struct {
		members string
		data    string
		header  nats.Header
	}{
		{`"data":1`, "1", plain},
		{`"data": { "a" :  1 ,` + "\t\"b\":\n[ ] }", "{ \"a\" :  1 ,\t\"b\":\n[ ] }", plain},
		{`"data":"\u00e9\ud83d\ude00\/é"`, `"\u00e9\ud83d\ude00\/é"`, plain},
		{`"data":[1e400,-0.0,1E+2,123456789012345678901234567890]`, `[1e400,-0.0,1E+2,123456789012345678901234567890]`, plain},
		{`"data":{"a":1,"a":2}`, `{"a":1,"a":2}`, plain},
		{`"data":null`, "null", plain},
		{`"event":"moved"`, "null", with("Fl-Event", "moved")},
		{`"event":"moved","data":1,"echo":false`, "1", func() nats.Header {
			h := with("Fl-Event", "moved")
			h["Fl-Exclude"] = []string{conn}
			return h
		}()},
		{`"data":1,"echo":true`, "1", plain},
		{`"data":1,"Fl-User":"root","Fl-Conn":"x","Fl-Exclude":"x","Fl-Topic":"x","Nats-Msg-Id":"1","Nats-TTL":"1s",` +
			`"headers":{"Fl-User":["root"],"Nats-Rollup":["all"]},"user":"root","from":"root","conn":"x","exclude":"x"`, "1", plain},
	} {
		p.send(`{"op":"publish","id":2,"topic":"p.x",` + c.members + `}`)
		p.expect(`{"id":2,"ok":{}}`)
		msg := nextMsg(t, sub)
		if got := string(msg.Data); got != c.data {
			t.Errorf("%s: data:\n got %s\nwant %s", c.members, got, c.data)
		}
		if got, want := fmt.Sprint(msg.Header), fmt.Sprint(c.header); got != want || msg.Reply != "" {
			t.Errorf("%s: headers:\n got %s (reply %q)\nwant %s", c.members, got, msg.Reply, want)
		}
	}
}

// The data that another client gets is what this one sent.
func TestPublishDataArrivesUntouched(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	a, b := r.dial(), r.dial()
	a.hello(token(t, auth.Claims{User: "ann"}))
	b.hello("")
	b.subscribe(2, "p.x")
	const data = "{ \"a\" :1e400,\t\"a\":\"\\u00e9\\/\" }"
	a.send(`{"op":"publish","topic":"p.x","data":` + data + `}`)
	b.expect(`{"topic":"p.x","event":"message","data":` + data + `,"from":"ann"}`)
}

func TestEcho(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	a, b := r.dial(), r.dial()
	_, user, session := a.hello("")
	b.sendf(`{"op":"hello","id":1,"session":%q}`, session) // the same user, another connection
	b.read()
	a.subscribe(2, "p.x")
	b.subscribe(2, "p.x")
	a.send(`[{"op":"publish","topic":"p.x","data":1,"echo":false},{"op":"publish","topic":"p.x","data":2,"echo":true},{"op":"publish","topic":"p.x","data":3}]`)
	want := func(data int) string {
		return fmt.Sprintf(`{"topic":"p.x","event":"message","data":%d,"from":%q}`, data, user)
	}
	a.expect(want(2))
	a.expect(want(3))
	for i := range 3 {
		b.expect(want(i + 1))
	}
}

// Frames without id are published in order and not answered.
func TestPublishOrder(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	a, b := r.dial(), r.dial()
	a.hello(token(t, auth.Claims{User: "ann"}))
	b.hello("")
	b.subscribe(2, "p.x")
	const n = 1000
	var frames []string
	for i := range n {
		frames = append(frames, fmt.Sprintf(`{"op":"publish","topic":"p.x","data":%d}`, i))
	}
	for i, frame := range frames[:n/2] {
		if i%2 == 0 {
			a.send(frame)
		} else {
			a.send("[" + frame + "]")
		}
	}
	for chunk := range slices.Chunk(frames[n/2:], 100) {
		a.send("[" + strings.Join(chunk, ",") + "]")
	}
	for i := range n {
		b.expect(fmt.Sprintf(`{"topic":"p.x","event":"message","data":%d,"from":"ann"}`, i))
	}
	a.silent()
}

func TestFromIsShownWhereTheRuleSaysSo(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(`
topics:
  - {name: named, match: "named.>", subscribe: any, publish: any, from: true, wildcards: true}
  - {name: secret, match: "secret.>", subscribe: any, publish: any, wildcards: true}
`))
	a, b, c := r.dial(), r.dial(), r.dial()
	a.hello(token(t, auth.Claims{User: `a"n n`}))
	for _, p := range []*peer{b, c} {
		p.hello("")
	}
	b.subscribe(2, "named.x")
	b.subscribe(3, "secret.x")
	c.subscribe(2, "named.>")
	c.subscribe(3, "secret.>")
	a.send(`{"op":"publish","topic":"named.x","data":1}`)
	for _, p := range []*peer{b, c} {
		p.expect(`{"topic":"named.x","event":"message","data":1,"from":"a\"n n"}`)
	}
	a.send(`{"op":"publish","topic":"secret.x","data":1}`)
	for _, p := range []*peer{b, c} {
		p.expect(`{"topic":"secret.x","event":"message","data":1}`)
	}
}

func TestPublishRefused(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	sub := r.listen(">")
	for _, c := range []struct {
		frame string
		id    int64
		field string
	}{
		{`{"op":"publish","id":2,"data":1}`, 2, "topic"},
		{`{"op":"publish","data":1}`, 0, "topic"},
		{`{"op":"publish","id":2,"topic":"p.*","data":1}`, 2, "topic"},
		{`{"op":"publish","id":2,"topic":"p.>","data":1}`, 2, "topic"},
		{`{"op":"publish","id":2,"topic":"$SYS.x","data":1}`, 2, "topic"},
		{`{"op":"publish","id":2,"topic":"_INBOX.x","data":1}`, 2, "topic"},
		{`{"op":"publish","id":2,"topic":"a..b","data":1}`, 2, "topic"},
		{`{"op":"publish","id":2,"topic":"a b","data":1}`, 2, "topic"},
		{`{"op":"publish","id":2,"topic":"a\r\nPUB x 1","data":1}`, 2, "topic"},
		{`{"op":"publish","id":2,"topic":"p.x","event":"a\r\nFl-User: root","data":1}`, 2, "event"},
		{`{"op":"publish","id":2,"topic":"p.x","echo":"no","data":1}`, 2, "echo"},
		{`{"op":"publish","id":0,"topic":"p.x","data":1}`, 0, "id"},
	} {
		p.send(c.frame)
		if details := p.expectError(c.id, "INVALID_ARGUMENT"); details["field"] != c.field || details["op"] != "publish" {
			t.Errorf("%s: got details %v, want the op and the field %s", c.frame, details, c.field)
		}
	}
	p.send(`{"op":"publish","topic":"p.good","data":1}`)
	if msg := nextMsg(t, sub); msg.Subject != "fl.topic.p.good" {
		t.Errorf("got a message on %s, which should have been refused", msg.Subject)
	}
}

func TestBatch(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(`
topics:
  - {name: open, match: "open.>", subscribe: any, publish: any, from: true}
  - {name: shut, match: "shut.>", subscribe: any, publish: none}
`))
	p := r.dial()
	conn, _, _ := p.hello(token(t, auth.Claims{User: "ann"}))
	b := r.dial()
	b.hello("")
	b.subscribe(2, "open.a")
	sub := r.listen("open.a")
	p.send(`{"op":"batch","id":3,"messages":[{"topic":"open.a","data": 1 },{"topic":"shut.a","data":2},` +
		`{"topic":"nowhere","data":3},{"topic":"open.a","event":"moved","data":4,"Fl-User":"root"},{"topic":"open.a"}]}`)
	var reply struct {
		ID int
		OK struct {
			Results []struct {
				Error *struct {
					Code    string
					Details map[string]any
				}
			}
		}
	}
	got := p.read()
	if err := json.Unmarshal([]byte(got), &reply); err != nil || reply.ID != 3 || len(reply.OK.Results) != 5 {
		t.Fatalf("batch: %s", got)
	}
	for i, refused := range []map[string]any{nil, {"op": "batch", "topic": "shut.a", "rule": "shut"}, {"op": "batch", "topic": "nowhere"}, nil, nil} {
		switch err := reply.OK.Results[i].Error; {
		case refused == nil:
			if err != nil {
				t.Errorf("message %d: got %v, want it published", i, err)
			}
		case err == nil || err.Code != "PERMISSION_DENIED" || fmt.Sprint(err.Details) != fmt.Sprint(refused):
			t.Errorf("message %d: got %v, want PERMISSION_DENIED with %v", i, err, refused)
		}
	}
	b.expect(`{"topic":"open.a","event":"message","data":1,"from":"ann"}`)
	b.expect(`{"topic":"open.a","event":"moved","data":4,"from":"ann"}`)
	b.expect(`{"topic":"open.a","event":"message","data":null,"from":"ann"}`)
	want := nats.Header{"Fl-Event": {"message"}, "Fl-User": {"ann"}, "Fl-Conn": {conn}}
	if got := nextMsg(t, sub).Header; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("headers: got %v, want %v", got, want)
	}

	p.send(`{"op":"batch","id":4,"atomic":true,"messages":[{"topic":"open.a","data":1}]}`)
	p.expectError(4, "FAILED_PRECONDITION")
	p.send(`{"op":"batch","messages":[{"topic":"open.a","data":1}]}`)
	p.expectError(0, "INVALID_ARGUMENT")
	p.send(`{"op":"batch","id":5,"messages":[{"topic":"open.a","data":1},{"topic":"open.*","data":1}]}`)
	if details := p.expectError(5, "INVALID_ARGUMENT"); details["field"] != "messages[1].topic" {
		t.Errorf("got details %v, want the field messages[1].topic", details)
	}
	p.send(`{"op":"batch","id":6,"messages":[]}`)
	p.expect(`{"id":6,"ok":{"results":[]}}`)
	p.send(`{"op":"publish","topic":"open.a","data":"next"}`)
	b.expect(`{"topic":"open.a","event":"message","data":"next","from":"ann"}`) // nothing of what was refused was published
}

func TestBatchSize(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	sub := r.listen("p.x")
	batch := func(id, n int) string {
		messages := slices.Repeat([]string{`{"topic":"p.x","data":1}`}, n)
		return fmt.Sprintf(`{"op":"batch","id":%d,"messages":[%s]}`, id, strings.Join(messages, ","))
	}
	p.send(batch(2, 1001))
	if details := p.expectError(2, "INVALID_ARGUMENT"); details["field"] != "messages" {
		t.Errorf("got details %v, want the field messages", details)
	}
	p.send(batch(3, 1000))
	if got, want := p.read(), `{"id":3,"ok":{"results":[{}`+strings.Repeat(",{}", 999)+`]}}`; got != want {
		t.Errorf("got %.200s", got)
	}
	for range 1000 {
		nextMsg(t, sub)
	}
	if _, err := sub.NextMsg(time.Millisecond); err == nil {
		t.Error("more than 1000 messages reached NATS")
	}
}
