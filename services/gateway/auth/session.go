package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
)

// A session names one client over its reconnects. Gateways share no state, so
// a session proves by its own bytes whom it belongs to:
//
//   - An anonymous session is 128 random bits, and the user is derived from
//     it: `anon-` and 16 characters of its SHA-256. Who knows the session is
//     that user; who knows the user can't find the session.
//   - A named user's session is 128 random bits followed by 128 bits of
//     SHA-256 over them and the user. Another user's session doesn't fit and
//     is replaced by a new one. The hash needs no key: sessions are only ever
//     accepted beside a valid token of the same user, so all that a client
//     can make up by itself is one more session of its own. And so it
//     survives a change of secrets and is the same on every gateway.
//
// The two have different lengths: neither passes for the other.

const (
	anonymousPrefix = "anon-"
	sessionRandom   = 16 // bytes
	sessionBinding  = 16 // bytes
)

var encoding = base64.RawURLEncoding.Strict()

func newAnonymousSession() string {
	b := make([]byte, sessionRandom)
	rand.Read(b) // never fails: crypto/rand ends the process instead
	return encoding.EncodeToString(b)
}

func validAnonymousSession(session string) bool {
	if len(session) != encoding.EncodedLen(sessionRandom) || !base64urlBytes(session) {
		return false
	}
	_, err := encoding.DecodeString(session)
	return err == nil
}

func anonymousUser(session string) string {
	sum := sha256.Sum256([]byte(session))
	return anonymousPrefix + encoding.EncodeToString(sum[:])[:16]
}

func newUserSession(user string) string {
	b := make([]byte, sessionRandom, sessionRandom+sessionBinding)
	rand.Read(b)
	return encoding.EncodeToString(append(b, bindSession(b, user)...))
}

// validUserSession reports whether session was issued to user.
func validUserSession(session, user string) bool {
	if len(session) != encoding.EncodedLen(sessionRandom+sessionBinding) || !base64urlBytes(session) {
		return false
	}
	b, err := encoding.DecodeString(session)
	if err != nil {
		return false
	}
	return subtle.ConstantTimeCompare(b[sessionRandom:], bindSession(b[:sessionRandom], user)) == 1
}

// Resume returns id with the session that its client sends only after it was
// authenticated (the token in the upgrade request, the session in hello). A
// session that is not this user's changes nothing: then id itself is returned.
func (id *Identity) Resume(session string) *Identity {
	if id.Anonymous || session == id.Session || !validUserSession(session, id.User) {
		return id
	}
	resumed := *id
	resumed.Session = session
	return &resumed
}

func bindSession(random []byte, user string) []byte {
	h := sha256.New()
	h.Write([]byte("fairlead session\x00"))
	h.Write(random)
	h.Write([]byte(user))
	return h.Sum(nil)[:sessionBinding]
}

// base64urlBytes keeps out the line breaks that encoding/base64 skips.
func base64urlBytes(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
