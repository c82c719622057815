package replay

import (
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// evidence is what a log shows, at one moment, about a position of a topic.
// Kept counts everything that is stored of the topic, expired messages and
// clear markers too: a topic's kept messages are always its newest.
type evidence struct {
	kept        int           // messages of the topic that are stored
	first, head wire.Position // the oldest and newest of them
	next        wire.Position // the oldest of them after the position; zero: none
	marker      int64         // the newest clear marker of the topic, or where the whole log was cleared; 0: none

	// at is what is stored under the position's sequence, of whatever topic.
	at      wire.Position // zero: nothing
	atTopic bool          // it is this topic's

	streamFirst wire.Position // the oldest stored message of any topic; Seq is last+1 of an empty stream
	streamLast  int64         // the last sequence given out

	// Before grownAt the stream kept only grownFrom messages of each topic.
	grownAt   int64
	grownFrom int

	// For a position of an empty topic, what a witness of the topic has seen
	// behind it: that a message is gone, or that none but those kept ever came.
	lost, seen bool
}

// truncated decides whether a message of the topic after p may not be retained.
func truncated(p wire.Position, e evidence, r Retention, now time.Time) bool {
	return !proven(p, e, r, now) || e.next != wire.Position{} && !e.beginning(p) && r.expired(e.next.Ts, now)
}

// beginning reports whether p stands for everything that is retained.
func (e *evidence) beginning(p wire.Position) bool { return p.Seq == 0 && p.Ts >= 0 }

// proven reports whether the stream still has every message of the topic that
// it was ever given after p.
func proven(p wire.Position, e evidence, r Retention, now time.Time) bool {
	switch {
	case e.beginning(p):
		return true
	case e.marker > p.Seq:
		return false
	case p.Ts > 0:
		// A message's position: nothing after it is gone as long as it is there
		// itself, for a topic loses its oldest first.
		return e.atTopic && e.at == p
	case p.Ts < 0:
		return e.provesEmpty(p, r, now)
	case e.kept == 0:
		// Without a time the log's identity isn't checked.
		return p.Seq > e.streamLast
	}
	return p.Seq >= e.first.Seq
}

// provesEmpty reports whether nothing that was stored of the topic after p, a
// position taken when it was empty, is gone from the stream.
func (e *evidence) provesEmpty(p wire.Position, r Retention, now time.Time) bool {
	taken := -p.Ts
	switch {
	case r.forgotten(now.Sub(time.UnixMilli(taken))):
		return false
	case e.streamLast < p.Seq:
		return false // another log
	case e.streamFirst.Seq <= p.Seq && e.streamFirst.Ts > taken:
		return false // another log: what it has before p came later than p
	case e.lost:
		return false
	case r.Bytes > 0 && e.streamFirst.Seq > p.Seq+1 && !e.seen:
		// The bound in bytes evicts the oldest of any topic, and leaves no trace.
		return false
	case e.kept == 0:
		// Purged as a whole: then not even what came after p is there.
		return e.streamLast == p.Seq || e.streamFirst.Seq <= e.streamLast
	case e.first.Seq <= p.Seq:
		return true
	}
	// Size evicts only from a topic that is full, by what it was then too, and
	// expiry leaves the newest expired message.
	return e.kept <= r.Size && (p.Seq >= e.grownAt || e.kept < e.grownFrom)
}
