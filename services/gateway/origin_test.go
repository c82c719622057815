package gateway

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func upgradeFrom(host string, origins ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/ws", nil)
	r.Host = host
	for _, origin := range origins {
		r.Header.Add("Origin", origin)
	}
	return r
}

func parseOrigins(t testing.TB, patterns ...string) Origins {
	t.Helper()
	o, err := ParseOrigins(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOrigins(t *testing.T) {
	own := parseOrigins(t)
	all := parseOrigins(t, "*")
	list := parseOrigins(t, "https://app.example.com", " https://*.example.org", "http://localhost:*", "https://admin.example.com:8443", "capacitor://localhost", "http://[::1]:*")
	dev := DevOrigins()
	for _, c := range []struct {
		name    string
		origins Origins
		host    string
		origin  string
		want    bool
	}{
		{"own", own, "rt.example.com", "https://rt.example.com", true},
		{"own without TLS", own, "rt.example.com", "http://rt.example.com", true},
		{"own, port written out", own, "rt.example.com:443", "https://rt.example.com", true},
		{"own, other port", own, "rt.example.com:8443", "https://rt.example.com", false},
		{"own, same port", own, "rt.example.com:8443", "https://rt.example.com:8443", true},
		{"own, any case", own, "RT.example.com", "https://rt.EXAMPLE.com", true},
		{"own, IPv6", own, "[::1]:8080", "http://[::1]:8080", true},
		{"own, IPv6 without a port", own, "[2001:db8::1]", "https://[2001:db8::1]", true},
		{"a name that begins alike", own, "rt.example.com", "https://rt.example.com.evil.com", false},
		{"a name that ends alike", own, "example.com", "https://evil-example.com", false},
		{"another scheme", own, "localhost", "capacitor://localhost", false},
		{"null", own, "rt.example.com", "null", false},
		{"null and no host", own, "", "null", false},
		{"empty", own, "rt.example.com", "", false},
		{"with a path", own, "rt.example.com", "https://rt.example.com/x", false},
		{"with a user", own, "rt.example.com", "https://rt.example.com@evil.com", false},
		{"with a user of the host's name", own, "rt.example.com", "https://evil@rt.example.com", false},
		{"all", all, "rt.example.com", "https://anywhere.net", true},
		{"all, null", all, "rt.example.com", "null", true},
		{"listed", list, "rt.example.com", "https://app.example.com", true},
		{"listed, port written out", list, "rt.example.com", "https://app.example.com:443", true},
		{"listed, other scheme", list, "rt.example.com", "http://app.example.com", false},
		{"listed, other port", list, "rt.example.com", "https://app.example.com:444", false},
		{"listed with a port", list, "rt.example.com", "https://admin.example.com:8443", true},
		{"a list stands for the own origin", list, "rt.example.com", "https://rt.example.com", false},
		{"below", list, "x", "https://a.example.org", true},
		{"far below", list, "x", "https://a.b.example.org", true},
		{"not itself", list, "x", "https://example.org", false},
		{"not beside", list, "x", "https://evilexample.org", false},
		{"any port", list, "x", "http://localhost:5173", true},
		{"no port", list, "x", "http://localhost", true},
		{"any port, other scheme", list, "x", "https://localhost:5173", false},
		{"any port of IPv6", list, "x", "http://[::1]:5173", true},
		{"an app's scheme", list, "x", "capacitor://localhost", true},
		{"dev, own", dev, "rt.test:8080", "http://rt.test:8080", true},
		{"dev, another port here", dev, "localhost:8080", "http://127.0.0.1:5173", true},
		{"dev, elsewhere", dev, "localhost:8080", "https://evil.com", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.origins.Check(upgradeFrom(c.host, c.origin), false)
			if got := err == nil; got != c.want {
				t.Fatalf("got %v, want allowed %t", err, c.want)
			}
			if err != nil && (!strings.Contains(err.Error(), c.origin) || !strings.Contains(err.Error(), "FAIRLEAD_ORIGINS")) {
				t.Errorf("%q does not name the origin and the variable", err)
			}
		})
	}
}

func TestOriginMissing(t *testing.T) {
	if err := parseOrigins(t).Check(upgradeFrom("rt.example.com"), false); err != nil {
		t.Errorf("no browser: %v", err)
	}
	if err := parseOrigins(t).Check(upgradeFrom("rt.example.com"), true); err == nil || !strings.Contains(err.Error(), "FAIRLEAD_ORIGINS") {
		t.Errorf("with a cookie: got %v, want a refusal", err)
	}
	if err := parseOrigins(t, "*").Check(upgradeFrom("a", "https://a", "https://b"), false); err == nil {
		t.Error("two Origin headers are allowed")
	}
}

// TestOriginOfCookie: a cookie comes along from any page, so `*` is no check.
func TestOriginOfCookie(t *testing.T) {
	if err := parseOrigins(t, "*").Check(upgradeFrom("rt.example.com", "https://evil.com"), true); err == nil {
		t.Error("`*` lets every page use the cookie")
	}
	if err := parseOrigins(t, "*", "https://app.example.com").Check(upgradeFrom("rt.example.com", "https://app.example.com"), true); err != nil {
		t.Errorf("a listed origin: %v", err)
	}
	if !parseOrigins(t, "https://a.com", "*").Any() || parseOrigins(t, "https://a.com").Any() {
		t.Error("Any does not say whether `*` is among the patterns")
	}
}

func TestOriginPatternsRefused(t *testing.T) {
	for _, pattern := range []string{"app.example.com", "https://", "https://*", "https://*.", "https://a.*.com", "https://app-*.example.com", "https://example.com/", "https://example.com:", "https://example.com:x", "https://example.com:80:*", "*.example.com", "null", "https://a@b.com", "https://b.com?x", "https://b.com#"} {
		if o, err := ParseOrigins([]string{"https://ok.example.com", pattern}); err == nil {
			t.Errorf("%q is taken as %+v", pattern, o.patterns)
		} else if !strings.Contains(err.Error(), "FAIRLEAD_ORIGINS") || !strings.Contains(err.Error(), pattern) {
			t.Errorf("%q does not name the variable and the pattern", err)
		}
	}
}

func TestCheckLocalHost(t *testing.T) {
	for _, c := range []struct {
		host string
		want bool
	}{
		{"localhost", true}, {"localhost:8080", true}, {"LOCALHOST:8080", true}, {"127.0.0.1:8080", true}, {"[::1]:8080", true}, {"[::1]", true},
		{"dev.box", true}, {"DEV.box:80", true}, {"[fd00::1]:80", true},
		{"", false}, {"evil.com", false}, {"localhost.evil.com", false}, {"127.0.0.1.evil.com", false}, {"127.0.0.2", false}, {"localhost:", false}, {":8080", false}, {"a:b:c", false},
	} {
		if err := CheckLocalHost(c.host, []string{"dev.box", "[fd00::1]"}); (err == nil) != c.want {
			t.Errorf("%q: got %v, want allowed %t", c.host, err, c.want)
		}
	}
}

func FuzzOrigin(f *testing.F) {
	f.Add("https://rt.example.com", "rt.example.com")
	f.Add("http://[::1]:80", "[::1]")
	f.Add("https://a.example.org:8443", "x")
	f.Fuzz(func(t *testing.T, origin, host string) {
		if parseOrigins(t).Check(upgradeFrom(host, origin), false) == nil {
			// Allowed: then the origin is the host behind http:// or https://, a default port aside.
			_, rest, _ := strings.Cut(strings.ToLower(origin), "://")
			bare := func(s string) string { return strings.TrimSuffix(strings.TrimSuffix(s, ":80"), ":443") }
			if bare(rest) != bare(strings.ToLower(host)) {
				t.Errorf("%q is taken for %q", origin, host)
			}
		}
		if parseOrigins(t, "https://*.example.org").Check(upgradeFrom(host, origin), false) == nil {
			if bare := strings.TrimSuffix(strings.ToLower(origin), ":443"); !strings.HasPrefix(bare, "https://") || !strings.HasSuffix(bare, ".example.org") {
				t.Errorf("%q is taken for a subdomain of example.org", origin)
			}
		}
	})
}
