package rules

import (
	"os"
	"strings"
	"testing"
)

const decideRules = `
topics:
  - {name: open, match: "open.>", subscribe: any, publish: user, wildcards: true, presence: {watch: any, join: user}, cursors: {}}
  - {name: secret, match: "mixed.secret", subscribe: token, wildcards: true}
  - {name: mixed, match: "mixed.>", subscribe: any, wildcards: true}
  - {name: closed, match: "closed.>", subscribe: none, publish: none}
  - {name: ask, match: "ask.>", subscribe: callout, publish: any}
  - {name: listed, match: "listed.>", subscribe: token, publish: token, history: any, wildcards: true}
  - {name: own, match: "user.{user}.>", subscribe: any, wildcards: true, presence: {watch: any, join: any}}
  - {name: org, match: "org.{attr.org}.*", subscribe: any, wildcards: true}
  - {name: plain, match: "plain.>", subscribe: any}
calls:
  - {match: "open.*", allow: any}
  - {match: "me.{user}.*", allow: user}
  - {match: "listed.*", allow: token}
  - {match: ">", allow: none}
groups:
  - {match: open, join: any, roles: [member, admin]}
  - {match: listed, join: token}
  - {match: users}
`

func TestDecide(t *testing.T) {
	s := mustParse(t, decideRules)
	bob := Caller{User: "bob", Attributes: map[string]string{"org": "acme"}}
	anon := Caller{User: "anon-AAAAAAAAAAAAAAAA", Anonymous: true}
	none := Claims{}
	tests := []struct {
		c      Caller
		claims Claims
		right  Right
		name   string
		allow  bool
		rule   string
		why    string
	}{
		{anon, none, Subscribe, "open.x", true, "open", "anyone may"},
		{anon, none, Publish, "open.x", false, "open", "the rule wants an authenticated user"},
		{bob, none, Publish, "open.x", true, "open", "authenticated users may"},
		{Caller{}, none, Publish, "open.x", false, "open", "the rule wants an authenticated user"},
		{anon, none, History, "open.x", true, "open", "anyone may"},
		{anon, none, Watch, "open.x", true, "open", "anyone may"},
		{anon, none, Join, "open.x", false, "open", "the rule wants an authenticated user"},
		{anon, none, Cursor, "open.x", true, "open", "anyone may"},
		{bob, none, Watch, "plain.x", false, "plain", "the rule has no presence"},
		{bob, none, Cursor, "plain.x", false, "plain", "the rule has no cursors"},
		{bob, none, Subscribe, "nowhere", false, "", "no rule matches the topic"},
		{bob, none, Subscribe, "closed.x", false, "closed", "nobody may"},
		{bob, none, Subscribe, "ask.x", false, "ask", "callout is not built yet"},

		// The lists of the token narrow; an empty one allows nothing.
		{bob, Claims{Publish: []string{"open.y", "open.x"}}, Publish, "open.x", true, "open", "authenticated users may"},
		{bob, Claims{Publish: []string{"open.y"}}, Publish, "open.x", false, "open", "the list of the token does not name it"},
		{bob, Claims{Publish: []string{}}, Publish, "open.x", false, "open", "the list of the token does not name it"},
		{bob, Claims{Publish: []string{}}, Subscribe, "open.x", true, "open", "anyone may"},
		{bob, Claims{Subscribe: []string{}}, History, "open.x", false, "open", "the list of the token does not name it"},
		{bob, Claims{Subscribe: []string{"open.*"}}, Join, "open.x", true, "open", "authenticated users may"},
		{bob, Claims{Subscribe: []string{"closed.>"}}, Subscribe, "closed.x", false, "closed", "nobody may"},
		{bob, none, Subscribe, "listed.x", false, "listed", "the rule wants a token whose list names it"},
		{bob, Claims{Subscribe: []string{"listed.x"}}, Subscribe, "listed.x", true, "listed", "the token names it"},
		{anon, Claims{Subscribe: []string{"listed.x"}}, Subscribe, "listed.x", true, "listed", "the token names it"},
		{bob, Claims{Subscribe: []string{"listed.x"}}, Publish, "listed.x", false, "listed", "the rule wants a token whose list names it"},

		// The caller's own, and nobody falls through to a later rule.
		{bob, none, Subscribe, "user.bob.x", true, "own", "anyone may"},
		{bob, none, Subscribe, "user.ann.x", false, "own", "the topic is not the caller's own"},
		{anon, none, Subscribe, "user.anon-AAAAAAAAAAAAAAAA.x", false, "own", "the rule is for the caller's own topics, and an anonymous caller has none"},
		{bob, none, Watch, "user.ann.x", false, "own", "the topic is not the caller's own"},
		{bob, none, Subscribe, "org.acme.x", true, "org", "anyone may"},
		{Caller{User: "bob"}, none, Subscribe, "org.acme.x", false, "org", "the topic is not the caller's own"},

		// Wildcards: every rule they meet must agree.
		{anon, none, Subscribe, "open.*", true, "open", "every rule of the pattern allows it"},
		{bob, Claims{Subscribe: []string{"open.x"}}, Subscribe, "open.*", false, "open", "the list of the token does not name it"},
		{bob, Claims{Subscribe: []string{"open.*"}}, Subscribe, "open.>", false, "open", "the list of the token does not name it"},
		{bob, Claims{Subscribe: []string{"open.>"}}, Subscribe, "open.*", true, "open", "every rule of the pattern allows it"},
		{bob, none, Subscribe, "mixed.*", false, "secret", "the rule wants a token whose list names it"},
		{bob, Claims{Subscribe: []string{"mixed.>"}}, Subscribe, "mixed.*", true, "mixed", "every rule of the pattern allows it"},
		{bob, none, Subscribe, "mixed.*.deep", true, "mixed", "every rule of the pattern allows it"},
		{bob, none, Subscribe, "plain.*", false, "plain", "the rule does not allow wildcards"},
		{bob, none, Subscribe, "nowhere.*", false, "", "no rule covers the whole pattern"},
		{bob, none, Subscribe, "*.secret", false, "secret", "the rule wants a token whose list names it"},
		{bob, none, Subscribe, "user.bob.>", true, "own", "every rule of the pattern allows it"},
		{bob, none, Subscribe, "user.*.x", false, "own", "the topic is not the caller's own"},
		{bob, none, Subscribe, "user.>", false, "own", "the topic is not the caller's own"},
		{bob, none, Subscribe, "org.acme.*", true, "org", "every rule of the pattern allows it"},
		{bob, none, Subscribe, "org.acme.>", false, "org", "no rule covers the whole pattern"},
		{bob, none, Publish, "open.*", false, "", "publish takes a topic without wildcards"},

		{anon, none, CallMethod, "open.x", true, "open.*", "anyone may"},
		{anon, none, CallMethod, "me.bob.x", false, "me.{user}.*", "the method is not the caller's own"},
		{bob, none, CallMethod, "me.bob.x", true, "me.{user}.*", "authenticated users may"},
		{bob, Claims{Calls: []string{"me.>"}}, CallMethod, "open.x", false, "open.*", "the list of the token does not name it"},
		{bob, Claims{Calls: []string{"listed.*"}}, CallMethod, "listed.x", true, "listed.*", "the token names it"},
		{bob, none, CallMethod, "other", false, ">", "nobody may"},

		{anon, none, JoinGroup, "open", true, "open", "anyone may"},
		{bob, none, JoinGroup, "listed", false, "listed", "the rule wants a token whose groups name it"},
		{bob, Claims{Groups: map[string][]string{"listed": nil}}, JoinGroup, "listed", true, "listed", "the token names it"},
		{anon, none, JoinGroup, "users", false, "users", "the rule wants an authenticated user"},
		{bob, none, JoinGroup, "other", false, "", "no rule matches the group"},
	}
	for _, tt := range tests {
		allow, rule, why := s.Decide(tt.c, tt.claims, tt.right, tt.name)
		if allow != tt.allow || rule != tt.rule || why != tt.why {
			t.Errorf("%s %v %s %+v:\n got %v %q %q\nwant %v %q %q", tt.c.User, tt.right, tt.name, tt.claims, allow, rule, why, tt.allow, tt.rule, tt.why)
		}
	}
}

func TestAllowedDecisionDoesNotAllocate(t *testing.T) {
	s := mustParse(t, decideRules)
	bob := Caller{User: "b.b@c", Attributes: map[string]string{"org": "acme"}}
	claims := Claims{Subscribe: []string{"open.y", "user.>", "org.>"}, Publish: []string{"open.*"}, Calls: []string{">"}}
	for _, ask := range []struct {
		right Right
		name  string
	}{{Subscribe, "user.b=2Eb=40c.x"}, {Publish, "open.x"}, {Subscribe, "org.acme.x"}, {CallMethod, "open.x"}, {JoinGroup, "open"}} {
		allocs := testing.AllocsPerRun(100, func() {
			if ok, _, why := s.Decide(bob, claims, ask.right, ask.name); !ok {
				t.Fatalf("%v %s: %s", ask.right, ask.name, why)
			}
		})
		if allocs != 0 {
			t.Errorf("%v %s: got %v allocations, want 0", ask.right, ask.name, allocs)
		}
	}
}

func TestClaims(t *testing.T) {
	g := mustParse(t, decideRules).Group("open")
	c := Claims{Send: []string{"ann"}, Publish: []string{"chat.>"}, Groups: map[string][]string{"open": {"admin", "king"}}}
	for got, want := range map[bool]bool{
		c.MaySend("ann") && !c.MaySend("bob") && Claims{Send: []string{">"}}.MaySend("bob") && !Claims{}.MaySend("bob"):                           true,
		c.Lists("chat.x") && !c.Lists("doc.x") && !Claims{}.Lists("chat.x"):                                                                       true,
		c.MayRole(g, "open", "member") && c.MayRole(g, "open", "admin") && !c.MayRole(g, "open", "king") && !Claims{}.MayRole(g, "open", "admin"): true,
	} {
		if got != want {
			t.Error("a claim was read wrong")
		}
	}
}

func TestBuiltinPassesItsTests(t *testing.T) {
	for _, mode := range []Mode{Run, Dev} {
		s := Builtin(mode)
		if failed := s.RunTests(); len(failed) > 0 || len(s.Tests) == 0 {
			t.Errorf("%v: %d tests, failed:\n%v", mode, len(s.Tests), failed)
		}
		if chat := s.Topic("chat.lobby"); chat.Replay == nil || chat.Presence == nil || chat.Cursors == nil {
			t.Errorf("%v: chat: got %+v, want replay, presence and cursors", mode, chat)
		}
	}
}

func TestRunTestsSaysWhy(t *testing.T) {
	s := mustParse(t, "topics: [{match: a, publish: none}]\ntests:\n  - {as: {user: bob}, publish: a, expect: allow}\n  - {subscribe: b, expect: allow}\n  - {as: {user: x, anonymous: true}, publish: a, expect: deny}\n")
	want := `3:5: tests[0]: bob may publish a: got deny by rule a (nobody may)
4:5: tests[1]: an anonymous caller may subscribe b: got deny by no rule (no rule matches the topic)`
	if got := s.RunTests().Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestExplain(t *testing.T) {
	src, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := mustParse(t, string(src))
	bob := Caller{User: "bob", Attributes: map[string]string{"team": "7"}}
	var out strings.Builder
	for _, ask := range []struct {
		right Right
		name  string
		c     Caller
	}{
		{Subscribe, "chat.lobby", bob}, {Subscribe, "team.7.bob.x", bob}, {Subscribe, "chat.>", Caller{Anonymous: true}}, {Subscribe, "*.lobby", bob},
		{CallMethod, "orders.create", bob}, {CallMethod, "nothing", bob}, {JoinGroup, "lobby", bob}, {JoinGroup, "x", bob},
	} {
		out.WriteString("> " + ask.right.String() + " " + ask.name + "\n")
		if err := s.Explain(&out, "rules.yaml", "fl", ask.right, ask.name, ask.c); err != nil {
			t.Fatal(err)
		}
		out.WriteByte('\n')
	}
	if err := mustParse(t, "{}").Explain(&out, "rules.yaml", "fl", Subscribe, "a", bob); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/explain.txt", []byte(out.String()))
}
