package demo

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, target string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Host = "demo.local:8080"
	Handler(nil).ServeHTTP(w, r)
	return w
}

func TestHandlerServesThePageAndItsAssets(t *testing.T) {
	page := get(t, "/demo").Body.String()
	paths := []string{"/demo", "/demo/"}
	for _, found := range regexp.MustCompile(`(?:src|href)="(/demo/[^"]+)"`).FindAllStringSubmatch(page, -1) {
		paths = append(paths, found[1])
	}
	if len(paths) < 4 {
		t.Fatalf("the page names %d assets, want a stylesheet and a script at least", len(paths)-2)
	}
	for _, path := range paths {
		w := get(t, path)
		if got, want := w.Code, http.StatusOK; got != want {
			t.Errorf("%s: status %d, want %d", path, got, want)
		}
		if w.Header().Get("Content-Type") == "" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", path, w.Header())
		}
	}
	for _, path := range []string{"/demo/none.js", "/demo/embed.go", "/demo/../embed.go", "/"} {
		if got, want := get(t, path).Code, http.StatusNotFound; got != want {
			t.Errorf("%s: status %d, want %d", path, got, want)
		}
	}
}

// The page knows beside what it is, and shows a command as it is set: no text ends
// the module that holds it.
func TestThePageIsToldOfItsStack(t *testing.T) {
	for want, stack := range map[string]*Stack{
		"export const stack = null;\n": nil,
		"export const stack = {};\n":   {},
		`export const stack = {"terminal":"a \u0026\u0026 \"b\";\n\u003c/script\u003e"};` + "\n": {Terminal: "a && \"b\";\n</script>"},
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/demo/stack.js", nil)
		Handler(stack).ServeHTTP(w, r)
		if got := w.Body.String(); got != want || w.Header().Get("Content-Type") != types["js"] {
			t.Errorf("%+v: got %q as %q, want %q", stack, got, w.Header().Get("Content-Type"), want)
		}
	}
}

func TestThePageBreaksNoPolicyOfItsOwn(t *testing.T) {
	page := get(t, "/demo").Body.String()
	for name, pattern := range map[string]string{
		"inline script":     `<script(?:\s[^>]*)?>[^<]`,
		"inline style":      `<style|\sstyle=`,
		"inline handler":    `\son[a-z]+=`,
		"external resource": `(?:src|href)="(?:https?:)?//`,
	} {
		if found := regexp.MustCompile(pattern).FindString(page); found != "" {
			t.Errorf("%s: %q", name, found)
		}
	}
	files, err := assets.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := assets.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("} {
			if strings.Contains(string(text), word) {
				t.Errorf("%s uses %s: text of others is set by textContent only", f.Name(), word)
			}
		}
	}
}

func TestSecondGatewayIsAllowedOnlyNearby(t *testing.T) {
	for ws2, want := range map[string]string{
		"ws://127.0.0.1:8081/ws":                  "connect-src 'self' ws://127.0.0.1:8081",
		"ws://localhost:8081/ws":                  "connect-src 'self' ws://localhost:8081",
		"ws://[::1]:8081/ws":                      "connect-src 'self' ws://[::1]:8081",
		"wss://demo.local:9443/ws":                "connect-src 'self' wss://demo.local:9443",
		"":                                        "connect-src 'self'",
		"ws://evil.example/ws":                    "connect-src 'self'",
		"http://127.0.0.1:8081":                   "connect-src 'self'",
		"ws://127.0.0.1:8081;script-src *":        "connect-src 'self'",
		"ws://localhost script-src 'none'/ws":     "connect-src 'self'",
		"ws://127.0.0.1.evil.example/ws":          "connect-src 'self'",
		"ws://127.0.0.1@evil.example:80/ws":       "connect-src 'self'",
		"ws://demo.local:8081\r\nSet-Cookie: a=b": "connect-src 'self'",
	} {
		got := get(t, "/demo?ws2="+url.QueryEscape(ws2)).Header().Get("Content-Security-Policy")
		if !strings.HasSuffix(got, "; "+want) {
			t.Errorf("ws2=%q: policy %q, want it to end in %q", ws2, got, want)
		}
	}
}
