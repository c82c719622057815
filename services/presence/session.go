package presence

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	minToken, maxToken = 16, 512 // bytes

	defaultSessionTTL = 24 * time.Hour
	minSessionTTL     = time.Second
	maxSessionTTL     = 30 * 24 * time.Hour
	// staleAfter is how old a refresh may become, at most, before the next `get`
	// makes another one.
	staleAfter = time.Minute
)

// session is what the bucket holds of one. The bucket removes it by whole
// seconds: Expires is what counts.
type session struct {
	Expires int64           `json:"expires"` // ms since 1970
	TTL     int64           `json:"ttl"`     // ms
	Data    json.RawMessage `json:"data"`
}

// newSession returns a session that is used now.
func newSession(data json.RawMessage, ttl time.Duration, now time.Time) session {
	ms := int64((ttl + time.Millisecond - 1) / time.Millisecond)
	return session{Expires: now.UnixMilli() + ms, TTL: ms, Data: data}
}

// parseSession reads an entry of the bucket; ok is false for what no session
// looks like.
func parseSession(value []byte) (s session, ok bool) {
	if json.Unmarshal(value, &s) != nil {
		return session{}, false
	}
	ttl := time.Duration(s.TTL) * time.Millisecond
	ok = s.Expires > 0 && s.TTL > 0 && s.TTL <= maxSessionTTL.Milliseconds() && ttl >= minSessionTTL && wire.ValidJSON(s.Data)
	return s, ok
}

// encode writes an entry of the bucket, with the data as it is.
func (s session) encode() []byte {
	b := make([]byte, 0, len(s.Data)+64)
	b = strconv.AppendInt(append(b, `{"expires":`...), s.Expires, 10)
	b = strconv.AppendInt(append(b, `,"ttl":`...), s.TTL, 10)
	b = append(append(b, `,"data":`...), s.Data...)
	return append(b, '}')
}

// ttl is how long the session lives without being used.
func (s session) ttl() time.Duration { return time.Duration(s.TTL) * time.Millisecond }

// over reports whether the session has ended by now.
func (s session) over(now time.Time) bool { return now.UnixMilli() >= s.Expires }

// used returns the session as it is when it is used now, and whether that has to
// be stored. It is left out, at most, until a tenth of the TTL has passed since
// the last time: whoever was told of a session by `get` has it for nine tenths
// of its TTL. A replica whose clock is behind shortens no session.
func (s session) used(now time.Time) (refreshed session, stale bool) {
	since := now.UnixMilli() - (s.Expires - s.TTL)
	return newSession(s.Data, s.ttl(), now), since >= min(s.TTL/10, staleAfter.Milliseconds())
}

// sessionKey is the key of a session in the bucket. Tokens are secrets: whoever
// may read the bucket learns none.
func sessionKey(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// checkToken does not repeat the token.
func checkToken(token string) error {
	if len(token) < minToken || len(token) > maxToken {
		return wire.InvalidField("token", "16 to 512 bytes")
	}
	return nil
}

// sessionTTL reads a TTL from a request; otherwise is what none means.
func sessionTTL(text string, otherwise time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	ttl, err := time.ParseDuration(text)
	if err != nil || ttl < minSessionTTL || ttl > maxSessionTTL {
		return 0, wire.InvalidField("ttl", "a duration from 1s to 720h")
	}
	return ttl, nil
}
