package gateway

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// withRules starts the gateway with a rules file.
func withRules(file string) option {
	return func(_ *Config, _ *Deps, o *rules.Options) { o.File = []byte(file) }
}

func (p *peer) sendf(format string, args ...any) {
	p.t.Helper()
	p.send(fmt.Sprintf(format, args...))
}

// subscribe subscribes and reads the answer.
func (p *peer) subscribe(id int, topic string) {
	p.t.Helper()
	p.sendf(`{"op":"subscribe","id":%d,"topic":%q}`, id, topic)
	p.expect(fmt.Sprintf(`{"id":%d,"ok":{"topic":%q}}`, id, topic))
}

// silent proves that nothing was queued for the peer before now: the answer to
// an op that does nothing comes next.
func (p *peer) silent() {
	p.t.Helper()
	p.send(`{"op":"unsubscribe","id":9007199254740991,"topic":"never.subscribed"}`)
	p.expect(`{"id":9007199254740991,"ok":{}}`)
}

func TestConversation(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	ann, bob := r.dial(), r.dial()
	ann.hello(token(t, auth.Claims{User: "ann"}))
	bob.hello("")
	ann.subscribe(2, "chat.lobby")
	bob.subscribe(2, "chat.lobby")
	ann.send(`{"op":"publish","topic":"chat.lobby","data":{"text":"hi"}}`)
	for _, p := range []*peer{ann, bob} {
		p.expect(`{"topic":"chat.lobby","event":"message","data":{"text":"hi"},"from":"ann"}`)
	}
}

// The answer is the first frame of a topic, however many messages of it are on
// their way already.
func TestSubscribeReplyPrecedesMessages(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	r.publishAlong("busy.topic", func() {
		p := r.dial()
		p.hello("")
		for range 2000 {
			p.subscribe(2, "busy.topic")
			p.expect(`{"topic":"busy.topic","event":"message","data":1}`)
			p.send(`{"op":"unsubscribe","id":3,"topic":"busy.topic"}`)
			for got := ""; got != `{"id":3,"ok":{}}`; got = p.read() {
			}
		}
	})
}

func TestNothingFollowsTheUnsubscribeReply(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	seen := r.publishAlong("busy.topic", nil)
	p := r.dial()
	p.hello("")
	for round := range 300 {
		p.subscribe(2, "busy.topic")
		p.expect(`{"topic":"busy.topic","event":"message","data":1}`)
		p.send(`{"op":"unsubscribe","id":3,"topic":"busy.topic"}`)
		for got := ""; got != `{"id":3,"ok":{}}`; got = p.read() {
		}
		// A whole burst was published, and delivered, after the reply.
		from := seen.Load()
		eventually(t, "the publisher goes on", func() bool { return seen.Load() >= from+2*burst })
		p.silent()
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

// burst is how many messages are published in a row: they are delivered so
// close behind each other that whatever happens meanwhile happens between two.
const burst = 64

// publishAlong publishes 1 to a topic in bursts, the next one as soon as a
// subscriber of it has the last, which counts them: while fn runs, or for as
// long as the test does.
func (r *rig) publishAlong(topic string, fn func()) *atomic.Int64 {
	r.t.Helper()
	nc, witness := r.bus(), r.dial()
	witness.hello("")
	witness.subscribe(2, topic)
	seen, done := new(atomic.Int64), make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for range burst {
				if err := nc.Publish("fl.topic."+topic, []byte("1")); err != nil {
					r.t.Errorf("publish: %v", err)
					return
				}
			}
			for range burst {
				if _, err := witness.next(); err != nil {
					r.t.Errorf("witness: %v", err)
					return
				}
				seen.Add(1)
			}
		}
	}()
	end := func() { stop(); <-done }
	if fn == nil {
		r.t.Cleanup(end)
		return seen
	}
	defer end()
	fn()
	return seen
}

func TestSubscribeTwiceIsIdempotent(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	_, user, _ := p.hello("")
	p.subscribe(2, "a.b")
	p.subscribe(3, "a.b")
	p.send(`[{"op":"subscribe","id":4,"topic":"c.d"},{"op":"subscribe","id":5,"topic":"c.d"}]`)
	p.expect(`{"id":4,"ok":{"topic":"c.d"}}`)
	p.expect(`{"id":5,"ok":{"topic":"c.d"}}`)
	for _, topic := range []string{"a.b", "c.d"} {
		p.sendf(`[{"op":"publish","topic":%q,"data":1},{"op":"publish","topic":%q,"data":2}]`, topic, topic)
		for _, data := range []string{"1", "2"} { // each once: 2 would not come second
			p.expect(fmt.Sprintf(`{"topic":%q,"event":"message","data":%s,"from":%q}`, topic, data, user))
		}
	}
	p.send(`[{"op":"unsubscribe","id":6,"topic":"a.b"},{"op":"unsubscribe","id":7,"topic":"a.b"}]`)
	p.expect(`{"id":6,"ok":{}}`)
	p.expect(`{"id":7,"ok":{}}`)
	p.silent()
}

// A token that asks for a topic twice gets its messages once.
func TestClaimedTopicsAreSubscribedOnce(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.sendf(`{"op":"hello","id":1,"token":%q}`, token(t, auth.Claims{User: "ann", Topics: []string{"news.x", "news.x"}}))
	if got := p.read(); !strings.Contains(got, `"topics":["news.x"]`) {
		t.Fatalf("hello: %s", got)
	}
	nc := r.bus()
	for _, data := range []string{"1", "2"} {
		if err := nc.Publish("fl.topic.news.x", []byte(data)); err != nil {
			t.Fatal(err)
		}
		p.expect(`{"topic":"news.x","event":"message","data":` + data + `}`)
	}
	p.send(`{"op":"unsubscribe","id":2,"topic":"news.x"}`)
	p.expect(`{"id":2,"ok":{}}`)
	p.silent()
}

func TestSubscribeOptions(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	for i, option := range []string{`"after":0`, `"after":7,"ts":1760000000000`, `"last":10`} {
		p.sendf(`{"op":"subscribe","id":%d,"topic":"r.%d",%s}`, i+2, i, option)
		p.expect(fmt.Sprintf(`{"id":%d,"ok":{"topic":"r.%d","recovered":false}}`, i+2, i))
	}
	for _, c := range []struct{ frame, code, field, says string }{
		{`{"op":"subscribe","id":9,"topic":"x","after":1,"last":2}`, "INVALID_ARGUMENT", "last", ""},
		{`{"op":"subscribe","id":9,"topic":"x.>","after":1}`, "INVALID_ARGUMENT", "after", ""},
		{`{"op":"subscribe","id":9,"topic":"x","last":1001}`, "INVALID_ARGUMENT", "last", ""},
		{`{"op":"subscribe","id":9,"topic":"x.>","presence":"watch"}`, "INVALID_ARGUMENT", "presence", ""},
		{`{"op":"subscribe","id":9,"topic":"x","presence":"lurk"}`, "INVALID_ARGUMENT", "presence", ""},
		{`{"op":"subscribe","id":9,"topic":"x","presence":"join"}`, "UNAVAILABLE", "", ""},
		{`{"op":"subscribe","id":9,"topic":"x.>","cursors":true}`, "INVALID_ARGUMENT", "cursors", ""},
		{`{"op":"subscribe","id":9,"topic":"x","cursors":1}`, "INVALID_ARGUMENT", "cursors", ""},
	} {
		p.send(c.frame)
		details := p.expectError(9, c.code)
		if c.field != "" && details["field"] != c.field {
			t.Errorf("%s: got details %v, want the field %s", c.frame, details, c.field)
		}
		if got := details["message"].(string); !strings.Contains(got, c.says) {
			t.Errorf("%s: got %q, want it to name the %s", c.frame, got, c.says)
		}
	}
	p.subscribe(10, "y")
	p.send(`[{"op":"publish","topic":"x","data":1},{"op":"publish","topic":"y","data":2}]`)
	if got := p.read(); !strings.HasPrefix(got, `{"topic":"y",`) {
		t.Errorf("got %s: what was refused is subscribed", got)
	}
}

func TestWildcards(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(`
topics:
  - {name: open, match: "open.>", subscribe: any, publish: any, wildcards: true}
  - {name: shut, match: "shut.>", subscribe: any, publish: any}
`))
	p := r.dial()
	p.hello("")
	p.send(`{"op":"subscribe","id":2,"topic":"shut.*"}`)
	if details := p.expectError(2, "PERMISSION_DENIED"); details["rule"] != "shut" || details["topic"] != "shut.*" || details["op"] != "subscribe" {
		t.Errorf("got details %v, want the rule shut, the op and the topic", details)
	}
	p.send(`{"op":"subscribe","id":3,"topic":">"}`)
	p.expectError(3, "PERMISSION_DENIED")
	p.subscribe(4, "open.>")
	p.subscribe(5, "open.*.b")
	nc := r.bus()
	for _, topic := range []string{"shut.x", "open.x"} {
		if err := nc.Publish("fl.topic."+topic, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	p.expect(`{"topic":"open.x","event":"message","data":1}`)
	p.send(`{"op":"unsubscribe","id":6,"topic":"open.>"}`)
	p.expect(`{"id":6,"ok":{}}`)
	for _, topic := range []string{"open.x", "open.a.b"} {
		if err := nc.Publish("fl.topic."+topic, []byte("2")); err != nil {
			t.Fatal(err)
		}
	}
	p.expect(`{"topic":"open.a.b","event":"message","data":2}`) // by the narrower one
}

func TestSubscriptionIsLiveWhenAnswered(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p, nc := r.dial(), r.bus()
	p.hello("")
	for i := range 500 {
		topic := fmt.Sprintf("fresh.%d", i)
		p.subscribe(i+2, topic)
		if err := nc.Publish("fl.topic."+topic, []byte("1")); err != nil {
			t.Fatal(err)
		}
		p.expect(fmt.Sprintf(`{"topic":%q,"event":"message","data":1}`, topic))
	}
}

func TestOneSubscriptionPerTopic(t *testing.T) {
	server := natsdev.Test(t)
	r := startGateway(t, server)
	peers := make([]*peer, 50)
	for i := range peers {
		peers[i] = r.dial()
		peers[i].hello("")
	}
	before := forClients(server)
	for _, p := range peers {
		p.subscribe(2, "shared.topic")
	}
	if got := forClients(server); got != before+1 {
		t.Errorf("got %d NATS subscriptions for 50 sockets, want 1", got-before)
	}
	for _, p := range peers {
		p.send(`{"op":"unsubscribe","id":3,"topic":"shared.topic"}`)
		p.expect(`{"id":3,"ok":{}}`)
	}
	eventually(t, "no subscription is left after the linger", func() bool { return forClients(server) == before })
	peers[0].subscribe(4, "shared.topic") // and it can be had again
	if got := forClients(server); got != before+1 {
		t.Errorf("got %d NATS subscriptions, want 1", got-before)
	}
}

// Guarantee 0: what is published behind a subscribe reaches it.
func TestPublishBehindSubscribe(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	_, user, _ := p.hello("")
	for i := range 100 {
		topic := fmt.Sprintf("behind.%d", i)
		sub := fmt.Sprintf(`{"op":"subscribe","id":2,"topic":%q}`, topic)
		pub := fmt.Sprintf(`{"op":"publish","topic":%q,"data":%d}`, topic, i)
		if i%2 == 0 {
			p.send("[" + sub + "," + pub + "]")
		} else {
			p.send(sub)
			p.send(pub)
		}
		p.expect(fmt.Sprintf(`{"id":2,"ok":{"topic":%q}}`, topic))
		p.expect(fmt.Sprintf(`{"topic":%q,"event":"message","data":%d,"from":%q}`, topic, i, user))
	}
}

func TestSubscribesOfOneArray(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p, nc := r.dial(), r.bus()
	p.hello("")
	frames := make([]string, 200)
	for i := range frames {
		frames[i] = fmt.Sprintf(`{"op":"subscribe","id":%d,"topic":"many.%d"}`, i+2, i)
	}
	p.send("[" + strings.Join(frames, ",") + "]")
	for i := range frames {
		p.expect(fmt.Sprintf(`{"id":%d,"ok":{"topic":"many.%d"}}`, i+2, i))
	}
	for i := range frames {
		if err := nc.Publish(fmt.Sprintf("fl.topic.many.%d", i), []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]bool{}
	for range frames {
		got[p.read()] = true
	}
	if len(got) != len(frames) {
		t.Errorf("got messages of %d topics, want %d", len(got), len(frames))
	}
}

// What a connection published before it subscribed does not come back: the two
// travel on different NATS connections, and neither overtakes the other.
func TestPublishBeforeSubscribeStaysBefore(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	for i := range 300 {
		p.send(fmt.Sprintf(`[{"op":"publish","topic":"before.%d","data":"before"},{"op":"subscribe","id":7,"topic":"before.%d"},{"op":"publish","topic":"before.%d","data":"behind"}]`, i, i, i))
		p.expect(fmt.Sprintf(`{"id":7,"ok":{"topic":"before.%d"}}`, i))
		if got := p.read(); !strings.Contains(got, `"behind"`) {
			t.Fatalf("round %d: got %s", i, got)
		}
	}
}
