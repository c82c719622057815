package rules

import (
	"strings"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Set is one whole set of rules. It is immutable and safe for concurrent use;
// what its fields hold must not be changed.
type Set struct {
	Topics   []*Topic // in order: the first that matches governs
	Calls    []*Call  // likewise
	Groups   []*Group // likewise
	Limits   []*Limit // by name
	Classes  []Class  // admission classes by name
	Connect  Take     // what each new connection takes
	Bridges  []Bridge
	Tests    []Test   // what the file expects of itself
	Warnings Problems // what is allowed and yet hardly meant

	topics    lookup
	calls     lookup
	limits    map[string]*Limit
	classes   map[string]*Class
	canonical []byte
	digest    string
}

// Topic returns the rule that governs topic, nil where none does: such a topic
// is denied. It does not allocate.
func (s *Set) Topic(topic string) *Topic {
	if i := s.topics.find(topic); i >= 0 {
		return s.Topics[i]
	}
	return nil
}

// Call returns the rule that governs method, nil where none does. It does not
// allocate.
func (s *Set) Call(method string) *Call {
	if i := s.calls.find(method); i >= 0 {
		return s.Calls[i]
	}
	return nil
}

// Group returns the rule that governs a group, nil where none does. A group
// id is no topic, so `>` alone covers every id.
func (s *Set) Group(group string) *Group {
	for _, g := range s.Groups {
		if g.Match == ">" || wire.MatchPattern(g.Match, group) {
			return g
		}
	}
	return nil
}

// Limit returns the limit of that name, nil where there is none.
func (s *Set) Limit(name string) *Limit { return s.limits[name] }

// Overlapping returns, in order, the rules that govern some topic of pattern.
// It ends with the rule that covers the pattern whole; covered is false if
// none does, and then topics of the pattern may have no rule at all.
func (s *Set) Overlapping(pattern string) (rules []*Topic, covered bool) {
	for _, t := range s.Topics {
		if !wire.PatternsOverlap(t.pattern.glob, pattern) {
			continue
		}
		rules = append(rules, t)
		if wire.PatternCovers(t.pattern.glob, pattern) {
			return rules, true
		}
	}
	return rules, false
}

// lookup finds the first of many globs that matches a name, by its first token.
type lookup struct {
	globs  []string
	first  map[string][]int // globs that can match a name with this first token, in order
	others []int            // globs that can match any other name: those that begin with a wildcard
}

func newLookup(globs []string) lookup {
	l := lookup{globs: globs, first: make(map[string][]int)}
	for i, g := range globs {
		token, _, _ := strings.Cut(g, ".")
		if token == "*" || token == ">" {
			l.others = append(l.others, i)
			for t := range l.first {
				l.first[t] = append(l.first[t], i)
			}
			continue
		}
		if _, ok := l.first[token]; !ok {
			l.first[token] = append([]int(nil), l.others...)
		}
		l.first[token] = append(l.first[token], i)
	}
	return l
}

// find returns the index of the first glob that matches name, or -1.
func (l *lookup) find(name string) int {
	token := name
	if dot := strings.IndexByte(name, '.'); dot >= 0 {
		token = name[:dot]
	}
	candidates, ok := l.first[token]
	if !ok {
		candidates = l.others
	}
	for _, i := range candidates {
		if wire.MatchPattern(l.globs[i], name) {
			return i
		}
	}
	return -1
}
