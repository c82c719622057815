package streams

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// MessageID returns the id that JetStream deduplicates a user's keyed publish
// by. Ids are of a whole stream, so topic and user are part of it: nobody's key
// meets another's. salt is 0, or counts tries after an id was found taken by
// somebody who wrote it by hand.
func MessageID(topic, user, key string, salt int) string {
	id := messageID(topic, wire.EscapeToken(user), key)
	if salt > 0 {
		id += ":" + strconv.Itoa(salt)
	}
	return id
}

// ProducerID is [MessageID] for a producer, a worker that publishes through the
// replay service; its name may be that of a user, or empty.
func ProducerID(topic, producer, key string) string {
	return messageID(topic, "::"+wire.EscapeToken(producer), key) // no user's token has a colon
}

func messageID(topic, publisher, key string) string {
	sum := sha256.Sum256([]byte(topic))
	return base64.RawURLEncoding.EncodeToString(sum[:12]) + ":" + publisher + ":" + wire.EscapeToken(key)
}

// Ack is JetStream's answer to a publish.
type Ack struct {
	Stream    string `json:"stream"`
	Seq       int64  `json:"seq"`
	Duplicate bool   `json:"duplicate"`
}

// Codes of the JetStream API that say what became of a publish.
const (
	codeNoCluster        = 10008 // no JetStream quorum at the moment
	codeInsufficient     = 10023 // resources
	codeTooLarge         = 10054
	codeStoreFailed      = 10077
	codeDuplicatePending = 10158 // the first message with this id is being stored
	codeBatchIncomplete  = 10176 // also what the commit of one batch too many hears
	codeTooManyBatches   = 10210
	codeBatchDuplicate   = 10201
)

// ParseAck reads what came to the reply subject of a publish. Its error is a
// *wire.Error with details.outcome: none, the message was certainly not stored,
// or unknown. retry says that the same message may be sent again at once.
func ParseAck(msg *nats.Msg) (ack Ack, retry bool, err error) {
	if len(msg.Data) == 0 && wire.HeaderValue(msg.Header, "Status") == "503" {
		return Ack{}, true, unavailable("no stream takes the topic", "none")
	}
	var reply struct {
		Ack
		Error *struct {
			Code        int    `json:"code"`
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return Ack{}, false, unavailable("an acknowledgement that can't be read", "unknown")
	}
	if reply.Error == nil {
		if reply.Stream == "" || reply.Seq <= 0 {
			return Ack{}, false, unavailable("an acknowledgement that no stream sent", "unknown")
		}
		return reply.Ack, false, nil
	}
	e := reply.Error
	switch e.ErrCode {
	case codeTooLarge:
		return Ack{}, false, (&wire.Error{Code: wire.ResourceExhausted, Message: "larger than the topic's rule takes", RetryAfter: wire.Never}).With("outcome", "none")
	case codeBatchDuplicate:
		return Ack{}, false, wire.Errorf(wire.AlreadyExists, "a message of the batch was stored before under its key").With("outcome", "none")
	case codeDuplicatePending:
		// An earlier message of this id is on its way, and may yet be stored.
		return Ack{}, true, unavailable(e.Description, "unknown")
	case codeNoCluster, codeInsufficient, codeStoreFailed, codeBatchIncomplete, codeTooManyBatches:
		return Ack{}, true, unavailable(e.Description, "none")
	}
	if e.Code >= 500 { // the server's trouble, not the message's; 503 passes soonest
		return Ack{}, e.Code == 503, unavailable(e.Description, "none")
	}
	return Ack{}, false, wire.Errorf(wire.FailedPrecondition, "the stream refused the message: %s", e.Description).With("outcome", "none").With("jetstream", e.ErrCode)
}

func unavailable(what, outcome string) *wire.Error {
	return wire.Errorf(wire.Unavailable, "%s", what).With("outcome", outcome)
}

// Batch marks msgs as one atomic batch of JetStream: the last one commits it.
// Only the last is answered with an acknowledgement of the whole.
func Batch(id string, msgs []*nats.Msg) {
	for i, msg := range msgs {
		if msg.Header == nil {
			msg.Header = nats.Header{}
		}
		msg.Header["Nats-Batch-Id"] = []string{id}
		msg.Header["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
		if i == len(msgs)-1 {
			msg.Header["Nats-Batch-Commit"] = []string{"1"}
		}
	}
}

// MaxBatch is the most messages of one atomic batch.
const MaxBatch = 1000

// Stored reads where a message of a stream stands, from the headers that the
// server wrote when it republished or returned it. prev is -1 where the server
// did not say it, as for one that was read. ok is false where the message did
// not come from a stream.
func Stored(h nats.Header) (at wire.Position, prev int64, ok bool) {
	at.Seq, ok = number(wire.HeaderValue(h, wire.HeaderSequence))
	if !ok || at.Seq == 0 {
		return wire.Position{}, 0, false
	}
	stored, err := time.Parse(time.RFC3339Nano, wire.HeaderValue(h, wire.HeaderTimestamp))
	if err != nil {
		return wire.Position{}, 0, false
	}
	at.Ts, prev = stored.UnixMilli(), -1
	if last := wire.HeaderValue(h, wire.HeaderLastSeq); last != "" {
		if prev, ok = number(last); !ok {
			return wire.Position{}, 0, false
		}
	}
	return at, prev, true
}

func number(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0
}

// Marker reports whether a stored message says that its topic was cleared.
func Marker(h nats.Header) bool { return wire.HeaderValue(h, wire.HeaderClear) != "" }

// DirectGet is the subject on which a stream's messages are read.
func DirectGet(stream string) string { return "$JS.API.DIRECT.GET." + stream }

// LeaderGet is the subject on which the leader alone answers for a message.
func LeaderGet(stream string) string { return "$JS.API.STREAM.MSG.GET." + stream }

// Elected is the subject on which a stream's new leader is announced.
const Elected = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."

// Deleted is the subject on which it is announced that a stream was deleted.
const Deleted = "$JS.EVENT.ADVISORY.STREAM.DELETED."

// StreamOf returns the stream's name in an [Elected] advisory.
func StreamOf(subject string) string { return strings.TrimPrefix(subject, Elected) }
