package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Presence folds the presence frames of one topic, on one connection, into who
// is there:
//
//	view := client.NewPresence()
//	sub, err := c.Subscribe(ctx, "chat.lobby", client.SubscribeOptions{Presence: "watch", OnPresence: view.Apply})
//	err = view.Wait(ctx, func(now client.Members) bool { return now.Has("ann") })
//
// Its methods may be called by any goroutine.
type Presence struct {
	mu      sync.Mutex
	now     Members
	pages   map[string]wire.PresenceMember // of a state whose last frame is yet to come
	pagesOf int64                          // its rev
	fault   error
	changed chan struct{} // closed and replaced at every change
}

// Members is who was on a topic at one moment.
type Members struct {
	// Rev is that of the newest frame; 0 before the first state.
	Rev int64
	// Users has everybody, or where Sampled some of them, by user.
	Users map[string]wire.PresenceMember
	// Count is how many there are.
	Count   int
	Sampled bool
}

// Has reports whether all the users are among m.Users.
func (m Members) Has(users ...string) bool {
	for _, user := range users {
		if _, ok := m.Users[user]; !ok {
			return false
		}
	}
	return true
}

// Names returns the users in order.
func (m Members) Names() []string { return slices.Sorted(maps.Keys(m.Users)) }

// NewPresence returns a view that has seen nothing yet.
func NewPresence() *Presence { return &Presence{changed: make(chan struct{})} }

// Apply takes the next presence frame of the topic; frames of other ops are
// ignored.
func (p *Presence) Apply(f *wire.ServerFrame) {
	if f.Op != "presence" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case f.State != nil:
		p.state(f)
	case f.Count != nil:
		if f.Rev < p.now.Rev { // it may repeat the rev of the state that it follows
			p.blame("a count of rev %d after rev %d", f.Rev, p.now.Rev)
		}
		p.now = Members{Users: maps.Clone(f.Sample), Count: *f.Count, Sampled: true}
	default:
		p.diff(f)
	}
	if p.pages == nil {
		p.now.Rev = f.Rev
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// Reset has the view begin anew, as on another connection: the next state
// replaces everything, whatever its rev. Until then who was there stays, with a
// Rev of 0.
func (p *Presence) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Rev, p.pages = 0, nil
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Presence) state(f *wire.ServerFrame) {
	if f.Rev < p.now.Rev {
		p.blame("a state of rev %d after rev %d", f.Rev, p.now.Rev)
	}
	if p.pages == nil || p.pagesOf != f.Rev {
		p.pages, p.pagesOf = map[string]wire.PresenceMember{}, f.Rev
	}
	maps.Copy(p.pages, f.State)
	if !f.More {
		p.now = Members{Users: p.pages, Count: len(p.pages)}
		p.pages = nil
	}
}

func (p *Presence) diff(f *wire.ServerFrame) {
	switch {
	case f.Rev <= p.now.Rev:
		p.blame("a diff of rev %d after rev %d", f.Rev, p.now.Rev)
	case p.pages != nil:
		p.blame("a diff of rev %d within the state of rev %d", f.Rev, p.pagesOf)
	case p.now.Users == nil:
		p.blame("a diff of rev %d before any state", f.Rev)
	case p.now.Sampled:
		p.blame("a diff of rev %d where a count came before it", f.Rev)
	}
	users := maps.Clone(p.now.Users) // earlier ones were handed out
	if users == nil {
		users = map[string]wire.PresenceMember{}
	}
	for user := range f.Leaves {
		if _, ok := users[user]; !ok {
			p.blame("%q leaves in rev %d and was not there", user, f.Rev)
		}
		delete(users, user)
	}
	maps.Copy(users, f.Joins)
	p.now = Members{Users: users, Count: len(users)}
}

func (p *Presence) blame(format string, args ...any) {
	if p.fault == nil {
		p.fault = fmt.Errorf("presence: "+format, args...)
	}
}

// Now returns who is there. Its map is not changed any more.
func (p *Presence) Now() Members {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// Err returns the first frame that contradicted those before it: a rev that
// did not grow, a diff without a state, a leave of somebody who was not there.
func (p *Presence) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

// Wait returns nil once cond holds, which it asks at once and after every
// change, or ctx's error with who is there then.
func (p *Presence) Wait(ctx context.Context, cond func(Members) bool) error {
	for {
		p.mu.Lock()
		now, changed := p.now, p.changed
		p.mu.Unlock()
		if cond(now) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("presence: wait at rev %d with %d members: %w", now.Rev, now.Count, context.Cause(ctx))
		}
	}
}
