package demo

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// childEnv makes the test binary be a second gateway: what it says is its
// answer to every request.
const childEnv = "FAIRLEAD_DEMO_TEST_CHILD"

func serveAsChild(says string) {
	switch says {
	case "nothing":
		return
	case rendererReady:
		fmt.Println(says)
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %d %s %s", says, os.Getpid(), r.Host, r.URL)
		}))
	}()
	fmt.Println(listener.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func second(t *testing.T, says string) *http.ServeMux {
	t.Helper()
	s := NewSecond(func() *exec.Cmd {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), childEnv+"="+says)
		return c
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(s.Close)
	mux := http.NewServeMux()
	mux.Handle("GET /demo/", Handler(nil))
	s.Mount(mux)
	return mux
}

// ask makes a request from this machine, unless change says otherwise.
func ask(mux http.Handler, method, path string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	w, r := httptest.NewRecorder(), httptest.NewRequest(method, path, nil)
	r.RemoteAddr, r.Host = "127.0.0.1:9", "demo.local"
	for _, fn := range change {
		fn(r)
	}
	mux.ServeHTTP(w, r)
	return w
}

func TestTheSecondGatewayIsAnotherOneAfterAKill(t *testing.T) {
	mux := second(t, "I am")
	first := ask(mux, "GET", "/demo/ws?a=b").Body.String()
	if !strings.HasPrefix(first, "I am ") || !strings.HasSuffix(first, " demo.local /ws?a=b") {
		t.Fatalf("got %q, want the answer of the process to /ws for the same host", first)
	}
	if got, want := ask(mux, "GET", "/demo/ws?a=b").Body.String(), first; got != want {
		t.Errorf("got %q, want the same process: %q", got, want)
	}
	if got, want := ask(mux, "POST", "/demo/kill").Code, http.StatusNoContent; got != want {
		t.Errorf("kill: status %d, want %d", got, want)
	}
	if got := ask(mux, "GET", "/demo/ws?a=b").Body.String(); got == first || !strings.HasPrefix(got, "I am ") {
		t.Errorf("after the kill: got %q, want another process than %q", got, first)
	}
}

func TestASecondGatewayThatDoesNotStart(t *testing.T) {
	if got, want := ask(second(t, "nothing"), "GET", "/demo/ws").Code, http.StatusBadGateway; got != want {
		t.Errorf("status %d, want %d", got, want)
	}
}

func TestOnlyThisMachinesPageHasASecondGateway(t *testing.T) {
	mux := second(t, "I am")
	away := func(r *http.Request) { r.RemoteAddr = "192.0.2.1:9" }
	foreign := func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }
	for _, tt := range []struct {
		name, method, path string
		change             func(*http.Request)
		status             int
		body               string
	}{
		{"its page", "GET", "/demo/second.js", func(*http.Request) {}, 200, "export const second = true;\n"},
		{"a page elsewhere", "GET", "/demo/second.js", away, 200, "export const second = false;\n"},
		{"a connection from elsewhere", "GET", "/demo/ws", away, 403, ""},
		{"a kill from elsewhere", "POST", "/demo/kill", away, 403, ""},
		{"a kill by another site", "POST", "/demo/kill", foreign, 403, ""},
		{"a kill by a link", "GET", "/demo/kill", func(*http.Request) {}, 404, ""},
	} {
		w := ask(mux, tt.method, tt.path, tt.change)
		if w.Code != tt.status || tt.body != "" && w.Body.String() != tt.body {
			t.Errorf("%s: %d %q, want %d %q", tt.name, w.Code, w.Body, tt.status, tt.body)
		}
	}
	w := get(t, "/demo/second.js")
	if got, want := w.Body.String(), "export const second = false;\n"; got != want {
		t.Errorf("outside of dev: got %q, want %q", got, want)
	}
}
