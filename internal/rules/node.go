package rules

import (
	"fmt"

	"github.com/goccy/go-yaml/ast"
)

// reader walks the document and collects what is wrong with it.
type reader struct {
	problems Problems
	lenient  bool // unknown keys are ignored
	anchors  map[string]ast.Node
	visits   int // nodes looked at, aliases followed anew each time
}

const (
	maxVisits   = 200_000
	maxProblems = 100
)

func (r *reader) problem(n ast.Node, path, format string, args ...any) {
	if len(r.problems) == maxProblems {
		return
	}
	p := Problem{Line: 1, Column: 1, Path: path, Message: fmt.Sprintf(format, args...)}
	if n != nil {
		if tk := firstToken(n); tk != nil && tk.Position != nil {
			p.Line, p.Column = tk.Position.Line, tk.Position.Column
		}
	}
	r.problems = append(r.problems, p)
}

// spend counts visits and says once when there were too many.
func (r *reader) spend(visits int, n ast.Node, path string) bool {
	before := r.visits
	r.visits += visits
	if before <= maxVisits && r.visits > maxVisits {
		r.problem(n, path, "the aliases of the file stand for more than %d values", maxVisits)
	}
	return r.visits <= maxVisits
}

// resolve follows anchors and aliases to the node they stand for; nil is a node
// that was reported.
func (r *reader) resolve(n ast.Node, path string) ast.Node {
	for range 8 {
		if !r.spend(1, n, path) {
			return nil
		}
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.AliasNode:
			name := nodeText(v.Value)
			to, ok := r.anchors[name]
			if !ok {
				r.problem(v, path, "no anchor &%s above", name)
				return nil
			}
			n = to
		case *ast.TagNode:
			r.problem(v, path, "tags are not allowed; got %s", v.Start.Value)
			return nil
		case nil:
			r.problem(nil, path, "a value is missing")
			return nil
		default:
			return n
		}
	}
	r.problem(n, path, "an alias of an alias of an alias is not allowed")
	return nil
}

// mapping reads n as an object. It is never nil, and empty where n is bad.
func (r *reader) mapping(n ast.Node, path string, o *object) *mapping {
	m := &mapping{r: r, path: path, at: n, object: o, values: make(map[string]ast.Node)}
	v := r.resolve(n, path)
	if v == nil {
		return m
	}
	pairs, ok := mapPairs(v)
	if !ok {
		r.problem(n, path, "a mapping with the keys %s; got %s", known(o), describe(v))
		return m
	}
	for _, pair := range r.entries(pairs, path) {
		if o.field(pair.name) == nil {
			if !r.lenient {
				r.problem(pair.key, join(path, pair.name), "unknown key; %s", suggest(pair.name, o))
			}
			continue
		}
		m.values[pair.name] = pair.value
	}
	for _, f := range o.fields {
		if _, ok := m.values[f.name]; f.required && !ok {
			r.problem(n, join(path, f.name), "is required: %s", f.allowed())
		}
	}
	return m
}

type entry struct {
	name  string
	key   ast.Node
	value ast.Node
}

// entries returns the pairs of a mapping with those of its merge keys, which
// yield to its own. A key given twice is reported.
func (r *reader) entries(pairs []*ast.MappingValueNode, path string) []entry {
	var own, merged []entry
	seen := make(map[string]bool, len(pairs))
	for _, pair := range pairs {
		if pair.Key.IsMergeKey() {
			merged = append(merged, r.merged(pair.Value, path)...)
			continue
		}
		key, ok := pair.Key.(*ast.StringNode)
		if !ok {
			r.problem(pair.Key, path, "a key is text; got %s", describe(pair.Key))
			continue
		}
		if seen[key.Value] {
			r.problem(key, join(path, key.Value), "the key is given twice")
			continue
		}
		seen[key.Value] = true
		own = append(own, entry{key.Value, key, pair.Value})
	}
	for _, e := range merged {
		if !seen[e.name] {
			seen[e.name] = true
			own = append(own, e)
		}
	}
	return own
}

func (r *reader) merged(n ast.Node, path string) []entry {
	v := r.resolve(n, path)
	if v == nil {
		return nil
	}
	var all []entry
	if list, ok := v.(*ast.SequenceNode); ok {
		for _, item := range list.Values {
			if to := r.resolve(item, path); to != nil {
				if _, nested := to.(*ast.SequenceNode); !nested {
					all = append(all, r.merged(to, path)...)
				}
			}
		}
		return all
	}
	pairs, ok := mapPairs(v)
	if !ok {
		r.problem(n, path, "<< takes a mapping or a list of mappings; got %s", describe(v))
		return nil
	}
	if !r.spend(len(pairs), n, path) {
		return nil
	}
	for _, e := range pairs {
		if key, ok := e.Key.(*ast.StringNode); ok {
			all = append(all, entry{key.Value, key, e.Value})
		} else {
			r.problem(e.Key, path, "a merged mapping has plain keys; got %s", describe(e.Key))
		}
	}
	return all
}

func mapPairs(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch v := n.(type) {
	case *ast.MappingNode:
		return v.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{v}, true
	}
	return nil, false
}
