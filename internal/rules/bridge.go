package rules

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Bridge publishes the notifications of a Postgres channel. A payload never
// chooses a topic outside Topics.
type Bridge struct {
	Channel string
	Topics  []string // patterns
}

// Covers reports whether what is notified may be published on topic.
func (b *Bridge) Covers(topic string) bool {
	return slices.ContainsFunc(b.Topics, func(p string) bool { return wire.MatchPattern(p, topic) })
}

// maxChannel is the longest name that Postgres does not cut.
const maxChannel = 63

// isChannel reports whether a name can be a bridge's channel. Those of Postgres
// itself can't.
func isChannel(s string) bool {
	if s == "" || len(s) > maxChannel || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !plainByte(s[i]) || s[i] == '-' {
			return false
		}
	}
	lower := strings.ToLower(s)
	return !strings.HasPrefix(lower, "pg_") && !strings.HasPrefix(lower, "information_schema")
}

func readBridges(sources []*mapping) (all []Bridge) {
	taken := make(map[string]int, len(sources))
	for i, m := range sources {
		b := Bridge{Channel: m.str("channel")}
		before := len(m.r.problems)
		b.Topics = m.texts("topics")
		if m.has("topics") && len(b.Topics) == 0 && len(m.r.problems) == before {
			m.bad("topics", "at least one pattern")
		}
		if other, ok := taken[b.Channel]; ok && b.Channel != "" {
			m.bad("channel", "each channel once: %s is also bridges[%d]'s; give that one more topics", quote(b.Channel), other)
		}
		taken[b.Channel] = i
		for j, p := range b.Topics {
			if first, _, _ := strings.Cut(p, "."); first != "system" {
				continue
			}
			m.each("topics", func(n ast.Node, path string) {
				if path == fmt.Sprintf("%s[%d]", m.sub("topics"), j) {
					m.r.problem(n, path, "no topics of Fairlead's own, which begin with system; got %s", quote(p))
				}
			})
		}
		all = append(all, b)
	}
	return all
}
