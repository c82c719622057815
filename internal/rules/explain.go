package rules

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Explain writes in plain words which rule governs a name and what each right
// to it says for the caller. right is Subscribe for a topic or pattern,
// CallMethod for a method, JoinGroup for a group. source names where the rules
// come from, and lines are counted in it.
func (s *Set) Explain(w io.Writer, source string, n wire.Namespace, right Right, name string, c Caller) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	switch {
	case right == CallMethod:
		s.explainCall(out, source, name, c)
	case right == JoinGroup:
		s.explainGroup(out, source, name, c)
	case wire.IsPattern(name):
		s.explainPattern(out, source, name, c)
	default:
		s.explainTopic(out, source, n, name, c)
	}
	return out.Flush()
}

func who(c Caller) string {
	switch {
	case c.User == "":
		return "an anonymous caller"
	case c.Anonymous:
		return "the anonymous caller " + c.User
	}
	return "user " + c.User
}

func (s *Set) explainTopic(w io.Writer, source string, n wire.Namespace, topic string, c Caller) {
	t := s.Topic(topic)
	if t == nil {
		fmt.Fprintf(w, "No rule of %s matches the topic %s: it is denied to everybody.\n", source, topic)
		return
	}
	fmt.Fprintf(w, "Topic %s is governed by rule %s, match %q, at %s:%d.\n\n", topic, t.Name, t.Match, source, t.Line)
	s.rights(w, c, topic, Subscribe, Publish, History, Watch, Join, Cursor)
	subject, err := n.Topic(topic)
	if err != nil {
		subject = "none: " + err.Error()
	}
	fmt.Fprintf(w, "\nsubject\t%s\nkept\t%s\nfrom\t%s\nslow\t%s\nclass\t%s\nrate\t%s\n",
		subject, t.keeps(n), yesNo(t.From, "messages show who published them", "messages do not show who published them"),
		t.Slow, s.Class(t.Class).words(), t.PublishRate.words("publish"))
	for _, b := range s.Bridges {
		if b.Covers(topic) {
			fmt.Fprintf(w, "bridged\tnotifications of the Postgres channel %s may be published on it\n", b.Channel)
		}
	}
	if s.Connect.Limit != "" {
		fmt.Fprintf(w, "before it\t%s\n", s.Connect.words("new connection"))
	}
}

func (s *Set) rights(w io.Writer, c Caller, name string, rights ...Right) {
	fmt.Fprintf(w, "For %s, with a token that lists nothing:\n", who(c))
	for _, r := range rights {
		allowed, _, why := s.Decide(c, Claims{}, r, name)
		fmt.Fprintf(w, "%s\t%s\t%s\n", r, yesNo(allowed, "allowed", "denied"), why)
	}
}

func (t *Topic) keeps(n wire.Namespace) string {
	r := t.Replay
	if r == nil {
		return "nothing"
	}
	return fmt.Sprintf("the newest %d messages of each topic for %s, in stream %s, once the replay service exists", r.Size, formatDuration(r.TTL), t.Stream(n))
}

func (t Take) words(operation string) string {
	if t.Limit == "" {
		return "no limit"
	}
	return fmt.Sprintf("each %s takes %d from the limit %s", operation, t.Cost, t.Limit)
}

func yesNo(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

func (s *Set) explainPattern(w io.Writer, source, pattern string, c Caller) {
	rules, covered := s.Overlapping(pattern)
	fmt.Fprintf(w, "Pattern %s meets these rules, all of which must allow it:\n", pattern)
	for _, t := range rules {
		wild := yesNo(t.Wildcards, "with wildcards", "without wildcards")
		_, why := t.decide(c, Claims{}, Subscribe, pattern)
		fmt.Fprintf(w, "%s\t%q\t%s:%d\t%s\t%s\n", t.Name, t.Match, source, t.Line, wild, why)
	}
	if !covered {
		fmt.Fprintf(w, "None of them covers the whole pattern.\n")
	}
	fmt.Fprintln(w)
	s.rights(w, c, pattern, Subscribe)
}

func (s *Set) explainCall(w io.Writer, source, method string, c Caller) {
	r := s.Call(method)
	if r == nil {
		fmt.Fprintf(w, "No rule of %s matches the method %s: it is denied to everybody.\n", source, method)
		return
	}
	fmt.Fprintf(w, "Method %s is governed by the call rule %q at %s:%d.\n\n", method, r.Match, source, r.Line)
	s.rights(w, c, method, CallMethod)
	fmt.Fprintf(w, "\ntimeout\t%s\nrate\t%s\n", formatDuration(r.Timeout), r.Rate.words("call"))
}

func (s *Set) explainGroup(w io.Writer, source, group string, c Caller) {
	g := s.Group(group)
	if g == nil {
		fmt.Fprintf(w, "No rule of %s matches the group %s: it is denied to everybody.\n", source, group)
		return
	}
	fmt.Fprintf(w, "Group %s is governed by the group rule %q at %s:%d.\n\n", group, g.Match, source, g.Line)
	s.rights(w, c, group, JoinGroup)
	fmt.Fprintf(w, "\nroles\t%s; %s is free\n", strings.Join(g.Roles, ", "), g.Roles[0])
}
