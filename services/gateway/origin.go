package gateway

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Origins says from which web pages a browser may connect. The zero value
// allows the gateway's own origin. It is not changed after it was parsed.
type Origins struct {
	patterns []originPattern
	own      bool // the gateway's own origin is allowed beside the patterns
	any      bool // the pattern `*`
}

// originPattern is one allowed origin: the host may begin with `*.`, the port
// may be `*`.
type originPattern struct {
	scheme, host, port string
}

// ParseOrigins reads the patterns of FAIRLEAD_ORIGINS: `https://app.example.com`,
// `https://*.example.com` (any depth below it, not itself), `http://localhost:*`
// (any port), `*` (every page). No pattern allows the gateway's own origin;
// patterns stand in its place.
func ParseOrigins(patterns []string) (Origins, error) {
	var o Origins
	for _, text := range patterns {
		text = strings.TrimSpace(text)
		switch text {
		case "":
			continue
		case "*":
			o.any = true
			continue
		}
		p, ok := parseOriginPattern(text)
		if !ok {
			return Origins{}, fmt.Errorf("FAIRLEAD_ORIGINS: %q: allowed are scheme://host, with *. before the host for its subdomains and :port or :*, and * for every origin", text)
		}
		o.patterns = append(o.patterns, p)
	}
	return o, nil
}

// DevOrigins allows the gateway's own origin and every page served from this
// machine: what `fairlead dev` allows where FAIRLEAD_ORIGINS is not set.
func DevOrigins() Origins {
	o := Origins{own: true}
	for _, host := range localHosts {
		o.patterns = append(o.patterns, originPattern{"http", host, "*"})
	}
	return o
}

// Any reports whether every origin is allowed. That can't go with a cookie
// that authenticates: every page could then speak for whoever visits it.
func (o Origins) Any() bool { return o.any }

// Check returns nil if the page behind an upgrade request may connect. cookie
// says that a cookie authenticates the request: then an Origin is needed, and
// the pattern `*` doesn't count, for a browser sends cookies from any page.
// Its error is the text of the 403.
func (o Origins) Check(r *http.Request, cookie bool) error {
	values := r.Header.Values("Origin")
	switch {
	case len(values) == 0 && !cookie:
		return nil // no browser
	case len(values) == 0:
		return fmt.Errorf("origin missing: a request that a cookie authenticates needs an Origin header allowed by FAIRLEAD_ORIGINS")
	case len(values) > 1:
		return fmt.Errorf("origin %.100q: more than one Origin header", strings.Join(values, ", "))
	case o.any && !cookie:
		return nil
	}
	origin, ok := parseOrigin(values[0])
	if ok {
		if (o.own || len(o.patterns) == 0) && sameOrigin(origin, r.Host) {
			return nil
		}
		for _, p := range o.patterns {
			if p.match(origin) {
				return nil
			}
		}
	}
	return fmt.Errorf("origin %.100q is not allowed to connect to %.100q: add it to FAIRLEAD_ORIGINS", values[0], r.Host)
}

func (p originPattern) match(origin originPattern) bool {
	if p.scheme != origin.scheme || p.port != "*" && p.port != origin.port {
		return false
	}
	if below, ok := strings.CutPrefix(p.host, "*."); ok {
		name, found := strings.CutSuffix(origin.host, "."+below)
		return found && name != ""
	}
	return p.host == origin.host
}

// sameOrigin compares host and port. Of http and https either will do: behind a
// proxy that ends TLS the gateway can't know which it is.
func sameOrigin(origin originPattern, host string) bool {
	name, port, ok := splitHost(host)
	if port == "" {
		port = defaultPort(origin.scheme)
	}
	return ok && port != "" && name == origin.host && port == origin.port
}

// parseOriginPattern takes what [parseOrigin] takes, and the two wildcards.
func parseOriginPattern(text string) (originPattern, bool) {
	text, anyPort := strings.CutSuffix(text, ":*")
	if anyPort {
		text += ":1" // stands for all; with a port before it, it is no origin
	}
	scheme, host, _ := strings.Cut(text, "://")
	host, below := strings.CutPrefix(host, "*.")
	p, ok := parseOrigin(scheme + "://" + host)
	if below {
		p.host = "*." + p.host
	}
	if anyPort {
		p.port = "*"
	}
	return p, ok
}

// parseOrigin reads an origin as browsers send it: a scheme, a host, and a
// port unless it is the scheme's own. `null` is none.
func parseOrigin(text string) (originPattern, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(text, "#") {
		return originPattern{}, false
	}
	host, port, ok := splitHost(u.Host)
	if port == "" {
		port = defaultPort(u.Scheme)
	}
	return originPattern{scheme: strings.ToLower(u.Scheme), host: host, port: port}, ok && !strings.Contains(host, "*")
}

func defaultPort(scheme string) string {
	switch scheme {
	case "http":
		return "80"
	case "https":
		return "443"
	}
	return ""
}

// splitHost parts a Host header or the host of an origin. The name is in
// lower case and without the brackets of an IPv6 address; the port is "" where
// there is none.
func splitHost(host string) (name, port string, ok bool) {
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") || !strings.Contains(host, ":") {
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	} else {
		var err error
		if name, port, err = net.SplitHostPort(host); err != nil || port == "" {
			return "", "", false
		}
	}
	return strings.ToLower(name), port, name != ""
}

// localHosts are the names of this machine that a page elsewhere can't take:
// a name of its own that it lets point here (DNS rebinding) is none of them.
var localHosts = []string{"localhost", "127.0.0.1", "::1"}

// CheckLocalHost returns nil if the Host header of a request names this
// machine or is in allowed (names without a port, as `fairlead dev --host`
// takes them). Its error is the text of the 403.
func CheckLocalHost(host string, allowed []string) error {
	name, _, ok := splitHost(host)
	for _, list := range [][]string{localHosts, allowed} {
		for _, local := range list {
			if ok && strings.EqualFold(name, strings.Trim(local, "[]")) {
				return nil
			}
		}
	}
	return fmt.Errorf("host %.100q: `fairlead dev` answers to localhost, 127.0.0.1 and [::1] only: add others with --host", host)
}
