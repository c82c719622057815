package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/goccy/go-yaml/ast"
)

// readSet reads the root mapping. What it makes is usable only if no problem
// was found.
func readSet(m *mapping, mode Mode) *Set {
	s := &Set{Classes: builtinClasses(), limits: make(map[string]*Limit)}
	m.keys("limits", func(name string, n ast.Node, path string) {
		l := readLimit(m.r.mapping(n, path, limitObject), name)
		s.Limits = append(s.Limits, l)
		s.limits[name] = l
	})
	slices.SortFunc(s.Limits, func(a, b *Limit) int { return cmp.Compare(a.Name, b.Name) })
	if a := m.sect("admission"); a != nil {
		readClasses(a, s)
		s.Connect = readConnect(a, s)
	}
	topics := m.sections("topics")
	for _, t := range topics {
		s.Topics = append(s.Topics, readTopic(t, s, mode))
	}
	nameTopics(topics, s.Topics)
	checkStreams(topics, s)
	for _, c := range m.sections("calls") {
		s.Calls = append(s.Calls, readCall(c, s, mode))
	}
	for _, g := range m.sections("groups") {
		s.Groups = append(s.Groups, readGroup(g, mode))
	}
	s.Bridges = readBridges(m.sections("bridges"))
	for _, t := range m.sections("tests") {
		s.Tests = append(s.Tests, readTest(t))
	}
	return s
}

func (m *mapping) line() int {
	if tk := firstToken(m.at); tk != nil && tk.Position != nil {
		return tk.Position.Line
	}
	return 1
}

func (m *mapping) access(name string, fallback Access) Access {
	return Access(m.enum(name, accessNames[:], uint8(fallback)))
}

func readTopic(m *mapping, s *Set, mode Mode) *Topic {
	t := &Topic{
		Match:     m.str("match"),
		Line:      m.line(),
		Subscribe: m.access("subscribe", mode.access()),
		Publish:   m.access("publish", mode.access()),
		Wildcards: m.flag("wildcards"),
		From:      m.flag("from"),
		Class:     m.str("class"),
		Slow:      SlowPolicy(m.enum("slow", slowNames[:], 0)),
	}
	if m.has("name") {
		t.Name = m.str("name")
	}
	t.History = m.access("history", t.Subscribe)
	t.pattern, _ = compilePattern(t.Match)
	if !slices.ContainsFunc(s.Classes, func(c Class) bool { return c.Name == t.Class }) {
		m.bad("class", "a class of admission.classes: %s; got %s", strings.Join(classNames(s), ", "), quote(t.Class))
	}
	if r := m.sect("replay"); r != nil {
		t.Replay = readReplay(r)
	}
	if p := m.sect("presence"); p != nil {
		presence := &Presence{
			Watch:          p.access("watch", mode.access()),
			Join:           p.access("join", mode.access()),
			LeaveDelay:     p.duration("leaveDelay"),
			MaxMembers:     p.count("maxMembers"),
			MaxDiffMembers: p.count("maxDiffMembers"),
		}
		if p.flag("enabled") {
			t.Presence = presence
		}
	}
	if c := m.sect("cursors"); c != nil {
		cursors := &Cursors{Throttle: c.duration("throttle"), TTL: c.duration("ttl")}
		if c.flag("enabled") {
			t.Cursors = cursors
		}
	}
	if r := m.sect("rate"); r != nil {
		t.PublishRate = r.take("publish", s)
	}
	return t
}

func readReplay(m *mapping) *Replay {
	r := &Replay{
		Size:            m.count("size"),
		TTL:             m.duration("ttl"),
		Dedupe:          m.duration("dedupe"),
		DedupeKeys:      m.count("dedupeKeys"),
		MaxMessageBytes: m.size("maxMessageBytes"),
		MaxBytes:        m.size("maxBytes"),
		Replicas:        m.count("replicas"),
		Archive:         m.flag("archive"),
	}
	if r.MaxMessageBytes > r.MaxBytes {
		m.bad("maxMessageBytes", "at most maxBytes, %d; got %d", r.MaxBytes, r.MaxMessageBytes)
	}
	return r
}

// take reads what an operation takes: the name of a limit, or {limit, cost}.
func (m *mapping) take(name string, s *Set) Take {
	n, ok := m.values[name]
	if !ok {
		return Take{}
	}
	v := m.r.resolve(n, m.sub(name))
	if v == nil {
		return Take{}
	}
	take := Take{Cost: 1}
	path := m.sub(name)
	if _, isMap := mapPairs(v); isMap {
		o := m.r.mapping(n, path, takeObject)
		take.Limit, take.Cost = o.str("limit"), o.count("cost")
	} else if text, isText := v.(*ast.StringNode); isText {
		take.Limit = text.Value
	} else {
		m.bad(name, "%s; got %s", m.object.field(name).allowed(), describe(v))
		return Take{}
	}
	limit := s.Limit(take.Limit)
	if limit == nil {
		m.bad(name, "a name under limits%s; got %s", limitNames(s), quote(take.Limit))
	} else if limit.Capacity > 0 && take.Cost > limit.Capacity { // a capacity that is none is named already
		m.bad(name, "a cost of at most %d, the capacity of %s; got %d", limit.Capacity, limit.Name, take.Cost)
	}
	return take
}

func limitNames(s *Set) string {
	if len(s.Limits) == 0 {
		return " (there are none)"
	}
	names := make([]string, len(s.Limits))
	for i, l := range s.Limits {
		names[i] = l.Name
	}
	return ": " + strings.Join(names, ", ")
}

func readLimit(m *mapping, name string) *Limit {
	if !plainName(name, maxName) {
		m.r.problem(m.at, m.path, "the name of a limit is 1-%d characters of [A-Za-z0-9_-]", maxName)
	}
	return &Limit{
		Name:     name,
		Capacity: m.count("capacity"),
		Refill:   m.count("refill"),
		Per:      m.duration("per"),
		Block:    m.duration("block"),
		Key:      LimitKey(m.enum("key", limitKeyNames[:], 0)),
		FailMode: FailMode(m.enum("failMode", failModeNames[:], 0)),
		Shadow:   m.flag("shadow"),
	}
}

// readConnect reads what a connection takes. It is nobody's second one and about
// no topic, so a limit that counts by those would let everybody in.
func readConnect(m *mapping, s *Set) Take {
	take := m.take("connect", s)
	if limit := s.Limit(take.Limit); limit != nil && (limit.Key == KeyConnection || limit.Key == KeyTopic) {
		m.bad("connect", "a limit whose key is user, address or given; %s has the key %s", limit.Name, limit.Key)
	}
	return take
}

func readCall(m *mapping, s *Set, mode Mode) *Call {
	c := &Call{
		Match:   m.str("match"),
		Line:    m.line(),
		Allow:   m.access("allow", mode.access()),
		Timeout: m.duration("timeout"),
		Rate:    m.take("rate", s),
	}
	c.pattern, _ = compilePattern(c.Match)
	return c
}

func readGroup(m *mapping, mode Mode) *Group {
	g := &Group{
		Match:      m.str("match"),
		Line:       m.line(),
		Join:       m.access("join", mode.access()),
		MaxMembers: m.count("maxMembers"),
		Roles:      m.texts("roles"),
		Meta:       m.texts("meta"),
	}
	if g.Roles == nil {
		g.Roles = []string{"member"}
	} else if len(g.Roles) == 0 {
		m.bad("roles", "at least one role")
	}
	for i, role := range g.Roles {
		if wire.CheckRole(role) != nil {
			m.bad("roles", "1-64 bytes of [A-Za-z0-9_.:/-]; got %s", quote(role))
		} else if slices.Contains(g.Roles[:i], role) {
			m.bad("roles", "each role once; got %s twice", quote(role))
		}
	}
	for _, role := range g.Meta {
		if !slices.Contains(g.Roles, role) {
			m.bad("meta", "a role of roles: %s; got %s", strings.Join(g.Roles, ", "), quote(role))
		}
	}
	return g
}

// nameTopics gives every rule its name. Given names and those of replayed rules
// come first, because streams are called by them and must not depend on the
// other rules; what else is left out steps aside with a number.
func nameTopics(sources []*mapping, topics []*Topic) {
	taken := make(map[string]int, len(topics))
	claim := func(i int, name, why string) {
		key := strings.ToUpper(name)
		if other, ok := taken[key]; ok {
			sources[i].bad("name", "a name of its own: %s%s is also topics[%d]'s; give one of them another", quote(name), why, other)
			return
		}
		taken[key] = i
	}
	for i, t := range topics {
		if t.Name != "" {
			claim(i, t.Name, "")
		}
	}
	for i, t := range topics {
		if t.Name == "" && t.Replay != nil {
			t.Name = derivedName(t.Match)
			claim(i, t.Name, ", made from match,")
		}
	}
	for i, t := range topics {
		if t.Name != "" {
			continue
		}
		base := derivedName(t.Match)
		t.Name = base
		for n := 2; ; n++ {
			if _, ok := taken[strings.ToUpper(t.Name)]; !ok {
				break
			}
			suffix := fmt.Sprintf("-%d", n)
			t.Name = base[:min(len(base), maxName-len(suffix))] + suffix
		}
		taken[strings.ToUpper(t.Name)] = i
	}
}

// checkStreams refuses replayed rules whose streams would overlap, and warns of
// rules that govern nothing and of topics that a later rule's stream keeps.
func checkStreams(sources []*mapping, s *Set) {
	warn := func(i int, format string, args ...any) {
		tk := firstToken(sources[i].at)
		s.Warnings = append(s.Warnings, Problem{Line: tk.Position.Line, Column: tk.Position.Column, Path: sources[i].path, Message: fmt.Sprintf(format, args...)})
	}
	for i, t := range s.Topics {
		for j, earlier := range s.Topics[:i] {
			if t.Glob() == "" || earlier.Glob() == "" || !wire.PatternsOverlap(t.Glob(), earlier.Glob()) {
				continue
			}
			if t.Replay != nil && earlier.Replay != nil {
				sources[i].bad("match", "replayed rules must not overlap: %s and topics[%d]'s %s share topics, and two streams cannot", quote(t.Match), j, quote(earlier.Match))
			} else if wire.PatternCovers(earlier.Glob(), t.Glob()) {
				warn(i, "governs nothing: topics[%d], %s, comes first and covers it", j, quote(earlier.Match))
				break
			} else if t.Replay != nil {
				warn(i, "its stream also keeps the topics of topics[%d], %s, where nobody can read them back", j, quote(earlier.Match))
			}
		}
	}
}
