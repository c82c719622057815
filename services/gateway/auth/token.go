package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// leeway is how far an issuer's clock may run ahead of ours. It applies to
// `iat` and `nbf` only: an expired token is expired.
const leeway = 5 * time.Second

// tokens is the `jwt` mode: who has no valid token is nobody.
type tokens struct {
	keys             keySource
	issuer, audience string
	maxAge           time.Duration
	parser           *jwt.Parser
	now              func() time.Time
}

func newTokens(cfg JWTConfig, log *slog.Logger) (*tokens, error) {
	var problems []error
	keys, err := newKeySource(cfg, log)
	if err != nil {
		problems = append(problems, err)
	}
	if cfg.JWKSURL != "" && (cfg.Issuer == "" || cfg.Audience == "") {
		problems = append(problems, errors.New("FAIRLEAD_AUTH_JWT_JWKS_URL: needs FAIRLEAD_AUTH_JWT_ISSUER and FAIRLEAD_AUTH_JWT_AUDIENCE: one key set may sign for others too"))
	}
	if cfg.MaxAge < 0 {
		problems = append(problems, fmt.Errorf("FAIRLEAD_AUTH_JWT_MAX_AGE: %s: must be more than 0", cfg.MaxAge))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	t := &tokens{keys: keys, issuer: cfg.Issuer, audience: cfg.Audience, maxAge: cfg.MaxAge, now: time.Now}
	if t.maxAge == 0 {
		t.maxAge = DefaultMaxAge
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(methods),
		jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(func() time.Time { return t.now() }),
		jwt.WithLeeway(leeway),
		jwt.WithIssuedAt(),
		jwt.WithExpirationRequired(),
	}
	if t.issuer != "" {
		options = append(options, jwt.WithIssuer(t.issuer))
	}
	if t.audience != "" {
		options = append(options, jwt.WithAudience(t.audience))
	}
	t.parser = jwt.NewParser(options...)
	return t, nil
}

func newKeySource(cfg JWTConfig, log *slog.Logger) (keySource, error) {
	sources := 0
	for _, set := range []bool{len(cfg.Secret) > 0, cfg.JWKSURL != "", cfg.PublicKeyFile != ""} {
		if set {
			sources++
		}
	}
	if sources != 1 {
		return nil, fmt.Errorf("FAIRLEAD_AUTH_JWT_SECRET, FAIRLEAD_AUTH_JWT_JWKS_URL, FAIRLEAD_AUTH_JWT_PUBLIC_KEY_FILE: %d of them set: exactly one is needed", sources)
	}
	switch {
	case cfg.JWKSURL != "":
		return newJWKS(cfg.JWKSURL, log)
	case cfg.PublicKeyFile != "":
		return fileKeys(cfg.PublicKeyFile)
	}
	return secretKeys(cfg.Secret)
}

func (t *tokens) AllowsAnonymous() bool { return false }

func (t *tokens) Run(ctx context.Context) error { return t.keys.run(ctx) }

func (t *tokens) Authenticate(ctx context.Context, c Credentials) (*Identity, error) {
	if c.Token == "" {
		return nil, unauthenticated("a token is needed")
	}
	verified, err := t.verify(ctx, c.Token)
	if err != nil {
		return nil, err
	}
	identity, err := verified.identity()
	if err != nil {
		return nil, err
	}
	identity.Session = c.Session
	if !validUserSession(c.Session, identity.User) {
		identity.Session = newUserSession(identity.User)
	}
	return identity, nil
}

// verify returns the claims of a token whose signature, times, issuer and
// audience are right.
func (t *tokens) verify(ctx context.Context, token string) (*claims, error) {
	if len(token) > MaxToken {
		return nil, unauthenticated("token: longer than %d bytes", MaxToken)
	}
	if !base64urlBytes(strings.ReplaceAll(token, ".", "")) {
		return nil, unauthenticated("token: not a JWT")
	}
	c := new(claims)
	parsed, err := t.parser.ParseWithClaims(token, c, func(token *jwt.Token) (any, error) {
		return t.verificationKeys(ctx, token)
	})
	if err != nil {
		if parsed != nil && parsed.Method != nil && !slices.Contains(methods, parsed.Method.Alg()) {
			return nil, unauthenticated("token: signed with %s: allowed are %s", parsed.Method.Alg(), strings.Join(methods, ", "))
		}
		return nil, t.refusal(c, err)
	}
	expires := c.expires.Time
	if !t.now().Before(expires) {
		return nil, unauthenticated("token: expired")
	}
	start, most := t.now(), t.maxAge+leeway
	if c.issued != nil {
		start, most = c.issued.Time, t.maxAge
	}
	if expires.Sub(start) > most {
		return nil, unauthenticated("token: lives longer than the %s that this gateway takes (FAIRLEAD_AUTH_JWT_MAX_AGE)", t.maxAge)
	}
	return c, nil
}

func (t *tokens) verificationKeys(ctx context.Context, token *jwt.Token) (any, error) {
	if _, ok := token.Header["crit"]; ok {
		return nil, unauthenticated("token: its header asks for an extension (crit) that this gateway lacks")
	}
	kid, ok := token.Header["kid"].(string)
	if !ok && token.Header["kid"] != nil {
		return nil, unauthenticated("token: kid is not a string")
	}
	keys, err := t.keys.lookup(ctx, kid)
	if err != nil {
		return nil, err
	}
	var set jwt.VerificationKeySet
	for _, material := range verifying(keys, token.Method.Alg()) {
		set.Keys = append(set.Keys, material)
	}
	if len(set.Keys) == 0 {
		return nil, unauthenticated("token: signed with %s, which this gateway's keys do not take", token.Method.Alg())
	}
	return set, nil
}

// refusal says what is wrong in words for the client, and nothing of the token.
func (t *tokens) refusal(c *claims, err error) *wire.Error {
	var coded *wire.Error
	switch {
	case errors.As(err, &coded):
		return coded
	case errors.Is(err, jwt.ErrTokenMalformed):
		return unauthenticated("token: not a JWT")
	case errors.Is(err, jwt.ErrTokenUnverifiable):
		return unauthenticated("token: signed with an unknown method")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return unauthenticated("token: bad signature")
	case errors.Is(err, jwt.ErrTokenExpired):
		return unauthenticated("token: expired")
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return unauthenticated("token: not yet valid (nbf)")
	case errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return unauthenticated("token: not yet valid (iat)")
	case c.expires == nil:
		return unauthenticated("token: exp is required")
	case t.issuer != "" && c.issuer != t.issuer:
		return unauthenticated("token: wrong issuer")
	case t.audience != "":
		return unauthenticated("token: wrong audience")
	}
	return unauthenticated("token: not valid")
}
