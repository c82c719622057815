package presence

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// An ask whose client has it outlives a cut of the replica's NATS: nobody could be
// told that it is over, and the client may answer behind it.
func TestAskOutlivesNATS(t *testing.T) {
	r := startAsks(t)
	r.knows("ann", "c1")
	conn := r.hears("fl.conn.c1")
	got := r.ask("ann", "1", "Fl-Deadline", wire.Deadline(time.Now().Add(askMost).UnixMilli()))
	m := r.next(conn)
	r.server.Shutdown()
	r.eventually("it is looked whether the client is there", func() bool {
		r.a.mu.Lock()
		defer r.a.mu.Unlock()
		for _, p := range r.a.pending {
			return p.pause > stillThere
		}
		return false
	})
	if err := r.server.Restart(); err != nil {
		t.Fatal(err)
	}
	for _, nc := range []*nats.Conn{r.nc, r.a.nc} {
		r.eventually("NATS is back", func() bool { return nc.FlushTimeout(time.Second) == nil })
	}
	r.respond(m, `"yes"`)
	if m := r.next(got); string(m.Data) != `"yes"` {
		t.Errorf("got %q", m.Data)
	}
}

// Where the clients' answers go can't be told from other inboxes of the process.
func TestInboxOfAsksCannotBeGuessed(t *testing.T) {
	r := startAsks(t)
	if known := nats.NewInbox()[:len("_INBOX.")+8]; strings.HasPrefix(r.a.inbox, known) {
		t.Errorf("%s begins like any other: %s", r.a.inbox, known)
	}
}
