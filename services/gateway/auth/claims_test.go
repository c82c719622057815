package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func decodeClaims(b []byte) (*Identity, error) {
	c := new(claims)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, err
	}
	return c.identity()
}

func TestRights(t *testing.T) {
	for _, c := range []struct {
		name, fairlead string
		want           Identity
	}{
		{"none", `{}`, Identity{}},
		{"all", `{"attributes":{"role":"admin"},"info":{"name":"Ann"},"subscribe":["chat.>"],"publish":["chat.lobby"],"send":[],"calls":["orders.*"],"groups":{"lobby":["admin"]},"topics":["chat.lobby"]}`,
			Identity{
				Attributes: map[string]string{"role": "admin"}, Info: json.RawMessage(`{"name":"Ann"}`),
				Subscribe: []string{"chat.>"}, Publish: []string{"chat.lobby"}, Send: []string{}, Calls: []string{"orders.*"},
				Groups: map[string][]string{"lobby": {"admin"}}, Topics: []string{"chat.lobby"},
			}},
		{"attributes become strings", `{"attributes":{"n":42,"f":1.50,"t":true,"s":"é","gone":null,"nested":{"a":1},"list":[1]}}`,
			Identity{Attributes: map[string]string{"n": "42", "f": "1.50", "t": "true", "s": "é"}}},
		{"attributes null", `{"attributes":null}`, Identity{}},
		{"names are exact", `{"Subscribe":["a"],"SUBSCRIBE":7}`, Identity{}},
		{"info of any kind, compact", "{\"info\": [1,\n \"a b\" ] }", Identity{Info: json.RawMessage(`[1,"a b"]`)}},
		{"info null", `{"info":null}`, Identity{}},
		{"info at its bound", fmt.Sprintf(`{"info":"%s"}`, strings.Repeat("a", maxInfo-2)), Identity{Info: json.RawMessage(`"` + strings.Repeat("a", maxInfo-2) + `"`)}},
		{"empty list", `{"subscribe":[]}`, Identity{Subscribe: []string{}}},
		{"everybody", `{"send":[">"]}`, Identity{Send: []string{">"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decodeClaims([]byte(`{"sub":"ann","fairlead":` + c.fairlead + `}`))
			if err != nil {
				t.Fatal(err)
			}
			c.want.User = "ann"
			if !reflect.DeepEqual(*got, c.want) {
				t.Errorf("got  %+v\nwant %+v", *got, c.want)
			}
		})
	}
}

func TestRightsRefused(t *testing.T) {
	long := strings.Repeat("a", 4096)
	many := `["a"` + strings.Repeat(`,"a"`, maxList) + `]`
	for _, c := range []struct{ name, fairlead, says string }{
		{"null", `null`, "fairlead: must be an object"},
		{"a list", `[]`, "fairlead: must be an object"},
		{"attributes a list", `{"attributes":["a"]}`, "fairlead.attributes"},
		{"attributes too long", `{"attributes":{"a":"` + long + `"}}`, "fairlead.attributes: must not be more than 4096"},
		{"attribute without a name", `{"attributes":{"":"a"}}`, "fairlead.attributes"},
		{"info too long", `{"info":"` + long + `"}`, "fairlead.info: must not be more than 4096"},
		{"list null", `{"subscribe":null}`, "fairlead.subscribe: must be a list of topic patterns"},
		{"list a string", `{"publish":"chat.>"}`, "fairlead.publish"},
		{"list of numbers", `{"calls":[1]}`, "fairlead.calls"},
		{"list with a null", `{"calls":["a",null]}`, "fairlead.calls[1]"},
		{"no pattern", `{"subscribe":["a","chat..x"]}`, "fairlead.subscribe[1]: is not a topic pattern"},
		{"internal subject", `{"subscribe":["$SYS.>"]}`, "fairlead.subscribe[0]"},
		{"topic", `{"topics":["a b"]}`, "fairlead.topics[0]"},
		{"user", `{"send":["a\u0000"]}`, "fairlead.send[0]: is not a user id"},
		{"many", `{"topics":` + many + `}`, "fairlead.topics: must not have more than 256"},
		{"groups a list", `{"groups":["lobby"]}`, "fairlead.groups"},
		{"roles a string", `{"groups":{"lobby":"admin"}}`, "fairlead.groups: must be a list of roles"},
		{"no role", `{"groups":{"lobby":["a b"]}}`, "fairlead.groups[0]"},
		{"no group", `{"groups":{"":["admin"]}}`, "fairlead.groups"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decodeClaims([]byte(`{"sub":"ann","fairlead":` + c.fairlead + `}`))
			if err == nil {
				t.Fatalf("accepted: %+v", got)
			}
			if !errors.Is(err, wire.ErrUnauthenticated) || !strings.Contains(err.Error(), "claim "+c.says) {
				t.Errorf("got %q, want UNAUTHENTICATED that says %q", err, c.says)
			}
		})
	}
}

func TestMint(t *testing.T) {
	a := newAuthenticator(t, Config{JWT: JWTConfig{Secret: secret, Issuer: "us", Audience: "them"}})
	issued := time.Now().Truncate(time.Second)
	given := Claims{
		User: "ann", Issuer: "us", Audience: "them", IssuedAt: issued, NotBefore: issued, ExpiresAt: issued.Add(2 * time.Hour),
		Attributes: map[string]string{"role": "admin"}, Info: json.RawMessage(`{"name":"Ann"}`),
		Subscribe: []string{"chat.>"}, Publish: []string{}, Calls: []string{"orders.*"}, Send: []string{"bob"}, Topics: []string{"chat.lobby"},
		Groups: map[string][]string{"lobby": {"admin"}},
	}
	token, err := Mint(secret, given)
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Authenticate(context.Background(), Credentials{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	want := Identity{
		User: "ann", Session: got.Session, Attributes: given.Attributes, Info: given.Info,
		Subscribe: given.Subscribe, Publish: given.Publish, Calls: given.Calls, Send: given.Send, Topics: given.Topics, Groups: given.Groups,
		IssuedAt: issued, ExpiresAt: issued.Add(2 * time.Hour),
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got  %+v\nwant %+v", *got, want)
	}
}

func TestMintDefaults(t *testing.T) {
	a := newAuthenticator(t, Config{JWT: JWTConfig{Secret: secret}})
	token, err := Mint(secret, Claims{User: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Authenticate(context.Background(), Credentials{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	if life := got.ExpiresAt.Sub(got.IssuedAt); life != DefaultLife || got.Subscribe != nil || got.Attributes != nil {
		t.Errorf("got %+v with a life of %s", got, life)
	}
}

func TestMintRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		secret []byte
		claims Claims
		says   string
	}{
		{"short secret", secret[:31], Claims{User: "ann"}, "32"},
		{"no user", secret, Claims{}, "claim sub"},
		{"anonymous user", secret, Claims{User: "anon-x"}, "claim sub"},
		{"bad pattern", secret, Claims{User: "ann", Subscribe: []string{"a..b"}}, "fairlead.subscribe[0]"},
		{"expired at birth", secret, Claims{User: "ann", IssuedAt: time.Now(), ExpiresAt: time.Now().Add(-time.Hour)}, "expire"},
		{"info no JSON", secret, Claims{User: "ann", Info: json.RawMessage(`{`)}, "mint token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, err := Mint(c.secret, c.claims)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %q, %v, want an error that says %q", token, err, c.says)
			}
		})
	}
}

func FuzzClaims(f *testing.F) {
	f.Add([]byte(`{"sub":"ann","exp":1760000000,"iat":1.5,"nbf":0,"aud":["a"],"iss":"b"}`))
	f.Add([]byte(`{"sub":"ann","fairlead":{"attributes":{"role":"admin","n":1,"x":null},"info":{"name":"Ann"},"subscribe":["chat.>"],"publish":[],"send":["bob"],"calls":["orders.*"],"groups":{"lobby":["admin"]},"topics":["chat.lobby"]}}`))
	f.Add([]byte(`{"sub":"ann","fairlead":{"info":"\ud800","subscribe":[null]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := decodeClaims(b)
		if err != nil {
			if id != nil {
				t.Error("an identity beside an error")
			}
			return
		}
		if wire.CheckUser(id.User) != nil || IsAnonymousUser(id.User) || id.Anonymous {
			t.Errorf("user %q", id.User)
		}
		if id.Info != nil && (!wire.ValidJSON(id.Info) || len(id.Info) > maxInfo) {
			t.Errorf("info %q", id.Info)
		}
		for _, patterns := range [][]string{id.Subscribe, id.Publish, id.Calls, id.Topics} {
			for _, p := range patterns {
				if wire.CheckPattern(p) != nil {
					t.Errorf("pattern %q", p)
				}
			}
		}
		for key, value := range id.Attributes {
			if len(key)+len(value) > maxAttributes {
				t.Errorf("attribute of %d bytes", len(key)+len(value))
			}
		}
		again, err := json.Marshal(map[string]any{"sub": id.User, "fairlead": rights{id.Attributes, id.Info, id.Subscribe, id.Publish, id.Send, id.Calls, id.Topics, id.Groups}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeClaims(again); err != nil && len(b) < maxAttributes/8 {
			t.Errorf("written again as %s: %v", again, err)
		}
	})
}
