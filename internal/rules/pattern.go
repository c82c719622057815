package rules

import (
	"errors"
	"strings"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Caller is who asks, as the authenticator saw it.
type Caller struct {
	User       string            // the user id; of an anonymous caller it matches no {user}
	Anonymous  bool              // nobody vouched for User
	Attributes map[string]string // what {attr.name} stands for
}

// value returns what a placeholder stands for, "" where it stands for nothing.
func (c Caller) value(attr string) string {
	if attr != "" {
		return c.Attributes[attr]
	}
	if c.Anonymous {
		return ""
	}
	return c.User
}

// pattern is a `match` ready for use: the placeholders are holes in a glob.
type pattern struct {
	glob  string // the match with `*` where the placeholders are
	holes []hole // in the order of their tokens
}

type hole struct {
	token int    // index of the token, from 0
	attr  string // "" is {user}
}

var (
	errPlaceholder = errors.New(`a placeholder is a whole token, {user} or {attr.NAME} with NAME of [A-Za-z0-9_-]`)
	errMatch       = errors.New(`a topic, in which * stands for one token, a last > for one or more, and {user} or {attr.NAME} for the caller's own`)
)

func compilePattern(match string) (pattern, error) {
	var p pattern
	var glob strings.Builder
	for rest, token := match, 0; ; token++ {
		tok, after, more := rest, "", false
		if strings.HasPrefix(rest, "{") {
			end := strings.IndexByte(rest, '}')
			if end < 0 || end+1 < len(rest) && rest[end+1] != '.' {
				return pattern{}, errPlaceholder
			}
			attr, ok := placeholder(rest[1:end])
			if !ok {
				return pattern{}, errPlaceholder
			}
			p.holes = append(p.holes, hole{token, attr})
			tok, more = "*", end+1 < len(rest)
			if more {
				after = rest[end+2:]
			}
		} else {
			tok, after, more = strings.Cut(rest, ".")
			if strings.ContainsAny(tok, "{}") {
				return pattern{}, errPlaceholder
			}
		}
		glob.WriteString(tok)
		if !more {
			break
		}
		glob.WriteByte('.')
		rest = after
	}
	p.glob = glob.String()
	if wire.CheckPattern(p.glob) != nil {
		return pattern{}, errMatch
	}
	return p, nil
}

func placeholder(s string) (attr string, ok bool) {
	if s == "user" {
		return "", true
	}
	attr, ok = strings.CutPrefix(s, "attr.")
	return attr, ok && plainName(attr, 64)
}

func plainName(s string, longest int) bool {
	for i := 0; i < len(s); i++ {
		if !plainByte(s[i]) {
			return false
		}
	}
	return s != "" && len(s) <= longest
}

func plainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// own reports whether every placeholder of p meets the caller's own value in
// name, a topic or pattern that p's glob overlaps. A wildcard token is nobody's
// own. It does not allocate.
func (p *pattern) own(name string, c Caller) bool {
	token := 0
	for _, h := range p.holes {
		for ; token < h.token; token++ {
			dot := strings.IndexByte(name, '.')
			if dot < 0 {
				return false
			}
			name = name[dot+1:]
		}
		tok := name
		if dot := strings.IndexByte(name, '.'); dot >= 0 {
			tok = name[:dot]
		}
		if !escapesTo(c.value(h.attr), tok) {
			return false
		}
	}
	return true
}

// escapesTo reports whether wire.EscapeToken(id) is token, without making it.
// The empty id has no token.
func escapesTo(id, token string) bool {
	const upperHex = "0123456789ABCDEF"
	if id == "" {
		return false
	}
	at := 0
	for i := 0; i < len(id); i++ {
		c := id[i]
		if plainByte(c) {
			if at >= len(token) || token[at] != c {
				return false
			}
			at++
			continue
		}
		if at+3 > len(token) || token[at] != '=' || token[at+1] != upperHex[c>>4] || token[at+2] != upperHex[c&15] {
			return false
		}
		at += 3
	}
	return at == len(token)
}
