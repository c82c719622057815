package gateway

import (
	"slices"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// parcel is a NATS message as it goes to connections: encoded once for all.
type parcel struct {
	frame []byte
	key   string // a newer one takes its place

	// frames are those of a batch, in place of frame; excluded are the
	// connections that don't get all of them.
	frames   [][]byte
	bytes    int // of all frames, which share them
	events   []wire.BatchEvent
	excluded map[string]struct{}

	exclude string // the connection that gets nothing
	source  *outbox.Source
}

// pack encodes a message whose payload is that of msg, or the events that it is a
// batch of. What is no batch though it says so is an error; it has been counted.
func (g *Service) pack(m *wire.Message, meta *wire.Meta, msg *nats.Msg, source *outbox.Source) (parcel, *wire.Error) {
	p := parcel{exclude: meta.Exclude, source: source}
	room := len(m.Topic) + len(m.Group) + len(m.From) + 80
	if !meta.Batch {
		m.Event, m.Payload, p.key = meta.Event, msg.Data, meta.Coalesce
		p.frame = wire.AppendMessage(make([]byte, 0, room+len(m.Event)+len(m.Payload)), m)
		return p, nil
	}
	events, err := wire.ParseBatch(msg.Data)
	if err != nil {
		g.metrics.malformed.Add(1)
		g.log.Debug("malformed batch", "subject", msg.Subject, "err", err)
		return p, wire.AsError(err)
	}
	p.events, p.frames = events, make([][]byte, len(events))
	all, ends := make([]byte, 0, len(msg.Data)+len(events)*room), make([]int, len(events))
	for i, e := range events {
		m.Event, m.Payload = e.Event, e.Data
		all = wire.AppendMessage(all, m)
		ends[i] = len(all)
		if e.Exclude != "" {
			if p.excluded == nil {
				p.excluded = map[string]struct{}{}
			}
			p.excluded[e.Exclude] = struct{}{}
		}
	}
	p.bytes = len(all)
	begin := 0
	for i, end := range ends {
		p.frames[i] = all[begin:end:end]
		begin = end
	}
	return p, nil
}

// to queues the parcel for a connection. It does not block.
func (p *parcel) to(c *connection) {
	switch {
	case p.exclude != "" && c.id == p.exclude:
	case p.frames != nil:
		c.out.DeliverAll(p.framesOf(c.id), p.source)
	case p.key != "":
		c.out.DeliverLatest(p.frame, p.source, p.key)
	default:
		c.out.Deliver(p.frame, p.source)
	}
}

// framesOf returns the frames of a batch that are for a connection.
func (p *parcel) framesOf(conn string) [][]byte {
	if _, some := p.excluded[conn]; !some {
		return p.frames
	}
	frames, bytes := make([][]byte, 0, len(p.frames)), 0
	for i, frame := range p.frames {
		if p.events[i].Exclude != conn {
			frames, bytes = append(frames, frame), bytes+len(frame)
		}
	}
	if bytes < p.bytes/2 { // a queue must not hold much that it does not count
		for i, frame := range frames {
			frames[i] = slices.Clone(frame)
		}
	}
	return frames
}

// size returns how many messages the parcel is.
func (p *parcel) size() int { return max(1, len(p.frames)) }

// undeliverable answers a message that came as a request and could not be delivered.
func (g *Service) undeliverable(msg *nats.Msg, err *wire.Error) {
	if g.mayReply(msg) {
		g.respond(msg.Reply, nil, err)
	}
}
