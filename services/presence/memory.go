package presence

import (
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
)

// memory is a [Store] in the memory of one process, which ends with it.
type memory = kv.Memory

var _ Store = (*memory)(nil)

// newMemory returns an empty store. Entries are stored and end by now.
func newMemory(now func() time.Time) *memory { return kv.NewMemory(now, kv.MarkerTTL) }
