package rules

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// No input panics or takes long, and what is accepted has a canonical form
// that is accepted and the same again.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	for _, file := range append(files, "testdata/example.yaml", "builtin.run.yaml") {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Add(mustParse(f, "topics: [{match: 'a.{user}.\\b'}]").Canonical())
	f.Fuzz(func(t *testing.T, src []byte) {
		start := time.Now()
		s, err := Parse(src, Run)
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("took %v", d)
		}
		if err != nil {
			if problems, ok := err.(Problems); !ok || len(problems) == 0 {
				t.Errorf("got %#v, want Problems", err)
			}
			return
		}
		s.RunTests()
		again, err := Parse(s.Canonical(), Dev)
		if err != nil {
			t.Fatalf("%v\n%s", err, s.Canonical())
		}
		if !bytes.Equal(again.Canonical(), s.Canonical()) {
			t.Errorf("got\n%s\nwant\n%s", again.Canonical(), s.Canonical())
		}
		if _, err := ParseStored(src, Run); err != nil {
			t.Errorf("stored: %v", err)
		}
	})
}
