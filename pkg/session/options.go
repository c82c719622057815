package session

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Options say how sessions are kept. The zero value is good for production.
type Options struct {
	// TTL is how long a session lives without being used, from 1s to 720h
	// (30 days). Default 24h.
	TTL time.Duration
	// Cookie is the cookie's name. Default `__Host-session`, which browsers take
	// over TLS only, and from nobody but this host; `session` with Insecure.
	Cookie string
	// MaxAge is how long browsers keep the cookie, counted from when the session
	// was begun or renewed; by itself it ends no session. Default 0: until the
	// browser is closed.
	MaxAge time.Duration
	// SameSite says whether the cookie comes with requests from other sites.
	// Default http.SameSiteLaxMode.
	SameSite http.SameSite
	// Insecure lets the cookie travel without TLS: for development only.
	Insecure bool
	// Namespace is the one of the Fairlead that is asked. Default `fl`.
	Namespace wire.Namespace
	// Timeout bounds each request to it, where the context does not end earlier.
	// Default 5s.
	Timeout time.Duration
}

// Sessions are the sessions of a server. Its methods may be called concurrently.
type Sessions struct {
	nc   *nats.Conn
	opts Options
}

const (
	secureCookie   = "__Host-session"
	insecureCookie = "session"
)

// New returns the sessions that are asked for over nc, which stays the caller's.
// An option that can't be used is an error. Nothing is asked yet: the service
// may be away.
func New(nc *nats.Conn, opts Options) (*Sessions, error) {
	if nc == nil {
		return nil, errors.New("session: no NATS connection")
	}
	opts.TTL = cmp.Or(opts.TTL, 24*time.Hour)
	opts.SameSite = cmp.Or(opts.SameSite, http.SameSiteLaxMode)
	opts.Namespace = cmp.Or(opts.Namespace, wire.DefaultNamespace)
	opts.Timeout = cmp.Or(opts.Timeout, 5*time.Second)
	if opts.Cookie == "" {
		opts.Cookie = secureCookie
		if opts.Insecure {
			opts.Cookie = insecureCookie
		}
	}
	if err := opts.validate(); err != nil {
		return nil, err
	}
	return &Sessions{nc: nc, opts: opts}, nil
}

func (o Options) validate() error {
	var errs []error
	say := func(option string, value any, allowed string) {
		errs = append(errs, fmt.Errorf("session: %s %v: %s", option, value, allowed))
	}
	if o.TTL < time.Second || o.TTL > 720*time.Hour {
		say("TTL", o.TTL, "from 1s to 720h")
	}
	if o.MaxAge < 0 || o.MaxAge > 0 && o.MaxAge < time.Second {
		say("MaxAge", o.MaxAge, "0, or 1s and more")
	}
	if o.Timeout < 0 {
		say("Timeout", o.Timeout, "more than 0")
	}
	if err := wire.CheckNamespace(string(o.Namespace)); err != nil {
		errs = append(errs, fmt.Errorf("session: Namespace %q: %w", string(o.Namespace), err))
	}
	if (&http.Cookie{Name: o.Cookie, Value: "x"}).Valid() != nil {
		say("Cookie", o.Cookie, "not the name of a cookie")
	}
	prefixed := strings.HasPrefix(strings.ToLower(o.Cookie), "__host-") || strings.HasPrefix(strings.ToLower(o.Cookie), "__secure-")
	if o.Insecure && (prefixed || o.SameSite == http.SameSiteNoneMode) {
		say("Insecure", true, "browsers take such a cookie over TLS only")
	}
	return errors.Join(errs...)
}
