package wire

import (
	"encoding/json"
	"slices"
	"strconv"
)

// Position is a place in a topic's log: a message's sequence, and when it was
// stored in milliseconds since 1970. The time tells a log that was wiped and
// began again from the one that is known.
//
// A position taken on a topic without messages is the last sequence of the
// whole stream with the time of asking, negated: it is no message's.
type Position struct {
	Seq int64 `json:"seq"`
	Ts  int64 `json:"ts,omitempty"` // 0: not known, and not checked
}

// Empty reports whether the position was taken on a topic without messages.
func (p Position) Empty() bool { return p.Ts < 0 }

// Requests to the replay service and its replies. Sequences and times are those
// of [Position].
type (
	// ReplayTopic asks `head` and `clear-topic`.
	ReplayTopic struct {
		Topic string `json:"topic"`
	}

	// ReplayHead is the newest message of a topic: 0, 0 where there never was
	// one. At is the position of who begins to listen now.
	ReplayHead struct {
		Seq int64    `json:"seq"`
		Ts  int64    `json:"ts"`
		At  Position `json:"at"`
	}

	// ReplayAfter asks `gap`, and is one topic of `heads`.
	ReplayAfter struct {
		Topic string `json:"topic"`
		After int64  `json:"after"`
		Ts    int64  `json:"ts,omitempty"`
	}

	// ReplayHeadsRequest asks for the heads of topics of one rule.
	ReplayHeadsRequest struct {
		Topics []ReplayAfter `json:"topics"`
	}

	// ReplayHeads has the newest message of each topic, in order, and how far
	// into the stream the replica knew when it answered.
	ReplayHeads struct {
		Heads []Position `json:"heads"`
		UpTo  int64      `json:"upTo"`
	}

	// ReplaySinceRequest asks for the messages after a position, oldest first;
	// or with Last for the newest ones.
	ReplaySinceRequest struct {
		Topic string `json:"topic"`
		After int64  `json:"after"`
		Ts    int64  `json:"ts,omitempty"`
		Limit int    `json:"limit,omitempty"` // default 100, at most 1000
		Last  int    `json:"last,omitempty"`  // in place of After; at most 1000
	}

	// ReplayGap answers `gap`: whether a message after the position is gone.
	ReplayGap struct {
		Truncated   bool  `json:"truncated"`
		MissingFrom int64 `json:"missingFrom,omitempty"`
		Seq         int64 `json:"seq"`
	}

	// ReplayPublish is one message for `publish` and `batch`. Producer and Key
	// together are remembered within the rule's dedupe window.
	ReplayPublish struct {
		Topic    string          `json:"topic"`
		Event    string          `json:"event,omitempty"`
		Data     json.RawMessage `json:"data"`
		Producer string          `json:"producer,omitempty"`
		Key      string          `json:"key,omitempty"`
	}

	// ReplayStored says where a message was stored; Duplicate, that an earlier
	// one of the same key was.
	ReplayStored struct {
		Seq       int64 `json:"seq"`
		Duplicate bool  `json:"duplicate"`
	}

	// ReplayBatch asks `batch`; Atomic stores all or none.
	ReplayBatch struct {
		Messages []ReplayPublish `json:"messages"`
		Atomic   bool            `json:"atomic,omitempty"`
	}

	// ReplayResults has one result per message of a batch, in order.
	ReplayResults struct {
		Results []ReplayResult `json:"results"`
	}

	// ReplayResult is where a message was stored, or why it was not.
	ReplayResult struct {
		Seq       int64           `json:"seq,omitempty"`
		Duplicate bool            `json:"duplicate,omitempty"`
		Error     json.RawMessage `json:"error,omitempty"` // as [AppendError] writes it
	}

	// ReplayTopicsRequest lists topics that have messages, by name.
	ReplayTopicsRequest struct {
		Match  string `json:"match,omitempty"`  // a pattern; all when empty
		Limit  int    `json:"limit,omitempty"`  // default 100, at most 1000
		Cursor string `json:"cursor,omitempty"` // of the page before
	}

	// ReplayTopics is a page of topics.
	ReplayTopics struct {
		Topics []ReplaySummary `json:"topics"`
		Cursor string          `json:"cursor,omitempty"` // of the next page; "" at the end
	}

	// ReplaySummary is how many messages a topic keeps, and the newest's sequence.
	ReplaySummary struct {
		Topic string `json:"topic"`
		Count int    `json:"count"`
		Seq   int64  `json:"seq"`
	}
)

// ReplayMessage is a message of a topic's log. Payload is what was published;
// on the wire it is `data`, `text` or `base64`.
type ReplayMessage struct {
	Position
	Prev    int64 // sequence of the message before it on the topic; 0: none is kept
	Event   string
	Payload []byte
	User    string // who published it; "": not known
	Exclude string // the connection that is not to get it
}

// ReplayPage is what `since` answers.
type ReplayPage struct {
	Messages []ReplayMessage
	// Base is the position that the messages follow: the one asked for, where
	// nothing after it is gone, else what stands before the oldest that is kept.
	Base Position
	// Head is the newest message of the topic; 0 where there never was one. At
	// is the position of who begins to listen now.
	Head, At    Position
	Truncated   bool  // a message after the position asked for is gone
	MissingFrom int64 // the first that may be gone
	More        bool  // there are more messages behind these
}

// What a page takes beside its messages, and a message beside its parts.
const (
	pageRoom    = 256
	messageRoom = 128
)

// AppendJSON appends the page as `since` answers it. Payloads keep their bytes.
func (p *ReplayPage) AppendJSON(dst []byte) []byte {
	size := pageRoom
	for i := range p.Messages {
		m := &p.Messages[i]
		size += len(m.Payload) + len(m.Event) + len(m.User) + len(m.Exclude) + messageRoom
	}
	dst = append(slices.Grow(dst, size), `{"messages":[`...)
	for i := range p.Messages {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = p.Messages[i].appendJSON(dst)
	}
	dst = append(dst, `],"seq":`...)
	dst = strconv.AppendInt(dst, p.Head.Seq, 10)
	dst = append(dst, `,"ts":`...)
	dst = strconv.AppendInt(dst, p.Head.Ts, 10)
	dst = append(dst, `,"truncated":`...)
	dst = strconv.AppendBool(dst, p.Truncated)
	if p.Truncated {
		dst = append(dst, `,"missingFrom":`...)
		dst = strconv.AppendInt(dst, p.MissingFrom, 10)
	}
	dst = append(dst, `,"more":`...)
	dst = strconv.AppendBool(dst, p.More)
	dst = append(dst, `,"base":`...)
	dst = appendPosition(dst, p.Base)
	dst = append(dst, `,"at":`...)
	return append(appendPosition(dst, p.At), '}')
}

func appendPosition(dst []byte, p Position) []byte {
	dst = append(dst, `{"seq":`...)
	dst = strconv.AppendInt(dst, p.Seq, 10)
	if p.Ts != 0 {
		dst = append(dst, `,"ts":`...)
		dst = strconv.AppendInt(dst, p.Ts, 10)
	}
	return append(dst, '}')
}

func (m *ReplayMessage) appendJSON(dst []byte) []byte {
	dst = AppendMessage(dst, &Message{Event: m.Event, Payload: m.Payload, From: m.User, Seq: m.Seq, Prev: m.Prev, Ts: m.Ts})
	if m.Exclude != "" {
		dst = append(dst[:len(dst)-1], `,"exclude":`...)
		dst = append(AppendString(dst, m.Exclude), '}')
	}
	return dst
}
