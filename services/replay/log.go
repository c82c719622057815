package replay

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Log is the history of all topics of one rule. Its methods may be called
// concurrently and by several processes at once; they return a *wire.Error
// where a caller can act on it: UNAVAILABLE while the storage is away.
//
// A topic retains its newest Size messages that are younger than TTL, unless the
// log grows above Bytes: then the oldest goes, of whatever topic. What is kept
// beyond is evidence only: never returned, never counted.
type Log interface {
	// Since returns retained messages of a topic, oldest first: those after
	// q.After, or with q.Last the newest. It returns no more than q.Limit
	// messages and about q.Bytes bytes of payload, but one message if there is
	// any; More says that others follow.
	//
	// Truncated says that a message after q.After may not be among the retained
	// ones. It is exact: never false when one is gone, and true only when one
	// is, or when the position can't be proven: its message is not there with
	// that time, its time is older than what the log could remember, or it was
	// taken on a topic without messages and Bytes evicted behind it what nobody
	// watched. After 0 without a time is the beginning: never truncated. A position past the
	// head is truncated only with a time. With Last nothing is ever truncated.
	//
	// A message that was stored before the call is never missing. Prev of each
	// message is the one before it on the topic as far as that is kept.
	Since(ctx context.Context, q Query) (*wire.ReplayPage, error)

	// Head returns the newest message of a topic, zero where there is none, and
	// the position of who begins to listen now. It stays known after all
	// messages expired. A message that was stored before the call is seen.
	Head(ctx context.Context, topic string) (head, at wire.Position, err error)

	// Heads returns the newest message of each topic, zero where there is none,
	// from what the log has in memory: it may not have seen what was stored
	// after upTo, which it has reached in the whole stream.
	Heads(ctx context.Context, topics []string) (heads []wire.Position, upTo int64, err error)

	// Append stores a message behind all others and returns where. An entry
	// whose ID was stored within the dedupe window is not stored again: the
	// first one's place is returned, as duplicate. An error has details.outcome.
	Append(ctx context.Context, e Entry) (wire.ReplayStored, error)

	// AppendAll stores all entries one behind the other, or none.
	AppendAll(ctx context.Context, entries []Entry) ([]wire.ReplayStored, error)

	// ClearTopic removes all messages of a topic. Every position taken before
	// is truncated from then on; other topics keep theirs.
	ClearTopic(ctx context.Context, topic string) error

	// Clear removes the messages of all topics; positions taken before are
	// truncated from then on.
	Clear(ctx context.Context) error

	// Topics returns topics with messages in order of their names, those that
	// match (all when empty) and come after cursor, at most limit, with how many
	// messages are kept (expired ones may still be counted).
	Topics(ctx context.Context, match, cursor string, limit int) ([]wire.ReplaySummary, error)
}

// Query is what [Log.Since] is asked.
type Query struct {
	Topic string
	// After is the position: its time is 0 where it is not known, and negative
	// for one that was taken on a topic without messages.
	After wire.Position
	Last  int // > 0: the newest so many, whatever After is
	Limit int // most messages; > 0
	Bytes int // bound of their payloads together; > 0
}

// Entry is a message to store.
type Entry struct {
	Topic   string
	Event   string
	Payload []byte
	User    string // "": none
	Exclude string // connection that does not get it; "": none
	ID      string // unique in the log within the dedupe window; "": never a duplicate
}

// Retention is what a log promises to keep of each topic.
type Retention struct {
	Size   int           // newest messages
	TTL    time.Duration // younger than this; 0: for ever
	Dedupe time.Duration // how long an ID is remembered
	Bytes  int64         // of the whole log: above it the oldest of any topic goes; 0: no bound
}

// memory is how long a log remembers that a message was there after it expired:
// the newest of each topic stays that long as evidence.
const memory = 7 * 24 * time.Hour

// forgotten reports whether a position of that age can't be proven any more.
func (r Retention) forgotten(age time.Duration) bool { return r.TTL > 0 && age > r.TTL+memory }

// expired reports whether a message stored at ts, in ms, is too old at now.
func (r Retention) expired(ts int64, now time.Time) bool {
	return r.TTL > 0 && now.UnixMilli()-ts >= r.TTL.Milliseconds()
}
