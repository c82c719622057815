package wire

import (
	"strconv"
	"strings"
)

// Headers of NATS messages. Names are matched without regard to case on
// ingest, since client libraries differ; the last value counts, since a
// JetStream server appends its own to whatever a publisher wrote.
const (
	HeaderEvent      = "Fl-Event"      // event name; `message` when absent
	HeaderTopic      = "Fl-Topic"      // topic of a direct message
	HeaderUser       = "Fl-User"       // user whose client sent it; set by gateways only
	HeaderConn       = "Fl-Conn"       // connection whose client sent it; set by gateways only
	HeaderExclude    = "Fl-Exclude"    // connection that does not get it
	HeaderCoalesce   = "Fl-Coalesce"   // latest wins per connection and key
	HeaderAttributes = "Fl-Attributes" // JSON object of the caller's attributes, on calls
	HeaderDeadline   = "Fl-Deadline"   // epoch ms after which nobody waits for the reply
	HeaderCancel     = "Fl-Cancel"     // subject on which a message means: cancelled
	HeaderProgress   = "Fl-Progress"   // on a reply: progress, not the answer
	HeaderClear      = "Fl-Clear"      // on a topic's message: the topic was cleared up to here
	HeaderHead       = "Fl-Head"       // on fl.seq: a hint that the topic has reached this sequence; no message
	HeaderRole       = "Fl-Role"       // on a group's message: only members of this role get it
	HeaderMember     = "Fl-Member"     // on a group's message: only this member gets it
	HeaderMatch      = "Fl-Match"      // JSON object of the attributes that connections must have
	HeaderBatch      = "Fl-Batch"      // "1": the body is an array of events
	HeaderTarget     = "Fl-Target"     // on a request to a connection: the user whose it must be
	HeaderProbe      = "Fl-Probe"      // on fl.user: no message; who holds the user is to say so
	HeaderClient     = "Fl-Client"     // "1" on an error reply: it is what the client answered
	HeaderErrorCode  = "Nats-Service-Error-Code"
	HeaderError      = "Nats-Service-Error"
	HeaderSequence   = "Nats-Sequence"
	HeaderLastSeq    = "Nats-Last-Sequence"
	HeaderTimestamp  = "Nats-Time-Stamp"
	HeaderMsgID      = "Nats-Msg-Id"
	HeaderTraceState = "tracestate"
	HeaderTrace      = "traceparent"
)

// HeaderValue returns the last value of a header, whatever the case of its
// name; "" when it is not there. Of several spellings the canonical one counts,
// else the first in byte order: every reader sees the same one.
func HeaderValue(h map[string][]string, name string) string {
	if v, ok := h[name]; ok && len(v) > 0 {
		return v[len(v)-1]
	}
	var spelling, value string
	for k, v := range h {
		if len(k) == len(name) && len(v) > 0 && strings.EqualFold(k, name) && counts(k, spelling, name) {
			spelling, value = k, v[len(v)-1]
		}
	}
	return value
}

// counts reports whether a header spelled k counts rather than one spelled
// other ("": none yet).
func counts(k, other, name string) bool {
	return other == "" || k == name || other != name && k < other
}

// SetHeader sets a header. A value that [ValidHeaderValue] refuses is an
// INVALID_ARGUMENT.
func SetHeader(h map[string][]string, name, value string) error {
	if !ValidHeaderValue(value) {
		return InvalidField(name, "no bytes below 0x20, no 0x7F and no space at either end")
	}
	h[name] = []string{value}
	return nil
}

// ValidHeaderValue reports whether a value may stand in a NATS header and is
// read as it was written. A byte below 0x20 or 0x7F could end the header and
// begin another; a space at either end is cut off by readers, which would make
// the user " ann" another one.
func ValidHeaderValue(value string) bool {
	if value != "" && (value[0] == ' ' || value[len(value)-1] == ' ') {
		return false
	}
	for i := 0; i < len(value); i++ {
		if value[i] < 0x20 || value[i] == 0x7f {
			return false
		}
	}
	return true
}

// Meta is what the headers of a message on a topic, or of a direct message, say.
type Meta struct {
	Event   string // never empty
	Topic   string
	User    string
	Conn    string
	Exclude string
	// Coalesce is the key under which a newer message takes the place of one
	// that waits; "" for none.
	Coalesce string
	// Batch: the body is an array of events; see [ParseBatch].
	Batch bool
}

// metaHeaders are the headers that [ParseMeta] reads, by their index.
var metaHeaders = [...]string{
	metaEvent: HeaderEvent, metaTopic: HeaderTopic, metaUser: HeaderUser, metaConn: HeaderConn, metaExclude: HeaderExclude,
	metaCoalesce: HeaderCoalesce, metaBatch: HeaderBatch,
}

const (
	metaEvent = iota
	metaTopic
	metaUser
	metaConn
	metaExclude
	metaCoalesce
	metaBatch
)

// ParseMeta reads the headers of a message in one pass; of several spellings
// and values it takes what [HeaderValue] takes. A value that is not allowed (an
// event with a quote, a topic with a space, a user that is none) counts as
// absent: a worker's mistake must not make a message vanish.
func ParseMeta(h map[string][]string) Meta {
	var values, spellings [len(metaHeaders)]string
	for k, v := range h {
		if len(v) == 0 || len(k) < 7 || k[2] != '-' {
			continue
		}
		for i, name := range metaHeaders {
			if len(k) == len(name) && (k == name || strings.EqualFold(k, name)) {
				if counts(k, spellings[i], name) {
					spellings[i], values[i] = k, v[len(v)-1]
				}
				break
			}
		}
	}
	m := Meta{Event: DefaultEvent, Conn: values[metaConn], Exclude: values[metaExclude], Batch: values[metaBatch] == "1"}
	if validLabel(values[metaEvent]) {
		m.Event = values[metaEvent]
	}
	if validTopic(values[metaTopic], false) {
		m.Topic = values[metaTopic]
	}
	if key := values[metaCoalesce]; key != "" && CheckKey(key) == nil {
		m.Coalesce = key
	}
	if values[metaUser] != "" && CheckUser(values[metaUser]) == nil {
		m.User = values[metaUser]
	}
	return m
}

// DefaultEvent is the event of a message that names none.
const DefaultEvent = "message"

// ErrorHeader writes an error into the headers of a reply.
func ErrorHeader(h map[string][]string, e *Error) {
	h[HeaderErrorCode] = []string{string(e.Code)}
	h[HeaderError] = []string{cleanHeader(e.Message)}
}

func cleanHeader(s string) string {
	if ValidHeaderValue(s) {
		return s
	}
	return strings.Trim(strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s), " ")
}

// ParseErrorHeader returns the error that the headers of a reply carry, or
// nil. A code that is none of ours becomes [Internal] with `details.code`.
func ParseErrorHeader(h map[string][]string, body []byte) *Error {
	code := HeaderValue(h, HeaderErrorCode)
	if code == "" {
		return nil
	}
	e := &Error{Code: Code(code), Message: HeaderValue(h, HeaderError)}
	if !e.Code.Known() {
		e.Code = Internal
		e = e.With("code", code)
	}
	if e.Code.Retries() {
		parseRetryAfter(e, body)
	}
	return e
}

// Deadline returns the value of [HeaderDeadline] for a time in epoch milliseconds.
func Deadline(ms int64) string { return strconv.FormatInt(ms, 10) }

// AppendErrorBody appends the body of a reply that carries an error in its
// headers: {"retryAfterMs":…} where the code has one, else {}.
func AppendErrorBody(dst []byte, e *Error) []byte {
	switch ms, null, present := e.RetryAfterMs(); {
	case null:
		return append(dst, `{"retryAfterMs":null}`...)
	case present:
		dst = append(dst, `{"retryAfterMs":`...)
		return append(strconv.AppendInt(dst, ms, 10), '}')
	}
	return append(dst, '{', '}')
}
