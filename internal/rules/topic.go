package rules

import (
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Topic is the rule of a family of topics. It is immutable.
type Topic struct {
	Name  string // unique among the rules; what an error calls the rule
	Match string // as written, with placeholders
	Line  int    // where the rule begins in its source, from 1

	Subscribe Access
	Publish   Access
	History   Access
	Wildcards bool // clients may subscribe with * and >
	From      bool // messages show who published them

	Replay   *Replay   // nil: nothing is kept
	Presence *Presence // nil: off
	Cursors  *Cursors  // nil: off

	PublishRate Take   // what each publish takes
	Class       string // admission class
	Slow        SlowPolicy

	pattern pattern
}

// Replay is how much of a topic is kept, and how.
type Replay struct {
	Size            int           // newest messages kept per topic
	TTL             time.Duration // messages older than this are gone
	Dedupe          time.Duration // how long a publish key is remembered
	DedupeKeys      int           // most keys remembered
	MaxMessageBytes int64         // largest message
	MaxBytes        int64         // largest stream
	Replicas        int           // of the stream; 0 is FAIRLEAD_NATS_REPLICAS
	Archive         bool          // a copy in Postgres
}

// Presence is who may see and be seen, and when somebody counts as gone.
type Presence struct {
	Watch, Join    Access
	LeaveDelay     time.Duration // after an unclean end
	MaxMembers     int           // 0 is no bound
	MaxDiffMembers int           // above it counts and samples replace diffs
}

// Cursors are ephemeral positions of users on a topic.
type Cursors struct {
	Throttle time.Duration // window that merges moves; 0 is none
	TTL      time.Duration // a cursor that does not move is gone after it
}

// Take is what one operation takes from a limit. The zero value takes nothing.
type Take struct {
	Limit string // name of the limit, "" for none
	Cost  int    // tokens
}

// Glob returns Match with `*` in place of the placeholders: the pattern of
// every topic the rule can govern.
func (t *Topic) Glob() string { return t.pattern.glob }

// Stream returns the name of the stream that keeps the rule's messages: the
// namespace and the name in upper case, like FL_CHAT.
func (t *Topic) Stream(n wire.Namespace) string {
	return strings.ToUpper(string(n)) + "_" + strings.ToUpper(t.Name)
}

// Matches reports whether the rule matches topic for this caller: the glob
// matches, and what stands where the placeholders are is the caller's own. An
// anonymous caller matches no {user}. Whether the rule governs the topic is
// another question: [Set.Topic]. It does not allocate.
func (t *Topic) Matches(topic string, c Caller) bool {
	return wire.MatchPattern(t.pattern.glob, topic) && t.pattern.own(topic, c)
}

// Call is the rule of a family of methods that clients call.
type Call struct {
	Match   string
	Line    int
	Allow   Access
	Timeout time.Duration // of a call that names none
	Rate    Take

	pattern pattern
}

// Group is the rule of a family of groups.
type Group struct {
	Match      string
	Line       int
	Join       Access
	MaxMembers int      // 0 is no bound
	Roles      []string // the first is free, the others need the token's groups claim
	Meta       []string // roles that may set the group's meta
}

// Limit is a token bucket that rules take from by its name.
type Limit struct {
	Name     string
	Capacity int           // tokens a full bucket holds
	Refill   int           // tokens that come back per Per
	Per      time.Duration // of Refill
	Block    time.Duration // a denial for want of tokens bans the key that long; 0 is no ban
	Key      LimitKey
	FailMode FailMode
	Shadow   bool // counted and reported, never denied
}

// Version tells a limit from what it was before the rules changed. Two processes
// that have the same rule have the same version of it.
func (l *Limit) Version() string {
	shadow := int64(0)
	if l.Shadow {
		shadow = 1
	}
	const offset, prime = 14695981039346656037, 1099511628211 // FNV-1a, of words
	h := uint64(offset)
	for _, n := range [...]int64{int64(l.Capacity), int64(l.Refill), int64(l.Per), int64(l.Block), int64(l.Key), shadow} {
		h = (h ^ uint64(n)) * prime
	}
	return strconv.FormatUint(h, 36)
}

// derivedName makes a rule's name from its match: `log.>` is log,
// `*.{attr.org}.x` is any_attr_org_x.
func derivedName(match string) string {
	match = strings.TrimSuffix(match, ".>")
	if match == ">" {
		return "all"
	}
	var b strings.Builder
	for i := 0; i < len(match) && b.Len() < maxName; i++ {
		switch c := match[i]; {
		case c == '*':
			b.WriteString("any")
		case c == '{' || c == '}':
		case c >= 'A' && c <= 'Z':
			b.WriteByte(c + 'a' - 'A')
		case plainByte(c):
			b.WriteByte(c)
		default:
			b.WriteByte('_')
		}
	}
	s := b.String()
	return s[:min(len(s), maxName)]
}

const maxName = 64
