package rules

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/fairlead-io/fairlead/internal/spelling"
)

// allowed says which values a field takes.
func (f *field) allowed() string {
	switch f.kind {
	case kindName:
		return fmt.Sprintf("1-%d characters of [A-Za-z0-9_-]", maxName)
	case kindMatch:
		return errMatch.Error()
	case kindGlob:
		return "a topic, in which * stands for one token and a last > for one or more, without placeholders"
	case kindChannel:
		return "1-63 characters of [a-zA-Z0-9_], the first no digit, and not beginning with pg_ or information_schema"
	case kindBool:
		return "true or false"
	case kindCount:
		return fmt.Sprintf("a whole number from %d to %d", f.min, f.max)
	case kindSize:
		return fmt.Sprintf("bytes from %s to %s, like 65536, 64KiB or 1GiB", formatSize(f.min), formatSize(f.max))
	case kindDuration:
		return fmt.Sprintf("a duration from %s to %s, like 500ms, 30s or 24h", formatDuration(time.Duration(f.min)), formatDuration(time.Duration(f.max)))
	case kindEnum:
		last := len(f.enum) - 1
		return strings.Join(f.enum[:last], ", ") + " or " + f.enum[last]
	case kindObject:
		return "a mapping with the keys " + known(f.of)
	case kindTake:
		return "the name of a limit, or a mapping with the keys " + known(takeObject)
	case kindClass:
		return "a list of " + classObject.field("reasons").allowed() + ", or a mapping with the keys " + known(classObject)
	case kindScalar:
		return "text, a number or true or false"
	case kindText:
		return fmt.Sprintf("text of %d-%d bytes without control characters", f.min, f.max)
	}
	return "anything"
}

func known(o *object) string {
	names := make([]string, len(o.fields))
	for i, f := range o.fields {
		names[i] = f.name
	}
	return strings.Join(names, ", ")
}

// suggest names the key that was probably meant, and all there are.
func suggest(name string, o *object) string {
	best, distance := "", 3
	for _, f := range o.fields {
		if d := spelling.Distance(name, f.name); d < distance {
			best, distance = f.name, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s? known are %s", best, known(o))
	}
	return "known are " + known(o)
}

// describe names a node as its author sees it.
func describe(n ast.Node) string {
	switch v := n.(type) {
	case *ast.NullNode:
		return "nothing"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.StringNode:
		return "the text " + quote(v.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "the number " + short(n.GetToken().Value)
	case *ast.BoolNode:
		return strconv.FormatBool(v.Value)
	}
	return "a " + strings.ToLower(n.Type().String())
}

func quote(s string) string { return strconv.Quote(short(s)) }

func short(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

func join(path, name string) string {
	if name == "" || !plainName(name, maxName) {
		name = quote(name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func nodeText(n ast.Node) string {
	if n == nil || n.GetToken() == nil {
		return ""
	}
	return n.GetToken().Value
}

// firstToken returns where a node begins: a block mapping's own token is the
// first colon.
func firstToken(n ast.Node) *token.Token {
	for range 64 {
		switch v := n.(type) {
		case *ast.MappingNode:
			if v.IsFlowStyle || len(v.Values) == 0 {
				return v.Start
			}
			n = v.Values[0].Key
		case *ast.MappingValueNode:
			n = v.Key
		case *ast.SequenceNode:
			return v.Start
		case *ast.LiteralNode:
			return v.Start
		default:
			return n.GetToken()
		}
	}
	return n.GetToken()
}

// formatDuration writes 24h where time.Duration writes 24h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// formatSize writes bytes in the largest binary unit that divides them.
func formatSize(n int64) string {
	for i := 3; i >= 0; i-- {
		if u := sizeUnits[i]; n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10)
}

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1}}

// parseSize reads a whole number of bytes, with a unit or without.
func parseSize(s string) (bytes int64, ok bool) {
	for _, u := range sizeUnits {
		digits, found := strings.CutSuffix(s, u.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.bytes {
			return 0, false
		}
		return n * u.bytes, true
	}
	return 0, false
}
