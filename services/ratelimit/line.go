package ratelimit

import "sync"

// line is the cells that wait for a flusher, in the order in which they came.
type line struct {
	mu     sync.Mutex
	some   sync.Cond
	cells  []*cell // guarded by mu, like all below; a ring
	first  int
	count  int
	closed bool
}

func (l *line) init() {
	l.some.L = &l.mu
	l.cells = make([]*cell, 64)
}

// push adds a cell, unless the line is closed.
func (l *line) push(c *cell) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	if l.count == len(l.cells) {
		longer := make([]*cell, 2*l.count)
		n := copy(longer, l.cells[l.first:])
		copy(longer[n:], l.cells[:l.first])
		l.cells, l.first = longer, 0
	}
	l.cells[(l.first+l.count)%len(l.cells)] = c
	l.count++
	l.some.Signal()
	return true
}

// next waits for the first cell; nil when the line is closed.
func (l *line) next() *cell {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.count == 0 && !l.closed {
		l.some.Wait()
	}
	if l.closed {
		return nil
	}
	return l.pop()
}

func (l *line) pop() *cell {
	c := l.cells[l.first]
	l.cells[l.first] = nil
	l.first = (l.first + 1) % len(l.cells)
	l.count--
	return c
}

// empty reports whether no cell waits.
func (l *line) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count == 0
}

// close has every next return nil.
func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.some.Broadcast()
}

// rest empties a closed line.
func (l *line) rest() (cells []*cell) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.count > 0 {
		cells = append(cells, l.pop())
	}
	return cells
}
