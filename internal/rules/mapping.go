package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
)

// mapping is one object of the document, checked against its table: unknown
// keys and missing ones are reported, and reading a key reports what is wrong
// with its value. Reading never fails: a bad value reads as the default.
type mapping struct {
	r      *reader
	path   string
	at     ast.Node
	object *object
	values map[string]ast.Node
}

// has reports whether the key is there.
func (m *mapping) has(name string) bool { _, ok := m.values[name]; return ok }

func (m *mapping) where(name string) ast.Node {
	if n, ok := m.values[name]; ok {
		return n
	}
	return m.at
}

func (m *mapping) sub(name string) string { return join(m.path, name) }

// bad reports what is wrong with the value of name.
func (m *mapping) bad(name, format string, args ...any) {
	m.r.problem(m.where(name), m.sub(name), format, args...)
}

// scalar returns the field of name and the text of its value, "" where it is
// left out or was reported.
func (m *mapping) scalar(name string) (f *field, text string) {
	f = m.object.field(name)
	n, ok := m.values[name]
	if !ok {
		return f, ""
	}
	return f, m.r.text(n, m.sub(name), f)
}

// text reads one scalar as f wants it, as its text; "" was reported.
func (r *reader) text(n ast.Node, path string, f *field) string {
	v := r.resolve(n, path)
	if v == nil {
		return ""
	}
	text, ok := "", false
	switch s := v.(type) {
	case *ast.StringNode:
		text, ok = s.Value, f.kind != kindBool && f.kind != kindCount
	case *ast.LiteralNode:
		if s.Value != nil {
			text, ok = s.Value.Value, f.kind != kindBool && f.kind != kindCount
		}
	case *ast.IntegerNode:
		text, ok = s.Token.Value, f.kind == kindCount || f.kind == kindSize || f.kind == kindScalar
	case *ast.FloatNode:
		text, ok = s.Token.Value, f.kind == kindScalar
	case *ast.BoolNode:
		text, ok = strconv.FormatBool(s.Value), f.kind == kindBool || f.kind == kindScalar
	}
	if !ok || !utf8.ValidString(text) {
		r.problem(n, path, "%s; got %s", f.allowed(), describe(v))
		return ""
	}
	if err := f.check(text); err != "" {
		r.problem(n, path, "%s; got %s", err, quote(text))
		return ""
	}
	return text
}

// check returns what is allowed unless text is a value of f.
func (f *field) check(text string) string {
	ok := true
	switch f.kind {
	case kindText:
		ok = int64(len(text)) >= f.min && int64(len(text)) <= f.max && !strings.ContainsFunc(text, control)
	case kindName:
		ok = plainName(text, maxName)
	case kindMatch:
		if _, err := compilePattern(text); err != nil {
			return err.Error()
		}
	case kindGlob:
		p, err := compilePattern(text)
		ok = err == nil && p.holes == nil
	case kindChannel:
		ok = isChannel(text)
	case kindEnum:
		ok = slices.Contains(f.enum, text)
	case kindCount:
		n, err := strconv.ParseInt(text, 0, 64)
		ok = err == nil && n >= f.min && n <= f.max
	case kindSize:
		n, valid := parseSize(text)
		ok = valid && n >= f.min && n <= f.max
	case kindDuration:
		d, err := time.ParseDuration(text)
		ok = err == nil && int64(d) >= f.min && int64(d) <= f.max
	}
	if !ok {
		return f.allowed()
	}
	return ""
}

func control(r rune) bool { return r < 0x20 || r >= 0x7f && r <= 0x9f }

// str returns the text of name, the field's default where it is left out or bad.
func (m *mapping) str(name string) string {
	f, text := m.scalar(name)
	if text == "" {
		return f.def
	}
	return text
}

func (m *mapping) flag(name string) bool { return m.str(name) == "true" }

// count returns 0 where the field is left out and its default is in words.
func (m *mapping) count(name string) int {
	n, _ := strconv.ParseInt(m.str(name), 0, 64)
	return int(n)
}

func (m *mapping) size(name string) int64 {
	n, _ := parseSize(m.str(name))
	return n
}

func (m *mapping) duration(name string) time.Duration {
	d, _ := time.ParseDuration(m.str(name))
	return d
}

// enum returns the index of the value in names, otherwise that of the default,
// otherwise fallback.
func (m *mapping) enum(name string, names []string, fallback uint8) uint8 {
	if i := slices.Index(names, m.str(name)); i >= 0 {
		return uint8(i)
	}
	return fallback
}

// sect reads name as a mapping; nil where it is left out.
func (m *mapping) sect(name string) *mapping {
	n, ok := m.values[name]
	if !ok {
		return nil
	}
	return m.r.mapping(n, m.sub(name), m.object.field(name).of)
}

// sections reads name as a list of mappings.
func (m *mapping) sections(name string) []*mapping {
	var all []*mapping
	m.each(name, func(n ast.Node, path string) {
		all = append(all, m.r.mapping(n, path, m.object.field(name).of))
	})
	return all
}

// texts reads name as a list of scalars. It is nil only where name is left out.
func (m *mapping) texts(name string) []string {
	if !m.has(name) {
		return nil
	}
	return m.r.texts(m.values[name], m.sub(name), m.object.field(name))
}

func (r *reader) texts(n ast.Node, path string, f *field) []string {
	all := []string{}
	r.each(n, path, f, func(n ast.Node, path string) {
		if text := r.text(n, path, f); text != "" {
			all = append(all, text)
		}
	})
	return all
}

func (m *mapping) each(name string, visit func(n ast.Node, path string)) {
	if n, ok := m.values[name]; ok {
		m.r.each(n, m.sub(name), m.object.field(name), visit)
	}
}

func (r *reader) each(n ast.Node, path string, f *field, visit func(n ast.Node, path string)) {
	v := r.resolve(n, path)
	if v == nil {
		return
	}
	list, ok := v.(*ast.SequenceNode)
	if !ok {
		r.problem(n, path, "a list; got %s", describe(v))
		return
	}
	if len(list.Values) > maxTopics {
		r.problem(n, path, "at most %d entries; got %d", maxTopics, len(list.Values))
		return
	}
	for i, item := range list.Values {
		visit(item, fmt.Sprintf("%s[%d]", path, i))
	}
}

// keys reads name as a map from names to whatever visit reads.
func (m *mapping) keys(name string, visit func(key string, n ast.Node, path string)) {
	n, ok := m.values[name]
	if !ok {
		return
	}
	path := m.sub(name)
	v := m.r.resolve(n, path)
	if v == nil {
		return
	}
	pairs, ok := mapPairs(v)
	if !ok {
		m.r.problem(n, path, "a mapping by name; got %s", describe(v))
		return
	}
	all := m.r.entries(pairs, path)
	if len(all) > maxTopics {
		m.r.problem(n, path, "at most %d entries; got %d", maxTopics, len(all))
		return
	}
	for _, e := range all {
		visit(e.name, e.value, join(path, e.name))
	}
}
