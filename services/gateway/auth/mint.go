package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// DefaultLife is how long a minted token lives when [Claims.ExpiresAt] is zero.
const DefaultLife = time.Hour

// Claims is what [Mint] puts into a token. The lists mean what they mean in
// [Identity]: nil leaves the claim out, an empty list allows nothing.
type Claims struct {
	User             string
	Issuer, Audience string // left out when empty

	IssuedAt  time.Time // zero: now
	NotBefore time.Time // zero: left out
	ExpiresAt time.Time // zero: IssuedAt + [DefaultLife]

	Attributes                              map[string]string
	Info                                    json.RawMessage
	Subscribe, Publish, Send, Calls, Topics []string
	Groups                                  map[string][]string
}

// rights is the claim "fairlead" as it is written.
type rights struct {
	Attributes map[string]string   `json:"attributes,omitempty"`
	Info       json.RawMessage     `json:"info,omitempty"`
	Subscribe  []string            `json:"subscribe,omitzero"`
	Publish    []string            `json:"publish,omitzero"`
	Send       []string            `json:"send,omitzero"`
	Calls      []string            `json:"calls,omitzero"`
	Topics     []string            `json:"topics,omitzero"`
	Groups     map[string][]string `json:"groups,omitempty"`
}

// Mint returns a token signed with secret by HS256, for tests, the demo and
// the command line: applications mint theirs with any JWT library. It refuses
// claims that an [Authenticator] would refuse.
func Mint(secret []byte, c Claims) (string, error) {
	if _, err := secretKeys(secret); err != nil {
		return "", err
	}
	if c.IssuedAt.IsZero() {
		c.IssuedAt = time.Now()
	}
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = c.IssuedAt.Add(DefaultLife)
	}
	if !c.ExpiresAt.After(c.IssuedAt) {
		return "", errors.New("mint token: it would expire before it is issued")
	}
	payload := jwt.MapClaims{"sub": c.User, "iat": c.IssuedAt.Unix(), "exp": c.ExpiresAt.Unix()}
	if c.Issuer != "" {
		payload["iss"] = c.Issuer
	}
	if c.Audience != "" {
		payload["aud"] = c.Audience
	}
	if !c.NotBefore.IsZero() {
		payload["nbf"] = c.NotBefore.Unix()
	}
	granted, err := json.Marshal(rights{c.Attributes, c.Info, c.Subscribe, c.Publish, c.Send, c.Calls, c.Topics, c.Groups})
	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	if string(granted) != "{}" {
		payload["fairlead"] = json.RawMessage(granted)
	}
	if err := checkClaims(payload); err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, payload).SignedString(secret)
	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	if len(token) > MaxToken {
		return "", fmt.Errorf("mint token: longer than %d bytes", MaxToken)
	}
	return token, nil
}

func checkClaims(payload jwt.MapClaims) error {
	b, err := json.Marshal(payload)
	if err != nil {
		return err
	}
	read := new(claims)
	if err = json.Unmarshal(b, read); err == nil {
		_, err = read.identity()
	}
	var coded *wire.Error
	if errors.As(err, &coded) {
		return errors.New(coded.Message)
	}
	return err
}
