package replay

import (
	"sync"
)

// current is the index that counts.
type current struct {
	mu    sync.Mutex
	x     *index
	make  func() *index
	stale chan struct{} // closed when a new one has to be fed
}

func newCurrent(make_ func() *index) *current {
	return &current{x: make_(), make: make_, stale: make(chan struct{})}
}

func (c *current) get() *index {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.x
}

// renew replaces old by an empty index, once.
func (c *current) renew(old *index) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.x != old {
		return
	}
	c.x = c.make()
	close(c.stale)
	c.stale = make(chan struct{})
}

// watch returns the index and what is closed when another takes its place.
func (c *current) watch() (*index, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.x, c.stale
}
