package bus

import (
	"crypto/rand"
	"strings"

	"github.com/nats-io/nats.go"
)

// NewInbox returns a subject for replies that nobody can guess, under the inbox
// prefix of the connection. nats.go makes its own of a counter: who has seen one
// of a process knows the others, and whoever may publish to inboxes at all, as
// every worker that answers may, could answer in another's place.
func NewInbox(nc *nats.Conn) string {
	prefix := nc.Opts.InboxPrefix
	if prefix == "" {
		prefix = strings.TrimSuffix(nats.InboxPrefix, ".")
	}
	return prefix + "." + rand.Text()
}
