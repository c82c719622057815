package rules

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const (
	schemaFile = "../../docs/rules.schema.json"
	schemaID   = "https://raw.githubusercontent.com/fairlead-io/fairlead/main/docs/rules.schema.json"
)

// The published schema is the one of the tables the reader works from.
func TestSchemaIsPublished(t *testing.T) {
	doc := schemaOf(file)
	doc["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	doc["$id"] = schemaID
	doc["title"] = "Fairlead rules file"
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		t.Fatal(err)
	}
	golden(t, schemaFile, b.Bytes())
}

// What the schema accepts or refuses, Parse does too, as far as a schema can
// tell.
func TestSchemaAgreesWithParse(t *testing.T) {
	schema := compileSchema(t)
	for _, name := range []string{"testdata/example.yaml", "builtin.run.yaml", "builtin.dev.yaml"} {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, schema, src); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := validate(t, schema, mustParse(t, string(src)).Stored("test", testTime)); err != nil {
			t.Errorf("%s as stored: %v", name, err)
		}
	}
	for _, name := range []string{"values", "root", "shape", "types"} {
		src, err := os.ReadFile(filepath.Join("testdata/bad", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if validate(t, schema, src) == nil {
			t.Errorf("%s is valid by the schema", name)
		}
	}
	// Each value at its bounds, and just outside.
	for path, f := range allFields(file, nil) {
		for _, value := range samples(f) {
			src, at := documentWith(strings.Split(path, "/"), value)
			if f.keyed || f.list {
				continue
			}
			_, err := Parse([]byte(src), Run)
			parses := err == nil || !strings.Contains(err.Error(), at+": ")
			for _, beyond := range []string{"a name under limits", "a class of", "true, or a user beside it"} {
				parses = parses || strings.Contains(err.Error(), at+": "+beyond)
			}
			checked := validateAt(t, schema, src, path)
			if parses != checked {
				t.Errorf("%s: Parse accepts: %v, the schema: %v (%v)", src, parses, checked, err)
			}
		}
	}
}

// samples are values inside and outside of what a field takes.
func samples(f field) []string {
	n := func(i int64) string { return strconv.FormatInt(i, 10) }
	switch f.kind {
	case kindCount:
		return []string{n(f.min), n(f.max), n(f.min - 1), n(f.max + 1), "text", "true"}
	case kindSize:
		return []string{n(f.min), n(f.max), "1MiB", "x", "-1", "true"}
	case kindDuration:
		return []string{"20s", "0.5m", "20", "x", "-5s", "true"}
	case kindEnum:
		return append([]string{"never", "1", "true"}, f.enum...)
	case kindBool:
		return []string{"true", "false", "yes", "1"}
	case kindName:
		return []string{"abc", "a-b_C1", "a b", `""`, strings.Repeat("a", maxName), strings.Repeat("a", maxName+1), "1"}
	case kindMatch, kindGlob:
		return []string{"a", `"a.>"`, `""`, "1", "true", strings.Repeat("a", 256)}
	case kindChannel:
		return []string{"abc", "_aB9", "a-b", "9a", `""`, "1", strings.Repeat("a", 63), strings.Repeat("a", 64), "pg_a", "PG_a", "pga", "Information_Schema", "informations"}
	case kindText:
		return []string{strings.Repeat("a", int(f.max)), strings.Repeat("a", int(f.max)+1), `""`, "1"}
	case kindTake:
		return []string{"abc", "{limit: abc}", "1", "true"}
	}
	return nil
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	src, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(src))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(schemaID, doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(schemaID)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func validate(t *testing.T, schema *jsonschema.Schema, src []byte) error {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON(src)
	if err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(doc)
}

// validateAt reports whether the schema accepts the value at a path of
// allFields, whatever else is missing around it.
func validateAt(t *testing.T, schema *jsonschema.Schema, src, path string) bool {
	t.Helper()
	err := validate(t, schema, []byte(src))
	if err == nil {
		return true
	}
	var at []string
	for _, name := range strings.Split(path, "/") {
		name, keyed := strings.CutSuffix(name, "{}")
		name, list := strings.CutSuffix(name, "[]")
		at = append(at, name)
		if list {
			at = append(at, "0")
		}
		if keyed {
			at = append(at, "k")
		}
	}
	where := strings.Join(at, "/")
	var refused func(e *jsonschema.ValidationError) bool
	refused = func(e *jsonschema.ValidationError) bool {
		if len(e.Causes) == 0 && strings.HasPrefix(strings.Join(e.InstanceLocation, "/")+"/", where+"/") {
			return true
		}
		for _, c := range e.Causes {
			if refused(c) {
				return true
			}
		}
		return false
	}
	return !refused(err.(*jsonschema.ValidationError))
}

// schemaOf is the JSON Schema of an object of the file.
func schemaOf(o *object) map[string]any {
	properties := make(map[string]any)
	var required []string
	for _, f := range o.fields {
		s := f.schema()
		s["description"] = strings.ReplaceAll(f.doc, "`", "")
		if f.def != "" {
			s["description"] = s["description"].(string) + "; left out: " + strings.ReplaceAll(f.defaultWords(), "`", "")
		}
		properties[f.name] = s
		if f.required {
			required = append(required, f.name)
		}
	}
	s := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		s["required"] = required
	}
	return s
}

func (f *field) defaultWords() string {
	if f.def == modeDefault {
		return "user in run, any in dev"
	}
	return f.def
}

func (f *field) schema() map[string]any {
	one := f.schemaOfOne()
	if f.list {
		one = map[string]any{"type": "array", "items": one, "maxItems": maxTopics}
	}
	if f.keyed {
		one = map[string]any{"type": "object", "additionalProperties": one, "maxProperties": maxTopics}
	}
	return one
}

// anyCase is a regular expression for a text in whatever case.
func anyCase(text string) string {
	var b strings.Builder
	for _, c := range text {
		if c == '_' {
			b.WriteRune(c)
			continue
		}
		b.WriteString("[" + string(c) + strings.ToUpper(string(c)) + "]")
	}
	return b.String()
}

func (f *field) schemaOfOne() map[string]any {
	switch f.kind {
	case kindText:
		return map[string]any{"type": "string", "minLength": f.min, "maxLength": f.max}
	case kindName:
		return map[string]any{"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "maxLength": maxName}
	case kindChannel:
		return map[string]any{"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]{0,62}$", "not": map[string]any{"pattern": "^([pP][gG]_|" + anyCase("information_schema") + ")"}}
	case kindMatch, kindGlob:
		return map[string]any{"type": "string", "minLength": 1, "maxLength": 255}
	case kindBool:
		return map[string]any{"type": "boolean"}
	case kindCount:
		return map[string]any{"type": "integer", "minimum": f.min, "maximum": f.max}
	case kindSize:
		return map[string]any{"anyOf": []any{
			map[string]any{"type": "integer", "minimum": f.min, "maximum": f.max},
			map[string]any{"type": "string", "pattern": "^[0-9]+ *([KMGT]i?)?B?$"},
		}}
	case kindDuration:
		return map[string]any{"type": "string", "pattern": `^[+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`}
	case kindEnum:
		return map[string]any{"enum": f.enum}
	case kindObject:
		return schemaOf(f.of)
	case kindTake:
		return map[string]any{"anyOf": []any{map[string]any{"type": "string"}, schemaOf(takeObject)}}
	case kindClass:
		return map[string]any{"anyOf": []any{classObject.field("reasons").schema(), schemaOf(classObject)}}
	case kindScalar:
		return map[string]any{"type": []string{"string", "number", "boolean"}}
	}
	return map[string]any{}
}
