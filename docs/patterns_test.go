package docs

import (
	"path/filepath"
	"strings"
	"testing"
)

// The programs of patterns.md are those that the tests run: each is there as it
// stands, under a link to its file, and the page has no others.
func TestPatternsAreTheFilesThatRun(t *testing.T) {
	paths, err := filepath.Glob("../examples/patterns/*/*")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	page := read(t, "patterns.md")
	for _, path := range paths {
		path = filepath.ToSlash(path)
		language := strings.TrimPrefix(filepath.Ext(path), ".")
		if !strings.Contains(page, "]("+path+")\n\n```"+language+"\n"+read(t, path)+"```\n") {
			t.Errorf("%s is not in patterns.md as it stands, under a link to it", path)
		}
	}
	programs := 0
	for _, m := range block.FindAllStringSubmatch(page, -1) {
		if m[1] == "go" || m[1] == "js" {
			programs++
		}
	}
	if got, want := programs, len(paths); got != want {
		t.Errorf("patterns.md shows %d programs, want the %d of examples/patterns", got, want)
	}
}
