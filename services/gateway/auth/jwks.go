package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"golang.org/x/time/rate"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	jwksInterval   = 10 * time.Minute // between two reads that succeed
	jwksRetryFirst = time.Second      // after a read that did not, doubling
	jwksRetryMost  = 15 * time.Second
	jwksTimeout    = 10 * time.Second // of one read
	jwksWait       = 3 * time.Second  // of a token for the read it asked for
	jwksLife       = 24 * time.Hour   // of a set that can't be read again
	jwksBytes      = 1 << 20          // of one answer
	jwksKeys       = 64               // of one set
	jwksAsked      = 4                // reads that unknown keys may cause at once,
	jwksAskedEvery = 30 * time.Second // and then one each
)

// jwks holds the keys an issuer publishes. One goroutine, run, reads them;
// lookups are answered from memory and wait for it only while there is no set
// yet, or to see whether an unknown key is a new one.
type jwks struct {
	url    *url.URL
	client *http.Client
	log    *slog.Logger
	asked  *rate.Limiter // reads asked for by unknown keys: a peer can make up any number
	wanted chan struct{} // wakes run

	mu      sync.Mutex
	keys    []key
	read    time.Time     // when keys were read; zero = never
	reading chan struct{} // closed when the read that is wanted or under way ended; nil if none is
}

func newJWKS(address string, log *slog.Logger) (*jwks, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("FAIRLEAD_AUTH_JWT_JWKS_URL: must be an https:// or http:// URL")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = 64 << 10
	return &jwks{
		url: u,
		log: log.With("jwks", u.Host),
		client: &http.Client{
			Transport: transport,
			Timeout:   jwksTimeout,
			CheckRedirect: func(r *http.Request, via []*http.Request) error {
				if len(via) > 3 || u.Scheme == "https" && r.URL.Scheme != "https" {
					return errors.New("redirect refused: one too many, or away from https")
				}
				return nil
			},
		},
		asked:   rate.NewLimiter(rate.Every(jwksAskedEvery), jwksAsked),
		wanted:  make(chan struct{}, 1),
		reading: make(chan struct{}), // run begins with a read
	}, nil
}

func (j *jwks) lookup(ctx context.Context, kid string) ([]key, error) {
	found, known := j.find(kid)
	if len(found) > 0 {
		return found, nil
	}
	if done := j.ask(); done != nil {
		wait := time.NewTimer(jwksWait)
		defer wait.Stop()
		select {
		case <-done:
		case <-wait.C:
		case <-ctx.Done():
		}
		found, known = j.find(kid)
	}
	switch {
	case len(found) > 0:
		return found, nil
	case known:
		return nil, unauthenticated("token: signed with a key this gateway does not know")
	}
	return nil, &wire.Error{Code: wire.Unavailable, Message: "the keys to check tokens with can't be had now", RetryAfter: jwksWait}
}

// find returns the keys of this `kid`, all keys for "". known is false while
// there is no set, or one too old to be believed.
func (j *jwks) find(kid string) (found []key, known bool) {
	j.mu.Lock()
	keys, read := j.keys, j.read
	j.mu.Unlock()
	if read.IsZero() || time.Since(read) > jwksLife {
		return nil, false
	}
	if kid == "" {
		return keys, true
	}
	for _, k := range keys {
		if k.id == kid {
			found = append(found, k)
		}
	}
	return found, true
}

// ask makes run read the set again, and returns what is closed when that has
// ended: nil if too many reads were asked for lately.
func (j *jwks) ask() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.reading == nil {
		if !j.asked.Allow() {
			return nil
		}
		j.reading = make(chan struct{})
		select {
		case j.wanted <- struct{}{}:
		default:
		}
	}
	return j.reading
}

// run reads the set at once, then at intervals and when asked.
func (j *jwks) run(ctx context.Context) error {
	defer j.client.CloseIdleConnections()
	failures, tooOld := 0, false
	for {
		keys, err := j.fetch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		age := j.keep(keys, err)
		pause := jwksInterval
		switch {
		case err == nil && failures > 0:
			j.log.Info("key set read again", "keys", len(keys))
			failures, tooOld = 0, false
		case err != nil:
			if failures == 0 || age > jwksLife && !tooOld {
				tooOld = age > jwksLife
				j.log.Warn("key set not read", "err", err, "age", age, "refusing", age == 0 || tooOld)
			}
			pause = min(jwksRetryFirst<<min(failures, 10), jwksRetryMost)
			failures++
		}
		timer := time.NewTimer(pause - rand.N(pause/10)) // gateways that began together spread out
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-j.wanted:
			timer.Stop()
		}
	}
}

// keep takes the outcome of a read, lets go who waits for it and returns how
// old the set is now, 0 without one. A failure leaves the last good set.
func (j *jwks) keep(keys []key, err error) time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil {
		j.keys, j.read = keys, time.Now()
	}
	if j.reading != nil {
		close(j.reading)
		j.reading = nil
	}
	if j.read.IsZero() {
		return 0
	}
	return time.Since(j.read)
}

func (j *jwks) fetch(ctx context.Context) ([]key, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, j.url.String(), nil)
	if err != nil {
		return nil, bare(err)
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := j.client.Do(request)
	if err != nil {
		return nil, bare(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, jwksBytes+1))
	if err != nil {
		return nil, bare(err)
	}
	if len(body) > jwksBytes {
		return nil, fmt.Errorf("answer of more than %d bytes", jwksBytes)
	}
	return parseJWKS(body, j.log)
}

// bare leaves out the URL, which may hold a password or a key.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// parseJWKS returns the keys of a set that can verify a token. Others are
// passed over: an issuer may publish keys for encryption or of newer types
// beside them. A set without any is taken as it is, for it may be a revocation.
func parseJWKS(body []byte, log *slog.Logger) ([]key, error) {
	var set struct {
		Keys *[]jwkset.JWKMarshal `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("parse key set: %w", err)
	}
	if set.Keys == nil {
		return nil, errors.New("parse key set: it has no keys member")
	}
	if len(*set.Keys) > jwksKeys {
		return nil, fmt.Errorf("parse key set: %d keys: at most %d are taken", len(*set.Keys), jwksKeys)
	}
	keys := make([]key, 0, len(*set.Keys))
	for _, published := range *set.Keys {
		k, err := parseJWK(published)
		if err != nil {
			log.Debug("key passed over", "kid", published.KID, "err", err)
			continue
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		log.Warn("key set holds no key that verifies RS256, ES256 or EdDSA")
	}
	return keys, nil
}

func parseJWK(published jwkset.JWKMarshal) (key, error) {
	if published.USE != "" && published.USE != jwkset.UseSig {
		return key{}, fmt.Errorf("use %q", published.USE)
	}
	if len(published.KEYOPS) > 0 && !slices.Contains(published.KEYOPS, jwkset.KeyOpsVerify) {
		return key{}, errors.New("key_ops without verify")
	}
	if published.KTY == jwkset.KtyOct {
		return key{}, errors.New("a published secret is none")
	}
	// Only the public numbers: certificates would have to be checked, or even fetched.
	parsed, err := jwkset.NewJWKFromMarshal(jwkset.JWKMarshal{
		KTY: published.KTY, CRV: published.CRV,
		X: published.X, Y: published.Y, N: published.N, E: published.E,
	}, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return key{}, err
	}
	k, err := publicKey(published.KID, parsed.Key())
	if err != nil {
		return key{}, err
	}
	if published.ALG != "" && !slices.Contains(k.methods, string(published.ALG)) {
		return key{}, fmt.Errorf("alg %q", published.ALG)
	}
	return k, nil
}
