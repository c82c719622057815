package fairleadtest

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Eventually waits until ok returns true, asking every few milliseconds, and
// fails the test after [Patience]. what says what was waited for.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("fairleadtest: after %v still not: %s", Patience, what)
		}
	}
}

// WaitOnline waits until the presence service knows a connection of every user.
func (s *Stack) WaitOnline(users ...string) { s.t.Helper(); s.wait("online", true, users) }

// WaitOffline waits until the presence service knows no connection of any of
// the users any more: at once after a connection that was closed, after its
// lease with a gateway that died.
func (s *Stack) WaitOffline(users ...string) { s.t.Helper(); s.wait("offline", false, users) }

func (s *Stack) wait(what string, want bool, users []string) {
	s.t.Helper()
	body, err := json.Marshal(wire.PresenceUsers{Users: users})
	if err != nil {
		s.t.Fatalf("fairleadtest: %v", err)
	}
	nc, err := nats.Connect(s.server.ClientURL(), nats.Name("test"))
	if err != nil {
		s.t.Fatalf("fairleadtest: connect to NATS: %v", err)
	}
	defer nc.Close()
	Eventually(s.t, what+": "+string(body), func() bool {
		reply, err := nc.Request(namespace.Svc("presence", "online"), body, time.Second)
		var said wire.PresenceOnline
		if err != nil || json.Unmarshal(reply.Data, &said) != nil || said.Online == nil {
			return false
		}
		for _, user := range users {
			if said.Online[user] != want {
				return false
			}
		}
		return true
	})
}
