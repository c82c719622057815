package breaker

import (
	"context"
	"sync"
)

// maxChanges bounds the changes that wait for their listener.
const maxChanges = 64

type change struct{ from, to State }

// changes are those that a listener has yet to hear.
type changes struct {
	tell func(from, to State)
	wake chan struct{} // has an element when there may be some

	mu      sync.Mutex
	waiting []change
}

func newChanges(tell func(from, to State)) *changes {
	return &changes{tell: tell, wake: make(chan struct{}, 1)}
}

// add makes a change wait; it never blocks.
func (cs *changes) add(c change) {
	if cs.tell == nil {
		return
	}
	cs.mu.Lock()
	if len(cs.waiting) == maxChanges {
		cs.waiting = append(cs.waiting[:0], cs.waiting[1:]...)
	}
	cs.waiting = append(cs.waiting, c)
	cs.mu.Unlock()
	select {
	case cs.wake <- struct{}{}:
	default:
	}
}

func (cs *changes) take() []change {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	taken := cs.waiting
	cs.waiting = nil
	return taken
}

// Run tells [Config].OnChange what changes until ctx is done. Without a listener
// there is nothing to run.
func (b *Breaker) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.changes.wake:
		}
		for _, c := range b.changes.take() {
			b.changes.say(c)
		}
	}
}

// say calls the listener; what it does wrong is its own.
func (cs *changes) say(c change) {
	defer func() { _ = recover() }()
	cs.tell(c.from, c.to)
}
