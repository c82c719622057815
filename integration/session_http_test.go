package integration

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/session"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// account is what the application of the test keeps of a visitor.
type account struct {
	User   string `json:"user"`
	Visits int    `json:"visits"`
}

// application is an HTTP server with sessions.
func application(t *testing.T, natsURL string) *httptest.Server {
	t.Helper()
	sessions, err := session.New(connect(t, natsURL), session.Options{Insecure: true})
	must(t, err)
	fail := func(w http.ResponseWriter, err error) bool {
		var coded *wire.Error
		if errors.As(err, &coded) {
			http.Error(w, coded.Error(), coded.Code.HTTPStatus())
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
		return err != nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/visit", func(w http.ResponseWriter, r *http.Request) {
		a, _, err := session.Get[account](r.Context())
		if fail(w, err) {
			return
		}
		a.Visits++
		if fail(w, session.From(r.Context()).Set(r.Context(), a)) {
			return
		}
		fmt.Fprintf(w, "%s %d", a.User, a.Visits)
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		a, _, err := session.Get[account](r.Context())
		if fail(w, err) {
			return
		}
		a.User = r.FormValue("user")
		s := session.From(r.Context())
		if fail(w, s.Renew(r.Context())) || fail(w, s.Set(r.Context(), a)) {
			return
		}
		fmt.Fprintf(w, "%s %d", a.User, a.Visits)
	})
	mux.HandleFunc("/logout", func(w http.ResponseWriter, r *http.Request) {
		fail(w, session.From(r.Context()).Delete(r.Context()))
	})
	server := httptest.NewServer(sessions.Middleware(mux))
	t.Cleanup(server.Close)
	return server
}

// Two HTTP servers share the sessions of their visitors, over a login, a logout
// and an absence of the service.
func TestHTTPServersShareSessions(t *testing.T) {
	t.Parallel()
	url := natsdev.Test(t).ClientURL()
	replica := sessionReplicas(t, url, 1)[0]
	one, other := application(t, url), application(t, url)
	// Both are 127.0.0.1, and cookies know no ports.
	jar, err := cookiejar.New(nil)
	must(t, err)
	visitor := &http.Client{Jar: jar, Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(server *httptest.Server, path string) (int, string) {
		t.Helper()
		resp, err := visitor.Get(server.URL + path)
		must(t, err)
		return resp.StatusCode, readAll(t, resp)
	}
	expect := func(server *httptest.Server, path string, status int, want string) {
		t.Helper()
		if got, body := ask(server, path); got != status || status == http.StatusOK && body != want {
			t.Errorf("%s: got %d %q, want %d %q", path, got, body, status, want)
		}
	}
	cookie := func() *http.Cookie {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, one.URL, nil)
		must(t, err)
		cookies := jar.Cookies(request.URL)
		if len(cookies) != 1 {
			t.Fatalf("got cookies %v, want one", cookies)
		}
		return cookies[0]
	}
	expect(one, "/visit", http.StatusOK, "1")
	expect(other, "/visit", http.StatusOK, "2")
	before := cookie()
	expect(other, "/login?user=ann", http.StatusOK, "ann 2")
	if after := cookie(); after.Value == before.Value {
		t.Error("the token is the same after the login")
	}
	expect(one, "/visit", http.StatusOK, "ann 3")

	// The token from before the login is worth nothing.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, one.URL+"/visit", nil)
	must(t, err)
	request.AddCookie(before)
	resp, err := web.Do(request)
	must(t, err)
	if body := readAll(t, resp); body != "1" {
		t.Errorf("with the old token: got %q, want a visitor without a name", body)
	}

	replica.kill()
	expect(one, "/visit", http.StatusServiceUnavailable, "")
	startPresence(t, url)
	expect(one, "/visit", http.StatusOK, "ann 4")
	expect(other, "/logout", http.StatusOK, "")
	expect(one, "/visit", http.StatusOK, "1")
}
