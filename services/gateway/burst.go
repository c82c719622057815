package gateway

import (
	"sync"
	"time"
)

const (
	// burstQuiet is how long a key of a limit is not refused before the next
	// refusal is another burst.
	burstQuiet = 5 * time.Second
	maxBursts  = 10_000 // that are remembered
)

// bursts tells the first refusal of many from those that follow it.
type bursts struct {
	mu    sync.Mutex
	last  map[bucketKey]time.Time // the latest refusal
	most  int
	swept time.Time

	untold int64 // began while there was no room to remember one more
}

func newBursts() *bursts { return &bursts{last: map[bucketKey]time.Time{}, most: maxBursts} }

// begins notes a refusal and reports whether it is the first of a burst. Where
// too many go on at a time it is not: a flood of keys is not to be a flood of
// events.
func (b *bursts) begins(limit, key string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := bucketKey{limit, key}
	last, ok := b.last[k]
	if !ok && len(b.last) >= b.most && !b.sweep(now) {
		b.untold++
		return false
	}
	b.last[k] = now
	return !ok || now.Sub(last) >= burstQuiet
}

// sweep forgets the bursts that are over, at most once a second, and reports
// whether there is room. The caller holds b.mu.
func (b *bursts) sweep(now time.Time) bool {
	if now.Sub(b.swept) >= time.Second {
		b.swept = now
		for k, last := range b.last {
			if now.Sub(last) >= burstQuiet {
				delete(b.last, k)
			}
		}
	}
	return len(b.last) < b.most
}

func (b *bursts) size() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(len(b.last))
}

func (b *bursts) missed() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.untold
}
