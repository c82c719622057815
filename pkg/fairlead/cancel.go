package fairlead

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// recentCancels is how many cancellations are kept for calls that have not
// begun: one that is cancelled while it waits for its turn is not worked on.
const recentCancels = 1024

// cancels ends the contexts of calls that nobody waits for any more. One
// subscription hears of all of them: a subscription per call would nearly double
// what a short call costs (7 of 16 µs on one server; in a cluster every server
// hears of it), for something that hardly ever comes, and would miss what comes
// before it is there.
type cancels struct {
	sub *nats.Subscription

	mu     sync.Mutex
	calls  map[string]*cancelled // that run, by the subject of Fl-Cancel
	recent map[string]error      // subjects of others that were heard, with why
	ring   []string              // recent, the oldest at next once it is full
	next   int
}

// cancelled is a call, or the attempt of a task, that can be cancelled.
type cancelled struct {
	subject string // "": it can't
	cancel  context.CancelCauseFunc
}

// hearCancels subscribes, once.
func (f *Fairlead) hearCancels() (*cancels, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, ErrClosed
	}
	if f.cancels != nil {
		return f.cancels, nil
	}
	cs := &cancels{calls: map[string]*cancelled{}, recent: map[string]error{}}
	var err error
	cs.sub, err = f.nc.Subscribe(f.opts.Namespace.CallCancels(), func(msg *nats.Msg) { cs.heard(msg.Subject, cancelCause(msg.Data)) })
	if err != nil {
		return nil, failed(err)
	}
	f.cancels = cs
	return cs, nil
}

// begin has the call's context end when its cancellation is heard, or at once
// where it was heard already.
func (cs *cancels) begin(c *cancelled) {
	if c.subject == "" {
		return
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cause, ok := cs.recent[c.subject]; ok {
		c.cancel(cause)
		return
	}
	cs.calls[c.subject] = c
}

func (cs *cancels) end(c *cancelled) {
	if c.subject == "" {
		return
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.calls[c.subject] == c {
		delete(cs.calls, c.subject)
	}
}

func (cs *cancels) heard(subject string, cause error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c := cs.calls[subject]; c != nil {
		c.cancel(cause)
		return
	}
	if _, ok := cs.recent[subject]; ok {
		return
	}
	cs.recent[subject] = cause
	if len(cs.ring) < recentCancels {
		cs.ring = append(cs.ring, subject)
		return
	}
	delete(cs.recent, cs.ring[cs.next])
	cs.ring[cs.next] = subject
	cs.next = (cs.next + 1) % recentCancels
}

// cancelCause says why something is cancelled: of an attempt, also that it was
// given up.
func cancelCause(data []byte) error {
	var why struct{ Reason string }
	if len(data) > 0 && json.Unmarshal(data, &why) == nil {
		switch why.Reason {
		case "lost", "timeout", "takeover":
			return ErrFenceLost
		}
	}
	return wire.ErrCancelled
}

func (cs *cancels) close() {
	_ = cs.sub.Unsubscribe() // it fails only where the connection is closed, and the subscription with it
}
