package wire

import (
	"testing"

	"pgregory.net/rapid"
)

func TestIntersectPatterns(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"chat.>", "chat.*", "chat.*"},
		{"*.lobby", "chat.*", "chat.lobby"},
		{">", "chat.lobby", "chat.lobby"},
		{"chat.>", "chat.room.>", "chat.room.>"},
		{"chat.*.>", "chat.>", "chat.*.>"},
		{"chat.>", "doc.>", ""},
		{"chat", "chat.>", ""},
	} {
		if got := IntersectPatterns(c.a, c.b); got != c.want {
			t.Errorf("%s and %s: %q, want %q", c.a, c.b, got, c.want)
		}
		if got := IntersectPatterns(c.b, c.a); got != c.want {
			t.Errorf("%s and %s: %q, want %q", c.b, c.a, got, c.want)
		}
	}
}

// Whatever the patterns, their intersection matches what both of them match.
func TestIntersectionMatchesWhatBothMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`([ab*]\.){0,3}([ab*]|>)`)
		a, b := pattern.Draw(t, "a"), pattern.Draw(t, "b")
		topic := rapid.StringMatching(`([ab]\.){0,3}[ab]`).Draw(t, "topic")
		both := IntersectPatterns(a, b)
		want := MatchPattern(a, topic) && MatchPattern(b, topic)
		if got := both != "" && MatchPattern(both, topic); got != want {
			t.Fatalf("%s and %s make %q, which matches %s: %v, want %v", a, b, both, topic, got, want)
		}
	})
}
