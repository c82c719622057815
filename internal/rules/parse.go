package rules

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxSource is the longest rules file in bytes.
const MaxSource = 1 << 20

const (
	maxCanonical = 1_000_000 // with its headers it must fit a NATS message

	maxDepth  = 32
	maxTokens = 250_000
)

// Parse reads a rules file. Every error is [Problems]: all that is wrong, up to
// 100 of them, each with its place. mode says what left-out rights mean.
func Parse(src []byte, mode Mode) (*Set, error) { return parse(src, mode, false) }

// ParseStored reads what a bucket holds. It is [Parse], except that keys it does
// not know are ignored: a newer release may have written them.
func ParseStored(src []byte, mode Mode) (*Set, error) { return parse(src, mode, true) }

func parse(src []byte, mode Mode, lenient bool) (*Set, error) {
	body, problems := readYAML(src)
	if problems != nil {
		return nil, problems
	}
	r := &reader{lenient: lenient, anchors: make(map[string]ast.Node)}
	r.collectAnchors(body)
	s := readSet(r.mapping(body, "", file), mode)
	if len(r.problems) == 0 {
		s.seal()
		if len(s.canonical) > maxCanonical {
			r.problem(nil, "", "the rules take %d bytes with their defaults; at most %d", len(s.canonical), maxCanonical)
		}
	}
	if len(r.problems) > 0 {
		r.problems.sort()
		return nil, r.problems
	}
	s.Warnings.sort()
	return s, nil
}

// readYAML returns the root of the one document in src.
func readYAML(src []byte) (body ast.Node, problems Problems) {
	whole := func(format string, args ...any) Problems {
		return Problems{{Line: 1, Column: 1, Message: fmt.Sprintf(format, args...)}}
	}
	if len(src) > MaxSource {
		return nil, whole("the file has %d bytes; at most %d", len(src), MaxSource)
	}
	if !utf8.Valid(src) {
		return nil, whole("the file is not UTF-8")
	}
	text := strings.TrimPrefix(string(src), "\ufeff")
	// The YAML library has panicked on odd input before; a bad value in the
	// bucket must not take every gateway down.
	defer func() {
		if p := recover(); p != nil {
			body, problems = nil, whole("the file is not YAML that can be read: %v", p)
		}
	}()
	tokens := lexer.Tokenize(text)
	if problem := tooDeep(tokens); problem != nil {
		return nil, Problems{*problem}
	}
	doc, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntaxProblem(err)
	}
	for _, d := range doc.Docs {
		if d == nil || d.Body == nil {
			continue
		}
		if body != nil {
			return nil, whole("the file is one YAML document; got several")
		}
		body = d.Body
	}
	if body == nil || body.Type() == ast.NullType {
		return nil, whole("the file is empty; a mapping with the keys %s", known(file))
	}
	return body, nil
}

func syntaxProblem(err error) Problems {
	p := Problem{Line: 1, Column: 1, Message: "not YAML: " + err.Error()}
	var at interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &at) {
		p.Message = "not YAML: " + at.GetMessage()
		if tk := at.GetToken(); tk != nil && tk.Position != nil {
			p.Line, p.Column = max(tk.Position.Line, 1), max(tk.Position.Column, 1)
		}
	}
	return Problems{p}
}

// tooDeep keeps input away from the recursive parser that could exhaust its
// stack: depth is bounded by brackets, by indentation, and by entries on one
// line.
func tooDeep(tokens token.Tokens) *Problem {
	flow, line, onLine := 0, 0, 0
	var columns []int
	for i, tk := range tokens {
		if tk.Position == nil {
			continue
		}
		if i >= maxTokens {
			return &Problem{Line: tk.Position.Line, Column: tk.Position.Column, Message: fmt.Sprintf("the file has more than %d words and signs", maxTokens)}
		}
		if tk.Position.Line != line {
			line, onLine = tk.Position.Line, 0
			if flow == 0 {
				for len(columns) > 0 && columns[len(columns)-1] >= tk.Position.Column {
					columns = columns[:len(columns)-1]
				}
				columns = append(columns, tk.Position.Column)
			}
		}
		switch tk.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow = max(flow-1, 0)
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			if flow == 0 {
				onLine++
			}
		}
		if flow > maxDepth || len(columns) > maxDepth || onLine > maxDepth {
			return &Problem{Line: tk.Position.Line, Column: tk.Position.Column, Message: fmt.Sprintf("values are nested more than %d deep", maxDepth)}
		}
	}
	return nil
}

func (r *reader) collectAnchors(root ast.Node) {
	ast.Walk(anchorVisitor{r}, root)
}

type anchorVisitor struct{ r *reader }

func (v anchorVisitor) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok {
		name := nodeText(a.Name)
		if _, twice := v.r.anchors[name]; twice {
			v.r.problem(a, "", "the anchor &%s is given twice", name)
		}
		v.r.anchors[name] = a.Value
	}
	return v
}
