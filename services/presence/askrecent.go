package presence

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// recentKeep is how long a new connection is remembered: longer than the
	// registry takes to know of it.
	recentKeep = 5 * time.Second
	recentMost = 65_536
)

// recent has of each user the connection of which a gateway has just told: the
// registry knows of it when it is stored, some time after its client was told
// hello. It is a hint: one that is not there any more costs an ask a round trip.
type recent struct {
	mu     sync.Mutex
	byUser map[string]recentConn // guarded by mu, like queue
	queue  []recentConn          // all that were told of, the oldest first
}

type recentConn struct {
	user, conn string
	at         time.Time
}

func newRecent() *recent { return &recent{byUser: map[string]recentConn{}} }

// add takes a connection that has just come.
func (r *recent) add(user, conn string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 && (len(r.queue) >= recentMost || now.Sub(r.queue[0].at) > recentKeep) {
		if oldest := r.queue[0]; r.byUser[oldest.user] == oldest {
			delete(r.byUser, oldest.user)
		}
		r.queue[0] = recentConn{}
		r.queue = r.queue[1:]
	}
	c := recentConn{user, conn, now}
	r.queue = append(r.queue, c)
	r.byUser[user] = c
}

// ahead returns a user's connections, of which known are known of, the newest
// first.
func (r *recent) ahead(user string, known []string, now time.Time) []string {
	r.mu.Lock()
	c, ok := r.byUser[user]
	r.mu.Unlock()
	if !ok || now.Sub(c.at) > recentKeep || slices.Contains(known, c.conn) {
		return known
	}
	return append([]string{c.conn}, known...)
}

// gone forgets a connection that was not there.
func (r *recent) gone(user, conn string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byUser[user].conn == conn {
		delete(r.byUser, user)
	}
}

// opened takes a gateway's word that a connection has come.
func (a *asker) opened(msg *nats.Msg) {
	var event struct{ User, Conn string }
	if json.Unmarshal(msg.Data, &event) != nil || event.Conn == "" || wire.CheckUser(event.User) != nil {
		return
	}
	a.recent.add(event.User, event.Conn, a.s.now())
}
