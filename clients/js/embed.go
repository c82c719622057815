// Package js holds the JavaScript client's modules and serves them, so that a page can import the client from the
// gateway it talks to.
package js

import (
	"bytes"
	"embed"
	"io/fs"
	"net/http"
	"strings"
	"time"
)

// FS holds the client's modules under src/, as they are published to npm.
//
//go:embed src/*.js
var FS embed.FS

// entry is what /fairlead.js says. Modules import each other by relative path, so they live in a folder of their own.
const entry = "export * from \"/fairlead/index.js\";\n"

// Handler serves the client: /fairlead.js is what pages import, /fairlead/*.js are its modules. Everything else below
// it is not found. Browsers revalidate each time, so that a page never runs modules of two releases.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		source, ok := module(r.URL.Path)
		if !ok {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(source))
	})
}

// module returns the source a path names.
func module(path string) ([]byte, bool) {
	if path == "/fairlead.js" {
		return []byte(entry), true
	}
	name, ok := strings.CutPrefix(path, "/fairlead/")
	if !ok || strings.Contains(name, "/") || !strings.HasSuffix(name, ".js") {
		return nil, false
	}
	source, err := fs.ReadFile(FS, "src/"+name)
	return source, err == nil
}
