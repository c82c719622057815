package rules

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestTopicIsTheFirstThatMatches(t *testing.T) {
	s := mustParse(t, `
topics:
  - {name: lobby, match: chat.lobby}
  - {name: second, match: "*.admin"}
  - {name: chat, match: "chat.*"}
  - {name: own, match: "user.{user}.>"}
  - {name: org, match: "{attr.org}.news"}
  - {name: deep, match: "chat.>"}
`)
	tests := []struct{ topic, want string }{
		{"chat.lobby", "lobby"},
		{"chat.admin", "second"},
		{"doc.admin", "second"},
		{"chat.x", "chat"},
		{"chat.x.y", "deep"},
		{"chat", ""},
		{"user.bob.inbox", "own"}, // whoever asks
		{"user.bob", ""},
		{"user.admin", "second"},
		{"acme.news", "org"},
		{"user.news", "org"},
		{"other", ""},
	}
	for _, tt := range tests {
		got := ""
		if r := s.Topic(tt.topic); r != nil {
			got = r.Name
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.topic, got, tt.want)
		}
	}
	if mustParse(t, "{}").Topic("a") != nil {
		t.Error("rules without topics govern one")
	}
}

// The lookup by first token finds what trying the rules one by one would.
func TestLookupIsTheOrder(t *testing.T) {
	globs := []string{"a.b", "*.c", "a.>", "b.*", ">", "c.d", "*"}
	for n := range globs {
		some := globs[n:]
		l := newLookup(some)
		for _, name := range []string{"a", "a.b", "a.c", "a.b.c", "b.c", "b.d", "c.d", "d", "d.c", "d.e.f"} {
			want := -1
			for i := len(some) - 1; i >= 0; i-- {
				if wire.MatchPattern(some[i], name) {
					want = i
				}
			}
			if got := l.find(name); got != want {
				t.Errorf("%v: %s: got %d, want %d", some, name, got, want)
			}
		}
	}
}

func TestMatches(t *testing.T) {
	bob := Caller{User: "bob", Attributes: map[string]string{"org": "acme", "none": ""}}
	tests := []struct {
		match, topic string
		c            Caller
		want         bool
	}{
		{"user.{user}.>", "user.bob.inbox", bob, true},
		{"user.{user}.>", "user.ann.inbox", bob, false},
		{"user.{user}.>", "user.bobby.inbox", bob, false},
		{"user.{user}.>", "user.bob", bob, false},
		{"user.{user}.>", "user.bob.inbox", Caller{User: "bob", Anonymous: true}, false},
		{"user.{user}.>", "user..inbox", Caller{}, false},
		{"{user}", "bob", bob, true},
		{"{user}.{attr.org}.{user}", "bob.acme.bob", bob, true},
		{"{user}.{attr.org}.{user}", "bob.acme.ann", bob, false},
		{"org.{attr.org}.*", "org.acme.x", bob, true},
		{"org.{attr.org}.*", "org.other.x", bob, false},
		{"org.{attr.none}.*", "org.x.x", bob, false},
		{"org.{attr.missing}.*", "org.x.x", bob, false},
		{"org.{attr.org}", "org.acme", Caller{Anonymous: true, Attributes: map[string]string{"org": "acme"}}, true},
		{"u.{user}", "u.a=40b=2Ec", Caller{User: "a@b.c"}, true},
		{"u.{user}", "u.a@b", Caller{User: "a@b"}, false}, // only the escaped form
		{"u.{user}", "u.a=40b", Caller{User: "a=40b"}, false},
		{"u.{user}", "u.*", Caller{User: "*"}, false},
		{"u.{user}", "u.a", Caller{User: "a."}, false},
	}
	for _, tt := range tests {
		r := mustParse(t, fmt.Sprintf("topics: [{match: %q}]", tt.match)).Topics[0]
		if got := r.Matches(tt.topic, tt.c); got != tt.want {
			t.Errorf("%s, %s, %+v: got %v, want %v", tt.match, tt.topic, tt.c, got, tt.want)
		}
	}
}

func FuzzEscapesTo(f *testing.F) {
	f.Add("a@b.c", "a=40b=2Ec")
	f.Fuzz(func(t *testing.T, id, token string) {
		if want := id != "" && wire.EscapeToken(id) == token; escapesTo(id, token) != want {
			t.Errorf("%q to %q: got %v, want %v", id, token, !want, want)
		}
		if id != "" && !escapesTo(id, wire.EscapeToken(id)) {
			t.Errorf("%q is not its own", id)
		}
	})
}

func TestOverlapping(t *testing.T) {
	s := mustParse(t, `
topics:
  - {name: lobby, match: chat.lobby}
  - {name: own, match: "user.{user}.>"}
  - {name: room, match: "chat.*.room"}
  - {name: chat, match: "chat.>"}
  - {name: rest, match: "*.>"}
`)
	tests := []struct {
		pattern, want string
		covered       bool
	}{
		{"chat.*", "lobby chat", true},
		{"chat.*.room", "room", true},
		{"chat.x.*", "room chat", true},
		{"chat.>", "lobby room chat", true},
		{"user.>", "own rest", true},
		{"user.bob.>", "own", true},
		{"*.lobby", "lobby chat rest", true},
		{">", "lobby own room chat rest", false},
		{"*", "", false},
	}
	for _, tt := range tests {
		rules, covered := s.Overlapping(tt.pattern)
		var names []string
		for _, r := range rules {
			names = append(names, r.Name)
		}
		if got := strings.Join(names, " "); got != tt.want || covered != tt.covered {
			t.Errorf("%s: got %q %v, want %q %v", tt.pattern, got, covered, tt.want, tt.covered)
		}
	}
}

func TestGroup(t *testing.T) {
	s := mustParse(t, "groups: [{match: lobby}, {match: 'team.*', join: none}, {match: '>', join: any}]")
	for group, want := range map[string]Access{"lobby": User, "team.7": None, "a b": Any, ".x..": Any, "*": Any} {
		if got := s.Group(group).Join; got != want {
			t.Errorf("%q: got %v, want %v", group, got, want)
		}
	}
	if s := mustParse(t, "groups: [{match: lobby}]"); s.Group("other") != nil {
		t.Error("a group without a rule has one")
	}
}

func benchmarkRules(b *testing.B) *Set {
	src := "topics:\n"
	for i := range 50 {
		src += fmt.Sprintf("  - {match: \"area%d.>\"}\n", i)
	}
	return mustParse(b, src+"  - {match: \"user.{user}.>\"}\n  - {match: \"chat.>\"}\n  - {match: \">\"}\n")
}

func BenchmarkTopic(b *testing.B) {
	s := benchmarkRules(b)
	b.ReportAllocs()
	for b.Loop() {
		if s.Topic("chat.room-7") == nil {
			b.Fatal("no rule")
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	s := benchmarkRules(b)
	bob := Caller{User: "bob@example.com"}
	claims := Claims{Publish: []string{"chat.lobby", "user.>"}}
	b.ReportAllocs()
	for b.Loop() {
		if ok, _, why := s.Decide(bob, claims, Publish, "user.bob=40example=2Ecom.inbox"); !ok {
			b.Fatal(why)
		}
	}
}
