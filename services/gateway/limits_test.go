package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

func limited(set func(*Limits)) option {
	return func(cfg *Config, _ *Deps, _ *rules.Options) { set(&cfg.Limits) }
}

// reply is the answer to one frame.
type reply struct {
	ID    int64
	OK    json.RawMessage
	Error *struct {
		Code         string
		RetryAfterMs json.RawMessage
		Details      map[string]any
	}
}

func (p *peer) reply() (f reply) {
	p.t.Helper()
	got := p.read()
	if err := json.Unmarshal([]byte(got), &f); err != nil || (f.OK == nil) == (f.Error == nil) {
		p.t.Fatalf("frame:\n got %s\nwant a reply", got)
	}
	return f
}

// exhausted reads a RESOURCE_EXHAUSTED that names the limit; retry is what
// retryAfterMs says.
func (p *peer) exhausted(id int64, limit float64, retry string) {
	p.t.Helper()
	f := p.reply()
	if f.ID != id || f.Error == nil || f.Error.Code != "RESOURCE_EXHAUSTED" || f.Error.Details["limit"] != limit || string(f.Error.RetryAfterMs) != retry {
		p.t.Fatalf("reply %+v %+v, want RESOURCE_EXHAUSTED for id %d with limit %v and retryAfterMs %s", f, f.Error, id, limit, retry)
	}
}

// leave closes a connection that has said hello, so that it is counted, and
// waits until the gateway has forgotten it.
func (r *rig) leave(p *peer) {
	r.t.Helper()
	before := r.g.connections.size()
	if err := p.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "connection forgotten", func() bool { return r.g.connections.size() < before })
}

func (r *rig) wantRefusedByLimit(status int) {
	r.t.Helper()
	res, text := r.refused(r.t, status)
	if after := res.Header.Get("Retry-After"); after == "" || after == "0" || !strings.Contains(text, "connections") {
		r.t.Errorf("%d with Retry-After %q says %q, want when to try again and why", status, after, text)
	}
}

func TestConnectionsLimit(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), limited(func(l *Limits) { l.Connections = 2 }))
	first, second := r.dial(), r.dial()
	first.hello("")
	second.hello("")
	for range 3 { // a refusal takes no place and frees none
		r.wantRefusedByLimit(http.StatusServiceUnavailable)
	}
	r.leave(second)
	third := r.dial()
	third.hello("")
	r.wantRefusedByLimit(http.StatusServiceUnavailable)
	// Nor does an upgrade that fails behind the count.
	r.leave(third)
	for range 3 {
		r.refused(t, http.StatusUnauthorized, bearing("x"))
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+r.addr+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, _ := r.fetch(req); res.StatusCode/100 != 4 {
			t.Errorf("a plain GET of /ws: %d, want a refusal", res.StatusCode)
		}
	}
	r.dial().hello("")
	r.wantRefusedByLimit(http.StatusServiceUnavailable)
}

func TestConnectionsPerAddress(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), limited(func(l *Limits) { l.ConnectionsPerAddress = 1 }),
		func(cfg *Config, _ *Deps, _ *rules.Options) { cfg.TrustedProxies = []string{"127.0.0.0/8"} })
	from := func(address string) dialOption { return header("X-Forwarded-For", address) }
	p := r.dial(from("192.0.2.1"))
	p.hello("")
	res, _ := r.refused(t, http.StatusTooManyRequests, from("192.0.2.1"))
	if res.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	r.dial(from("192.0.2.2")).hello("")
	r.dial(from("2001:db8:0:1::1")).hello("")
	r.refused(t, http.StatusTooManyRequests, from("2001:db8:0:1::2")) // of the same /64
	r.dial(from("2001:db8:0:2::1")).hello("")
	r.dial().hello("")
	r.wantRefusedByLimit(http.StatusTooManyRequests)
	r.leave(p)
	r.dial(from("192.0.2.1")).hello("")
}

func TestConnectionsPerUser(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode, limited(func(l *Limits) { l.ConnectionsPerUser = 1 }))
	exceeded := hear(t, r.bus(), "fl.event.limit.exceeded")
	ann := token(t, auth.Claims{User: "ann"})
	first := r.dial()
	first.hello(ann)
	second := r.dial()
	second.send(`{"op":"hello","id":1,"token":"` + ann + `"}`)
	second.expectError(1, "RESOURCE_EXHAUSTED")
	if code := second.closed(); code != 4429 {
		t.Errorf("closed with %d, want 4429", code)
	}
	e := limitEvent(t, exceeded)
	if e.Limit != "connections_per_user" || e.User != "ann" || e.Allowed != 1 || e.Conn == "" {
		t.Errorf("event %+v", e)
	}
	res, _ := r.refused(t, http.StatusTooManyRequests, bearing(ann))
	if res.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	r.dial().hello(token(t, auth.Claims{User: "bob"}))
	// Who was refused is not counted: ann's place is free when the first leaves.
	eventually(t, "refused connection forgotten", func() bool { return r.g.connections.size() == 2 })
	r.leave(first)
	r.dial(bearing(ann)).send(`{"op":"hello","id":1}`)
	eventually(t, "ann has her one place again", func() bool { return r.g.connections.users() == 2 })
	r.refused(t, http.StatusTooManyRequests, bearing(ann))
}

func TestTopicsPerConnection(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), limited(func(l *Limits) { l.TopicsPerConnection = 2 }))
	p := r.dial()
	p.hello("")
	// Those of one array count before they are live.
	p.send(`[{"op":"subscribe","id":2,"topic":"a"},{"op":"subscribe","id":3,"topic":"b"},{"op":"subscribe","id":4,"topic":"c"}]`)
	answers := map[int64]reply{}
	for range 3 {
		f := p.reply()
		answers[f.ID] = f
	}
	if answers[2].OK == nil || answers[3].OK == nil || answers[4].Error == nil || answers[4].Error.Code != "RESOURCE_EXHAUSTED" || answers[4].Error.Details["topic"] != "c" {
		t.Fatalf("answers %+v, want a and b subscribed and c refused", answers)
	}
	p.send(`{"op":"subscribe","id":5,"topic":"c.>"}`)
	p.exhausted(5, 2, "null")
	p.send(`{"op":"subscribe","id":6,"topic":"a"}`) // has its place already
	p.expect(`{"id":6,"ok":{"topic":"a"}}`)
	p.send(`[{"op":"unsubscribe","id":7,"topic":"a"},{"op":"subscribe","id":8,"topic":"c"}]`)
	p.expect(`{"id":7,"ok":{}}`)
	p.expect(`{"id":8,"ok":{"topic":"c"}}`)
	p.send(`{"op":"subscribe","id":9,"topic":"a"}`)
	p.exhausted(9, 2, "null")
	// The claim `topics` fills no more than the bound either.
	q := r.dial()
	q.send(`{"op":"hello","id":1,"token":"` + token(t, auth.Claims{User: "ann", Topics: []string{"a", "b", "c"}}) + `"}`)
	if g := q.greeting(); len(g.OK.Topics) != 2 {
		t.Errorf("topics %q, want two", g.OK.Topics)
	}
}

func TestPendingCalls(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), limited(func(l *Limits) { l.PendingPerConnection = 2 }))
	worker := hear(t, r.bus(), "fl.call.slow")
	p, other := r.dial(), r.dial()
	p.hello("")
	p.send(`[{"op":"call","id":2,"method":"slow","timeoutMs":60000},{"op":"call","id":3,"method":"slow","timeoutMs":60000},{"op":"call","id":4,"method":"slow"}]`)
	p.exhausted(4, 2, "100")
	first, second := heard(t, worker), heard(t, worker)
	other.send(`{"op":"call","id":2,"method":"slow","timeoutMs":60000}`)
	third := heard(t, worker)
	if err := first.Respond([]byte(`"done"`)); err != nil {
		t.Fatal(err)
	}
	p.expect(`{"id":2,"ok":"done"}`)
	p.send(`[{"op":"cancel","ref":3},{"op":"call","id":5,"method":"slow","timeoutMs":60000},{"op":"call","id":6,"method":"slow","timeoutMs":60000},{"op":"call","id":7,"method":"slow"}]`)
	p.expectError(3, "CANCELLED")
	p.exhausted(7, 2, "100")
	if err := errors.Join(second.Respond([]byte(`0`)), third.Respond([]byte(`"also"`))); err != nil {
		t.Fatal(err)
	}
	other.expect(`{"id":2,"ok":"also"}`)
}

func TestPendingRequests(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), limited(func(l *Limits) { l.PendingPerConnection = 1 }))
	nc := r.bus()
	p := r.dial()
	conn, _, _ := p.hello("")
	inbox := nc.NewInbox()
	answers := hear(t, nc, inbox)
	ask := func() {
		if err := nc.PublishRequest("fl.conn."+conn, inbox, []byte(`1`)); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	var request struct{ Op, Ref string }
	if got := p.read(); json.Unmarshal([]byte(got), &request) != nil || request.Op != "request" {
		t.Fatalf("frame %s, want a request", got)
	}
	ask()
	if code := heard(t, answers).Header.Get("Nats-Service-Error-Code"); code != "RESOURCE_EXHAUSTED" {
		t.Errorf("the second request: %q, want RESOURCE_EXHAUSTED", code)
	}
	p.send(`{"op":"reply","ref":"` + request.Ref + `","data":"yes"}`)
	if msg := heard(t, answers); string(msg.Data) != `"yes"` {
		t.Errorf("the first request: %s, want the client's answer", msg.Data)
	}
	ask()
	if got := p.read(); !strings.Contains(got, `"op":"request"`) {
		t.Errorf("frame %s, want a request: there is room again", got)
	}
}

func TestPublishTopics(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), limited(func(l *Limits) { l.PublishTopics = 2 }))
	p := r.dial()
	p.hello("")
	p.send(`[{"op":"publish","id":2,"topic":"a","data":1},{"op":"publish","id":3,"topic":"b","data":1},{"op":"publish","id":4,"topic":"c","data":1},{"op":"publish","id":5,"topic":"a","data":1}]`)
	p.expect(`{"id":2,"ok":{}}`)
	p.expect(`{"id":3,"ok":{}}`)
	p.exhausted(4, 2, "null")
	p.expect(`{"id":5,"ok":{}}`)
	p.send(`{"op":"batch","id":6,"messages":[{"topic":"b","data":1},{"topic":"c","data":1}]}`)
	var results struct{ Results []reply }
	if f := p.reply(); json.Unmarshal(f.OK, &results) != nil || len(results.Results) != 2 ||
		results.Results[0].Error != nil || results.Results[1].Error == nil || results.Results[1].Error.Code != "RESOURCE_EXHAUSTED" {
		t.Errorf("batch: %s, want its second message refused", f.OK)
	}
}

func TestFramesPerSecond(t *testing.T) {
	const perSecond = 5
	r := startGateway(t, natsdev.Test(t), limited(func(l *Limits) { l.FramesPerSecond = perSecond }))
	p := r.dial()
	frames := make([]string, 100) // many seconds' worth in one message
	for i := range frames {
		frames[i] = fmt.Sprintf(`{"op":"unsubscribe","id":%d,"topic":"a"}`, i+1)
	}
	p.send("[" + strings.Join(frames, ",") + "]")
	passed := 0
	for i := range frames {
		f := p.reply()
		if f.ID != int64(i+1) {
			t.Fatalf("reply to %d, want %d", f.ID, i+1)
		}
		if f.Error == nil {
			passed++
			continue
		}
		var ms float64
		if f.Error.Code != "RESOURCE_EXHAUSTED" || json.Unmarshal(f.Error.RetryAfterMs, &ms) != nil || ms < 1 || ms > 1000/perSecond || f.Error.Details["op"] != "unsubscribe" {
			t.Fatalf("frame %d: %+v, want RESOURCE_EXHAUSTED with retryAfterMs of at most %d", i, f.Error, 1000/perSecond)
		}
	}
	if passed < perSecond || passed == len(frames) {
		t.Errorf("%d of %d frames passed, want a second's worth", passed, len(frames))
	}
	eventually(t, "frame passes again", func() bool {
		p.send(`{"op":"unsubscribe","id":200,"topic":"a"}`)
		return p.reply().Error == nil
	})
}

// Who sends too much is read no faster than it may send: each message beyond the
// bound is answered, and what follows waits in the client's own socket.
func TestWhoSendsTooMuchIsReadSlowly(t *testing.T) {
	const perSecond = 100
	r := startGateway(t, natsdev.Test(t), limited(func(l *Limits) { l.FramesPerSecond = perSecond }))
	p := r.dial()
	began := time.Now()
	const frames = 5 * perSecond
	for i := range frames {
		p.send(fmt.Sprintf(`{"op":"unsubscribe","id":%d,"topic":"a"}`, i+1))
	}
	passed := 0
	for range frames {
		if p.reply().Error == nil {
			passed++
		}
	}
	// Of those beyond the first second's worth every other one finds a token, since
	// each refusal waits for one.
	if least := perSecond + (frames-perSecond)/3; passed < least {
		t.Errorf("%d of %d frames passed in %s, want at least %d", passed, frames, time.Since(began), least)
	}
}

// limitEvent reads what fl.event.limit.exceeded says.
func limitEvent(t *testing.T, sub *nats.Subscription) (e eventJSON) {
	t.Helper()
	if err := json.Unmarshal(heard(t, sub).Data, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestPayloadLimit(t *testing.T) {
	const limit = 1024
	server := natsdev.Test(t)
	frame := func(size int) string {
		const head, tail = `{"op":"publish","id":9,"topic":"a","data":"`, `"}`
		return head + strings.Repeat("x", size-len(head)-len(tail)) + tail
	}
	for _, action := range []PayloadAction{PayloadError, PayloadClose, PayloadEvent} {
		t.Run(string(action), func(t *testing.T) {
			r := startGateway(t, server, limited(func(l *Limits) { l.PayloadBytes, l.PayloadAction = limit, action }))
			exceeded := hear(t, r.bus(), "fl.event.limit.exceeded")
			p := r.dial()
			conn, user, _ := p.hello("")
			p.send(frame(limit))
			p.expect(`{"id":9,"ok":{}}`)
			p.send(frame(limit + 1))
			e := limitEvent(t, exceeded)
			if e.Limit != "payload" || e.Observed != limit+1 || e.Allowed != limit || e.Conn != conn || e.User != user {
				t.Errorf("event %+v", e)
			}
			switch action {
			case PayloadError:
				f := p.reply()
				if f.ID != 0 || f.Error == nil || f.Error.Code != "RESOURCE_EXHAUSTED" || string(f.Error.RetryAfterMs) != "null" ||
					f.Error.Details["observed"] != float64(limit+1) || f.Error.Details["limit"] != float64(limit) {
					t.Errorf("reply %+v", f.Error)
				}
			case PayloadClose:
				if code := p.closed(); code != 1009 {
					t.Errorf("closed with %d, want 1009", code)
				}
				return
			}
			p.send(frame(limit)) // and nothing came before its answer
			p.expect(`{"id":9,"ok":{}}`)
			p.send(frame(16*limit + 1))
			if code := p.closed(); code != 1009 {
				t.Errorf("16 times the limit closed with %d, want 1009", code)
			}
		})
	}
}
