package outbox

import "sync/atomic"

// Policy says what becomes of a topic's messages for a connection that falls
// behind.
type Policy uint8

const (
	// Disconnect closes the connection with 1013 when its queue is full. It is
	// the zero value.
	Disconnect Policy = iota
	// DropOldest drops the oldest queued messages of such topics until the new
	// one fits, and the new one if they don't make enough room. What is told of a
	// loss (see Source.Skip) is never dropped.
	DropOldest
	// Conflate replaces the queued message of the same source, at its place in
	// the queue, while the peer is behind: it gets the latest value only. Where
	// there is nothing to replace and the queue is full, it is Disconnect: the
	// latest value could not be kept.
	Conflate

	policies
)

// String returns the policy as the rules file spells it.
func (p Policy) String() string {
	switch p {
	case Disconnect:
		return "disconnect"
	case DropOldest:
		return "drop-oldest"
	case Conflate:
		return "conflate"
	}
	return "unknown"
}

// Source is what the messages of one topic share: the policy and a count of what
// was dropped under it. Its address is the key by which messages are conflated.
// It must not be copied, and Policy and Skip must not change once the Source has
// been passed to [Conn.Deliver]: a new policy is a new Source.
type Source struct {
	Policy Policy

	// Skip appends to dst the frame, one JSON text, that stands for the messages
	// from to to, which the peer was not sent: its position moves from from.Prev
	// to to.Seq. Only messages passed to [Conn.DeliverAt] are told of; nil: none
	// is. It is called with the connection locked: it must neither wait nor call
	// the connection.
	Skip func(dst []byte, from, to Mark) []byte

	dropped atomic.Uint64
}

// Dropped returns how many messages of the source were dropped or replaced by
// newer ones, counted once per connection.
func (s *Source) Dropped() uint64 { return s.dropped.Load() }

// policy returns the policy for a message of s; replies have no source.
func (s *Source) policy() Policy {
	if s == nil {
		return Disconnect
	}
	return s.Policy
}
