// Package demo is the page at /demo: two users in one conversation through the JavaScript client, and beside each
// thing shown the code behind it and the nats command that does the same.
package demo

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

//go:embed index.html demo.css icon.svg *.js
var assets embed.FS

// policy allows what the page itself brings and nothing else; a second gateway is added to connect-src.
const policy = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; connect-src 'self'"

var types = map[string]string{
	"html": "text/html; charset=utf-8",
	"css":  "text/css; charset=utf-8",
	"js":   "text/javascript; charset=utf-8",
	"svg":  "image/svg+xml",
}

// Stack is what the page says of a stack that it did not bring along: one behind a load balancer, whose gateways
// others start and end.
type Stack struct {
	Terminal string `json:"terminal,omitempty"` // what to run in a terminal before the nats commands of the page; "" for nothing
}

// Handler serves /demo and its assets below /demo/. The page imports the client from /fairlead.js, asks
// /demo/token?user=… for tokens, and connects to /ws. With ?ws2=ws://host:port/ws its second pane connects to that
// gateway, which must be on this machine or on the host that the page came from: the pane's token goes there.
// A nil stack is `fairlead dev`.
func Handler(stack *Stack) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := strings.CutPrefix(r.URL.Path, "/demo/")
		if r.URL.Path == "/demo" || ok && name == "" {
			name = "index.html"
		}
		if name == "second.js" {
			sayWhetherSecond(w, false) // Second.Mount knows better
			return
		}
		if name == "stack.js" {
			tell(w, "stack", stack)
			return
		}
		body, err := assets.ReadFile(name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", types[name[strings.LastIndexByte(name, '.')+1:]])
		h.Set("Content-Security-Policy", policy+secondGateway(r))
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	})
}

// tell answers with a module that exports one value.
func tell(w http.ResponseWriter, name string, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", types["js"])
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	fmt.Fprintf(w, "export const %s = %s;\n", name, text)
}

// authority is what a host with an optional port may look like in a policy: nothing that could end the directive.
var authority = regexp.MustCompile(`^([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?$`)

// secondGateway returns the source to add to connect-src for the page's ws2, or nothing.
func secondGateway(r *http.Request) string {
	u, err := url.Parse(r.URL.Query().Get("ws2"))
	if err != nil || u.Scheme != "ws" && u.Scheme != "wss" || !authority.MatchString(u.Host) {
		return ""
	}
	host := u.Hostname()
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && host != hostOf(r) {
		return ""
	}
	return " " + u.Scheme + "://" + u.Host
}

func hostOf(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.Host); err == nil {
		return host
	}
	return r.Host
}
