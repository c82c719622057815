// Package docs holds the pages of the documentation. Its tests keep them true:
// links and examples here, the protocol's schema in schema_test.go, the tables
// that follow the code in code_test.go.
package docs

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// pages are all that people read.
func pages(t *testing.T) []string {
	t.Helper()
	found := []string{"../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md"}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```$")
	code    = regexp.MustCompile("`[^`\n]*`")
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
)

// Every relative link leads to a file that is there, and every anchor to a
// heading.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		text := code.ReplaceAllString(fence.ReplaceAllString(read(t, page), ""), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file := page
			if target != "" {
				file = filepath.Join(filepath.Dir(page), filepath.FromSlash(target))
				if _, err := os.Stat(file); err != nil {
					t.Errorf("%s: %s: no such file", page, m[1])
					continue
				}
			}
			if anchor != "" && strings.HasSuffix(file, ".md") && !anchors(t, file)[anchor] {
				t.Errorf("%s: %s: no such heading", page, m[1])
			}
		}
	}
}

func anchors(t *testing.T, page string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(read(t, page), ""), -1) {
		all[slug(m[1])] = true
	}
	return all
}

// slug is the anchor that GitHub gives a heading.
func slug(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, text)
}

var block = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// The Go programs of the pages compile, and the JSON is JSON.
func TestExamples(t *testing.T) {
	programs := 0
	dir := t.TempDir()
	for _, page := range pages(t) {
		for _, m := range block.FindAllStringSubmatch(read(t, page), -1) {
			switch {
			case m[1] == "json" && !json.Valid([]byte(strings.ReplaceAll(m[2], "…", ""))):
				t.Errorf("%s: no JSON: %s", page, m[2])
			case m[1] == "go":
				programs++
				file := filepath.Join(dir, fmt.Sprintf("%d.go", programs))
				if err := os.WriteFile(file, []byte(m[2]), 0o600); err != nil {
					t.Fatal(err)
				}
				// A file named on the command line is compiled in this module.
				if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s\n%s", page, err, out, m[2])
				}
			}
		}
	}
	if programs == 0 {
		t.Error("no Go programs found")
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
