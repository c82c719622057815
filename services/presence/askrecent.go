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

// recent are connections of which gateways have just told: the registry knows of
// them when they are stored, some time after their clients are told hello. They
// are hints: one that is not there any more costs an ask a round trip.
type recent struct {
	mu     sync.Mutex
	byUser map[string][]string // guarded by mu, like the rest; the newest last
	queue  []recentConn        // all of them, the oldest first
}

type recentConn struct {
	user, conn string
	at         time.Time
}

func newRecent() *recent { return &recent{byUser: map[string][]string{}} }

// add takes a connection that has just come.
func (r *recent) add(user, conn string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire(now)
	if len(r.queue) >= recentMost {
		r.forget()
	}
	r.queue = append(r.queue, recentConn{user, conn, now})
	r.byUser[user] = append(r.byUser[user], conn)
}

// ahead returns a user's connections, those first that are too new to be among
// known, the newest first.
func (r *recent) ahead(user string, known []string, now time.Time) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire(now)
	var news []string
	for _, conn := range slices.Backward(r.byUser[user]) {
		if !slices.Contains(known, conn) && !slices.Contains(news, conn) {
			news = append(news, conn)
		}
	}
	return append(news, known...)
}

// expire forgets what is too old; mu is held.
func (r *recent) expire(now time.Time) {
	for len(r.queue) > 0 && now.Sub(r.queue[0].at) > recentKeep {
		r.forget()
	}
}

// forget drops the oldest; mu is held.
func (r *recent) forget() {
	oldest := r.queue[0]
	r.queue[0] = recentConn{}
	r.queue = r.queue[1:]
	if rest := r.byUser[oldest.user][1:]; len(rest) > 0 {
		r.byUser[oldest.user] = rest
	} else {
		delete(r.byUser, oldest.user)
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
