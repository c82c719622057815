package auth

import (
	"context"
	"encoding/base64"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestTokenRefused(t *testing.T) {
	a := newAuthenticator(t, Config{JWT: JWTConfig{Secret: secret, Issuer: "us", Audience: "them"}})
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	hs := func(over jwt.MapClaims) string { return sign(t, "HS256", secret, nil, payload(over)) }
	raw := func(header, claims string) string {
		text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
		sig, err := jwt.SigningMethodHS256.Sign(text, secret)
		if err != nil {
			t.Fatal(err)
		}
		return text + "." + base64.RawURLEncoding.EncodeToString(sig)
	}
	const header = `{"alg":"HS256"}`
	good := hs(nil)
	if _, err := a.Authenticate(context.Background(), Credentials{Token: good}); err != nil {
		t.Fatalf("the good token: %v", err)
	}
	for _, c := range []struct{ name, token, says string }{
		{"none given", "", "needed"},
		{"no JWT", "ann", "not a JWT"},
		{"empty parts", "..", "not a JWT"},
		{"four parts", good + ".x", "not a JWT"},
		{"two parts", good[:strings.LastIndex(good, ".")], "not a JWT"},
		{"line break in the signature", good[:len(good)-4] + "\n" + good[len(good)-4:], "not a JWT"},
		{"too long", good + strings.Repeat("A", MaxToken), "longer than"},
		{"unsigned", sign(t, "none", jwt.UnsafeAllowNoneSignatureType, nil, payload(nil)), "signed with none"},
		{"signature cut off", good[:strings.LastIndex(good, ".")+1], "bad signature"},
		{"method unknown", raw(`{"alg":"XX1"}`, `{}`), "unknown method"},
		{"method missing", raw(`{}`, `{}`), "unknown method"},
		{"method not taken", sign(t, "PS256", pairs()["RS256"], nil, payload(nil)), "signed with PS256"},
		{"method of another key", sign(t, "RS256", pairs()["RS256"], nil, payload(nil)), "RS256, which this gateway's keys do not take"},
		{"critical extension", sign(t, "HS256", secret, map[string]any{"crit": []string{"b64"}, "b64": false}, payload(nil)), "crit"},
		{"kid a number", sign(t, "HS256", secret, map[string]any{"kid": 1}, payload(nil)), "kid"},
		{"other secret", sign(t, "HS256", secret[1:], nil, payload(nil)), "bad signature"},
		{"expired", hs(jwt.MapClaims{"iat": at(-2 * time.Hour), "exp": at(-time.Hour)}), "expired"},
		{"just expired", hs(jwt.MapClaims{"exp": at(-time.Second)}), "expired"},
		{"no exp", hs(jwt.MapClaims{"exp": nil}), "exp is required"},
		{"exp null", raw(header, `{"sub":"ann","iss":"us","aud":"them","exp":null}`), "exp is required"},
		{"exp a string", hs(jwt.MapClaims{"exp": "4102444800"}), "claim exp"},
		{"exp huge", hs(jwt.MapClaims{"exp": math.MaxFloat64}), "claim exp"},
		{"exp under another name", raw(header, `{"sub":"ann","iss":"us","aud":"them","EXP":4102444800}`), "exp is required"},
		{"lives too long", hs(jwt.MapClaims{"exp": at(25 * time.Hour)}), "FAIRLEAD_AUTH_JWT_MAX_AGE"},
		{"lives too long, no iat", hs(jwt.MapClaims{"iat": nil, "exp": at(25 * time.Hour)}), "FAIRLEAD_AUTH_JWT_MAX_AGE"},
		{"issued long ago", hs(jwt.MapClaims{"iat": at(-48 * time.Hour)}), "FAIRLEAD_AUTH_JWT_MAX_AGE"},
		{"issued in future", hs(jwt.MapClaims{"iat": at(time.Minute)}), "not yet valid (iat)"},
		{"not yet valid", hs(jwt.MapClaims{"nbf": at(time.Minute)}), "not yet valid (nbf)"},
		{"wrong issuer", hs(jwt.MapClaims{"iss": "they"}), "wrong issuer"},
		{"no issuer", hs(jwt.MapClaims{"iss": nil}), "wrong issuer"},
		{"issuer a list", hs(jwt.MapClaims{"iss": []string{"us"}}), "claim iss"},
		{"wrong audience", hs(jwt.MapClaims{"aud": []string{"us", "you"}}), "wrong audience"},
		{"no audience", hs(jwt.MapClaims{"aud": nil}), "wrong audience"},
		{"no sub", hs(jwt.MapClaims{"sub": nil}), "claim sub"},
		{"sub empty", hs(jwt.MapClaims{"sub": ""}), "claim sub"},
		{"sub a number", hs(jwt.MapClaims{"sub": 7}), "claim sub"},
		{"sub too long", hs(jwt.MapClaims{"sub": strings.Repeat("a", 129)}), "claim sub"},
		{"sub with a line break", hs(jwt.MapClaims{"sub": "ann\r\nFl-User: bob"}), "claim sub"},
		{"sub like an anonymous user", hs(jwt.MapClaims{"sub": "anon-AAAAAAAAAAAAAAAA"}), "claim sub"},
		{"claims null", raw(header, `null`), "exp is required"},
		{"claims a list", raw(header, `[]`), "not an object"},
		{"claims not UTF-8", raw(header, "{\"sub\":\"\xff\"}"), "not UTF-8"},
		{"bad right", hs(jwt.MapClaims{"fairlead": map[string]any{"publish": "chat.>"}}), "claim fairlead.publish"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, err := a.Authenticate(context.Background(), Credentials{Token: c.token})
			wantRefused(t, c.token, id, err, c.says)
		})
	}
}

func TestTokenAccepted(t *testing.T) {
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	a := newAuthenticator(t, Config{JWT: JWTConfig{Secret: secret, Issuer: "us", Audience: "them"}})
	for _, c := range []struct {
		name string
		over jwt.MapClaims
	}{
		{"plain", nil},
		{"a day, the most", jwt.MapClaims{"exp": at(24 * time.Hour)}},
		{"a day without iat", jwt.MapClaims{"iat": nil, "exp": at(24 * time.Hour)}},
		{"clock a little ahead", jwt.MapClaims{"iat": at(3 * time.Second), "nbf": at(3 * time.Second)}},
		{"one audience of several", jwt.MapClaims{"aud": []string{"you", "them"}}},
		{"fraction of a second", jwt.MapClaims{"exp": float64(at(time.Hour)) + 0.5}},
		{"unknown claims", jwt.MapClaims{"email": "ann@example.com", "fairlead": map[string]any{"later": 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, err := a.Authenticate(context.Background(), Credentials{Token: sign(t, "HS256", secret, nil, payload(c.over))})
			if err != nil {
				t.Fatal(err)
			}
			if id.User != "ann" || id.Anonymous || id.ExpiresAt.IsZero() || id.Session == "" || id.Subscribe != nil {
				t.Errorf("got %+v", id)
			}
		})
	}
}

// TestTokenExpires holds one token against a clock that moves on.
func TestTokenExpires(t *testing.T) {
	a := newAuthenticator(t, Config{JWT: JWTConfig{Secret: secret}}).(*tokens)
	exp := time.Now().Truncate(time.Second).Add(time.Hour)
	token := sign(t, "HS256", secret, nil, payload(jwt.MapClaims{"exp": exp.Unix()}))
	a.now = func() time.Time { return exp.Add(-time.Millisecond) }
	id, err := a.Authenticate(context.Background(), Credentials{Token: token})
	if err != nil || !id.ExpiresAt.Equal(exp) {
		t.Errorf("just before: got %+v, %v", id, err)
	}
	a.now = func() time.Time { return exp }
	id, err = a.Authenticate(context.Background(), Credentials{Token: token})
	wantRefused(t, token, id, err, "expired")
}

// TestMethods tries tokens of every method on every kind of key.
func TestMethods(t *testing.T) {
	signers := map[string]any{"HS256": secret, "HS384": secret, "HS512": secret}
	sources := map[string]JWTConfig{"secret": {Secret: secret}}
	takes := map[string]string{"HS256": "secret", "HS384": "secret", "HS512": "secret"}
	for method, pair := range pairs() {
		signers[method] = pair
		sources[method] = JWTConfig{PublicKeyFile: writeFile(t, publicPEM(t, pair.Public()))}
		takes[method] = method
	}
	for _, method := range []string{"RS384", "RS512", "PS256"} {
		signers[method] = pairs()["RS256"]
	}
	for source, cfg := range sources {
		a := newAuthenticator(t, Config{JWT: cfg})
		for method, signer := range signers {
			id, err := a.Authenticate(context.Background(), Credentials{Token: sign(t, method, signer, nil, payload(nil))})
			if got, want := err == nil, takes[method] == source; got != want {
				t.Errorf("%s token, %s key: accepted %t (%v, %v), want %t", method, source, got, id, err, want)
			}
		}
	}
}

// TestPublicKeyIsNoSecret signs by HMAC with what everybody knows of the
// issuer: its public key, in each form an implementation might hash.
func TestPublicKeyIsNoSecret(t *testing.T) {
	for _, pair := range pairs() {
		file := publicPEM(t, pair.Public())
		a := newAuthenticator(t, Config{JWT: JWTConfig{PublicKeyFile: writeFile(t, file)}})
		block := strings.Join(strings.Split(strings.TrimSpace(string(file)), "\n")[1:], "")
		for _, guess := range [][]byte{file, []byte(strings.TrimSpace(string(file))), []byte(block), nil} {
			for _, hs := range []string{"HS256", "HS384", "HS512"} {
				token := sign(t, hs, guess, nil, payload(nil))
				id, err := a.Authenticate(context.Background(), Credentials{Token: token})
				wantRefused(t, token, id, err, hs+", which this gateway's keys do not take")
			}
		}
	}
}

func TestSeveralPublicKeys(t *testing.T) {
	both := append(publicPEM(t, pairs()["ES256"].Public()), publicPEM(t, pairs()["EdDSA"].Public())...)
	a := newAuthenticator(t, Config{JWT: JWTConfig{PublicKeyFile: writeFile(t, both)}})
	for _, method := range []string{"ES256", "EdDSA"} {
		if _, err := a.Authenticate(context.Background(), Credentials{Token: sign(t, method, pairs()[method], nil, payload(nil))}); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// TestFlippedBits changes every bit of a token of every method, one by one.
func TestFlippedBits(t *testing.T) {
	for _, c := range []struct {
		method string
		key    any
		cfg    JWTConfig
	}{
		{"HS256", secret, JWTConfig{Secret: secret}},
		{"ES256", pairs()["ES256"], JWTConfig{PublicKeyFile: writeFile(t, publicPEM(t, pairs()["ES256"].Public()))}},
		{"EdDSA", pairs()["EdDSA"], JWTConfig{PublicKeyFile: writeFile(t, publicPEM(t, pairs()["EdDSA"].Public()))}},
		{"RS256", pairs()["RS256"], JWTConfig{PublicKeyFile: writeFile(t, publicPEM(t, pairs()["RS256"].Public()))}},
	} {
		a := newAuthenticator(t, Config{JWT: c.cfg})
		token := []byte(sign(t, c.method, c.key, nil, payload(nil)))
		if _, err := a.Authenticate(context.Background(), Credentials{Token: string(token)}); err != nil {
			t.Fatalf("%s: %v", c.method, err)
		}
		for i := range token {
			for bit := range 8 {
				token[i] ^= 1 << bit
				if id, err := a.Authenticate(context.Background(), Credentials{Token: string(token)}); err == nil {
					t.Errorf("%s: bit %d of byte %d flipped: accepted as %q", c.method, bit, i, id.User)
				}
				token[i] ^= 1 << bit
			}
		}
	}
}

func FuzzToken(f *testing.F) {
	a := newAuthenticator(f, Config{JWT: JWTConfig{Secret: secret}})
	f.Add(sign(f, "HS256", secret, nil, payload(nil)))
	f.Add("a.b.c")
	good := sign(f, "HS256", secret, nil, payload(nil))
	f.Add(good + "=")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := a.Authenticate(context.Background(), Credentials{Token: token}); err != nil {
			return
		}
		// Accepted: then it is, byte for byte, what the secret's holder would write.
		text, signature := token[:strings.LastIndex(token, ".")], token[strings.LastIndex(token, ".")+1:]
		for _, method := range []*jwt.SigningMethodHMAC{jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512} {
			if sig, err := method.Sign(text, secret); err == nil && base64.RawURLEncoding.EncodeToString(sig) == signature {
				return
			}
		}
		t.Errorf("accepted %q", token)
	})
}
