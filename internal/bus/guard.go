package bus

import (
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Guard decides which reply subjects are answered (docs/nats.md, Replies).
// NATS does not check the reply subject of a publisher, so an answer to any
// subject would lend our rights: a worker that may only publish fl.svc.> could
// publish a topic as a gateway, or purge a stream. Every reply to a message
// that came from outside goes through [Guard.Respond].
//
// The zero value allows inboxes only. It may be used concurrently; Prefixes
// must not change after the first use.
type Guard struct {
	// Prefixes are allowed beside inboxes: `rpc.reply` allows rpc.reply.x and
	// not rpc.replyx. [Config.Validate] checks them.
	Prefixes []string

	refused atomic.Int64
}

// MayReply reports whether a reply may be published to subject: a subject
// under _INBOX or _INBOX_<role> (the prefixes that NATS clients make up their
// reply subjects with), or under one of the prefixes. Wildcards, spaces and
// empty tokens are refused.
func (g *Guard) MayReply(subject string) bool {
	first, rest, ok := strings.Cut(subject, ".")
	if !ok || !publishable(subject) {
		return false
	}
	if first == "_INBOX" || strings.HasPrefix(first, "_INBOX_") {
		return rest != ""
	}
	for _, p := range g.Prefixes {
		if p = strings.TrimSuffix(p, "."); len(subject) > len(p)+1 && subject[len(p)] == '.' && subject[:len(p)] == p && p != "" {
			return true
		}
	}
	return false
}

// Respond publishes the reply to a request. It reports sent=false without an
// error where nothing may be sent: the message wants no reply, or wants it on a
// subject that is refused, which is counted. An error means that NATS did not
// take it (nats.ErrMaxPayload, nats.ErrReconnectBufExceeded while away, …).
func (g *Guard) Respond(msg *nats.Msg, data []byte, headers nats.Header) (sent bool, err error) {
	if msg.Reply == "" || !g.admit(msg.Reply) {
		return false, nil
	}
	return true, respond(msg, data, headers)
}

// RespondError is Respond with an error: its code and message as headers, what
// a caller needs to try again as body.
func (g *Guard) RespondError(msg *nats.Msg, e *wire.Error) (sent bool, err error) {
	if msg.Reply == "" || !g.admit(msg.Reply) {
		return false, nil
	}
	return true, respondError(msg, e)
}

// Refused is how many replies have been refused since the start.
func (g *Guard) Refused() int64 { return g.refused.Load() }

// admit is MayReply with counting.
func (g *Guard) admit(reply string) bool {
	if g.MayReply(reply) {
		return true
	}
	g.refused.Add(1)
	return false
}

// respond needs a reply subject that has been admitted.
func respond(msg *nats.Msg, data []byte, headers nats.Header) error {
	return msg.RespondMsg(&nats.Msg{Data: data, Header: headers})
}

func respondError(msg *nats.Msg, e *wire.Error) error {
	headers := nats.Header{}
	wire.ErrorHeader(headers, e)
	return respond(msg, errorBody(e), headers)
}

// publishable reports whether a subject names exactly one destination.
func publishable(subject string) bool {
	if subject == "" || len(subject) > wire.MaxSubject || subject[0] == '.' || subject[len(subject)-1] == '.' {
		return false
	}
	for i := range len(subject) {
		switch c := subject[i]; {
		case c <= ' ', c == 0x7f, c == '*', c == '>':
			return false
		case c == '.' && subject[i+1] == '.':
			return false
		}
	}
	return true
}

func validReplyPrefix(p string) bool {
	p = strings.TrimSuffix(p, ".")
	return publishable(p) && p[0] != '$'
}
