package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A web page may connect only if its origin is allowed; the refusal says which
// origin was seen and what to set.
func TestOnlyAllowedOriginsConnectAndTheRefusalSaysWhy(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	own := startGateway(t, server.ClientURL())
	listed := startGateway(t, server.ClientURL(), "FAIRLEAD_ORIGINS=https://app.example.com,https://*.example.org")
	every := startGateway(t, server.ClientURL(), "FAIRLEAD_ORIGINS=*")
	dev, _ := startDev(t)
	cookie := startGateway(t, server.ClientURL(), "FAIRLEAD_AUTH_COOKIE=session")
	signedIn := http.Header{"Cookie": {"session=" + token("ann", nil)}}
	tests := []struct {
		name    string
		g       *gateway
		origin  string
		header  http.Header
		allowed bool
	}{
		{"no page", own, "", nil, true},
		{"its own page", own, "http://" + own.addr, nil, true},
		{"another page", own, "https://evil.example", nil, false},
		{"another port", own, "http://127.0.0.1:1", nil, false},
		{"a page without an origin", own, "null", nil, false},
		{"a listed page", listed, "https://app.example.com", nil, true},
		{"below a listed domain", listed, "https://a.b.example.org", nil, true},
		{"the domain itself", listed, "https://example.org", nil, false},
		{"a name that ends alike", listed, "https://evilexample.org", nil, false},
		{"another scheme", listed, "http://app.example.com", nil, false},
		{"its own page, with a list", listed, "http://" + listed.addr, nil, false},
		{"every page", every, "https://anything.example", nil, true},
		{"a local page on dev", dev, "http://localhost:5173", nil, true},
		{"another page on dev", dev, "https://evil.example", nil, false},
		{"a cookie from its own page", cookie, "http://" + cookie.addr, signedIn, true},
		{"a cookie without a page", cookie, "", signedIn, false},
		{"a cookie from another page", cookie, "https://evil.example", signedIn, false},
		{"a token without a page, with a cookie name", cookie, "", nil, true},
	}
	for _, test := range tests {
		o := client.Options{Origin: test.origin, Header: test.header}
		if test.header == nil {
			o.Token = token("ann", nil)
		}
		c, err := tryDial(t, test.g.ws(), o)
		switch {
		case test.allowed && err != nil:
			t.Errorf("%s: %v, want it allowed", test.name, err)
		case test.allowed && c.Welcome().User != "ann":
			t.Errorf("%s: user %q, want ann", test.name, c.Welcome().User)
		case !test.allowed && err == nil:
			t.Errorf("%s: connected, want 403", test.name)
		case !test.allowed:
			if e := wire.AsError(err); e.Details["status"] != http.StatusForbidden {
				t.Errorf("%s: %v, want 403", test.name, err)
			}
			if text := err.Error(); !strings.Contains(text, "FAIRLEAD_ORIGINS") || !strings.Contains(text, test.origin) {
				t.Errorf("%s: the refusal says %q, want the origin and FAIRLEAD_ORIGINS in it", test.name, text)
			}
		}
	}
	p := start(t, "cookie for every page", []string{"FAIRLEAD_NATS_URL=" + server.ClientURL(), "FAIRLEAD_AUTH_JWT_SECRET=" + testSecret,
		"FAIRLEAD_HTTP_ADDR=127.0.0.1:0", "FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_ORIGINS=*", "FAIRLEAD_AUTH_COOKIE=session"}, "run", "gateway")
	if code := p.exit(patience); code != 2 {
		t.Errorf("a cookie together with every origin: exit code %d, want 2", code)
	}
	p.line(p.stderr, "FAIRLEAD_ORIGINS=*")
}

// A page that has rebound its name to this machine does not reach dev.
func TestDevAnswersOnlyToTheNamesOfThisMachine(t *testing.T) {
	t.Parallel()
	g, _ := startDev(t)
	for host, want := range map[string]int{g.addr: 200, "localhost": 200, "[::1]:80": 200, "evil.example": 403, "localhost.evil.example": 403, "": 403} {
		for _, path := range []string{"/healthz", "/demo"} {
			req, err := http.NewRequest(http.MethodGet, g.http(path), nil)
			must(t, err)
			if req.Host = host; host == "" {
				req.Host = "10.0.0.1"
			}
			resp, err := web.Do(req)
			must(t, err)
			if text := readAll(t, resp); resp.StatusCode != want {
				t.Errorf("%s with Host %q: got %d %s, want %d", path, req.Host, resp.StatusCode, text, want)
			}
		}
	}
}
