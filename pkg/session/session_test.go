package session

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// visit is what the application of the tests keeps.
type visit struct {
	User string   `json:"user,omitempty"`
	Cart []string `json:"cart,omitempty"`
}

// browser sends requests to an application, one handler each, and keeps cookies.
type browser struct {
	t       *testing.T
	client  *http.Client
	url     string
	mu      sync.Mutex
	handler http.HandlerFunc
}

func newBrowser(t *testing.T, s *service, opts Options) *browser {
	t.Helper()
	sessions, err := New(s.nc, opts)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t}
	server := httptest.NewTLSServer(sessions.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		handler := b.handler
		b.mu.Unlock()
		handler(w, r)
	})))
	t.Cleanup(server.Close)
	b.url, b.client = server.URL, server.Client()
	b.client.Timeout = patience
	if b.client.Jar, err = cookiejar.New(nil); err != nil {
		t.Fatal(err)
	}
	return b
}

// visit sends a request to the handler and returns the answer.
func (b *browser) visit(handler http.HandlerFunc) *http.Response {
	b.t.Helper()
	b.mu.Lock()
	b.handler = handler
	b.mu.Unlock()
	resp, err := b.client.Get(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		b.t.Fatal(err)
	}
	return resp
}

// token is what the browser has as its cookie.
func (b *browser) token(name string) string {
	b.t.Helper()
	at, err := url.Parse(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.client.Jar.Cookies(at) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

func (b *browser) plant(name, token string) {
	b.t.Helper()
	at, err := url.Parse(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	b.client.Jar.SetCookies(at, []*http.Cookie{{Name: name, Value: token, Path: "/", Secure: true}})
}

func set(t *testing.T, v any) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		if err := From(r.Context()).Set(r.Context(), v); err != nil {
			t.Errorf("set: %v", err)
		}
	}
}

func expect(t *testing.T, want visit, wantOK bool) http.HandlerFunc {
	t.Helper()
	return func(_ http.ResponseWriter, r *http.Request) {
		t.Helper()
		got, ok, err := Get[visit](r.Context())
		if err != nil || ok != wantOK || got.User != want.User || strings.Join(got.Cart, " ") != strings.Join(want.Cart, " ") {
			t.Errorf("got %+v %v (%v), want %+v %v", got, ok, err, want, wantOK)
		}
	}
}

func TestAVisitorWithoutASessionCostsNothing(t *testing.T) {
	s := startService(t)
	b := newBrowser(t, s, Options{})
	resp := b.visit(func(w http.ResponseWriter, r *http.Request) {
		expect(t, visit{}, false)(w, r)
		session := From(r.Context())
		if err := errors.Join(session.Renew(r.Context()), session.Delete(r.Context())); err != nil {
			t.Error(err)
		}
	})
	if took := s.took(); took != "" || len(resp.Header["Set-Cookie"]) != 0 {
		t.Errorf("the service was asked %q, and the cookies are %v; want nothing", took, resp.Header["Set-Cookie"])
	}
}

func TestASessionIsReadOnceAndWrittenWhenItChanges(t *testing.T) {
	s := startService(t)
	b := newBrowser(t, s, Options{})
	steps := []struct {
		what    string
		handler http.HandlerFunc
		took    string
	}{
		{"the first set", set(t, visit{Cart: []string{"tea"}}), "set"},
		{"nothing is asked for", func(http.ResponseWriter, *http.Request) {}, ""},
		{"two reads", func(w http.ResponseWriter, r *http.Request) {
			expect(t, visit{Cart: []string{"tea"}}, true)(w, r)
			expect(t, visit{Cart: []string{"tea"}}, true)(w, r)
		}, "get"},
		{"the same is set", set(t, visit{Cart: []string{"tea"}}), "get"},
		{"something else is set, and read", func(w http.ResponseWriter, r *http.Request) {
			set(t, visit{Cart: []string{"tea", "<milk>"}})(w, r)
			expect(t, visit{Cart: []string{"tea", "<milk>"}}, true)(w, r)
			set(t, visit{Cart: []string{"tea", "<milk>"}})(w, r)
		}, "get set"},
		{"what was read is the same", set(t, visit{Cart: []string{"tea", "<milk>"}}), "get"},
		{"a delete", func(w http.ResponseWriter, r *http.Request) {
			if err := From(r.Context()).Delete(r.Context()); err != nil {
				t.Error(err)
			}
			expect(t, visit{}, false)(w, r)
		}, "delete"},
		{"after it", expect(t, visit{}, false), ""},
	}
	for _, step := range steps {
		b.visit(step.handler)
		if took := s.took(); took != step.took {
			t.Errorf("%s: the service was asked %q, want %q", step.what, took, step.took)
		}
	}
	if held := s.sessions(); len(held) != 0 {
		t.Errorf("there are still %v", held)
	}
	for _, ttl := range s.ttls {
		if ttl != "24h0m0s" {
			t.Errorf("a session was set for %s, want 24h", ttl)
		}
	}
}

// A token that the service does not know is not taken over, nor is one that is
// none.
func TestAPlantedTokenIsNotTakenOver(t *testing.T) {
	s := startService(t)
	for _, planted := range []string{"AAAAAAAAAAAAAAAAAAAAAA", "short", "AAAAAAAAAAAAAAAAAAAAAB", strings.Repeat("A", 4000)} {
		b := newBrowser(t, s, Options{})
		b.plant("__Host-session", planted)
		b.visit(expect(t, visit{}, false))
		b.visit(set(t, visit{User: "ann"}))
		if got := b.token("__Host-session"); got == planted || s.sessions()[got] != `{"user":"ann"}` {
			t.Errorf("%.30s: the cookie is %s and the service has %v", planted, got, s.sessions())
		}
	}
}

func TestRenewMakesTheOldTokenWorthless(t *testing.T) {
	s := startService(t)
	b := newBrowser(t, s, Options{})
	b.visit(set(t, visit{Cart: []string{"tea"}}))
	old := b.token("__Host-session")
	s.took()
	b.visit(func(w http.ResponseWriter, r *http.Request) {
		if err := From(r.Context()).Renew(r.Context()); err != nil {
			t.Error(err)
		}
		set(t, visit{User: "ann", Cart: []string{"tea"}})(w, r)
	})
	if took, want := s.took(), "get set delete set"; took != want {
		t.Errorf("the service was asked %q, want %q", took, want)
	}
	renewed := b.token("__Host-session")
	if held := s.sessions(); renewed == old || len(held) != 1 || held[renewed] != `{"user":"ann","cart":["tea"]}` {
		t.Errorf("the cookie was %s and is %s; the service has %v", old, renewed, held)
	}
	b.visit(expect(t, visit{User: "ann", Cart: []string{"tea"}}, true))
}

// Where the old token could not be deleted, Renew says so and tries again.
func TestRenewCanBeRepeated(t *testing.T) {
	s := startService(t)
	b := newBrowser(t, s, Options{})
	b.visit(set(t, visit{User: "ann"}))
	old := b.token("__Host-session")
	b.visit(func(_ http.ResponseWriter, r *http.Request) {
		session := From(r.Context())
		s.fail("delete", wire.ErrUnavailable)
		if err := session.Renew(r.Context()); !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("got %v, want UNAVAILABLE", err)
		}
		s.hold(old, `{}`) // as if it had not been deleted
		s.fail("delete", nil)
		if err := session.Renew(r.Context()); err != nil {
			t.Error(err)
		}
		if err := session.Renew(r.Context()); err != nil {
			t.Error(err)
		}
	})
	renewed := b.token("__Host-session")
	if held := s.sessions(); renewed == old || len(held) != 1 || held[renewed] != `{"user":"ann"}` {
		t.Errorf("the cookie was %s and is %s; the service has %v", old, renewed, held)
	}
}

// A session that another request has ended is not brought back.
func TestALogoutIsNotUndone(t *testing.T) {
	for what, change := range map[string]func(context.Context) error{
		"set":   func(ctx context.Context) error { return From(ctx).Set(ctx, visit{User: "ann", Cart: []string{"tea"}}) },
		"renew": func(ctx context.Context) error { return From(ctx).Renew(ctx) },
	} {
		s := startService(t)
		b := newBrowser(t, s, Options{})
		b.visit(set(t, visit{User: "ann"}))
		token := b.token("__Host-session")
		resp := b.visit(func(w http.ResponseWriter, r *http.Request) {
			expect(t, visit{User: "ann"}, true)(w, r)
			s.drop(token)
			for range 2 {
				if err := change(r.Context()); !errors.Is(err, ErrEnded) {
					t.Errorf("%s: got %v, want ErrEnded", what, err)
				}
			}
		})
		if held := s.sessions(); len(held) != 0 || len(resp.Header["Set-Cookie"]) != 0 {
			t.Errorf("%s: the service has %v, the cookies are %v", what, held, resp.Header["Set-Cookie"])
		}
	}
}

func TestACookieThatComesTooLateIsAnError(t *testing.T) {
	s := startService(t)
	b := newBrowser(t, s, Options{})
	begin := map[string]func(w http.ResponseWriter){
		"a status": func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) },
		"a body":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, "x") },
		"a copy":   func(w http.ResponseWriter) { _, _ = io.Copy(w, strings.NewReader("x")) },
		"a flush":  func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"a controlled flush": func(w http.ResponseWriter) {
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		},
	}
	for what, begin := range begin {
		b.visit(func(w http.ResponseWriter, r *http.Request) {
			begin(w)
			if err := From(r.Context()).Set(r.Context(), visit{User: "ann"}); !errors.Is(err, ErrHeadersSent) {
				t.Errorf("after %s: got %v, want ErrHeadersSent", what, err)
			}
		})
	}
	if held := s.sessions(); len(held) != 0 {
		t.Errorf("the service has %v that no browser has a cookie for", held)
	}
	// Early hints are not the response.
	b.visit(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		set(t, visit{User: "ann"})(w, r)
	})
	token := b.token("__Host-session")
	b.visit(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		set(t, visit{User: "bob"})(w, r) // it has its cookie
		if err := From(r.Context()).Renew(r.Context()); !errors.Is(err, ErrHeadersSent) {
			t.Errorf("renew: got %v, want ErrHeadersSent", err)
		}
	})
	if held := s.sessions(); len(held) != 1 || held[token] != `{"user":"bob"}` {
		t.Errorf("the service has %v, want bob's", held)
	}
	// Nor is it a session of the request any more when that is over.
	var after *Session
	s.drop(token)
	b.visit(func(_ http.ResponseWriter, r *http.Request) { after = From(r.Context()) })
	if err := after.Set(t.Context(), visit{}); !errors.Is(err, ErrHeadersSent) {
		t.Errorf("after the request: got %v, want ErrHeadersSent", err)
	}
}

// What the service says reaches the handler, and nothing is taken for stored.
func TestErrorsAreTheHandlers(t *testing.T) {
	s := startService(t)
	b := newBrowser(t, s, Options{})
	s.fail("set", wire.ErrUnavailable)
	resp := b.visit(func(_ http.ResponseWriter, r *http.Request) {
		if err := From(r.Context()).Set(r.Context(), visit{User: "ann"}); !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("set: got %v, want UNAVAILABLE", err)
		}
	})
	if cookies := resp.Header["Set-Cookie"]; len(cookies) != 0 {
		t.Errorf("cookies: got %v, want none", cookies)
	}
	s.fail("set", nil)
	b.visit(set(t, visit{User: "ann"}))
	b.visit(func(w http.ResponseWriter, r *http.Request) {
		s.fail("get", wire.ErrUnavailable)
		if _, _, err := Get[visit](r.Context()); !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("get: got %v, want UNAVAILABLE", err)
		}
		if err := From(r.Context()).Set(r.Context(), visit{User: "bob"}); !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("set of an unknown session: got %v, want UNAVAILABLE", err)
		}
		s.fail("get", nil)
		expect(t, visit{User: "ann"}, true)(w, r) // it is asked again

		s.fail("set", wire.ErrUnavailable) // although it did store it
		if err := From(r.Context()).Set(r.Context(), visit{User: "cem"}); !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("set: got %v, want UNAVAILABLE", err)
		}
		s.fail("set", nil)
		expect(t, visit{User: "cem"}, true)(w, r)

		s.fail("delete", wire.ErrUnavailable)
		if err := From(r.Context()).Delete(r.Context()); !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("delete: got %v, want UNAVAILABLE", err)
		}
		var number int
		if ok, err := From(r.Context()).Get(r.Context(), &number); ok || err == nil {
			t.Error("an object was read as a number")
		}
		if err := From(r.Context()).Set(r.Context(), make(chan int)); err == nil {
			t.Error("a channel was set")
		}
	})
}

func TestNobodyAnswers(t *testing.T) {
	s := startService(t)
	b := newBrowser(t, s, Options{Namespace: "nobody"})
	b.visit(func(_ http.ResponseWriter, r *http.Request) {
		if err := From(r.Context()).Set(r.Context(), 1); !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("no service: got %v, want UNAVAILABLE", err)
		}
		over, cancel := context.WithCancel(r.Context())
		cancel()
		if err := From(r.Context()).Set(over, 1); !errors.Is(err, wire.ErrCancelled) {
			t.Errorf("cancelled: got %v, want CANCELLED", err)
		}
	})
	resume := s.stall()
	b = newBrowser(t, s, Options{Timeout: 20 * time.Millisecond})
	b.visit(func(_ http.ResponseWriter, r *http.Request) {
		if err := From(r.Context()).Set(r.Context(), 1); !errors.Is(err, wire.ErrDeadlineExceeded) {
			t.Errorf("a silent service: got %v, want DEADLINE_EXCEEDED", err)
		}
	})
	resume()
	s.nc.Close()
	b.visit(func(_ http.ResponseWriter, r *http.Request) {
		if err := From(r.Context()).Set(r.Context(), 1); !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("without NATS: got %v, want UNAVAILABLE", err)
		}
	})
}

func TestWithoutTheMiddleware(t *testing.T) {
	ctx := t.Context()
	_, _, get := Get[visit](ctx)
	for what, err := range map[string]error{
		"get": get, "set": From(ctx).Set(ctx, 1), "delete": From(ctx).Delete(ctx), "renew": From(ctx).Renew(ctx),
	} {
		if !errors.Is(err, ErrNoMiddleware) {
			t.Errorf("%s: got %v, want ErrNoMiddleware", what, err)
		}
	}
}

// Handlers may use a session from several goroutines: there is one session.
func TestConcurrentUse(t *testing.T) {
	s := startService(t)
	b := newBrowser(t, s, Options{})
	b.visit(func(_ http.ResponseWriter, r *http.Request) {
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				if err := From(r.Context()).Set(r.Context(), i); err != nil {
					t.Error(err)
				}
				if _, ok, err := Get[int](r.Context()); !ok || err != nil {
					t.Errorf("got %v (%v)", ok, err)
				}
			})
		}
		all.Wait()
	})
	if held := s.sessions(); len(held) != 1 {
		t.Errorf("there are %d sessions, want 1", len(held))
	}
}

func TestOptionsAreChecked(t *testing.T) {
	nc := &nats.Conn{}
	if _, err := New(nil, Options{}); err == nil {
		t.Error("no connection: no error")
	}
	for want, opts := range map[string]Options{
		"TTL":       {TTL: 999 * time.Millisecond},
		"TTL 721h":  {TTL: 721 * time.Hour},
		"MaxAge":    {MaxAge: -1},
		"Timeout":   {Timeout: -1},
		"Namespace": {Namespace: "Über"},
		"Cookie":    {Cookie: "a b"},
		"Insecure":  {Insecure: true, Cookie: "__Host-x"},
	} {
		if _, err := New(nc, opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want an error about %s", opts, err, want)
		}
	}
}
