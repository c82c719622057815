package gateway

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// matchQueue is how many messages on fl.match may wait. Above it nats.go drops
// and reports a slow consumer.
const matchQueue = 8 << 10

// subscribeMatch subscribes the messages for whoever has some attributes. They
// have a goroutine of their own: one may be for every connection there is, and
// those of topics must not wait behind it.
func (g *Service) subscribeMatch() error {
	g.matching = make(chan *nats.Msg, matchQueue)
	if _, err := g.live.ChanSubscribe(g.cfg.Namespace.Match(), g.matching); err != nil {
		return fmt.Errorf("subscribe %s: %w", g.cfg.Namespace.Match(), err)
	}
	return nil
}

// runMatch delivers them until ctx is done.
func (g *Service) runMatch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case msg := <-g.matching:
			g.deliverMatch(msg)
		}
	}
}

// deliverMatch hands a message to the connections whose attributes match, and
// says to how many where somebody asks.
func (g *Service) deliverMatch(msg *nats.Msg) {
	if !g.mayAnswer(msg) {
		return
	}
	g.metrics.messages.Add(1)
	criteria, bad := wire.ParseMatch(wire.HeaderValue(msg.Header, wire.HeaderMatch))
	if bad != nil {
		g.metrics.matchRefusals.Add(1)
		g.reached(msg.Reply, 0, bad)
		return
	}
	meta := wire.ParseMeta(msg.Header)
	if g.tracer.On() {
		defer g.trace("deliver match", msg.Header)()
	}
	p, bad := g.pack(&wire.Message{Topic: meta.Topic, From: meta.User, Direct: true}, &meta, msg, nil)
	if bad != nil { // also where nobody matches: every gateway says the same
		g.reached(msg.Reply, 0, bad)
		return
	}
	n := 0
	for _, c := range g.attributes.match(criteria) {
		if c.id == meta.Exclude || c.ending() {
			continue
		}
		p.to(c)
		n++
	}
	g.metrics.deliveries.Add(int64(n * p.size()))
	g.reached(msg.Reply, n, nil)
}

// mayAnswer reports whether a message from outside is to be looked at: one with
// a reply subject that Fairlead may not publish to is dropped whole, since
// answering it would lend the gateway's rights to whoever sent it.
func (g *Service) mayAnswer(msg *nats.Msg) bool {
	if msg.Reply == "" || g.guard.MayReply(msg.Reply) {
		return true
	}
	g.metrics.badReplies.Add(1)
	return false
}

// reached answers how many connections a message was for, or why for none;
// reply is "" where nobody asks.
func (g *Service) reached(reply string, n int, refused *wire.Error) {
	if reply == "" {
		return
	}
	g.respond(reply, append(strconv.AppendInt([]byte(`{"reached":`), int64(n), 10), '}'), refused)
}

// index lets the connection be found by what its token says of it now.
func (c *connection) index() {
	c.g.attributes.set(c, c.identity.Load().Attributes)
}
