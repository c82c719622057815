package gateway

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// undeclared returns the ops of the protocol that declare no right.
func undeclared(needs map[wire.Op]need) (names []string) {
	for i := range wire.Ops {
		op := wire.Op(i)
		n := needs[op]
		if op != wire.OpUnknown && (!n.declared || !n.open && n.name == nil) {
			names = append(names, op.String())
		}
	}
	return names
}

func TestEveryOpDeclaresWhatItNeeds(t *testing.T) {
	if got := undeclared(needs); len(got) != 0 {
		t.Errorf("ops without a right in `needs`: %v", got)
	}
	for op := range needs { // the check notices each one that is missing
		without := maps.Clone(needs)
		delete(without, op)
		if got, want := undeclared(without), []string{op.String()}; !slices.Equal(got, want) {
			t.Errorf("without %s: got %v, want %v", op, got, want)
		}
	}
	if len(needs) != len(wire.Ops)-1 {
		t.Errorf("got %d ops in `needs`, want %d", len(needs), len(wire.Ops)-1)
	}
}

// An op that declares nothing is refused, whoever asks.
func TestUndeclaredOpIsRefused(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	id := &auth.Identity{User: "ann"}
	err := r.g.authorizer.Authorize(t.Context(), id, &wire.Frame{Op: wire.Op(len(wire.Ops))})
	if wire.CodeOf(err) != wire.PermissionDenied {
		t.Errorf("got %v, want PERMISSION_DENIED", err)
	}
	err = r.g.authorizer.Authorize(t.Context(), nil, &wire.Frame{Op: wire.OpPublish, Topic: "a.b"})
	if wire.CodeOf(err) != wire.Unauthenticated {
		t.Errorf("without an identity: got %v, want UNAUTHENTICATED", err)
	}
}

const authorizeRules = `
topics:
  - {name: any, match: "any.>", subscribe: any, publish: any, wildcards: true}
  - {name: user, match: "user.>", subscribe: user, publish: user}
  - {name: token, match: "token.>", subscribe: token, publish: token, wildcards: true}
  - {name: none, match: "none.>", subscribe: none, publish: none}
  - {name: read, match: "read.>", subscribe: any, publish: none}
  - {name: own, match: "own.{user}.>", subscribe: user, publish: user, wildcards: true}
  - {name: team, match: "team.{attr.team}.>", subscribe: user, publish: user}
calls:
  - {match: "any.*", allow: any}
  - {match: "user.*", allow: user}
  - {match: "token.*", allow: token}
  - {match: "own.{user}.*", allow: user}
  - {match: "none.*", allow: none}
`

// The rules and the token's lists must both allow, whatever the op.
func TestRulesAndClaims(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(authorizeRules))
	nc := r.bus()
	if _, err := nc.Subscribe("fl.call.>", func(m *nats.Msg) { _ = m.Respond([]byte(`"served"`)) }); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	callers := map[string]*auth.Claims{
		"anonymous": nil,
		"ann":       {User: "ann"},
		"in team":   {User: "ann", Attributes: map[string]string{"team": "red"}},
		"listed": {User: "ann", Subscribe: []string{"token.>", "any.a", "own.ann.>"}, Publish: []string{"token.*", "any.a"},
			Calls: []string{"token.*", "any.a"}},
		"nothing listed": {User: "ann", Subscribe: []string{}, Publish: []string{}, Calls: []string{}},
		"all listed":     {User: "ann", Subscribe: []string{">"}, Publish: []string{">"}, Calls: []string{">"}},
	}
	type right struct{ op, name string }
	const denied = "-" // by no rule; otherwise the rule that must be named
	for _, c := range []struct {
		right  right
		refuse map[string]string // by caller: the rule that refuses; everybody else may
	}{
		{right{"subscribe", "any.a"}, map[string]string{"nothing listed": "any"}},
		{right{"subscribe", "any.b"}, map[string]string{"nothing listed": "any", "listed": "any"}},
		{right{"subscribe", "any.>"}, map[string]string{"nothing listed": "any", "listed": "any"}},
		{right{"subscribe", "user.a"}, map[string]string{"anonymous": "user", "nothing listed": "user", "listed": "user"}},
		{right{"subscribe", "token.a"}, map[string]string{"anonymous": "token", "ann": "token", "in team": "token", "nothing listed": "token"}},
		{right{"subscribe", "token.>"}, map[string]string{"anonymous": "token", "ann": "token", "in team": "token", "nothing listed": "token"}},
		{right{"subscribe", "own.ann.a"}, map[string]string{"anonymous": "own", "nothing listed": "own"}},
		{right{"subscribe", "own.ann.>"}, map[string]string{"anonymous": "own", "nothing listed": "own"}},
		{right{"subscribe", "own.bob.a"}, refuseAll(callers, "own")},
		{right{"subscribe", "own.*.a"}, refuseAll(callers, "own")},
		{right{"subscribe", "team.red.a"}, map[string]string{"anonymous": "team", "ann": "team", "listed": "team", "nothing listed": "team", "all listed": "team"}},
		{right{"subscribe", "team.blue.a"}, refuseAll(callers, "team")},
		{right{"subscribe", "none.a"}, refuseAll(callers, "none")},
		{right{"subscribe", "nowhere"}, refuseAll(callers, denied)},
		{right{"publish", "any.a"}, map[string]string{"nothing listed": "any"}},
		{right{"publish", "any.b"}, map[string]string{"nothing listed": "any", "listed": "any"}},
		{right{"publish", "user.a"}, map[string]string{"anonymous": "user", "nothing listed": "user", "listed": "user"}},
		{right{"publish", "token.a"}, map[string]string{"anonymous": "token", "ann": "token", "in team": "token", "nothing listed": "token"}},
		{right{"publish", "token.a.b"}, map[string]string{"anonymous": "token", "ann": "token", "in team": "token", "listed": "token", "nothing listed": "token"}},
		{right{"publish", "own.bob.a"}, refuseAll(callers, "own")},
		{right{"publish", "read.a"}, refuseAll(callers, "read")},
		{right{"publish", "nowhere"}, refuseAll(callers, denied)},
		{right{"call", "any.a"}, map[string]string{"nothing listed": "any.*"}},
		{right{"call", "any.b"}, map[string]string{"nothing listed": "any.*", "listed": "any.*"}},
		{right{"call", "user.a"}, map[string]string{"anonymous": "user.*", "nothing listed": "user.*", "listed": "user.*"}},
		{right{"call", "token.a"}, map[string]string{"anonymous": "token.*", "ann": "token.*", "in team": "token.*", "nothing listed": "token.*"}},
		{right{"call", "own.ann.a"}, map[string]string{"anonymous": "own.{user}.*", "nothing listed": "own.{user}.*", "listed": "own.{user}.*"}},
		{right{"call", "own.bob.a"}, refuseAll(callers, "own.{user}.*")},
		{right{"call", "none.a"}, refuseAll(callers, "none.*")},
		{right{"call", "nowhere"}, refuseAll(callers, denied)},
	} {
		for who, claims := range callers {
			t.Run(fmt.Sprintf("%s %s as %s", c.right.op, c.right.name, who), func(t *testing.T) {
				p := r.dial()
				if claims == nil {
					p.hello("")
				} else {
					p.hello(token(t, *claims))
				}
				member, ok := "topic", `{"id":2,"ok":{}}`
				switch c.right.op {
				case "subscribe":
					ok = fmt.Sprintf(`{"id":2,"ok":{"topic":%q}}`, c.right.name)
				case "call":
					member, ok = "method", `{"id":2,"ok":"served"}`
				}
				p.sendf(`{"op":%q,"id":2,%q:%q}`, c.right.op, member, c.right.name)
				rule, refused := c.refuse[who]
				if !refused {
					p.expect(ok)
					return
				}
				details := p.expectError(2, "PERMISSION_DENIED")
				if got := details["rule"]; got != rule && !(rule == denied && got == nil) {
					t.Errorf("got the rule %v, want %q", got, rule)
				}
				if details["op"] != c.right.op {
					t.Errorf("got details %v, want the op", details)
				}
			})
		}
	}
}

func refuseAll(callers map[string]*auth.Claims, rule string) map[string]string {
	all := map[string]string{}
	for who := range callers {
		all[who] = rule
	}
	return all
}

// What a batch may publish is decided message by message, and a token's own
// list of topics opens nothing that the rules don't.
func TestClaimedTopicsObeyTheRules(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(authorizeRules), func(_ *Config, _ *Deps, o *rules.Options) { o.Mode = rules.Run })
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann", Topics: []string{"none.a", "own.bob.a", "any.a", "nowhere"}}))
	nc := r.bus()
	for _, topic := range []string{"none.a", "own.bob.a", "nowhere", "any.a"} {
		if err := nc.Publish("fl.topic."+topic, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	p.expect(`{"topic":"any.a","event":"message","data":1}`)
}
