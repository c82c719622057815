package rules

import (
	"fmt"
	"strings"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/goccy/go-yaml/ast"
)

// Test is one expectation of a rules file.
type Test struct {
	As     Caller
	Claims Claims
	Right  Right
	Name   string // topic, pattern, method or group
	Allow  bool
	Line   int
	Column int
}

// String says what is asked, like `bob may publish chat.lobby`.
func (t Test) String() string {
	who := t.As.User
	switch {
	case who == "":
		who = "an anonymous caller"
	case t.As.Anonymous:
		who += ", anonymous,"
	}
	return fmt.Sprintf("%s may %s %s", who, t.Right, t.Name)
}

// RunTests returns what the rules decide differently from their own tests, one
// problem each.
func (s *Set) RunTests() Problems {
	var failed Problems
	for i, t := range s.Tests {
		allowed, rule, why := s.Decide(t.As, t.Claims, t.Right, t.Name)
		if allowed == t.Allow {
			continue
		}
		got := "deny"
		if allowed {
			got = "allow"
		}
		by := "no rule"
		if rule != "" {
			by = "rule " + rule
		}
		failed = append(failed, Problem{Line: t.Line, Column: t.Column, Path: fmt.Sprintf("tests[%d]", i),
			Message: fmt.Sprintf("%s: got %s by %s (%s)", t, got, by, why)})
	}
	return failed
}

var testRights = []Right{Subscribe, Publish, History, Watch, Join, CallMethod, JoinGroup}

func readTest(m *mapping) Test {
	t := Test{Allow: m.str("expect") == "allow", As: Caller{Anonymous: true}}
	if tk := firstToken(m.at); tk != nil && tk.Position != nil {
		t.Line, t.Column = tk.Position.Line, tk.Position.Column
	}
	asked := 0
	for _, right := range testRights {
		key := right.String()
		if !m.has(key) {
			continue
		}
		if asked++; asked > 1 {
			m.bad(key, "one of %s in each test; got two", strings.Join(testKeys(), ", "))
		}
		t.Right, t.Name = right, m.str(key)
		if t.Name == "" {
			continue // reported
		}
		check, allowed := wire.CheckTopic, "a topic, without wildcards"
		switch right {
		case Subscribe:
			check, allowed = wire.CheckPattern, "a topic or pattern"
		case CallMethod:
			check, allowed = wire.CheckMethod, "a method"
		case JoinGroup:
			check, allowed = wire.CheckGroup, "a group"
		}
		if check(t.Name) != nil {
			m.bad(key, "%s; got %s", allowed, quote(t.Name))
		}
	}
	if asked == 0 {
		m.r.problem(m.at, m.path, "one of %s is required", strings.Join(testKeys(), ", "))
	}
	if as := m.sect("as"); as != nil {
		readCaller(as, &t)
	}
	return t
}

func testKeys() []string {
	keys := make([]string, len(testRights))
	for i, r := range testRights {
		keys[i] = r.String()
	}
	return keys
}

func readCaller(m *mapping, t *Test) {
	t.As.Anonymous = !m.has("user")
	if m.has("user") {
		t.As.User = m.str("user")
	}
	if m.has("anonymous") {
		given := m.str("anonymous")
		t.As.Anonymous = given == "true"
		if given == "false" && !m.has("user") {
			m.bad("anonymous", "true, or a user beside it")
		}
	}
	m.keys("attributes", func(name string, n ast.Node, path string) {
		if t.As.Attributes == nil {
			t.As.Attributes = make(map[string]string)
		}
		t.As.Attributes[name] = m.r.text(n, path, asObject.field("attributes"))
	})
	claims := m.sect("claims")
	if claims == nil {
		return
	}
	t.Claims = Claims{Subscribe: claims.texts("subscribe"), Publish: claims.texts("publish"), Calls: claims.texts("calls")}
	claims.keys("groups", func(name string, n ast.Node, path string) {
		if t.Claims.Groups == nil {
			t.Claims.Groups = make(map[string][]string)
		}
		t.Claims.Groups[name] = m.r.texts(n, path, claimsObject.field("groups"))
	})
}
