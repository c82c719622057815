package gateway

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// apply puts rules into the bucket, as `fairlead rules apply` does, and returns
// when the gateway has them.
func (r *rig) apply(file string) {
	r.t.Helper()
	set, err := rules.Parse([]byte(file), rules.Dev)
	if err != nil {
		r.t.Fatal(err)
	}
	js, err := jetstream.New(r.bus())
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := (rules.Store{JetStream: js, Namespace: "fl"}).Put(r.t.Context(), set, "test"); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "the rules of the bucket count", func() bool { return r.g.rules.Current().Digest() == set.Digest() })
}

// The next op follows the rules that were put meanwhile.
func TestNextOpFollowsNewRules(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	try := func(allowed bool) {
		t.Helper()
		p.send(`{"op":"publish","id":2,"topic":"a.b","data":1}`)
		if allowed {
			p.expect(`{"id":2,"ok":{}}`)
		} else if details := p.expectError(2, "PERMISSION_DENIED"); details["rule"] != "a" {
			t.Errorf("got details %v, want the rule a", details)
		}
		p.send(`{"op":"subscribe","id":3,"topic":"a.c.*"}`)
		if allowed {
			p.expect(`{"id":3,"ok":{"topic":"a.c.*"}}`)
			p.send(`{"op":"unsubscribe","id":4,"topic":"a.c.*"}`)
			p.expect(`{"id":4,"ok":{}}`)
		} else {
			p.expectError(3, "PERMISSION_DENIED")
		}
	}
	try(true) // the built-in rules of dev
	r.apply(`{topics: [{name: a, match: "a.>", subscribe: any, publish: none}]}`)
	try(false)
	r.apply(`{topics: [{name: a, match: "a.>", subscribe: any, publish: user, wildcards: true}]}`)
	try(true)
}

// A call's right follows the rules as a topic's does.
func TestNextCallFollowsNewRules(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	p.send(`{"op":"call","id":2,"method":"m.x"}`)
	p.expectError(2, "UNIMPLEMENTED") // allowed, and nobody serves it
	r.apply(`{topics: [{match: ">", subscribe: any}], calls: [{match: "m.*", allow: none}]}`)
	p.send(`{"op":"call","id":3,"method":"m.x"}`)
	if details := p.expectError(3, "PERMISSION_DENIED"); details["rule"] != "m.*" {
		t.Errorf("got details %v, want the rule m.*", details)
	}
}

// A topic that is subscribed already follows the rules, too: what it shows of
// the publisher, and what becomes of messages that a slow connection can't take.
func TestSubscribedTopicFollowsNewRules(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	p.subscribe(2, "a.b")
	p.subscribe(3, "b.>")
	find := func(subject string) *interest { return r.g.fanout.hub.find(r.g.fanout.hub.shard(subject), subject) }
	topic, pattern := find("fl.topic.a.b"), find("fl.topic.b.>")
	for i, c := range []struct {
		from bool
		slow string
		want outbox.Policy
	}{
		{true, "drop-oldest", outbox.DropOldest},
		{false, "conflate", outbox.Conflate},
		{true, "disconnect", outbox.Disconnect},
		{false, "drop-oldest", outbox.DropOldest},
	} {
		r.apply(fmt.Sprintf(`{topics: [{name: all, match: ">", subscribe: any, publish: any, wildcards: true, from: %v, slow: %s}]}`, c.from, c.slow))
		set := r.g.rules.Current()
		eventually(t, "the subscribed topic has its new rule", func() bool { return topic.rule.Load() == set.Topic("a.b") })
		for _, in := range []*interest{topic, pattern} {
			eventually(t, fmt.Sprintf("%s: %s", in.subject, c.slow), func() bool { return policyOf(in) == c.want })
		}
		from := ""
		if c.from {
			from = `,"from":"ann"`
		}
		for _, name := range []string{"a.b", "b.c"} {
			p.sendf(`{"op":"publish","topic":%q,"data":%d}`, name, i)
			p.expect(fmt.Sprintf(`{"topic":%q,"event":"message","data":%d%s}`, name, i, from))
		}
	}
}

func policyOf(in *interest) outbox.Policy {
	if src := in.source.Load(); src != nil {
		return src.Policy
	}
	return outbox.Disconnect
}
