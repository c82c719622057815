package idem

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ErrLost says that the token is not that of the slot, or not any more.
var ErrLost = errors.New("the slot is not the caller's")

// Want is a slot that somebody wants to have.
type Want struct {
	Token      string        // made for this call; never used before
	Hash       string        // of the request; "": none
	AcquireTTL time.Duration // how long it is pending at most
	TTL        time.Duration // how long the result is kept
}

// Found is what became of a [Want].
type Found struct {
	State  wire.SlotState
	Hash   string        // of whoever acquired it; "" where it was this call
	Left   time.Duration // of a slot that is another's: until it expires, about
	Result []byte        // of one that is done
}

// Store keeps slots. Times are by its own clock. Every method may be called
// concurrently and by any number of replicas. An error other than those that are
// named leaves open whether anything was written.
type Store interface {
	// Acquire takes the slot of a key where there is none, or it has expired.
	// Exactly one of any number of callers acquires it.
	Acquire(ctx context.Context, key string, want Want) (Found, error)
	// Commit stores the result of a pending slot, which is done then: [ErrLost]
	// unless it has the token. The same again is no error.
	Commit(ctx context.Context, key, token string, result []byte) error
	// Abort removes a pending slot: [ErrLost] unless it has the token. What is done
	// stays.
	Abort(ctx context.Context, key, token string) error
	// Purge removes a slot whoever has it, and says how many there were.
	Purge(ctx context.Context, key string) (int64, error)
	// Clear removes all slots, and says how many there were.
	Clear(ctx context.Context) (int64, error)
	// Clean forgets up to n slots that have expired, and says how many.
	Clean(ctx context.Context, n int) (int64, error)
}
