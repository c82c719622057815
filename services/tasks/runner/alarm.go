package runner

import (
	"sync"
	"time"
)

// leastLook is the least time between two looks for what is due.
const leastLook = 10 * time.Millisecond

// alarm is when it is to be looked for what is due, sooner than it would be anyway.
type alarm struct {
	rung chan struct{} // of capacity 1: it was set

	mu sync.Mutex
	at time.Time // zero: it is not set
}

// set sets the alarm, if it is not set for a time before that. What is further away
// is seen by looking.
func (a *alarm) set(d time.Duration) {
	if d >= dueEvery {
		return
	}
	at := time.Now().Add(max(d, leastLook))
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.at.IsZero() && a.at.Before(at) {
		return
	}
	a.at = at
	select {
	case a.rung <- struct{}{}:
	default:
	}
}

// before returns the time of the alarm, where that is before next.
func (a *alarm) before(next time.Time) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.at.IsZero() && a.at.Before(next) {
		return a.at
	}
	return next
}

// clear unsets it: it is looked now.
func (a *alarm) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = time.Time{}
}
