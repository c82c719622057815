package gateway

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lineWait is how long a request may wait in line to be upgraded.
	lineWait = time.Second
	// lineMost bounds the line, however short the wait in it would be.
	lineMost = 10_000
	// lineLate is how late the timer of the line may be without anybody losing a
	// turn; after more than that there would be a crowd.
	lineLate = 10 * time.Millisecond
)

// handshake bounds how many requests are upgraded at a time, and how many a
// second: authenticating one costs more than any message of it will. It knows
// nothing of what is going on behind the handshake.
type handshake struct {
	most int           // under way at a time; 0 is no bound
	pace time.Duration // between two; 0 is none
	room int           // who may wait in line

	shed atomic.Int64 // refused

	mu       sync.Mutex
	underWay int
	next     time.Time   // when the next one may begin
	line     *list.List  // of chan struct{}, closed when it is their turn
	timer    *time.Timer // runs while somebody waits in line
}

func newHandshake(c Admission) *handshake {
	h := &handshake{most: c.Upgrades, line: list.New()}
	if c.UpgradesPerSecond > 0 {
		h.pace = time.Second / time.Duration(c.UpgradesPerSecond)
		h.room = min(int(lineWait/h.pace), lineMost)
	}
	return h
}

// enter returns when a request may be worked on, and what ends that: the caller
// calls leave once, whatever came of it. It returns nil where there is no room,
// or the peer went away in line.
func (h *handshake) enter(ctx context.Context) (leave func()) {
	if !h.free() || !h.wait(ctx) || !h.begin() { // the first look is so that nobody waits in vain
		if ctx.Err() == nil {
			h.shed.Add(1)
		}
		return nil
	}
	return h.end
}

func (h *handshake) free() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.most == 0 || h.underWay < h.most
}

func (h *handshake) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.most > 0 && h.underWay >= h.most {
		return false
	}
	h.underWay++
	return true
}

func (h *handshake) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underWay--
}

// wait returns true when it is the caller's turn, in the order in which they
// came.
func (h *handshake) wait(ctx context.Context) bool {
	turn, place := h.queue(time.Now())
	if turn == nil {
		return place
	}
	defer h.unqueue(turn)
	bound := time.NewTimer(lineWait + h.pace)
	defer bound.Stop()
	select {
	case <-turn.Value.(chan struct{}):
		return true
	case <-ctx.Done():
	case <-bound.C:
	}
	return false
}

// queue lets the caller pass, refuses it, or returns its place in the line.
func (h *handshake) queue(now time.Time) (place *list.Element, ok bool) {
	if h.pace == 0 {
		return nil, true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.line.Len() == 0 && !now.Before(h.next):
		h.next = now.Add(h.pace)
		return nil, true
	case h.line.Len() >= h.room:
		return nil, false
	}
	place = h.line.PushBack(make(chan struct{}))
	if h.timer == nil {
		h.timer = time.AfterFunc(h.next.Sub(now), func() { h.call(time.Now()) })
	}
	return place, true
}

// unqueue takes a place out of the line: who went away costs the others nothing.
func (h *handshake) unqueue(place *list.Element) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.line.Remove(place) // does nothing where its turn has come
	if h.line.Len() == 0 && h.timer != nil && h.timer.Stop() {
		h.timer = nil
	}
}

// call says to those at the head of the line that it is their turn.
func (h *handshake) call(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = later(h.next, now.Add(-lineLate))
	for h.line.Len() > 0 && !now.Before(h.next) {
		close(h.line.Remove(h.line.Front()).(chan struct{}))
		h.next = h.next.Add(h.pace)
	}
	h.timer = nil
	if h.line.Len() > 0 {
		h.timer = time.AfterFunc(h.next.Sub(now), func() { h.call(time.Now()) })
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// size returns how many are under way, and how many wait in line.
func (h *handshake) size() (underWay, waiting int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.underWay, h.line.Len()
}
