package wire

import "encoding/json"

// Requests to the presence service about sessions, and its replies.
type (
	// SessionRequest asks every endpoint of sessions. The token names the
	// session and is the right to it: a secret of 16 to 512 bytes.
	SessionRequest struct {
		Token string `json:"token"`
		// Data of `set` is any JSON value of at most 64 KiB.
		Data json.RawMessage `json:"data,omitempty"`
		// TTL is how long the session lives from now on without being used: a Go
		// duration from 1s to 720h. Default: 24h with `set`, what the session had
		// with `touch`.
		TTL string `json:"ttl,omitempty"`
		// Existing makes `set` answer NOT_FOUND where there is no such session,
		// instead of making one: a session that was deleted meanwhile stays so.
		Existing bool `json:"existing,omitempty"`
		// Keep makes `get` leave the time of expiry as it is.
		Keep bool `json:"keep,omitempty"`
	}

	// SessionData answers `get`: what was set, byte for byte.
	SessionData struct {
		Data json.RawMessage `json:"data"`
	}

	// SessionOK answers `touch` and `delete`: whether there was such a session.
	SessionOK struct {
		OK bool `json:"ok"`
	}

	// SessionCount answers `clear`: how many entries went, those of sessions that
	// ended a moment before among them.
	SessionCount struct {
		Count int `json:"count"`
	}
)

// MaxSessionData is the most bytes of a session's data.
const MaxSessionData = 64 << 10

// AppendJSON appends the reply with the data as it is.
func (d SessionData) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"data":`...)
	if len(d.Data) == 0 {
		return append(dst, "null}"...)
	}
	return append(append(dst, d.Data...), '}')
}
