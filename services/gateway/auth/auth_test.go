package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = []byte("a secret of at least 32 bytes, for tests only")

var quiet = slog.New(slog.DiscardHandler)

// pairs are made once: RSA keys take a while.
var pairs = sync.OnceValue(func() map[string]crypto.Signer {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	_, d, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return map[string]crypto.Signer{"RS256": r, "ES256": e, "EdDSA": d}
})

func newAuthenticator(t testing.TB, cfg Config) Authenticator {
	t.Helper()
	a, err := New(cfg, quiet)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return a
}

func sign(t testing.TB, method string, key any, header map[string]any, payload jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.GetSigningMethod(method), payload)
	maps.Copy(token.Header, header)
	signed, err := token.SignedString(key)
	if err != nil {
		t.Fatalf("sign with %s: %v", method, err)
	}
	return signed
}

// payload returns good claims with the given ones put over them; nil removes.
func payload(over jwt.MapClaims) jwt.MapClaims {
	p := jwt.MapClaims{"sub": "ann", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "iss": "us", "aud": "them"}
	for name, value := range over {
		p[name] = value
		if value == nil {
			delete(p, name)
		}
	}
	return p
}

func publicPEM(t testing.TB, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func writeFile(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantRefused checks the code, what the message says, and that it holds
// nothing of the token.
func wantRefused(t *testing.T, token string, id *Identity, err error, says string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted as %q, want a refusal that says %q", id.User, says)
	}
	if !errors.Is(err, wire.ErrUnauthenticated) {
		t.Errorf("got %v, want UNAUTHENTICATED", err)
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("got %q, want it to say %q", err, says)
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 && strings.Contains(err.Error(), part) {
			t.Errorf("the message holds a part of the token: %q", err)
		}
	}
}

func TestConfigurationRefused(t *testing.T) {
	rsaFile := writeFile(t, publicPEM(t, pairs()["RS256"].Public()))
	privateDER, err := x509.MarshalPKCS8PrivateKey(pairs()["EdDSA"])
	if err != nil {
		t.Fatal(err)
	}
	private := writeFile(t, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER}))
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		cfg  Config
		says []string
	}{
		{"callout", Config{Mode: "callout"}, []string{"FAIRLEAD_AUTH", "callout is not built"}},
		{"unknown mode", Config{Mode: "open"}, []string{"FAIRLEAD_AUTH", `"open"`, "jwt"}},
		{"anonymous unmeant", Config{Mode: "anonymous"}, []string{"FAIRLEAD_ALLOW_ANONYMOUS"}},
		{"dev outside dev", Config{Mode: "dev", AllowAnonymous: true, JWT: JWTConfig{Secret: secret}}, []string{"fairlead dev"}},
		{"no key", Config{Mode: "jwt"}, []string{"FAIRLEAD_AUTH_JWT_SECRET", "0 of them set"}},
		{"two keys", Config{JWT: JWTConfig{Secret: secret, PublicKeyFile: rsaFile}}, []string{"2 of them set"}},
		{"short secret", Config{JWT: JWTConfig{Secret: make([]byte, 31)}}, []string{"FAIRLEAD_AUTH_JWT_SECRET", "31 bytes", "32"}},
		{"public key as secret", Config{JWT: JWTConfig{Secret: publicPEM(t, pairs()["RS256"].Public())}}, []string{"FAIRLEAD_AUTH_JWT_PUBLIC_KEY_FILE"}},
		{"jwks without issuer", Config{JWT: JWTConfig{JWKSURL: "https://id.example.com/keys", Audience: "x"}}, []string{"FAIRLEAD_AUTH_JWT_ISSUER"}},
		{"jwks without audience", Config{JWT: JWTConfig{JWKSURL: "https://id.example.com/keys", Issuer: "x"}}, []string{"FAIRLEAD_AUTH_JWT_AUDIENCE"}},
		{"jwks of a file", Config{JWT: JWTConfig{JWKSURL: "file:///etc/passwd", Issuer: "x", Audience: "y"}}, []string{"FAIRLEAD_AUTH_JWT_JWKS_URL"}},
		{"negative age", Config{JWT: JWTConfig{Secret: secret, MaxAge: -time.Second}}, []string{"FAIRLEAD_AUTH_JWT_MAX_AGE"}},
		{"several problems", Config{JWT: JWTConfig{Secret: make([]byte, 3), MaxAge: -1}}, []string{"FAIRLEAD_AUTH_JWT_MAX_AGE", "\n", "FAIRLEAD_AUTH_JWT_SECRET"}},
		{"missing file", Config{JWT: JWTConfig{PublicKeyFile: rsaFile + "x"}}, []string{"FAIRLEAD_AUTH_JWT_PUBLIC_KEY_FILE"}},
		{"empty file", Config{JWT: JWTConfig{PublicKeyFile: writeFile(t, nil)}}, []string{"no PEM"}},
		{"private key", Config{JWT: JWTConfig{PublicKeyFile: private}}, []string{"private key"}},
		{"other curve", Config{JWT: JWTConfig{PublicKeyFile: writeFile(t, publicPEM(t, p384.Public()))}}, []string{"P-256"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(c.cfg, quiet)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, says := range c.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("got %q, want it to say %q", err, says)
				}
			}
		})
	}
}

func TestConfigurationHidesItsSecret(t *testing.T) {
	cfg := JWTConfig{Secret: secret, JWKSURL: "https://ann:hunter2@id.example.com/?key=hunter2"}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "jwt", cfg)
	for _, text := range []string{fmt.Sprint(cfg), fmt.Sprintf("%+v", cfg), fmt.Sprintf("%#v", cfg), fmt.Sprintf("%+v", Config{JWT: cfg}), logged.String()} {
		if strings.Contains(text, string(secret)) || strings.Contains(text, fmt.Sprint(secret)) || strings.Contains(text, "hunter2") {
			t.Errorf("a secret is printed: %s", text)
		}
	}
}

func TestAnonymous(t *testing.T) {
	a := newAuthenticator(t, Config{Mode: ModeAnonymous, AllowAnonymous: true})
	if !a.AllowsAnonymous() {
		t.Error("AllowsAnonymous is false")
	}
	first, err := a.Authenticate(context.Background(), Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := base64.RawURLEncoding.DecodeString(first.Session); err != nil || len(b) != 16 {
		t.Errorf("session %q is not 128 bits in base64url", first.Session)
	}
	sum := sha256.Sum256([]byte(first.Session))
	if want := "anon-" + base64.RawURLEncoding.EncodeToString(sum[:])[:16]; first.User != want || !first.Anonymous {
		t.Errorf("got user %q anonymous %t, want %q", first.User, first.Anonymous, want)
	}
	if !first.ExpiresAt.IsZero() {
		t.Errorf("an anonymous user expires at %s", first.ExpiresAt)
	}
	back, err := a.Authenticate(context.Background(), Credentials{Session: first.Session})
	if err != nil || back.User != first.User || back.Session != first.Session {
		t.Errorf("came back as %+v, %v, want %+v", back, err, first)
	}
	for _, session := range []string{"x", first.Session + "A", first.Session[:21], first.Session[:21] + "\n", strings.Repeat("=", 22), newUserSession("ann"), strings.Repeat("A", 21) + "B"} {
		got, err := a.Authenticate(context.Background(), Credentials{Session: session})
		if err != nil || got.Session == session || got.User == first.User {
			t.Errorf("session %q: got %+v, %v, want a new one", session, got, err)
		}
	}
	id, err := a.Authenticate(context.Background(), Credentials{Token: "a.b.c"})
	wantRefused(t, "a.b.c", id, err, "takes no tokens")
}

func TestUserSession(t *testing.T) {
	a := newAuthenticator(t, Config{JWT: JWTConfig{Secret: secret}})
	as := func(user, session string) string {
		t.Helper()
		id, err := a.Authenticate(context.Background(), Credentials{Token: sign(t, "HS256", secret, nil, payload(jwt.MapClaims{"sub": user})), Session: session})
		if err != nil {
			t.Fatal(err)
		}
		return id.Session
	}
	ann := as("ann", "")
	if got := as("ann", ann); got != ann {
		t.Errorf("ann's session became %q, want %q", got, ann)
	}
	bob := as("bob", ann)
	if bob == ann || bob[:22] == ann[:22] {
		t.Errorf("bob took over ann's session %q with %q", ann, bob)
	}
	if got := as("ann", newAnonymousSession()); len(got) != len(ann) {
		t.Errorf("an anonymous session served a named user: %q", got)
	}
	if first, second := as("ann", ""), as("ann", ""); first == second {
		t.Error("two sessions are equal")
	}
}

func TestResume(t *testing.T) {
	ann := &Identity{User: "ann", Session: newUserSession("ann")}
	earlier := newUserSession("ann")
	if got := ann.Resume(earlier); got.Session != earlier || got.User != "ann" || ann.Session == earlier {
		t.Errorf("got %+v of %+v, want a copy with session %q", got, ann, earlier)
	}
	for _, session := range []string{"", "x", newUserSession("bob"), newAnonymousSession(), earlier + "A"} {
		if got := ann.Resume(session); got != ann {
			t.Errorf("session %q is taken", session)
		}
	}
	nobody := &Identity{User: "anon-x", Anonymous: true}
	if got := nobody.Resume(newUserSession("anon-x")); got != nobody {
		t.Error("an anonymous identity takes a session that is not what it is derived from")
	}
}

func TestDev(t *testing.T) {
	a := newAuthenticator(t, Config{Mode: ModeDev, Development: true, JWT: JWTConfig{Secret: secret}})
	if !a.AllowsAnonymous() {
		t.Error("AllowsAnonymous is false")
	}
	if id, err := a.Authenticate(context.Background(), Credentials{}); err != nil || !id.Anonymous {
		t.Errorf("without a token: got %+v, %v, want anonymous", id, err)
	}
	good := sign(t, "HS256", secret, nil, payload(nil))
	if id, err := a.Authenticate(context.Background(), Credentials{Token: good}); err != nil || id.Anonymous || id.User != "ann" {
		t.Errorf("with a token: got %+v, %v, want ann", id, err)
	}
	bad := sign(t, "HS256", []byte("another secret of at least 32 bytes"), nil, payload(nil))
	id, err := a.Authenticate(context.Background(), Credentials{Token: bad})
	wantRefused(t, bad, id, err, "bad signature")
}
