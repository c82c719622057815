package bus

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// Who knows one inbox of a process knows nothing of the others.
func TestInboxesCannotBeGuessed(t *testing.T) {
	server := natsdev.Test(t)
	own, err := nats.Connect(server.ClientURL(), nats.CustomInboxPrefix("_INBOX_orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	nc := connect(t, server, Hooks{})
	var seen []string
	for _, c := range []struct{ inbox, prefix string }{
		{nc.NewInbox(), "_INBOX."}, {NewInbox(nc), "_INBOX."}, {NewInbox(nc), "_INBOX."}, {NewInbox(own), "_INBOX_orders."},
	} {
		rest, ok := strings.CutPrefix(c.inbox, c.prefix)
		if !ok || len(rest) < 20 || !new(Guard).MayReply(c.inbox) {
			t.Fatalf("inbox %s, want one under %s", c.inbox, c.prefix)
		}
		for _, other := range seen {
			if rest[:8] == other[:8] {
				t.Errorf("two inboxes begin alike: %s and %s", rest, other)
			}
		}
		seen = append(seen, rest)
	}
}
