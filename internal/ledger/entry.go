package ledger

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Entry says where the message of an id was stored first.
type Entry struct {
	Seq int64 `json:"seq"`
	Ts  int64 `json:"ts,omitempty"` // ms since 1970; 0 where a gateway noted it, which does not know
}

// Found is the message of an id, as far as it is still there.
type Found struct {
	Entry
	Header nats.Header // the message's; nil: the stream does not have it any more
	at     int64       // when it was stored, as far as that is known
}

// Key returns the key of a Nats-Msg-Id. Ids are of any length and of any bytes,
// keys are not: 144 bits of the id's hash stand for it.
func Key(id string) string {
	sum := sha256.Sum256([]byte(id))
	return base64.RawURLEncoding.EncodeToString(sum[:18])
}

// entry is an [Entry] as the bucket has it.
type entry struct {
	Entry
	revision int64
	written  time.Time // by the server's clock
}

// stored returns when the message was stored, as far as that is known: never
// later than its entry was written.
func (e *entry) stored() int64 {
	if e.Ts > 0 {
		return e.Ts
	}
	return e.written.UnixMilli()
}

// positionKey is the key of the [Position]; no hash is that short.
const positionKey = "position"

// Position says how far the ledger is. Times are the NATS server's, in ms since
// 1970.
type Position struct {
	// UpTo: every id that was stored until then is in the ledger, or its message
	// was evicted before anybody could read it.
	UpTo int64 `json:"upTo"`
	// At is when the stream was asked, and Last was its last sequence.
	At   int64 `json:"at"`
	Last int64 `json:"last"`
	// Created is when the stream was made; Window, in ms, how long it remembers
	// ids itself.
	Created int64 `json:"created"`
	Window  int64 `json:"window"`
	Keys    int64 `json:"keys"` // in the ledger
}

// holds reports whether an entry is of the stream as it is. One from before the
// stream was made, or that stands where the stream had not come to when the
// entry was there already, is of messages that were lost: their ids are free.
func (p *Position) holds(e *entry) bool {
	at := e.stored()
	return at >= p.Created && (e.Seq <= p.Last || at > p.At)
}

// lag returns how much of the past, at now, may not be in the ledger.
func (p *Position) lag(now time.Time) time.Duration {
	return time.Duration(now.UnixMilli()-p.UpTo) * time.Millisecond
}

func parseEntry(msg *nats.Msg) (*entry, error) {
	e := &entry{}
	if err := json.Unmarshal(msg.Data, &e.Entry); err != nil {
		return nil, err
	}
	var err error
	e.revision, e.written, err = revision(msg)
	return e, err
}

// revision reads what the server says of a key's value.
func revision(msg *nats.Msg) (int64, time.Time, error) {
	var seq int64
	if err := json.Unmarshal([]byte(wire.HeaderValue(msg.Header, wire.HeaderSequence)), &seq); err != nil {
		return 0, time.Time{}, err
	}
	written, err := time.Parse(time.RFC3339Nano, wire.HeaderValue(msg.Header, wire.HeaderTimestamp))
	return seq, written, err
}
