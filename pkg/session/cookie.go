package session

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"slices"
	"time"
)

const tokenBytes = 16

// newToken returns 128 random bits. No error is possible: crypto/rand ends the
// process rather than return less.
func newToken() string {
	var b [tokenBytes]byte
	_, _ = rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// token returns what the request's cookie says; "" where it has none that this
// package could have made.
func (s *Sessions) token(r *http.Request) string {
	c, err := r.Cookie(s.opts.Cookie)
	if err != nil || len(c.Value) != base64.RawURLEncoding.EncodedLen(tokenBytes) {
		return ""
	}
	if _, err := base64.RawURLEncoding.Strict().DecodeString(c.Value); err != nil {
		return ""
	}
	return c.Value
}

// setCookie gives the browser a token in place of the one it has; "" takes that
// away.
func (s *Sessions) setCookie(h http.Header, token string) {
	c := &http.Cookie{
		Name: s.opts.Cookie, Value: token, Path: "/", HttpOnly: true,
		Secure: !s.opts.Insecure, SameSite: s.opts.SameSite, MaxAge: int(s.opts.MaxAge / time.Second),
	}
	if token == "" {
		c.MaxAge = -1
	}
	// Of several changes in one response the last counts.
	h["Set-Cookie"] = slices.DeleteFunc(h["Set-Cookie"], func(line string) bool {
		other, err := http.ParseSetCookie(line)
		return err == nil && other.Name == c.Name
	})
	h.Add("Set-Cookie", c.String())
	const private = `no-cache="Set-Cookie"` // no cache gives it to another visitor
	if !slices.Contains(h["Cache-Control"], private) {
		h.Add("Cache-Control", private)
	}
}
