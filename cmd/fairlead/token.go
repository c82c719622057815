package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// TokenCmd prints a JWT that a gateway with the same secret accepts. It is for
// trying things out and for scripts; an application mints its tokens with a
// JWT library of its language.
type TokenCmd struct {
	User string        `required:"" placeholder:"ID" help:"The user id (claim sub)."`
	TTL  time.Duration `name:"ttl" default:"1h" help:"How long the token is valid (default ${default})."`

	Name      string            `help:"Shown to others where the user is present (info.name)."`
	Attr      map[string]string `placeholder:"K=V" mapsep:"none" help:"An attribute, for rules and fl.match. May be repeated."`
	Subscribe []string          `placeholder:"PATTERN" sep:"none" help:"Narrow what the user may subscribe to. May be repeated."`
	Publish   []string          `placeholder:"PATTERN" sep:"none" help:"Narrow what the user may publish to. May be repeated."`
	Call      []string          `placeholder:"PATTERN" sep:"none" help:"Narrow which methods the user may call. May be repeated."`
	Topic     []string          `placeholder:"TOPIC" sep:"none" help:"A topic subscribed at hello. May be repeated."`

	Issuer   string `env:"FAIRLEAD_AUTH_JWT_ISSUER" help:"Claim iss."`
	Audience string `env:"FAIRLEAD_AUTH_JWT_AUDIENCE" help:"Claim aud."`

	SecretFile string `env:"FAIRLEAD_AUTH_JWT_SECRET_FILE" placeholder:"FILE" help:"Where the secret is; else it is taken from FAIRLEAD_AUTH_JWT_SECRET, else from --data."`
	Data       string `default:"./.fairlead" placeholder:"DIR" help:"The data directory of fairlead dev, which keeps a secret there (default ${default})."`
}

// Run prints the token alone, so that a script can take it: TOKEN=$(fairlead token --user ann).
func (c *TokenCmd) Run(_ context.Context, env *Env) error {
	if c.TTL < time.Second {
		return &exitError{code: exitUsage, err: fmt.Errorf("--ttl: %s: must be at least 1s", c.TTL)}
	}
	secret, err := c.secret()
	if err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	now := time.Now()
	claims := auth.Claims{
		User: c.User, Issuer: c.Issuer, Audience: c.Audience, IssuedAt: now, ExpiresAt: now.Add(c.TTL),
		Attributes: c.Attr, Subscribe: c.Subscribe, Publish: c.Publish, Calls: c.Call, Topics: c.Topic,
	}
	if c.Name != "" {
		if claims.Info, err = json.Marshal(map[string]string{"name": c.Name}); err != nil {
			return fmt.Errorf("encode --name: %w", err)
		}
	}
	token, err := auth.Mint(secret, claims)
	if err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	if c.TTL > auth.DefaultMaxAge {
		fmt.Fprintf(env.Stderr, "warning: a gateway refuses tokens that live longer than %s, unless FAIRLEAD_AUTH_JWT_MAX_AGE says otherwise\n", auth.DefaultMaxAge)
	}
	_, err = fmt.Fprintln(env.Stdout, token)
	return err
}

// secret never makes one: a token of a secret that no gateway has is of no use.
func (c *TokenCmd) secret() ([]byte, error) {
	if c.SecretFile != "" {
		return auth.ReadSecretFile(c.SecretFile)
	}
	if secret := os.Getenv("FAIRLEAD_AUTH_JWT_SECRET"); secret != "" {
		return []byte(secret), nil
	}
	secret, err := auth.ReadDevSecret(c.Data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no secret: %s does not exist: start fairlead dev once, or set FAIRLEAD_AUTH_JWT_SECRET, --secret-file or --data", filepath.Join(c.Data, auth.DevSecretFile))
	}
	return secret, err
}
