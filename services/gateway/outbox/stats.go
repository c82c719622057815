package outbox

import "sync/atomic"

// Stats counts what passed a connection, or all of an Outbox's connections. The
// counters are read one by one, not at one instant.
type Stats struct {
	FramesIn    uint64 // WebSocket messages read, the oversized included
	BytesIn     uint64 // bytes read, heads included
	FramesOut   uint64 // WebSocket messages written, control frames not counted
	MessagesOut uint64 // frames passed to Send and to Deliver and its like that were written, and skip frames
	BytesOut    uint64 // bytes written, heads included

	// Frames that a policy dropped or, for Conflate, replaced.
	DroppedDisconnect uint64
	DroppedOldest     uint64
	Conflated         uint64
	// Frames passed to DeliverLatest that a newer one of their key replaced.
	Coalesced uint64

	Queued int // bytes queued now
}

// Totals are the Stats of an Outbox's past and present connections.
type Totals struct {
	Stats
	Connections int    // open now
	Blocked     int    // of them, connections whose peer takes no more for now
	Slow        uint64 // connections closed for not keeping up
}

type counters struct {
	framesIn, bytesIn                atomic.Uint64
	framesOut, messagesOut, bytesOut atomic.Uint64
	dropped                          [policies]atomic.Uint64
	coalesced                        atomic.Uint64
}

func (n *counters) stats() Stats {
	return Stats{
		FramesIn:          n.framesIn.Load(),
		BytesIn:           n.bytesIn.Load(),
		FramesOut:         n.framesOut.Load(),
		MessagesOut:       n.messagesOut.Load(),
		BytesOut:          n.bytesOut.Load(),
		DroppedDisconnect: n.dropped[Disconnect].Load(),
		DroppedOldest:     n.dropped[DropOldest].Load(),
		Conflated:         n.dropped[Conflate].Load(),
		Coalesced:         n.coalesced.Load(),
	}
}

func (s *Stats) add(t Stats) {
	s.FramesIn += t.FramesIn
	s.BytesIn += t.BytesIn
	s.FramesOut += t.FramesOut
	s.MessagesOut += t.MessagesOut
	s.BytesOut += t.BytesOut
	s.DroppedDisconnect += t.DroppedDisconnect
	s.DroppedOldest += t.DroppedOldest
	s.Conflated += t.Conflated
	s.Coalesced += t.Coalesced
}

// Stats returns the totals. It visits every open connection: for metrics, not
// for the hot path.
func (o *Outbox) Stats() Totals {
	t := Totals{Slow: o.slow.Load()}
	var conns []*Conn
	for _, f := range o.flushers {
		t.add(f.n.stats())
		conns = f.open(conns[:0])
		t.Connections += len(conns)
		for _, c := range conns {
			c.mu.Lock()
			if c.q != nil {
				t.Queued += c.q.bytes
			}
			if c.behindNow() {
				t.Blocked++
			}
			c.mu.Unlock()
		}
	}
	return t
}

// Stats returns the connection's counters.
func (c *Conn) Stats() Stats {
	s := c.n.stats()
	s.Queued = c.Queued()
	return s
}
