package wire

import (
	"strings"
	"unicode/utf8"
)

// Bounds of names and sizes, in bytes.
const (
	MaxTopic      = 255
	MaxEvent      = 64
	MaxUser       = 128
	MaxKey        = 128
	MaxGroup      = 128
	MaxMemberData = 4 << 10 // presence data, group meta, attributes
	MaxCursorData = 1 << 10
	MaxBatch      = 1000 // messages of one `batch`
	MaxFrames     = 256  // frames of one array
	MaxID         = 1<<53 - 1
)

const topicRule = "1-255 bytes of NFC UTF-8, tokens parted by '.', none empty, no white space, control or format characters, no '*' or '>', the first token not beginning with '$' or '_'"

// CheckTopic returns an INVALID_ARGUMENT that names the field `topic` unless s
// is a topic: a NATS subject suffix as it stands.
func CheckTopic(s string) error { return checkTopic("topic", s, false) }

// CheckPattern is [CheckTopic] with the wildcards of NATS allowed: a token `*`
// matches one token, a last token `>` matches one or more.
func CheckPattern(s string) error { return checkTopic("topic", s, true) }

// CheckMethod returns an INVALID_ARGUMENT that names the field `method` unless
// s is the name of a method: the rules are a topic's.
func CheckMethod(s string) error { return checkTopic("method", s, false) }

func checkTopic(field, s string, wildcards bool) error {
	if !validTopic(s, wildcards) {
		return InvalidField(field, topicRule+"; got "+quoteShort(s))
	}
	return nil
}

func validTopic(s string, wildcards bool) bool {
	if s == "" || len(s) > MaxTopic || s[0] == '$' || s[0] == '_' {
		return false
	}
	ascii := true
	start := 0 // of the current token
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			if i == start {
				return false
			}
			start = i + 1
		case c == '*':
			if !wildcards || i != start || i+1 < len(s) && s[i+1] != '.' {
				return false
			}
		case c == '>':
			if !wildcards || i != start || i+1 != len(s) {
				return false
			}
		case c <= ' ' || c == 0x7f:
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	if start == len(s) {
		return false
	}
	if ascii {
		return true
	}
	if !utf8.ValidString(s) || !isNFC(s) {
		return false
	}
	for _, r := range s {
		if forbiddenRune(r) {
			return false
		}
	}
	return true
}

// IsPattern reports whether s, a topic or pattern, holds a wildcard.
func IsPattern(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '*':
			if (i == 0 || s[i-1] == '.') && (i+1 == len(s) || s[i+1] == '.') {
				return true
			}
		case '>':
			if i+1 == len(s) && (i == 0 || s[i-1] == '.') {
				return true
			}
		}
	}
	return false
}

// MatchPattern reports whether topic matches pattern by the rules of NATS. It
// does not allocate.
func MatchPattern(pattern, topic string) bool { return PatternCovers(pattern, topic) }

// PatternCovers reports whether every topic that matches sub, a topic or a
// pattern, also matches pattern. It does not allocate.
func PatternCovers(pattern, sub string) bool {
	for {
		p, prest, pmore := strings.Cut(pattern, ".")
		s, srest, smore := strings.Cut(sub, ".")
		if p == ">" && !pmore {
			return s != ""
		}
		if s == ">" && !smore {
			return false
		}
		if p != "*" && p != s {
			return false
		}
		if !pmore || !smore {
			return pmore == smore
		}
		pattern, sub = prest, srest
	}
}

// PatternsOverlap reports whether some topic matches both patterns. It does
// not allocate.
func PatternsOverlap(a, b string) bool {
	for {
		x, xrest, xmore := strings.Cut(a, ".")
		y, yrest, ymore := strings.Cut(b, ".")
		if x == ">" && !xmore || y == ">" && !ymore {
			return true
		}
		if x != y && x != "*" && y != "*" {
			return false
		}
		if !xmore || !ymore {
			return xmore == ymore
		}
		a, b = xrest, yrest
	}
}

// IntersectPatterns returns the pattern that matches exactly the topics which
// match both patterns; "" where no topic does.
func IntersectPatterns(a, b string) string {
	if !PatternsOverlap(a, b) {
		return ""
	}
	var out []string
	for {
		x, xrest, xmore := strings.Cut(a, ".")
		y, yrest, ymore := strings.Cut(b, ".")
		switch {
		case x == ">" && !xmore:
			return strings.Join(append(out, b), ".")
		case y == ">" && !ymore:
			return strings.Join(append(out, a), ".")
		case x == "*":
			out = append(out, y)
		default:
			out = append(out, x)
		}
		if !xmore || !ymore {
			return strings.Join(out, ".")
		}
		a, b = xrest, yrest
	}
}

// CheckEvent returns an INVALID_ARGUMENT that names the field unless s is an
// event name: 1-64 bytes of [A-Za-z0-9_.:/-].
func CheckEvent(s string) error { return checkLabel("event", s) }

// CheckRole is [CheckEvent] for a role.
func CheckRole(s string) error { return checkLabel("role", s) }

func checkLabel(field, s string) error {
	if !validLabel(s) {
		return InvalidField(field, "1-64 bytes of [A-Za-z0-9_.:/-]; got "+quoteShort(s))
	}
	return nil
}

func validLabel(s string) bool {
	if s == "" || len(s) > MaxEvent {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !plainTokenByte(c) && c != '.' && c != ':' && c != '/' {
			return false
		}
	}
	return true
}

// CheckUser returns an INVALID_ARGUMENT that names the field unless s is a
// user id: 1-128 bytes of UTF-8 without control characters, and without a
// space at either end, which NATS would trim from a header: the user would
// arrive as another.
func CheckUser(s string) error {
	if err := checkID("user", s); err != nil {
		return err
	}
	if !ValidHeaderValue(s) {
		return InvalidField("user", "no space at either end")
	}
	return nil
}

// CheckKey returns an INVALID_ARGUMENT that names the field unless s is an
// idempotency key: 1-128 bytes of UTF-8 without control characters.
func CheckKey(s string) error { return checkID("key", s) }

// CheckGroup is [CheckKey] for a group id.
func CheckGroup(s string) error { return checkID("group", s) }

func checkID(field, s string) error {
	if !validID(s) {
		return InvalidField(field, "1-128 bytes of UTF-8 without control characters")
	}
	return nil
}

func validID(s string) bool {
	if s == "" || len(s) > MaxUser || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r <= 0x9f {
			return false
		}
	}
	return true
}
