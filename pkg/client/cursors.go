package client

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Cursors folds the cursor frames of one topic, on one connection, into where
// everybody's cursor is:
//
//	view := client.NewCursors()
//	sub, err := c.Subscribe(ctx, "doc.7", client.SubscribeOptions{OnCursors: view.Apply})
//	err = c.MoveCursor("doc.7", Point{10, 20})
//	err = view.Wait(ctx, func(now map[string]json.RawMessage) bool { return now["ann"] != nil })
//
// One's own cursor is among them. Its methods may be called by any goroutine.
type Cursors struct {
	mu      sync.Mutex
	now     map[string]json.RawMessage // nil before the first frame
	frames  int
	fault   error
	changed chan struct{} // closed and replaced at every change
}

// NewCursors returns a view that has seen nothing yet.
func NewCursors() *Cursors { return &Cursors{changed: make(chan struct{})} }

// Apply takes the next cursor frame of the topic; frames of other ops are
// ignored.
func (v *Cursors) Apply(f *wire.ServerFrame) {
	if f.Op != "cursors" {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.frames++
	now := f.All
	if now == nil {
		if v.now == nil && v.fault == nil {
			v.fault = fmt.Errorf("cursors: a change of %s came before all of them", f.Topic)
		}
		if now = maps.Clone(v.now); now == nil { // earlier ones were handed out
			now = map[string]json.RawMessage{}
		}
		for _, user := range f.Gone {
			delete(now, user)
		}
		maps.Copy(now, f.Moved)
	}
	v.now = now
	close(v.changed)
	v.changed = make(chan struct{})
}

// Now returns the cursors by user, nil before the first frame. The map is not
// changed any more.
func (v *Cursors) Now() map[string]json.RawMessage {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.now
}

// Frames returns how many frames have come.
func (v *Cursors) Frames() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.frames
}

// Err returns the first frame that contradicted those before it: a change of
// cursors that were never told.
func (v *Cursors) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fault
}

// Wait returns nil once cond holds, which it asks at once and after every
// change, or ctx's error with how many cursors there are then.
func (v *Cursors) Wait(ctx context.Context, cond func(map[string]json.RawMessage) bool) error {
	for {
		v.mu.Lock()
		now, changed := v.now, v.changed
		v.mu.Unlock()
		if cond(now) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("cursors: wait with %d of them: %w", len(now), context.Cause(ctx))
		}
	}
}

// MoveCursor moves this user's cursor on a topic that this connection is
// subscribed to; data is at most 1 KiB of JSON, nil takes the cursor away. It
// does not wait: a refusal comes to [Client.OnError].
func (c *Client) MoveCursor(topic string, data any) error {
	raw, err := wire.EncodeData("data", data)
	if err != nil {
		return err
	}
	f := newFrame("cursor", 0)
	f.str("topic", topic)
	f.raw("data", raw)
	return c.SendFrame(f.end())
}
