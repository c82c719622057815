package auth

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func jwk(t testing.TB, kid string, public crypto.PublicKey) map[string]any {
	t.Helper()
	made, err := jwkset.NewJWKFromKey(public, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(made.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func keySet(t testing.TB, keys ...map[string]any) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// issuer is a server whose key set a test replaces; nil answers 500.
type issuer struct {
	*httptest.Server
	set   atomic.Pointer[[]byte]
	reads atomic.Int64
}

func newIssuer(t *testing.T, set []byte) *issuer {
	i := &issuer{}
	i.set.Store(&set)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.reads.Add(1)
		set := *i.set.Load()
		if set == nil {
			http.Error(w, "away", http.StatusInternalServerError)
			return
		}
		w.Write(set)
	}))
	t.Cleanup(i.Close)
	return i
}

func runAuthenticator(t *testing.T, url string) Authenticator {
	t.Helper()
	a := newAuthenticator(t, Config{JWT: JWTConfig{JWKSURL: url, Issuer: "us", Audience: "them"}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return a
}

func TestJWKS(t *testing.T) {
	var keys []map[string]any
	for method, pair := range pairs() {
		keys = append(keys, jwk(t, method, pair.Public()))
	}
	server := newIssuer(t, keySet(t, keys...))
	a := runAuthenticator(t, server.URL)
	for method, pair := range pairs() {
		for _, header := range []map[string]any{{"kid": method}, nil} {
			if _, err := a.Authenticate(context.Background(), Credentials{Token: sign(t, method, pair, header, payload(nil))}); err != nil {
				t.Errorf("%s with header %v: %v", method, header, err)
			}
		}
	}
	wrong := sign(t, "ES256", pairs()["ES256"], map[string]any{"kid": "RS256"}, payload(nil))
	id, err := a.Authenticate(context.Background(), Credentials{Token: wrong})
	wantRefused(t, wrong, id, err, "keys do not take")
	if got := server.reads.Load(); got != 1 {
		t.Errorf("the set was read %d times, want 1", got)
	}
}

func TestJWKSRotation(t *testing.T) {
	first, second := pairs()["ES256"], pairs()["EdDSA"]
	server := newIssuer(t, keySet(t, jwk(t, "1", first.Public())))
	a := runAuthenticator(t, server.URL)
	old := sign(t, "ES256", first, map[string]any{"kid": "1"}, payload(nil))
	if _, err := a.Authenticate(context.Background(), Credentials{Token: old}); err != nil {
		t.Fatal(err)
	}
	set := keySet(t, jwk(t, "2", second.Public()))
	server.set.Store(&set)
	renewed := sign(t, "EdDSA", second, map[string]any{"kid": "2"}, payload(nil))
	var wg sync.WaitGroup
	for range 50 { // they come together, and one read serves all
		wg.Go(func() {
			if _, err := a.Authenticate(context.Background(), Credentials{Token: renewed}); err != nil {
				t.Errorf("the new key: %v", err)
			}
		})
	}
	wg.Wait()
	id, err := a.Authenticate(context.Background(), Credentials{Token: old})
	wantRefused(t, old, id, err, "a key this gateway does not know")
	if got := server.reads.Load(); got > 1+jwksAsked {
		t.Errorf("the set was read %d times", got)
	}
}

// TestJWKSUnknownKeysAreBounded sends made-up key ids: they must not become
// as many requests to the issuer.
func TestJWKSUnknownKeysAreBounded(t *testing.T) {
	server := newIssuer(t, keySet(t, jwk(t, "1", pairs()["ES256"].Public())))
	a := runAuthenticator(t, server.URL)
	for range 40 {
		token := sign(t, "EdDSA", pairs()["EdDSA"], map[string]any{"kid": "made up"}, payload(nil))
		id, err := a.Authenticate(context.Background(), Credentials{Token: token})
		wantRefused(t, token, id, err, "a key this gateway does not know")
	}
	if got := server.reads.Load(); got > 1+jwksAsked {
		t.Errorf("40 unknown keys caused %d reads", got)
	}
}

func TestJWKSOutage(t *testing.T) {
	pair := pairs()["ES256"]
	set := keySet(t, jwk(t, "1", pair.Public()))
	server := newIssuer(t, set)
	a := runAuthenticator(t, server.URL)
	token := sign(t, "ES256", pair, map[string]any{"kid": "1"}, payload(nil))
	if _, err := a.Authenticate(context.Background(), Credentials{Token: token}); err != nil {
		t.Fatal(err)
	}
	var none []byte
	garbage := []byte(`{"error":"maintenance"}`)
	for _, answer := range []*[]byte{&none, &garbage} {
		server.set.Store(answer)
		before := server.reads.Load()
		unknown := sign(t, "EdDSA", pairs()["EdDSA"], map[string]any{"kid": "2"}, payload(nil))
		id, err := a.Authenticate(context.Background(), Credentials{Token: unknown})
		wantRefused(t, unknown, id, err, "a key this gateway does not know")
		if server.reads.Load() == before {
			t.Error("the set was not read again")
		}
		if _, err := a.Authenticate(context.Background(), Credentials{Token: token}); err != nil {
			t.Errorf("the last good set is not used: %v", err)
		}
	}
}

// TestJWKSAwayAtStart begins with an issuer that refuses connections.
func TestJWKSAwayAtStart(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	a := runAuthenticator(t, "http://"+address+"/keys?password=hunter2")
	pair := pairs()["ES256"]
	token := sign(t, "ES256", pair, map[string]any{"kid": "1"}, payload(nil))
	_, err = a.Authenticate(context.Background(), Credentials{Token: token})
	if !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("got %v, want UNAVAILABLE", err)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the URL is told: %v", err)
	}
}

// TestJWKSHangs has an issuer that takes the request and never answers: a
// token waits for it no longer than its context.
func TestJWKSHangs(t *testing.T) {
	gone := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-gone:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(gone) })
	a := runAuthenticator(t, server.URL)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := a.Authenticate(ctx, Credentials{Token: sign(t, "ES256", pairs()["ES256"], map[string]any{"kid": "1"}, payload(nil))})
	if !errors.Is(err, wire.ErrUnavailable) || time.Since(start) > jwksWait {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
}

// roundTrip answers requests without a network, for tests on a fake clock.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestJWKSLastGoodSetForADay(t *testing.T) {
	pair := pairs()["ES256"]
	set := keySet(t, jwk(t, "1", pair.Public()))
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		j, err := newJWKS("https://id.example.com/keys?password=hunter2", slog.New(slog.NewTextHandler(&logged, nil)))
		if err != nil {
			t.Fatal(err)
		}
		var away atomic.Bool
		j.client.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
			if away.Load() {
				return nil, errors.New("connection refused")
			}
			return &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(set))}, nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- j.run(ctx) }()
		wait := func(d time.Duration) { <-time.After(d); synctest.Wait() }
		wait(0)
		away.Store(true)
		wait(jwksLife - time.Minute)
		if keys, err := j.lookup(ctx, "1"); err != nil || len(keys) != 1 {
			t.Errorf("within a day: got %d keys, %v", len(keys), err)
		}
		wait(jwksInterval + 2*time.Minute)
		if keys, err := j.lookup(ctx, "1"); !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("after a day: got %d keys, %v, want UNAVAILABLE", len(keys), err)
		}
		away.Store(false)
		wait(jwksRetryMost)
		if keys, err := j.lookup(ctx, "1"); err != nil || len(keys) != 1 {
			t.Errorf("the issuer is back: got %d keys, %v", len(keys), err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		for _, says := range []string{"connection refused", "refusing=true", "key set read again"} {
			if !strings.Contains(logged.String(), says) {
				t.Errorf("the log does not say %q:\n%s", says, logged.String())
			}
		}
		if got := strings.Count(logged.String(), "\n"); got > 3 {
			t.Errorf("an outage of a day made %d log lines", got)
		}
		if strings.Contains(logged.String(), "hunter2") {
			t.Errorf("the log tells the URL:\n%s", logged.String())
		}
	})
}

func TestParseJWKS(t *testing.T) {
	good := jwk(t, "1", pairs()["RS256"].Public())
	with := func(name string, value any) map[string]any {
		m := map[string]any{name: value}
		for k, v := range good {
			if _, ok := m[k]; !ok {
				m[k] = v
			}
		}
		return m
	}
	for _, c := range []struct {
		name string
		set  []byte
		want int // keys; -1: an error
	}{
		{"one", keySet(t, good), 1},
		{"for signatures", keySet(t, with("use", "sig")), 1},
		{"for encryption", keySet(t, with("use", "enc")), 0},
		{"to sign only", keySet(t, with("key_ops", []string{"sign"})), 0},
		{"for another method", keySet(t, with("alg", "RS512")), 0},
		{"for this method", keySet(t, with("alg", "RS256")), 1},
		{"a secret", keySet(t, map[string]any{"kty": "oct", "k": "c2VjcmV0", "kid": "2"}, good), 1},
		{"an unknown type beside a known", keySet(t, map[string]any{"kty": "AKP", "kid": "2"}, good), 1},
		{"a certificate elsewhere is not fetched", keySet(t, with("x5u", "http://127.0.0.1:1/")), 1},
		{"a small RSA key", keySet(t, with("n", "AQAB")), 0},
		{"empty", keySet(t), -1},
		{"no keys on purpose", []byte(`{"keys":[]}`), 0},
		{"no key set", []byte(`{}`), -1},
		{"no JSON", []byte(`<html>`), -1},
		{"too many", keySet(t, make([]map[string]any, jwksKeys+1)...), -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			keys, err := parseJWKS(c.set, quiet)
			if got := len(keys); c.want < 0 && err == nil || c.want >= 0 && (err != nil || got != c.want) {
				t.Errorf("got %d keys, %v, want %d", got, err, c.want)
			}
		})
	}
}

func FuzzParseJWKS(f *testing.F) {
	for method, pair := range pairs() {
		f.Add(keySet(f, jwk(f, method, pair.Public())))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := parseJWKS(b, quiet)
		if err != nil && keys != nil {
			t.Error("keys beside an error")
		}
		for _, k := range keys {
			if len(k.methods) != 1 || !strings.Contains("RS256 ES256 EdDSA", k.methods[0]) {
				t.Errorf("a published key takes %v", k.methods)
			}
		}
	})
}
