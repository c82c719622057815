package fairleadtest

import (
	"encoding/json"
	"time"

	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// Claim is something that a token says: [Attributes], [Info] or [Claims].
type Claim interface{ claim(*auth.Claims) error }

// Attributes are those of the user, by which rules decide and fl.match chooses.
type Attributes map[string]string

func (a Attributes) claim(c *auth.Claims) error { c.Attributes = a; return nil }

// Info is what others see of the user in presence: any JSON value.
type Info struct{ Value any }

func (i Info) claim(c *auth.Claims) (err error) { c.Info, err = json.Marshal(i.Value); return err }

// Claims is everything else that a token can say. A list that is nil does not
// narrow what the rules allow; an empty one allows nothing.
type Claims struct {
	// Subscribe and Publish hold topic patterns, Calls method patterns, Send users.
	Subscribe, Publish, Calls, Send []string
	// Topics are subscribed at hello.
	Topics []string
	// Groups has the roles of the user in groups.
	Groups map[string][]string
	// Life is how long the token is valid; 0 is an hour. The gateway looks at whole
	// seconds.
	Life time.Duration
	// Issued is when it was issued; zero is now.
	Issued time.Time
}

func (c Claims) claim(to *auth.Claims) error {
	to.Subscribe, to.Publish, to.Calls, to.Send = c.Subscribe, c.Publish, c.Calls, c.Send
	to.Topics, to.Groups = c.Topics, c.Groups
	to.IssuedAt = c.Issued
	if to.IssuedAt.IsZero() {
		to.IssuedAt = time.Now()
	}
	if c.Life != 0 {
		to.ExpiresAt = to.IssuedAt.Add(c.Life)
	}
	return nil
}

// Token returns a token of user, as a server of the application would make it.
func (s *Stack) Token(user string, claims ...Claim) string {
	s.t.Helper()
	token, err := s.mint(user, claims)
	if err != nil {
		s.t.Fatalf("fairleadtest: token of %q: %v", user, err)
	}
	return token
}

func (s *core) mint(user string, claims []Claim) (string, error) {
	c := auth.Claims{User: user, Issuer: s.settings.Gateway.Auth.Issuer, Audience: s.settings.Gateway.Auth.Audience}
	for _, one := range claims {
		if err := one.claim(&c); err != nil {
			return "", err
		}
	}
	return auth.Mint([]byte(s.settings.Gateway.Auth.JWTSecret), c)
}
