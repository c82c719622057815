package ratelimit

import (
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
)

// memory is a Store in the memory of one process, which ends with it.
type memory = kv.Memory

// newMemory returns an empty store whose entries end by now, and leave nothing.
func newMemory(now func() time.Time) *memory { return kv.NewMemory(now, 0) }
