package gateway

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// rated is a gateway whose calls of user.x, address.x, connection.x, topic.x and
// given.x take from a limit of that key with two tokens and no hope of more.
func rated(t *testing.T) *rig {
	r := startGateway(t, natsdev.Test(t), func(_ *Config, _ *Deps, o *rules.Options) {
		o.File = []byte(`
topics: [{match: ">"}]
limits:
  user: {capacity: 2, refill: 1, per: 1h}
  address: {capacity: 2, refill: 1, per: 1h, key: address}
  connection: {capacity: 2, refill: 1, per: 1h, key: connection}
  topic: {capacity: 2, refill: 1, per: 1h, key: topic}
  given: {capacity: 2, refill: 1, per: 1h, key: given}
  shadow: {capacity: 2, refill: 1, per: 1h, shadow: true}
calls:
  - {match: "user.*", rate: user}
  - {match: "address.*", rate: address}
  - {match: "connection.*", rate: connection}
  - {match: "topic.*", rate: topic}
  - {match: "given.*", rate: given}
  - {match: "shadow.*", rate: shadow}
  - {match: "dear.*", rate: {limit: connection, cost: 2}}
  - {match: ">"}
`)
	})
	serveCalls(t, r.bus(), ">", func(msg *nats.Msg) { answer(t, msg, `1`, nil) })
	return r
}

// calls calls a method and reports whether it was answered rather than refused.
func (p *peer) calls(method string) bool {
	p.t.Helper()
	p.send(`{"op":"call","id":9,"method":"` + method + `"}`)
	f := p.reply()
	if f.Error == nil {
		return true
	}
	if f.Error.Code != "RESOURCE_EXHAUSTED" || f.Error.Details["op"] != "call" {
		p.t.Fatalf("call %s: %+v, want an answer or RESOURCE_EXHAUSTED", method, f.Error)
	}
	return false
}

func TestCallsTakeFromTheLimitOfTheirRule(t *testing.T) {
	r := rated(t)
	ann, again, bob := r.dial(), r.dial(), r.dial()
	for _, p := range []*peer{ann, again} {
		p.hello(token(t, auth.Claims{User: "ann"}))
	}
	bob.hello(token(t, auth.Claims{User: "bob"}))
	tests := []struct {
		key         string
		second, bob bool // whether ann's other connection, and bob, still may
	}{
		{key: "user", bob: true},
		{key: "given", bob: true},
		{key: "connection", second: true, bob: true},
		{key: "address"},
		{key: "topic"},
		{key: "shadow", second: true, bob: true},
	}
	for _, test := range tests {
		for range 2 {
			if !ann.calls(test.key + ".x") {
				t.Errorf("%s: refused within the limit", test.key)
			}
		}
		if got, want := ann.calls(test.key+".x"), test.key == "shadow"; got != want {
			t.Errorf("%s: the third call was answered: %v, want %v", test.key, got, want)
		}
		if got := again.calls(test.key + ".x"); got != test.second {
			t.Errorf("%s: the user's other connection was answered: %v, want %v", test.key, got, test.second)
		}
		if got := bob.calls(test.key + ".x"); got != test.bob {
			t.Errorf("%s: another user was answered: %v, want %v", test.key, got, test.bob)
		}
	}
	if !bob.calls("topic.y") {
		t.Error("the bucket of one method counts for another")
	}
	for range 3 {
		if !bob.calls("free.x") {
			t.Error("a call without a rate was refused")
		}
	}
	// One of the connection's two tokens went above.
	if bob.calls("dear.x") {
		t.Error("a cost of 2 was taken from 1 token")
	}
	if got := r.g.rates.shadowed.Load(); got == 0 {
		t.Error("what a shadow limit let pass is not counted")
	}
}

// A refusal says of which limit, and when to come back.
func TestRateRefusalsSayWhen(t *testing.T) {
	r := rated(t)
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	for range 2 {
		p.calls("user.x")
	}
	p.send(`{"op":"call","id":9,"method":"user.x"}`)
	f := p.reply()
	if f.Error == nil || f.Error.Details["limit"] != "user" {
		t.Fatalf("got %+v, want a refusal of the limit user", f.Error)
	}
	var ms int64
	if err := json.Unmarshal(f.Error.RetryAfterMs, &ms); err != nil || ms < 3_500_000 || ms > 3_600_000 {
		t.Errorf("retryAfterMs %s, want nearly the hour that a token takes", f.Error.RetryAfterMs)
	}
}

// A call that is refused for another reason takes nothing.
func TestADuplicateCallCostsNothing(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(`
limits: {two: {capacity: 2, refill: 1, per: 1h, key: user}}
topics: [{match: ">"}]
calls: [{match: ">", allow: any, rate: two}]
`))
	asked := make(chan *nats.Msg, 4)
	serveCalls(t, r.bus(), ">", func(msg *nats.Msg) { asked <- msg })
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	p.send(`{"op":"call","id":9,"method":"m"}`)
	for range 3 {
		p.send(`{"op":"call","id":9,"method":"m"}`)
		if f := p.reply(); f.Error == nil || f.Error.Code != "ALREADY_EXISTS" {
			t.Fatalf("got %+v, want ALREADY_EXISTS", f.Error)
		}
	}
	p.send(`{"op":"call","id":10,"method":"m"}`)
	for range 2 {
		await(t, "a call at the worker", asked)
	}
}

// A client owns a whole /64: its addresses share one bucket.
func TestAddressesOfANetworkShareABucket(t *testing.T) {
	bucketOf := func(address string) string {
		c := &connection{address: netip.MustParseAddr(address)}
		c.identity.Store(&auth.Identity{User: "anon-x", Anonymous: true})
		return c.rateKeyOf(&rules.Limit{Key: rules.KeyAddress}, "m")
	}
	if a, b := bucketOf("2001:db8::1"), bucketOf("2001:db8::ffff:1"); a != b {
		t.Errorf("two addresses of a /64 have the buckets %s and %s, want one", a, b)
	}
	if a, b := bucketOf("2001:db8::1"), bucketOf("2001:db8:0:1::1"); a == b {
		t.Errorf("two networks share the bucket %s", a)
	}
}

// What makes room is never a ban, as long as there is anything else.
func TestABanIsForgottenLast(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	banned := &bucket{at: now.Add(-time.Hour), banned: now.Add(time.Minute)}
	used := &bucket{at: now}
	if banned.sooner(used, now) || !used.sooner(banned, now) {
		t.Error("a banned key is forgotten before one that was just used")
	}
	if older := (&bucket{at: now.Add(-time.Second)}); !older.sooner(used, now) || used.sooner(older, now) {
		t.Error("of two the one used last is forgotten")
	}
}
