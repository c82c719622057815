package gateway

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// outageCalm is how long nothing may fail before an answer ends an outage: one
// that comes and goes is one outage.
const outageCalm = time.Second

// outage is whether the ratelimit service decides, as the log was told: a line
// when it stops to, and one when it does again.
type outage struct {
	log   *slog.Logger
	going atomic.Bool

	mu          sync.Mutex
	since, last time.Time // of the failures of this outage
	failures    int64     // since it began
	total       atomic.Int64
}

func (o *outage) failed(err error, now time.Time) {
	o.total.Add(1)
	o.mu.Lock()
	begins := o.failures == 0
	if begins {
		o.since = now
	}
	o.last = now
	o.failures++
	o.going.Store(true)
	o.mu.Unlock()
	if begins {
		o.log.Warn("the ratelimit service does not decide: limits go by their failMode", "err", err)
	}
}

// succeeded notes a decision. It costs next to nothing unless there is an outage.
func (o *outage) succeeded() {
	if o.going.Load() {
		o.over(time.Now())
	}
}

func (o *outage) over(now time.Time) {
	o.mu.Lock()
	since, failures := o.since, o.failures
	over := failures > 0 && now.Sub(o.last) >= outageCalm
	if over {
		o.failures = 0
		o.going.Store(false)
	}
	o.mu.Unlock()
	if over {
		o.log.Info("the ratelimit service decides again", "after", now.Sub(since).Round(time.Millisecond).String(), "undecided", failures)
	}
}
