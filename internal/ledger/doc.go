// Package ledger remembers the message ids of a replayed rule for longer than
// its stream does: JetStream recognizes a repeated Nats-Msg-Id for two minutes,
// a rule may promise a week.
//
// The ledger of a rule is a KV bucket with one key for each id. It is derived
// from the stream: the replay service's filler reads the headers of every stored
// message and notes where its id stands. A gateway that has an acknowledgement
// notes the id too, which only makes it known sooner. So whatever dies between
// storing and noting, the stream still says what was stored.
//
//	publish with a key
//	   │ 1. how far is the ledger?        position, at most a second old
//	   │ 2. is the id in it?              yes: `duplicate`, nothing is published
//	   │ 3. full, or too far behind?      refused before anything is stored
//	   ▼ 4. publish                       the stream knows the newest ids itself
//	stream ──headers──► filler ──Create──► bucket ◄──Create── gateway
//
// The stream's own window and the ledger overlap: a publish is refused while the
// filler is behind by more than half the window, so that every id is known to
// one of the two. The order of 1 and 2 matters: a position that was read after
// the lookup could vouch for an id that was noted in between.
//
// An entry can outlive its message: that is the point. It is worth nothing where
// the stream is not the one that stored the message (Position.holds).
package ledger
