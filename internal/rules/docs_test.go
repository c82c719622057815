package rules

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

const (
	docsFile  = "../../docs/rules.md"
	docsBegin = "<!-- The tables below are written by `go test ./internal/rules -update`. -->\n"
	docsEnd   = "<!-- End of the written tables. -->\n"
)

// Every key is in docs/rules.md with its bounds and its default.
func TestDocsNameEveryKey(t *testing.T) {
	page, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), docsBegin)
	_, after, ok2 := strings.Cut(rest, docsEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has lost the marks around its tables", docsFile)
	}
	golden(t, docsFile, []byte(before+docsBegin+docsTables()+docsEnd+after))
}

// Every example of the page is a rules file that passes its own tests.
func TestDocsExamplesWork(t *testing.T) {
	page, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```yaml\n")[1:]
	if len(blocks) < 3 {
		t.Fatalf("got %d examples", len(blocks))
	}
	tests := 0
	for _, block := range blocks {
		src, _, _ := strings.Cut(block, "```")
		s, err := Parse([]byte(src), Run)
		if err != nil {
			t.Errorf("%s\n%v", src, err)
			continue
		}
		if failed := s.RunTests(); len(failed) > 0 || len(s.Warnings) > 0 {
			t.Errorf("%s\n%v\n%v", src, failed, s.Warnings)
		}
		tests += len(s.Tests)
	}
	if tests == 0 {
		t.Error("no example has tests")
	}
}

// The page prints the built-in rules as they are.
func TestDocsShowTheBuiltinRules(t *testing.T) {
	page, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	rules, _, _ := strings.Cut(string(BuiltinSource(Run)), "tests:\n")
	if !strings.Contains(string(page), rules) {
		t.Errorf("%s does not print builtin.run.yaml", docsFile)
	}
}

func docsTables() string {
	var b strings.Builder
	for _, o := range []*object{file, topicObject, replayObject, presenceObject, cursorsObject, rateObject, takeObject, limitObject, admissionObject, classObject, topPublisherObject, bridgeObject, callObject, groupObject, testObject, asObject, claimsObject} {
		title := "`" + o.title + "`"
		if o == file || o == takeObject || o == classObject {
			title = o.title
		}
		fmt.Fprintf(&b, "\n### %s\n\n| key | value | left out | meaning |\n|---|---|---|---|\n", title)
		for _, f := range o.fields {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, f.docValue(), f.docDefault(), f.doc)
		}
	}
	return b.String() + "\n"
}

func (f *field) docValue() string {
	v := f.allowed()
	switch f.kind {
	case kindEnum:
		v = "`" + strings.Join(f.enum, "` `") + "`"
	case kindObject:
		v = "a mapping"
	case kindMatch:
		v = "a topic, `*`, `>`, placeholders"
	case kindGlob:
		v = "a topic, `*`, `>`"
	case kindChannel:
		v = "1-63 of `[a-zA-Z0-9_]`, the first no digit, not `pg_…` or `information_schema…`"
	case kindTake:
		v = "a name, or a mapping"
	case kindClass:
		v = "a list of: `" + strings.Join(pressureNames[:], "` `") + "`, or a mapping"
	case kindDuration:
		v = fmt.Sprintf("a duration, %s to %s", formatDuration(time.Duration(f.min)), formatDuration(time.Duration(f.max)))
	case kindSize:
		v = fmt.Sprintf("bytes, %s to %s", formatSize(f.min), formatSize(f.max))
	case kindCount:
		v = fmt.Sprintf("a number, %d to %d", f.min, f.max)
	case kindText:
		v = fmt.Sprintf("text, %d-%d bytes", f.min, f.max)
	}
	if f.list {
		v = "a list of: " + v
	}
	if f.keyed {
		v = "by name: " + v
	}
	return v
}

func (f *field) docDefault() string {
	switch {
	case f.required:
		return "required"
	case f.def == "":
		return "none"
	case strings.ContainsAny(f.def, " `") && f.kind != kindEnum || strings.Contains(f.def, "`"):
		return f.def
	case f.def == modeDefault:
		return "`user` in `run`, `any` in `dev`"
	}
	return "`" + f.def + "`"
}
