package runner

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"hash"
	"sync"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// tokens makes the tokens of attempts: who has one was given the attempt. They
// are the same in every replica, and are stored nowhere.
type tokens struct{ macs sync.Pool }

// tokenSize is how much of the MAC a token is.
const tokenSize = 16

var tokenText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func newTokens(secret []byte) *tokens {
	return &tokens{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}}
}

// of returns the token of an attempt: 26 characters of [a-z2-7].
func (t *tokens) of(id wire.TaskID, fence int64) string {
	var message [len(id) + 8]byte
	copy(message[:], id[:])
	binary.BigEndian.PutUint64(message[len(id):], uint64(fence))
	mac := t.macs.Get().(hash.Hash)
	defer t.macs.Put(mac)
	mac.Reset()
	mac.Write(message[:])
	var sum [sha256.Size]byte
	var text [26]byte
	tokenText.Encode(text[:], mac.Sum(sum[:0])[:tokenSize])
	return string(text[:])
}

// fits reports whether a token is that of an attempt, in a time that says nothing
// of how much of it is right.
func (t *tokens) fits(id wire.TaskID, fence int64, token string) bool {
	return same(t.of(id, fence), token)
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
