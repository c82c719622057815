package js

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestHandlerServesEveryModuleAPageReaches(t *testing.T) {
	imports := regexp.MustCompile(`(?m)^(?:import|export) [^;]*? from "([^"]+)";`)
	seen := map[string]bool{}
	queue := []string{"/fairlead.js"}
	for len(queue) > 0 {
		path := queue[0]
		queue = queue[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		w := get(t, path)
		if got, want := w.Code, http.StatusOK; got != want {
			t.Fatalf("%s: status %d, want %d", path, got, want)
		}
		for name, want := range map[string]string{
			"Content-Type":           "text/javascript; charset=utf-8",
			"Cache-Control":          "no-cache",
			"X-Content-Type-Options": "nosniff",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s %q, want %q", path, name, got, want)
			}
		}
		for _, found := range imports.FindAllStringSubmatch(w.Body.String(), -1) {
			queue = append(queue, strings.Replace(found[1], "./", "/fairlead/", 1))
		}
	}
	if len(seen) < 10 {
		t.Errorf("reached %d modules from /fairlead.js, want the whole client", len(seen))
	}
}

func TestHandlerServesNothingElse(t *testing.T) {
	for _, path := range []string{"/", "/fairlead", "/fairlead/", "/fairlead/none.js", "/fairlead/../embed.go", "/fairlead/src/index.js", "/package.json"} {
		if got, want := get(t, path).Code, http.StatusNotFound; got != want {
			t.Errorf("%s: status %d, want %d", path, got, want)
		}
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/fairlead.js", nil))
	if got, want := w.Code, http.StatusMethodNotAllowed; got != want {
		t.Errorf("POST: status %d, want %d", got, want)
	}
}

func TestModulesImportOnlyEachOther(t *testing.T) {
	from := regexp.MustCompile(`(?m)^(?:import|export) [^;]*? from "([^"]+)";`)
	files, err := fs.Glob(FS, "src/*.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := FS.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range from.FindAllStringSubmatch(string(source), -1) {
			if !strings.HasPrefix(found[1], "./") {
				t.Errorf("%s imports %q: the client has no dependencies", file, found[1])
			}
		}
	}
}
