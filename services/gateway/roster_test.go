package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// While nothing can be stored, because there is no lease to say it under, joins
// are refused in time and leave nothing behind, however many there are.
func TestJoinsWithoutALeaseLeaveNothingBehind(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	eventually(t, "the gateway has a lease", func() bool { return r.g.lease.current() != 0 })
	ro := newRoster(r.g)
	r.g.lease.mu.Lock()
	r.g.lease.epoch = 0
	r.g.lease.mu.Unlock()
	const joins = 200
	refused := make(chan string, joins)
	for i := range joins {
		conn := fmt.Sprintf("c%d", i)
		ro.change("a.b", fmt.Sprintf("user%d", i), func(s *section) bool {
			s.join(wire.PresenceConn{Conn: conn})
			return true
		}, conn, func(_ uint64, err *wire.Error) { refused <- string(err.Code) })
	}
	ro.mu.Lock()
	ro.giveUp(time.Now().Add(2 * joinWait)) // as it is called when they have waited
	ro.mu.Unlock()
	for range joins {
		if code := await(t, "a refusal", refused); code != "UNAVAILABLE" {
			t.Fatalf("got %s, want UNAVAILABLE", code)
		}
	}
	eventually(t, "nothing is left", func() bool {
		ro.mu.Lock()
		defer ro.mu.Unlock()
		return len(ro.sections)+len(ro.asked)+len(ro.queue) == 0
	})
}

// Of many sections those go first that somebody waits for; the registry is told
// of the newest connections of a user, however many there are.
func TestWhatIsSaidFirst(t *testing.T) {
	g := &Service{}
	g.dependencies = newDependencies(g)
	ro := newRoster(g)
	ro.resting = true // nothing is sent
	put := func(topic, user string, done func(uint64, *wire.Error)) {
		ro.change(topic, user, func(s *section) bool { s.join(wire.PresenceConn{Conn: "c"}); return true }, "", done)
	}
	for i := range 2 * putAtOnce {
		put("a.b", fmt.Sprint(i), nil)
	}
	put("", "ann", nil)
	put("a.b", "7", func(uint64, *wire.Error) {})
	put("a.b", "late", func(uint64, *wire.Error) {})
	batch := ro.next()
	if len(batch) != putAtOnce || batch[0].user != "7" || batch[1].user != "late" {
		t.Errorf("first %d of %s, %s, …: want those that somebody waits for", len(batch), batch[0].user, batch[1].user)
	}
	seen := map[string]int{}
	for ; len(batch) > 0; batch = ro.next() {
		for _, s := range batch {
			seen[s.topic+"/"+s.user]++
		}
	}
	if len(seen) != 2*putAtOnce+2 || seen["a.b/7"] != 1 || seen["/ann"] != 1 {
		t.Errorf("%d sections were taken, %v, want each once", len(seen), seen["a.b/7"])
	}

	s := &section{user: "ann"}
	for i := range maxConns + 5 {
		s.join(wire.PresenceConn{Conn: fmt.Sprint(i)})
	}
	told := s.told()
	if len(told) != maxConns || told[len(told)-1].Conn != fmt.Sprint(maxConns+4) {
		t.Errorf("told of %d connections up to %s, want the newest %d", len(told), told[len(told)-1].Conn, maxConns)
	}
}
