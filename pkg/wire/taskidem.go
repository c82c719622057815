package wire

import (
	"encoding/json"
	"strconv"
)

const (
	// MaxIdemKey bounds the key of a slot, in bytes.
	MaxIdemKey = 1024
	// MaxIdemHash bounds the hash of a request, in bytes.
	MaxIdemHash = 128
	// MaxIdemResult bounds the JSON of a result.
	MaxIdemResult = 256 << 10
)

// SlotState says how far the work of a key is.
type SlotState string

// The states of a slot, as one who wants to do the work finds it.
const (
	SlotAcquired SlotState = "acquired" // do the work, then commit or abort
	SlotPending  SlotState = "pending"  // somebody else does it
	SlotDone     SlotState = "done"     // it is done: this is its result
)

// Requests about work that is to be done once for a key, and their replies, as
// JSON. Durations are such as "60s".
type (
	// IdemAcquire asks for the right to do the work of a key.
	IdemAcquire struct {
		Key string `json:"key"` // 1-1024 bytes
		// AcquireTTL is how long the work may take: after that another one gets the
		// right. "60s" when empty, from 1s to 24h.
		AcquireTTL string `json:"acquireTTL,omitempty"`
		// TTL is how long the result is kept from the commit on. "48h" when empty, from
		// 1s to 8760h.
		TTL string `json:"ttl,omitempty"`
		// Hash is of the request, at most 128 bytes: with another one for the same key
		// the answer is FAILED_PRECONDITION. "": it does not matter.
		Hash string `json:"hash,omitempty"`
		// ID makes a request that is asked again, since its answer was lost, the same one:
		// nobody else may know it. At most 128 bytes.
		ID string `json:"id,omitempty"`
	}

	// IdemAcquired answers an [IdemAcquire].
	IdemAcquired struct {
		State SlotState `json:"state"`
		// Token, where it is acquired, is the right to commit or abort.
		Token string `json:"token,omitempty"`
		// RetryAfterMs, where it is pending, is when to look again.
		RetryAfterMs int64 `json:"retryAfterMs,omitempty"`
		// Result, where it is done, is what was committed, byte for byte.
		Result json.RawMessage `json:"result,omitempty"`
	}

	// IdemCommit stores the result of the work.
	IdemCommit struct {
		Key    string          `json:"key"`
		Token  string          `json:"token"`
		Result json.RawMessage `json:"result,omitempty"` // null when absent
	}

	// IdemAbort gives the right back: the work was not done.
	IdemAbort struct {
		Key   string `json:"key"`
		Token string `json:"token"`
	}

	// IdemKey names a slot.
	IdemKey struct {
		Key string `json:"key"`
	}

	// IdemCount says how many slots were removed.
	IdemCount struct {
		Count int64 `json:"count"`
	}
)

// AppendJSON appends the reply with the result as it is.
func (a IdemAcquired) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"state":`...)
	dst = AppendString(dst, string(a.State))
	switch a.State {
	case SlotAcquired:
		dst = append(dst, `,"token":`...)
		dst = AppendString(dst, a.Token)
	case SlotPending:
		dst = append(dst, `,"retryAfterMs":`...)
		dst = strconv.AppendInt(dst, a.RetryAfterMs, 10)
	case SlotDone:
		dst = append(dst, `,"result":`...)
		if len(a.Result) == 0 {
			dst = append(dst, "null"...)
		}
		dst = append(dst, a.Result...)
	}
	return append(dst, '}')
}
