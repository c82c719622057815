package gateway

import (
	"context"
	"sync/atomic"
	"time"
)

// pulse is what becomes of the questions to the ratelimit service. Many are under
// way at a time: what befalls all of one moment happened once. Its times are
// since start.
type pulse struct {
	start  time.Time
	heard  atomic.Int64 // when it last answered
	failed atomic.Int64 // when a failure last counted
}

func newPulse() *pulse {
	p := &pulse{start: time.Now()}
	p.heard.Store(-1)
	p.failed.Store(-int64(decideWithin))
	return p
}

func (p *pulse) now() time.Duration { return time.Since(p.start) }

func (p *pulse) answered() { p.heard.Store(int64(p.now())) }

// answeredSince reports whether it answered anything after a time.
func (p *pulse) answeredSince(t time.Time) bool {
	return p.heard.Load() > int64(t.Sub(p.start))
}

// silent reports whether no answer to a question tells anything: the service has
// answered no other one since, and had the time to.
func (p *pulse) silent(began time.Duration, hurried bool) bool {
	return !hurried && p.heard.Load() <= int64(began)
}

// fails counts a failure, unless it is the same as the last one: the question
// began before that, or failed right behind it.
func (p *pulse) fails(began time.Duration) bool {
	last, now := p.failed.Load(), int64(p.now())
	return int64(began) >= last && now-last >= int64(decideWithin) && p.failed.CompareAndSwap(last, now)
}

// hurried reports whether ctx leaves a question so little time that no answer in
// it is nobody's fault.
func hurried(ctx context.Context) bool {
	until, ok := ctx.Deadline()
	return ok && time.Until(until) < decideWithin/2
}
