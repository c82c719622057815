package gateway

import (
	"net/netip"
	"sync"
)

// connections holds every open connection, and counts them by user and by
// address where that is limited.
type connections struct {
	mu        sync.Mutex
	open      map[*connection]struct{}
	reserved  int // upgrades under way
	byUser    map[string]int
	byAddress map[netip.Addr]int
	closed    bool          // no more upgrades
	empty     chan struct{} // closed when the last one has left after close
}

func newConnections() *connections {
	return &connections{
		open:      map[*connection]struct{}{},
		byUser:    map[string]int{},
		byAddress: map[netip.Addr]int{},
		empty:     make(chan struct{}),
	}
}

// refusal says which bound a new connection would pass.
type refusal uint8

const (
	admitted refusal = iota
	tooMany
	tooManyOfAddress
	closing
)

// reserve keeps a place for an upgrade: [connections.add] or
// [connections.cancel] ends it.
func (cs *connections) reserve(address netip.Addr, most, mostOfAddress int) refusal {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch {
	case cs.closed:
		return closing
	case most > 0 && len(cs.open)+cs.reserved >= most:
		return tooMany
	case mostOfAddress > 0 && cs.byAddress[address] >= mostOfAddress:
		return tooManyOfAddress
	}
	cs.reserved++
	cs.byAddress[address]++
	return admitted
}

// cancel gives a reserved place back.
func (cs *connections) cancel(address netip.Addr) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.reserved--
	cs.leaveAddress(address)
	cs.signal()
}

// abandon is [connections.cancel] for an upgrade that had been counted as the
// user's.
func (cs *connections) abandon(user string, address netip.Addr) {
	cs.mu.Lock()
	cs.leaveUser(user)
	cs.mu.Unlock()
	cs.cancel(address)
}

func (cs *connections) leaveUser(user string) {
	if user == "" {
		return
	}
	if cs.byUser[user]--; cs.byUser[user] <= 0 {
		delete(cs.byUser, user)
	}
}

func (cs *connections) leaveAddress(address netip.Addr) {
	if cs.byAddress[address]--; cs.byAddress[address] <= 0 {
		delete(cs.byAddress, address)
	}
}

// add turns a reserved place into an open connection.
func (cs *connections) add(c *connection) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.reserved--
	cs.open[c] = struct{}{}
}

// admitUser counts a connection as the user's, unless there are too many.
func (cs *connections) admitUser(user string, most int) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if most > 0 && cs.byUser[user] >= most {
		return false
	}
	cs.byUser[user]++
	return true
}

// remove forgets a connection that has ended; user is "" if it never had one.
func (cs *connections) remove(c *connection, user string, address netip.Addr) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.open, c)
	cs.leaveUser(user)
	cs.leaveAddress(address)
	cs.signal()
}

func (cs *connections) signal() {
	if cs.closed && len(cs.open)+cs.reserved == 0 {
		select {
		case <-cs.empty:
		default:
			close(cs.empty)
		}
	}
}

// close refuses every further upgrade, and returns a channel that is closed
// when the last connection has ended.
func (cs *connections) close() (gone <-chan struct{}) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	cs.signal()
	return cs.empty
}

// each calls fn for every open connection, outside the lock.
func (cs *connections) each(fn func(*connection)) {
	cs.mu.Lock()
	all := make([]*connection, 0, len(cs.open))
	for c := range cs.open {
		all = append(all, c)
	}
	cs.mu.Unlock()
	for _, c := range all {
		fn(c)
	}
}

func (cs *connections) size() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open)
}

func (cs *connections) users() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.byUser)
}
