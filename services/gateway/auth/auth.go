// Package auth says who a connection is: it turns what a client presents (a
// JWT, an earlier session, or nothing) into an [Identity], or refuses it with
// an error the client may see.
//
// Three modes exist. `jwt` takes signed tokens only, `anonymous` takes
// everybody without a name, `dev` takes a token where one is given and is
// anonymous otherwise. A token that is present and bad is an error in every
// mode; it never makes its bearer anonymous.
//
// What the package guards against, and where:
//
//   - algorithm confusion and `none`: a key carries the methods it may verify
//     (keys.go), the token only picks among keys that allow its method;
//   - tokens that live for ever: `exp` is required and bounded (token.go);
//   - an identity provider that is away: the last good key set is used for
//     24 h, and neither start-up nor a hello hangs on it (jwks.go);
//   - a token that grants by accident: a claim that is not what it should be
//     refuses the token instead of being left out (claims.go);
//   - a session taken to another user: a session is bound to its user by its
//     own bytes, so that no gateway keeps a table of them (session.go).
package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The values of FAIRLEAD_AUTH.
const (
	ModeJWT       = "jwt"       // a valid token or nothing
	ModeAnonymous = "anonymous" // everybody is anonymous
	ModeDev       = "dev"       // a token where one is given, else anonymous
	ModeCallout   = "callout"   // reserved: refused by New
)

// DefaultMaxAge is the longest life of a token when [JWTConfig.MaxAge] is zero.
const DefaultMaxAge = 24 * time.Hour

// MaxToken is the longest token, in bytes, that is looked at.
const MaxToken = 32 << 10

// Config says how clients are authenticated. It is plain data; [New] validates it.
type Config struct {
	// Mode is FAIRLEAD_AUTH: [ModeJWT] (also when empty), [ModeAnonymous] or [ModeDev].
	Mode string
	// Development is true in `fairlead dev` only: it permits [ModeDev], and
	// [ModeAnonymous] without AllowAnonymous.
	Development bool
	// AllowAnonymous is FAIRLEAD_ALLOW_ANONYMOUS: without it [ModeAnonymous]
	// is refused outside `fairlead dev`.
	AllowAnonymous bool
	// JWT says how tokens are verified. Unused in [ModeAnonymous].
	JWT JWTConfig
}

// JWTConfig names the one source of keys and what a token must say. Exactly
// one of Secret, JWKSURL and PublicKeyFile is set.
type JWTConfig struct {
	// Secret verifies HS256, HS384 and HS512: at least 32 bytes.
	Secret []byte
	// JWKSURL is where the issuer publishes its keys (http or https). It needs
	// Issuer and Audience: many tenants often share one key set.
	JWKSURL string
	// PublicKeyFile holds one or more PEM public keys or certificates (RSA of
	// at least 2048 bits, P-256, Ed25519).
	PublicKeyFile string
	// Issuer and Audience, where set, are required in every token.
	Issuer, Audience string
	// MaxAge bounds `exp` - `iat`, or `exp` - now in a token without `iat`.
	// Zero is [DefaultMaxAge].
	MaxAge time.Duration
}

// String hides the secret, so that a configuration may be printed.
func (c JWTConfig) String() string {
	secret := "unset"
	if len(c.Secret) > 0 {
		secret = "set"
	}
	return fmt.Sprintf("{secret:%s publicKeyFile:%q jwks:%t issuer:%q audience:%q maxAge:%s}",
		secret, c.PublicKeyFile, c.JWKSURL != "", c.Issuer, c.Audience, c.MaxAge)
}

// GoString is [JWTConfig.String]: %#v hides the secret too.
func (c JWTConfig) GoString() string { return c.String() }

// LogValue is [JWTConfig.String] for slog.
func (c JWTConfig) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Credentials are what a client presents: in `hello`, in the upgrade request,
// or in `refresh` (then with the connection's session).
type Credentials struct {
	Token   string // a JWT; "" if none
	Session string // the session an earlier hello was answered with; "" if none
}

// Identity is who a connection is and what its token says. It is not changed
// after [Authenticator.Authenticate] returned it and may be shared.
type Identity struct {
	User      string // `sub`, or `anon-…`
	Anonymous bool
	Session   string // to be sent in the reply to hello; bound to User

	// Attributes are flat: numbers and booleans of the claim are strings here.
	Attributes map[string]string
	// Info is the default public presence data: compact valid JSON, or nil.
	Info json.RawMessage

	// The lists narrow what the rules allow: nil does not narrow, an empty
	// list allows nothing. Subscribe, Publish and Topics hold topic patterns,
	// Calls method patterns, Send user ids.
	Subscribe, Publish, Send, Calls []string
	// Topics are to be subscribed at hello; nil if none.
	Topics []string
	// Groups holds the roles beyond the first that the user may take in a group.
	Groups map[string][]string

	// IssuedAt is zero where the token has no `iat`; ExpiresAt is zero only
	// for an anonymous user, which doesn't expire.
	IssuedAt, ExpiresAt time.Time
}

// Authenticator tells who a client is. It is safe for concurrent use.
type Authenticator interface {
	// Authenticate returns the identity behind c. Its error is a *wire.Error:
	// UNAUTHENTICATED with what is wrong with the token, or UNAVAILABLE while
	// the keys to check it with can't be had. The message never holds the
	// token. It returns within a few seconds whatever ctx says.
	Authenticate(ctx context.Context, c Credentials) (*Identity, error)
	// AllowsAnonymous reports whether a client without a token is let in, so
	// that `hello` is optional.
	AllowsAnonymous() bool
	// Run keeps the keys fresh until ctx is done, then returns nil. Without
	// it a JWKS is never read.
	Run(ctx context.Context) error
}

// New returns the authenticator for cfg, or an error with one line per problem
// of the configuration, each naming its variable. Nothing is started and
// nothing is fetched; a public key file is read.
func New(cfg Config, log *slog.Logger) (Authenticator, error) {
	switch cfg.Mode {
	case ModeAnonymous:
		if !cfg.Development && !cfg.AllowAnonymous {
			return nil, errors.New("FAIRLEAD_AUTH: anonymous lets everybody in: set FAIRLEAD_ALLOW_ANONYMOUS=true to mean it")
		}
		return anonymous{}, nil
	case ModeDev:
		if !cfg.Development {
			return nil, errors.New("FAIRLEAD_AUTH: dev is for `fairlead dev` only: use jwt, or anonymous with FAIRLEAD_ALLOW_ANONYMOUS=true")
		}
		tokens, err := newTokens(cfg.JWT, log)
		if err != nil {
			return nil, err
		}
		return optional{tokens}, nil
	case ModeJWT, "":
		tokens, err := newTokens(cfg.JWT, log)
		if err != nil {
			return nil, err
		}
		return tokens, nil
	case ModeCallout:
		return nil, errors.New("FAIRLEAD_AUTH: callout is not built yet: use jwt or anonymous")
	}
	return nil, fmt.Errorf("FAIRLEAD_AUTH: %q: allowed are jwt and anonymous, and dev in `fairlead dev`", cfg.Mode)
}

// anonymous lets everybody in without a name.
type anonymous struct{}

func (anonymous) Authenticate(_ context.Context, c Credentials) (*Identity, error) {
	if c.Token != "" {
		return nil, unauthenticated("this gateway takes no tokens: connect without one")
	}
	session := c.Session
	if !validAnonymousSession(session) {
		session = newAnonymousSession()
	}
	return &Identity{User: anonymousUser(session), Anonymous: true, Session: session}, nil
}

func (anonymous) AllowsAnonymous() bool { return true }

func (anonymous) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// optional takes a token where one is given and is anonymous otherwise.
type optional struct{ *tokens }

func (o optional) Authenticate(ctx context.Context, c Credentials) (*Identity, error) {
	if c.Token == "" {
		return anonymous{}.Authenticate(ctx, c)
	}
	return o.tokens.Authenticate(ctx, c)
}

func (optional) AllowsAnonymous() bool { return true }

func unauthenticated(format string, args ...any) *wire.Error {
	return wire.Errorf(wire.Unauthenticated, format, args...)
}

// IsAnonymousUser reports whether user is of the form kept for anonymous users.
func IsAnonymousUser(user string) bool { return strings.HasPrefix(user, anonymousPrefix) }
