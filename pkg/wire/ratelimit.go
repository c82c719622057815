package wire

import (
	"encoding/json"
	"time"
)

const (
	// MaxLimitTakes bounds the takes, or the batch, of one [LimitRequest].
	MaxLimitTakes = 100
	// MaxLimitRepeats bounds how many times one take of a batch is wanted.
	MaxLimitRepeats = 100_000
)

// These cross processes as JSON where somebody asks for tokens of a limit of the
// rules, called a policy here.
type (
	// LimitTake is what is wanted of one bucket. Without a cost it is 1; a cost of
	// 0 takes nothing.
	LimitTake struct {
		Policy string `json:"policy"`
		Key    string `json:"key"` // 1-255 bytes, no control characters
		Cost   *int64 `json:"cost,omitempty"`
		// N is how many times it is wanted, each by itself, of a batch; 1 when 0.
		N int64 `json:"n,omitempty"`
	}

	// LimitRequest asks for tokens, or looks: one take by its own fields, or
	// Takes, of which all are given or none, or Batch, of which each is given by
	// itself.
	LimitRequest struct {
		LimitTake
		Takes []LimitTake `json:"takes,omitempty"`
		Batch []LimitTake `json:"batch,omitempty"`
	}

	// LimitVerdict is what became of a take.
	LimitVerdict struct {
		Allowed   bool  `json:"allowed"`
		Remaining int64 `json:"remaining"` // tokens, rounded down
		Limit     int64 `json:"limit"`     // the policy's capacity
		ResetMs   int64 `json:"resetMs"`   // until the bucket is full, rounded up
		// RetryAfterMs is when as many tokens will be there, rounded up: not there
		// when allowed, null where there never will be.
		RetryAfterMs RetryAfterMs `json:"retryAfterMs,omitzero"`
		Banned       bool         `json:"banned,omitempty"`
		// Shadowed says that it is allowed only because the policy has `shadow`.
		Shadowed bool `json:"shadowed,omitempty"`
		// Granted is how many of the take's N were given, of a batch.
		Granted int64 `json:"granted,omitempty"`
		// Revision is that of the key's entry on which it was decided, Version that of
		// the policy: what is remembered of a denial is void when either has changed.
		Revision uint64 `json:"revision,omitempty"`
		Version  string `json:"version,omitempty"`
		// Code says, of a batch in which others were decided, why this take was
		// not: it is not allowed, and nothing else is said of it. With
		// DEADLINE_EXCEEDED it is not known whether tokens were taken for it; with
		// any other code none were.
		Code Code `json:"code,omitempty"`
	}

	// LimitReply answers a [LimitRequest]. Of several takes the verdict says
	// whether all were given, with the longest wait; Takes or Batch says it of each.
	LimitReply struct {
		LimitVerdict
		Takes []LimitVerdict `json:"takes,omitempty"`
		Batch []LimitVerdict `json:"batch,omitempty"`
	}

	// LimitRefund gives tokens back, once for each id within a minute.
	LimitRefund struct {
		Policy string `json:"policy"`
		Key    string `json:"key"`
		Cost   *int64 `json:"cost,omitempty"` // 1 when absent
		ID     string `json:"id"`             // 1-128 bytes
	}

	// LimitRefunded answers a [LimitRefund].
	LimitRefunded struct {
		Remaining int64 `json:"remaining"`
	}

	// LimitKey names a bucket, for reset and unban.
	LimitKey struct {
		Policy string `json:"policy"`
		Key    string `json:"key"`
	}

	// LimitBan keeps a key from everything of a policy for a time.
	LimitBan struct {
		Policy string `json:"policy"`
		Key    string `json:"key"`
		// Duration is such as "90s"; left out it is the policy's `block`, else a minute.
		Duration string `json:"duration,omitempty"`
	}

	// LimitPolicyRequest names a policy; for clear, "" is all of them.
	LimitPolicyRequest struct {
		Policy string `json:"policy,omitempty"`
	}

	// LimitCleared says how many keys had something to clear.
	LimitCleared struct {
		Count int64 `json:"count"`
	}

	// LimitPolicy is a limit of the rules as it counts now.
	LimitPolicy struct {
		Name     string `json:"name"`
		Capacity int64  `json:"capacity"`
		Refill   int64  `json:"refill"`
		Per      string `json:"per"`
		Block    string `json:"block"`
		Key      string `json:"key"`
		FailMode string `json:"failMode"`
		Shadow   bool   `json:"shadow"`
		Version  string `json:"version"`
	}

	// LimitReplica is a replica of the ratelimit service that says that it is
	// there, or that it goes, on [Namespace.LimitReplicas].
	LimitReplica struct {
		ID      string `json:"id"`
		Leaving bool   `json:"leaving,omitempty"`
	}

	// LimitChange says on [Namespace.LimitChanges] that a key has more, or is
	// banned, by something else than a take or time.
	LimitChange struct {
		Policy   string `json:"policy,omitempty"` // "": every policy
		Key      string `json:"key,omitempty"`    // "": every key
		Revision uint64 `json:"revision"`         // of the entry since it counts
		// BannedMs is for how long it is banned, 0 where it is not any more.
		BannedMs int64 `json:"bannedMs,omitempty"`
	}
)

// RetryAfterMs is a wait in whole milliseconds; 0 is none, below 0 is null: never.
type RetryAfterMs int64

// MarshalJSON writes null for a wait that never ends.
func (r RetryAfterMs) MarshalJSON() ([]byte, error) {
	if r < 0 {
		return []byte("null"), nil
	}
	return json.Marshal(int64(r))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *RetryAfterMs) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		*r = -1
		return nil
	}
	return json.Unmarshal(data, (*int64)(r))
}

// RetryAfterOf returns a wait as it stands on the wire, rounded up; [Never] is
// null.
func RetryAfterOf(d time.Duration) RetryAfterMs {
	switch {
	case d < 0:
		return -1
	case d == 0:
		return 0
	}
	return RetryAfterMs((d-1)/time.Millisecond) + 1
}

// Duration returns the wait, [Never] for null.
func (r RetryAfterMs) Duration() time.Duration {
	if r < 0 {
		return Never
	}
	return time.Duration(r) * time.Millisecond
}

// LimitConsume returns the subject on which one replica of the ratelimit service
// takes what is for it.
func (n Namespace) LimitConsume(replica string) string {
	return n.Svc("ratelimit", "consume."+EscapeToken(replica))
}

// LimitReplicas returns the subject on which replicas of the ratelimit service
// say that they are there.
func (n Namespace) LimitReplicas() string { return string(n) + ".limits.replica" }

// LimitChanges returns the subject on which they say what they changed otherwise
// than by takes.
func (n Namespace) LimitChanges() string { return string(n) + ".limits.changed" }

// LimitEntry returns the key of an entry in the bucket of limits. It begins with
// the version of what the entries mean: those of another one are another key.
func (n Namespace) LimitEntry(key string) (string, error) {
	if len(key) == 0 || len(key) > 255 {
		return "", InvalidField("key", "from 1 to 255 bytes")
	}
	for i := 0; i < len(key); i++ {
		if key[i] < 0x20 || key[i] == 0x7f {
			return "", InvalidField("key", "no control characters")
		}
	}
	entry := "v1." + EscapeToken(key)
	_, err := n.join("key", ".limits.entry.", entry)
	return entry, err
}
