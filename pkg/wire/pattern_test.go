package wire

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// matchSlow is the definition of a match, token by token.
func matchSlow(pattern, topic []string) bool {
	if len(pattern) == 0 || len(topic) == 0 {
		return len(pattern) == len(topic)
	}
	if pattern[0] == ">" {
		return true
	}
	return (pattern[0] == "*" || pattern[0] == topic[0]) && matchSlow(pattern[1:], topic[1:])
}

// smallTopics are all topics of up to four tokens out of a and b, and z, which
// no pattern of these tests names.
func smallTopics() []string {
	var all []string
	level := []string{""}
	for range 4 {
		var next []string
		for _, prefix := range level {
			for _, token := range []string{"a", "b", "z"} {
				next = append(next, strings.TrimPrefix(prefix+"."+token, "."))
			}
		}
		all = append(all, next...)
		level = next
	}
	return all
}

// smallPatterns are all patterns of up to three tokens.
func smallPatterns() []string {
	var all []string
	level := []string{""}
	for range 3 {
		var next []string
		for _, prefix := range level {
			for _, token := range []string{"a", "b", "*"} {
				next = append(next, strings.TrimPrefix(prefix+"."+token, "."))
			}
			all = append(all, strings.TrimPrefix(prefix+".>", "."))
		}
		all = append(all, next...)
		level = next
	}
	return all
}

// Over a small alphabet everything can be tried: the topics are one token
// longer than the patterns and hold one token that no pattern does, which
// stands for every other.
func TestPatternsExhaustively(t *testing.T) {
	topics, patterns := smallTopics(), smallPatterns()
	matched := make(map[string]map[string]bool, len(patterns))
	for _, p := range patterns {
		matched[p] = make(map[string]bool)
		for _, topic := range topics {
			want := matchSlow(strings.Split(p, "."), strings.Split(topic, "."))
			if got := MatchPattern(p, topic); got != want {
				t.Fatalf("MatchPattern(%q, %q) = %v, want %v", p, topic, got, want)
			}
			if want {
				matched[p][topic] = true
			}
		}
	}
	for _, p := range patterns {
		for _, q := range patterns {
			covers, overlap := true, false
			for topic := range matched[q] {
				covers = covers && matched[p][topic]
				overlap = overlap || matched[p][topic]
			}
			if got := PatternCovers(p, q); got != covers {
				t.Errorf("PatternCovers(%q, %q) = %v, want %v", p, q, got, covers)
			}
			if got := PatternsOverlap(p, q); got != overlap {
				t.Errorf("PatternsOverlap(%q, %q) = %v, want %v", p, q, got, overlap)
			}
		}
	}
}

func TestPatternExamples(t *testing.T) {
	for _, test := range []struct {
		pattern, topic string
		want           bool
	}{
		{"chat.*", "chat.lobby", true}, {"chat.*", "chat", false}, {"chat.*", "chat.a.b", false}, {"chat.>", "chat", false},
		{"chat.>", "chat.a.b", true}, {">", "a", true}, {"*", "a.b", false}, {"chat.lobby", "chat.lobby", true},
		{"chat.lobby", "chat.Lobby", false}, {"chat.lob", "chat.lobby", false}, {"chat.lobby", "chat.lob", false},
		{"café.*", "café.é", true}, {"*.*.c", "a.b.c", true}, {"a*", "ab", false}, {"a.*.c", "a.b", false}, {"a", "a.b", false},
	} {
		if got := MatchPattern(test.pattern, test.topic); got != test.want {
			t.Errorf("MatchPattern(%q, %q) = %v, want %v", test.pattern, test.topic, got, test.want)
		}
	}
}

func drawTokens(t *rapid.T, name string, tokens []string) []string {
	all := rapid.SliceOfN(rapid.SampledFrom(tokens), 1, 6).Draw(t, name)
	for i, token := range all {
		if token == ">" {
			return all[:i+1]
		}
	}
	return all
}

func TestPatternProperty(t *testing.T) {
	tokens := []string{"a", "b", "aa", "é", "room-7", "*", "*", ">"}
	rapid.Check(t, func(t *rapid.T) {
		p, q := drawTokens(t, "p", tokens), drawTokens(t, "q", tokens)
		topic := drawTokens(t, "topic", tokens[:5])
		a, b, s := strings.Join(p, "."), strings.Join(q, "."), strings.Join(topic, ".")
		if CheckPattern(a) != nil || CheckTopic(s) != nil {
			t.Fatalf("%q or %q is refused", a, s)
		}
		inA, inB := matchSlow(p, topic), matchSlow(q, topic)
		if got := MatchPattern(a, s); got != inA {
			t.Errorf("MatchPattern(%q, %q) = %v, want %v", a, s, got, inA)
		}
		if PatternCovers(a, b) && inB && !inA {
			t.Errorf("%q covers %q but does not match %q", a, b, s)
		}
		if inA && inB && !PatternsOverlap(a, b) {
			t.Errorf("%q and %q both match %q but do not overlap", a, b, s)
		}
		if PatternsOverlap(a, b) != PatternsOverlap(b, a) {
			t.Errorf("overlap of %q and %q depends on their order", a, b)
		}
		if !PatternCovers(a, a) || PatternCovers(a, b) && !PatternsOverlap(a, b) {
			t.Errorf("%q covers itself: %v; covers %q without overlap", a, PatternCovers(a, a), b)
		}
		if IsPattern(a) != (strings.ContainsAny(a, "*>")) {
			t.Errorf("IsPattern(%q) = %v", a, IsPattern(a))
		}
	})
}

// FuzzPatterns compares the matcher with the slow one on whatever passes as
// pattern and topic.
func FuzzPatterns(f *testing.F) {
	for _, pair := range [][2]string{{"a.*", "a.b"}, {">", "a"}, {"a.>", "a"}, {"é.*.>", "é.a.b.c"}, {"a..b", "$a"}, {"", ""}, {"*", "*"}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, pattern, topic string) {
		PatternCovers(pattern, topic)
		PatternsOverlap(pattern, topic)
		if CheckPattern(pattern) != nil {
			if CheckTopic(pattern) == nil {
				t.Errorf("%q is a topic but no pattern", pattern)
			}
			return
		}
		if (CheckTopic(pattern) == nil) == IsPattern(pattern) {
			t.Errorf("%q: IsPattern = %v, CheckTopic = %v", pattern, IsPattern(pattern), CheckTopic(pattern))
		}
		if CheckTopic(topic) != nil {
			return
		}
		want := matchSlow(strings.Split(pattern, "."), strings.Split(topic, "."))
		if got := MatchPattern(pattern, topic); got != want {
			t.Errorf("MatchPattern(%q, %q) = %v, want %v", pattern, topic, got, want)
		}
		if got := PatternsOverlap(pattern, topic); got != want {
			t.Errorf("PatternsOverlap(%q, %q) = %v, want %v", pattern, topic, got, want)
		}
	})
}
