package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// A tool asks from inboxes of the prefix that it is given: NATS may let it hear no
// others.
func TestConnectWithInboxesOfItsOwn(t *testing.T) {
	server := natsdev.Test(t)
	for prefix, want := range map[string]string{"": "_INBOX.", "_INBOX_worker.demo": "_INBOX_worker.demo."} {
		nc, err := bus.Connect(t.Context(), bus.Config{URL: server.ClientURL(), InboxPrefix: prefix}, bus.Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan string, 1)
		if _, err := nc.Subscribe("ask", func(m *nats.Msg) { asked <- m.Reply; _ = m.Respond(nil) }); err != nil {
			t.Fatal(err)
		}
		if _, err := nc.RequestWithContext(t.Context(), "ask", nil); err != nil {
			t.Fatal(err)
		}
		if got := <-asked; !strings.HasPrefix(got, want) || !strings.HasPrefix(bus.NewInbox(nc), want) {
			t.Errorf("prefix %q: the reply goes to %s, an inbox is %s; want %s", prefix, got, bus.NewInbox(nc), want)
		}
		nc.Close()
	}
	var invalid *bus.ConfigError
	if _, err := bus.Connect(t.Context(), bus.Config{URL: server.ClientURL(), InboxPrefix: "a.*"}, bus.Hooks{}); !errors.As(err, &invalid) || invalid.Variable != "FAIRLEAD_NATS_INBOX_PREFIX" {
		t.Errorf("a prefix with a wildcard: %v", err)
	}
}
