package rules

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Right is one thing a caller may be allowed to do with a name.
type Right uint8

const (
	Subscribe  Right = iota // to a topic or, with wildcards, a pattern
	Publish                 // to a topic
	History                 // of a topic: history, gap, and what a subscription resumes from
	Watch                   // the presence of a topic
	Join                    // the presence of a topic
	Cursor                  // move and see cursors of a topic; who may subscribe may
	CallMethod              // a method
	JoinGroup               // a group, in its first role; other roles: [Claims.MayRole]
)

var rightNames = [...]string{Subscribe: "subscribe", Publish: "publish", History: "history", Watch: "watch", Join: "join", Cursor: "cursor", CallMethod: "call", JoinGroup: "group"}

func (r Right) String() string { return name(rightNames[:], uint8(r)) }

// ParseRight is the inverse of String.
func ParseRight(s string) (Right, error) {
	if i := slices.Index(rightNames[:], s); i >= 0 {
		return Right(i), nil
	}
	return 0, fmt.Errorf("right %q: %s", s, strings.Join(rightNames[:], ", "))
}

// Claims are the lists of a token. A nil list does not narrow what the rules
// allow, one that is there allows nothing but what it names; an empty one
// allows nothing.
type Claims struct {
	Subscribe []string            // topics and patterns; also of history, presence and cursors
	Publish   []string            // topics and patterns
	Send      []string            // users to whom HTTP may send
	Calls     []string            // methods and patterns
	Groups    map[string][]string // roles beyond the first, by group
}

// MaySend reports whether the token names user, or everybody with * or >, in
// its send list. Without the list nobody is named.
func (c Claims) MaySend(user string) bool {
	for _, u := range c.Send {
		if u == user || u == "*" || u == ">" {
			return true
		}
	}
	return false
}

// Lists reports whether the publish list is there and names topic, which is
// what HTTP publish asks of a token.
func (c Claims) Lists(topic string) bool { return covers(c.Publish, topic) }

// MayRole reports whether the token grants role in group. The first role of a
// group's rule needs no grant.
func (c Claims) MayRole(g *Group, group, role string) bool {
	return role == g.Roles[0] || slices.Contains(g.Roles, role) && slices.Contains(c.Groups[group], role)
}

// covers reports whether one pattern of list covers name, a topic or pattern.
func covers(list []string, name string) bool {
	for _, p := range list {
		if wire.PatternCovers(p, name) {
			return true
		}
	}
	return false
}

// Decide says whether the caller has a right to name: the rules and the token's
// claims must both allow it. rule is the name of the rule that decided (of a
// call or group: its match), "" where none governs; why is words for the log
// and the error of a denial, and the grant of an allowed one. name must have
// been checked by package wire before. An allowed decision about a topic,
// method or group without wildcards does not allocate.
//
// The decision is about rights alone: whether the topic keeps a history, or has
// presence, is for the one who serves it.
func (s *Set) Decide(c Caller, claims Claims, right Right, name string) (allowed bool, rule, why string) {
	switch right {
	case CallMethod:
		return s.decideCall(c, claims, name)
	case JoinGroup:
		return s.decideGroup(c, claims, name)
	}
	if wire.IsPattern(name) {
		return s.decidePattern(c, claims, right, name)
	}
	t := s.Topic(name)
	if t == nil {
		return false, "", "no rule matches the topic"
	}
	allowed, why = t.decide(c, claims, right, name)
	return allowed, t.Name, why
}

func (s *Set) decidePattern(c Caller, claims Claims, right Right, pattern string) (bool, string, string) {
	if right != Subscribe {
		return false, "", right.String() + " takes a topic without wildcards"
	}
	rules, covered := s.Overlapping(pattern)
	rule := ""
	for _, t := range rules {
		rule = t.Name
		if !t.Wildcards {
			return false, rule, "the rule does not allow wildcards"
		}
		if allowed, why := t.decide(c, claims, Subscribe, pattern); !allowed {
			return false, rule, why
		}
	}
	if !covered {
		return false, rule, "no rule covers the whole pattern"
	}
	return true, rule, "every rule of the pattern allows it"
}

// decide is the decision of one rule about a topic it governs, or a pattern it
// overlaps.
func (t *Topic) decide(c Caller, claims Claims, right Right, topic string) (bool, string) {
	access, list := t.Subscribe, claims.Subscribe
	switch right {
	case Publish:
		access, list = t.Publish, claims.Publish
	case History:
		access = t.History
	case Watch, Join:
		if t.Presence == nil {
			return false, "the rule has no presence"
		}
		access = t.Presence.Watch
		if right == Join {
			access = t.Presence.Join
		}
	case Cursor:
		if t.Cursors == nil {
			return false, "the rule has no cursors"
		}
	}
	if !t.pattern.own(topic, c) {
		return false, notOwn(c)
	}
	return grant(access, c, list, topic)
}

func notOwn(c Caller) string {
	if c.Anonymous {
		return "the rule is for the caller's own topics, and an anonymous caller has none"
	}
	return "the topic is not the caller's own"
}

// grant applies an access and then the list of the token.
func grant(a Access, c Caller, list []string, name string) (bool, string) {
	why := ""
	switch a {
	case Any:
		why = "anyone may"
	case User:
		if c.Anonymous || c.User == "" {
			return false, "the rule wants an authenticated user"
		}
		why = "authenticated users may"
	case Token:
		if !covers(list, name) {
			return false, "the rule wants a token whose list names it"
		}
		return true, "the token names it"
	case Callout:
		return false, "callout is not built yet"
	default:
		return false, "nobody may"
	}
	if list != nil && !covers(list, name) {
		return false, "the list of the token does not name it"
	}
	return true, why
}

func (s *Set) decideCall(c Caller, claims Claims, method string) (bool, string, string) {
	r := s.Call(method)
	if r == nil {
		return false, "", "no rule matches the method"
	}
	if !r.pattern.own(method, c) {
		return false, r.Match, "the method is not the caller's own"
	}
	allowed, why := grant(r.Allow, c, claims.Calls, method)
	return allowed, r.Match, why
}

func (s *Set) decideGroup(c Caller, claims Claims, group string) (bool, string, string) {
	g := s.Group(group)
	if g == nil {
		return false, "", "no rule matches the group"
	}
	if g.Join == Token {
		if _, ok := claims.Groups[group]; !ok {
			return false, g.Match, "the rule wants a token whose groups name it"
		}
		return true, g.Match, "the token names it"
	}
	allowed, why := grant(g.Join, c, nil, group)
	return allowed, g.Match, why
}
