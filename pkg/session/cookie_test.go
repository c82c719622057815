package session

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestCookie(t *testing.T) {
	const token = "AAAAAAAAAAAAAAAAAAAAAA"
	for _, test := range []struct {
		opts       Options
		set, clear string
	}{
		{
			Options{},
			"__Host-session=" + token + "; Path=/; HttpOnly; Secure; SameSite=Lax",
			"__Host-session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		},
		{
			Options{Insecure: true, MaxAge: time.Hour},
			"session=" + token + "; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax",
			"session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax",
		},
		{
			Options{Cookie: "sid", SameSite: http.SameSiteStrictMode},
			"sid=" + token + "; Path=/; HttpOnly; Secure; SameSite=Strict",
			"sid=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Strict",
		},
	} {
		s, err := New(&nats.Conn{}, test.opts)
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{"Set-Cookie": {"theme=dark"}}
		for _, change := range []struct{ token, want string }{{newToken(), ""}, {token, test.set}, {"", test.clear}} {
			s.setCookie(h, change.token)
			got := h["Set-Cookie"]
			if len(got) != 2 || got[0] != "theme=dark" || change.want != "" && got[1] != change.want {
				t.Errorf("%+v: got %q, want theme=dark and %q", test.opts, got, change.want)
			}
		}
		if got := h["Cache-Control"]; len(got) != 1 {
			t.Errorf("Cache-Control: got %q, want one", got)
		}
	}
}

func TestTokensAreTheirOwn(t *testing.T) {
	s, err := New(&nats.Conn{}, Options{Cookie: "sid"})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 1000 {
		token := newToken()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.AddCookie(&http.Cookie{Name: "sid", Value: token})
		if got := s.token(r); got != token || seen[token] {
			t.Fatalf("got %q of %q, seen before: %v", got, token, seen[token])
		}
		seen[token] = true
	}
}
