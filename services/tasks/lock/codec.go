package lock

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// encode writes an entry as it stands in the bucket.
func (e *entry) encode() []byte {
	var w wire.LockEntry
	if h := e.holder; h != nil {
		w.Holder = &wire.LockHolder{Who: h.who, Fence: h.fence, Renewed: h.renewed, TTLMs: h.ttl.Milliseconds(), At: h.at}
	}
	if len(e.line) > 0 {
		w.Line = make([]wire.LockWaiter, len(e.line))
	}
	for i, one := range e.line {
		w.Line[i] = wire.LockWaiter{Who: one.who, TTLMs: one.ttl.Milliseconds(), UntilMs: one.until.UnixMilli()}
	}
	if e.released.Fence != 0 {
		w.Released = &e.released
	}
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(w); err != nil {
		panic(fmt.Sprintf("encode a lock: %v", err)) // strings, numbers and times of JetStream
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// decodeEntry reads what the bucket has, stored with a revision at a time.
func decodeEntry(value []byte, revision uint64, at time.Time) (*entry, error) {
	var w wire.LockEntry
	if err := json.Unmarshal(value, &w); err != nil {
		return nil, fmt.Errorf("read a lock: %w", err)
	}
	e := &entry{}
	if h := w.Holder; h != nil {
		e.holder = &holder{who: h.Who, fence: h.Fence, renewed: h.Renewed, ttl: time.Duration(h.TTLMs) * time.Millisecond, at: h.At}
		switch {
		case h.Who == "" || !validTTL(h.TTLMs):
			return nil, errors.New("read a lock: a holder that is none")
		case h.Fence > revision || h.Renewed > revision || h.Renewed != 0 && h.Fence == 0 || h.Renewed != 0 && h.Renewed < h.Fence:
			return nil, errors.New("read a lock: a fence that can't be")
		case (h.Renewed == 0) != h.At.IsZero():
			return nil, errors.New("read a lock: a holder without its time")
		}
	}
	if len(w.Line) > wire.MaxLockWaiters {
		return nil, errors.New("read a lock: a line that is too long")
	}
	seen := make(map[string]bool, len(w.Line))
	for _, one := range w.Line {
		if one.Who == "" || seen[one.Who] || !validTTL(one.TTLMs) || e.holder != nil && e.holder.who == one.Who {
			return nil, errors.New("read a lock: a waiter that is none")
		}
		seen[one.Who] = true
		e.line = append(e.line, waiter{who: one.Who, ttl: time.Duration(one.TTLMs) * time.Millisecond, until: time.UnixMilli(one.UntilMs)})
	}
	if w.Released != nil {
		e.released = *w.Released
	}
	return e.stored(revision, at), nil
}

func validTTL(ms int64) bool {
	return ms >= wire.MinLockTTL.Milliseconds() && ms <= wire.MaxLockTTL.Milliseconds()
}

// tokenOf is the token of whoever acquires a lock with an id: the same one each
// time, so that a request that is repeated has the same answer, from any replica.
func tokenOf(key, id string) string { return mark("token", key, id) }

// whoOf is how a token is known in the bucket, which does not give it away.
func whoOf(key, token string) string { return mark("who", key, token) }

func mark(what, key, secret string) string {
	h := sha256.New()
	for _, part := range []string{what, key, secret} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}
