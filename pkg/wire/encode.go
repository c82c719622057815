package wire

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// Message is a message on its way to a client. Payload is what a backend
// published, as it is; see [AppendPayload].
type Message struct {
	Topic   string // "": left out
	Group   string // in place of a topic; "": left out
	Event   string
	Payload []byte
	From    string // publishing user; "": left out
	Direct  bool   // sent to this user or connection rather than the topic
	// Position on a replayed topic; Seq 0: left out.
	Seq, Prev int64
	Ts        int64
}

// AppendMessage appends the frame of a message.
func AppendMessage(dst []byte, m *Message) []byte {
	dst = append(dst, '{')
	switch {
	case m.Topic != "":
		dst = append(dst, `"topic":`...)
		dst = append(AppendString(dst, m.Topic), ',')
	case m.Group != "":
		dst = append(dst, `"group":`...)
		dst = append(AppendString(dst, m.Group), ',')
	}
	dst = append(dst, `"event":`...)
	dst = AppendString(dst, m.Event)
	dst = append(dst, ',')
	dst = AppendPayload(dst, m.Payload)
	if m.From != "" {
		dst = append(dst, `,"from":`...)
		dst = AppendString(dst, m.From)
	}
	if m.Direct {
		dst = append(dst, `,"direct":true`...)
	}
	if m.Seq > 0 {
		dst = append(dst, `,"seq":`...)
		dst = strconv.AppendInt(dst, m.Seq, 10)
		dst = append(dst, `,"prev":`...)
		dst = strconv.AppendInt(dst, m.Prev, 10)
		dst = append(dst, `,"ts":`...)
		dst = strconv.AppendInt(dst, m.Ts, 10)
	}
	return append(dst, '}')
}

func appendID(dst []byte, id int64) []byte {
	dst = append(dst, `{"id":`...)
	return strconv.AppendInt(dst, id, 10)
}

// AppendOK appends an ok reply. ok is raw JSON; empty means {}.
func AppendOK(dst []byte, id int64, ok []byte) []byte {
	dst = append(appendID(dst, id), `,"ok":`...)
	if len(ok) == 0 {
		ok = []byte("{}")
	}
	return append(append(dst, ok...), '}')
}

// AppendAnswer appends the ok reply of a call: what the worker answered, in
// `ok` when it is JSON, else in `text` or `base64`.
func AppendAnswer(dst []byte, id int64, payload []byte) []byte {
	dst = append(appendID(dst, id), ',')
	return append(appendPayload(dst, `"ok":`, payload), '}')
}

// AppendProgress appends the progress of a call. One that is no JSON is sent as
// a JSON string, of its text or of its base64: in `text` or `base64` it would
// be taken for the answer.
func AppendProgress(dst []byte, id int64, payload []byte) []byte {
	dst = append(appendID(dst, id), `,"progress":`...)
	switch {
	case len(payload) == 0:
		dst = append(dst, "null"...)
	case ValidJSON(payload):
		dst = append(dst, payload...)
	case utf8.Valid(payload):
		dst = AppendString(dst, string(payload))
	default:
		dst = append(dst, '"')
		dst = append(base64.StdEncoding.AppendEncode(dst, payload), '"')
	}
	return append(dst, '}')
}

// AppendErrorReply appends an error reply; id 0 stands for a frame without one.
func AppendErrorReply(dst []byte, id int64, err *Error) []byte {
	dst = append(appendID(dst, id), `,"error":`...)
	return append(AppendError(dst, err), '}')
}

// AppendError appends the object that an error is on the wire.
func AppendError(dst []byte, e *Error) []byte {
	dst = append(dst, `{"code":`...)
	dst = AppendString(dst, string(e.Code))
	dst = append(dst, `,"message":`...)
	dst = AppendString(dst, e.Message)
	if ms, null, present := e.RetryAfterMs(); null {
		dst = append(dst, `,"retryAfterMs":null`...)
	} else if present {
		dst = append(dst, `,"retryAfterMs":`...)
		dst = strconv.AppendInt(dst, ms, 10)
	}
	if len(e.Details) > 0 {
		if details, err := json.Marshal(e.Details); err == nil {
			dst = append(append(dst, `,"details":`...), details...)
		}
	}
	return append(dst, '}')
}

// The events of a system frame.
const (
	SystemDegraded     = "degraded"     // a backend is away: `what` names it
	SystemRecovered    = "recovered"    // it is back
	SystemRefresh      = "refresh"      // an operator wants the client to send a newer token
	SystemSubscribed   = "subscribed"   // an operator subscribed the connection to the topic in `what`
	SystemUnsubscribed = "unsubscribed" // an operator ended that subscription
)

// AppendSystem appends a system frame: what happened on the server's side. what names the backend or the
// topic that it is about, and is left out where it is empty; at is in epoch
// milliseconds.
func AppendSystem(dst []byte, event, what string, at int64) []byte {
	dst = append(dst, `{"op":"system","event":`...)
	dst = AppendString(dst, event)
	if what != "" {
		dst = append(dst, `,"what":`...)
		dst = AppendString(dst, what)
	}
	dst = append(dst, `,"at":`...)
	return append(strconv.AppendInt(dst, at, 10), '}')
}

// AppendDrain appends a drain frame: reconnect elsewhere after this many milliseconds.
func AppendDrain(dst []byte, afterMs int64) []byte {
	dst = append(dst, `{"op":"drain","afterMs":`...)
	return append(strconv.AppendInt(dst, afterMs, 10), '}')
}

// AppendRequest appends a request to the client, answered by a `reply` with the same ref.
func AppendRequest(dst []byte, ref, event string, payload []byte, timeoutMs int64) []byte {
	dst = append(dst, `{"op":"request","ref":`...)
	dst = AppendString(dst, ref)
	dst = append(dst, `,"event":`...)
	dst = AppendString(dst, event)
	dst = append(dst, ',')
	dst = AppendPayload(dst, payload)
	dst = append(dst, `,"timeoutMs":`...)
	return append(strconv.AppendInt(dst, timeoutMs, 10), '}')
}

// Ping is the frame that asks a silent client for a sign of life.
const Ping = `{"op":"ping"}`

// Hello is the ok reply to `hello`.
type Hello struct {
	Conn, User, Session, Gateway string
	HeartbeatMs                  int64
	MaxPayloadBytes              int64
	ExpiresAt                    int64    // epoch ms; 0: left out
	Topics                       []string // subscribed by the token's claim
}

// AppendHello appends the ok value of a hello.
func AppendHello(dst []byte, h *Hello) []byte {
	dst = append(dst, `{"conn":`...)
	dst = AppendString(dst, h.Conn)
	dst = append(dst, `,"user":`...)
	dst = AppendString(dst, h.User)
	dst = append(dst, `,"session":`...)
	dst = AppendString(dst, h.Session)
	dst = append(dst, `,"gateway":`...)
	dst = AppendString(dst, h.Gateway)
	dst = append(dst, `,"heartbeatMs":`...)
	dst = strconv.AppendInt(dst, h.HeartbeatMs, 10)
	dst = append(dst, `,"maxPayloadBytes":`...)
	dst = strconv.AppendInt(dst, h.MaxPayloadBytes, 10)
	if h.ExpiresAt > 0 {
		dst = append(dst, `,"expiresAt":`...)
		dst = strconv.AppendInt(dst, h.ExpiresAt, 10)
	}
	if len(h.Topics) > 0 {
		dst = append(dst, `,"topics":[`...)
		for i, t := range h.Topics {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendString(dst, t)
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

// AppendExpires appends the ok value of a refresh; at is in epoch milliseconds.
func AppendExpires(dst []byte, at int64) []byte {
	dst = append(dst, `{"expiresAt":`...)
	return append(strconv.AppendInt(dst, at, 10), '}')
}
