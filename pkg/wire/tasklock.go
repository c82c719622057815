package wire

import "time"

const (
	// MaxLockKey bounds the key of a lock, in bytes.
	MaxLockKey = 256
	// MaxLockWaiters bounds those who wait for one lock.
	MaxLockWaiters = 1000
	// MinLockTTL and MaxLockTTL bound how long a lock is held without a renewal.
	MinLockTTL, MaxLockTTL = 50 * time.Millisecond, 24 * time.Hour
	// MaxLockWait bounds one wait for a lock.
	MaxLockWait = 10 * time.Minute
)

// What crosses processes as JSON about locks. Durations are such as "90s".
type (
	// LockAcquire asks for a lock.
	LockAcquire struct {
		Key string `json:"key"` // 1-256 bytes, no control characters
		// TTL is how long it is held without a renewal: "50ms" to "24h", in whole
		// milliseconds.
		TTL string `json:"ttl"`
		// Wait is how long to stand in line for it, at most "10m"; "" is not at all.
		Wait string `json:"wait,omitempty"`
		// ID makes repeating this request the same wait and the same grant: it is known
		// to whoever asks, and to nobody else. 1-128 bytes; "" is one of the service's.
		ID string `json:"id,omitempty"`
	}

	// LockGrant answers a [LockAcquire] and a [LockRenew].
	LockGrant struct {
		// Fence is greater than that of everybody who held this key before.
		Fence     uint64 `json:"fence"`
		Token     string `json:"token"`     // renewals and the release need it
		ExpiresMs int64  `json:"expiresMs"` // from when this was answered
	}

	// LockRenew holds a lock for TTL from now.
	LockRenew struct {
		LockRelease
		TTL string `json:"ttl"`
	}

	// LockRelease gives a lock up.
	LockRelease struct {
		Key   string `json:"key"`
		Fence uint64 `json:"fence"`
		Token string `json:"token"`
	}

	// LockKey names a lock.
	LockKey struct {
		Key string `json:"key"`
	}

	// LockState says who has a lock.
	LockState struct {
		Held      bool   `json:"held"`
		Fence     uint64 `json:"fence,omitempty"`     // of the holder
		ExpiresMs int64  `json:"expiresMs,omitempty"` // unless it is renewed
		Waiters   int    `json:"waiters"`
	}
)

// What the bucket of locks has for a key, which is what [Namespace.LockChanges]
// says too. It holds no secret: neither an id nor a token can be had of it.
type (
	// LockEntry is who has a lock, and who waits for it in which order.
	LockEntry struct {
		Holder *LockHolder  `json:"holder,omitempty"`
		Line   []LockWaiter `json:"line,omitempty"`
		// Released is who had it before, and gave it up: a release that is said again is
		// known by it.
		Released *LockReleased `json:"released,omitempty"`
	}

	// LockHolder is who has a lock.
	LockHolder struct {
		Who string `json:"who"` // of its token
		// Fence is the revision of the entry that granted it, Renewed that of the one
		// that granted or renewed it last; 0 is the revision of this very entry.
		Fence   uint64 `json:"fence,omitempty"`
		Renewed uint64 `json:"renewed,omitempty"`
		TTLMs   int64  `json:"ttlMs"` // from Renewed
		// At is when JetStream stored Renewed; zero where that is this entry.
		At time.Time `json:"at,omitzero"`
	}

	// LockWaiter stands in the line for a lock.
	LockWaiter struct {
		Who   string `json:"w"`
		TTLMs int64  `json:"t"` // of the grant that it waits for
		// UntilMs is when nobody answers it any more, by JetStream's clock.
		UntilMs int64 `json:"u"`
	}

	// LockReleased is a holder that gave the lock up.
	LockReleased struct {
		Who   string `json:"who"`
		Fence uint64 `json:"fence"`
	}
)

// FenceAt returns the fence of the holder, of an entry with a revision; 0 where
// nobody holds the lock.
func (e *LockEntry) FenceAt(revision uint64) uint64 {
	switch {
	case e.Holder == nil:
		return 0
	case e.Holder.Fence == 0:
		return revision
	}
	return e.Holder.Fence
}

// CheckLockKey returns an error unless key can be that of a lock.
func CheckLockKey(field, key string) error {
	if key == "" || len(key) > MaxLockKey {
		return InvalidField(field, "from 1 to 256 bytes")
	}
	for i := 0; i < len(key); i++ {
		if key[i] < 0x20 || key[i] == 0x7f {
			return InvalidField(field, "no control characters")
		}
	}
	return nil
}

// LockEntry returns the key of a lock in their bucket. It begins with the version
// of what the entries mean.
func (n Namespace) LockEntry(key string) (string, error) {
	if err := CheckLockKey("key", key); err != nil {
		return "", err
	}
	entry := "v1." + EscapeToken(key)
	_, err := n.join("key", ".locks.", entry)
	return entry, err
}

// LockChanges returns the subject on which JetStream publishes the entry of a
// lock whenever it changes, of [Namespace.LockEntry].
func (n Namespace) LockChanges(entry string) string { return string(n) + ".locks." + entry }
