package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
)

// Kind tells the three kinds of server frames apart.
type Kind uint8

// The kinds of server frames.
const (
	KindMessage Kind = iota // a message of a topic, group or direct
	KindReply               // carries the id of a request
	KindControl             // carries an op
)

// ServerFrame is one frame from a gateway, as a client sees it. Its raw members
// may alias the bytes that were decoded.
type ServerFrame struct {
	Kind Kind `json:"-"`

	ID       int64           `json:"id"`
	OK       json.RawMessage `json:"ok"`
	Progress json.RawMessage `json:"progress"`
	Error    *Error          `json:"-"`

	Topic   string          `json:"topic"`
	Group   string          `json:"group"`
	Event   string          `json:"event"`
	Data    json.RawMessage `json:"data"`
	Text    *string         `json:"text"`
	Base64  *string         `json:"base64"`
	From    string          `json:"from"`
	Direct  bool            `json:"direct"`
	Seq     int64           `json:"seq"`
	Prev    int64           `json:"prev"`
	Ts      int64           `json:"ts"`
	Op      string          `json:"op"`
	Ref     string          `json:"ref"`
	What    string          `json:"what"`
	At      int64           `json:"at"`
	AfterMs int64           `json:"afterMs"`
	// TimeoutMs is how long the sender of a request waits.
	TimeoutMs int64 `json:"timeoutMs"`

	// Of presence, members by user. State may go on in the next frame (More);
	// Count and Sample stand for the diffs of a topic with many members.
	Rev    int64                     `json:"rev"`
	State  map[string]PresenceMember `json:"state"`
	More   bool                      `json:"more"`
	Joins  map[string]PresenceMember `json:"joins"`
	Leaves map[string]PresenceMember `json:"leaves"`
	Count  *int                      `json:"count"`
	Sample map[string]PresenceMember `json:"sample"`
	// Of cursors, by user.
	All   map[string]json.RawMessage `json:"all"`
	Moved map[string]json.RawMessage `json:"moved"`
	Gone  []string                   `json:"gone"`
	// Of a group, members by connection.
	Joined map[string]GroupMember `json:"joined"`
	Left   map[string]GroupMember `json:"left"`
	Meta   json.RawMessage        `json:"meta"`
	Closed bool                   `json:"closed"`

	// Raw is the whole frame.
	Raw json.RawMessage `json:"-"`
}

// Payload returns what the frame carries in `data`, `text` or `base64`: the
// bytes a backend published.
func (f *ServerFrame) Payload() ([]byte, error) {
	switch {
	case f.Text != nil:
		return []byte(*f.Text), nil
	case f.Base64 != nil:
		return base64.StdEncoding.DecodeString(*f.Base64)
	}
	return f.Data, nil
}

// DecodeServer decodes one WebSocket text message from a gateway: a frame or
// an array of frames.
func DecodeServer(data []byte) ([]ServerFrame, error) {
	data = bytes.TrimLeft(data, " \t\r\n")
	if len(data) == 0 || data[0] != '[' {
		f, err := decodeServer(data)
		if err != nil {
			return nil, err
		}
		return []ServerFrame{f}, nil
	}
	var raws []json.RawMessage
	if err := json.Unmarshal(data, &raws); err != nil {
		return nil, fmt.Errorf("decode server frames: %w", err)
	}
	frames := make([]ServerFrame, len(raws))
	for i, raw := range raws {
		f, err := decodeServer(raw)
		if err != nil {
			return nil, err
		}
		frames[i] = f
	}
	return frames, nil
}

func decodeServer(raw []byte) (ServerFrame, error) {
	var f struct {
		ServerFrame
		HasID *json.RawMessage `json:"id"`
		Err   json.RawMessage  `json:"error"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return ServerFrame{}, fmt.Errorf("decode server frame: %w", err)
	}
	if raw[0] != '{' { // null decodes into anything
		return ServerFrame{}, fmt.Errorf("decode server frame: no JSON object")
	}
	f.Raw = raw
	switch {
	case f.HasID != nil:
		f.Kind = KindReply
		if err := json.Unmarshal(*f.HasID, &f.ID); err != nil {
			return ServerFrame{}, fmt.Errorf("decode server frame: id: %w", err)
		}
		if f.Err != nil {
			f.ServerFrame.Error = decodeError(f.Err)
		}
	case f.Op != "":
		f.Kind = KindControl
	}
	return f.ServerFrame, nil
}

// decodeError reads an error object. What can't be read becomes [Internal]; a
// code that is none of ours does too and stays in `details.code`.
func decodeError(raw []byte) *Error {
	var e struct {
		Code         Code            `json:"code"`
		Message      string          `json:"message"`
		RetryAfterMs json.RawMessage `json:"retryAfterMs"`
		Details      map[string]any  `json:"details"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return &Error{Code: Internal, Message: "error: an object with code and message"}
	}
	out := &Error{Code: e.Code, Message: e.Message, Details: e.Details}
	if !e.Code.Known() {
		out.Code = Internal
		out = out.With("code", string(e.Code))
	}
	parseRetry(out, e.RetryAfterMs)
	return out
}

// DecodeError reads an error object as it stands in a frame.
func DecodeError(raw []byte) *Error { return decodeError(raw) }

func parseRetryAfter(e *Error, body []byte) {
	var b struct {
		RetryAfterMs json.RawMessage `json:"retryAfterMs"`
	}
	if json.Unmarshal(body, &b) == nil {
		parseRetry(e, b.RetryAfterMs)
	}
}

func parseRetry(e *Error, raw json.RawMessage) {
	switch ms, ok := parseInt(raw); {
	case isNull(raw):
		e.RetryAfter = Never
	case ok && ms >= 0 && ms <= int64((24*365*time.Hour)/time.Millisecond):
		e.RetryAfter = time.Duration(ms) * time.Millisecond
	}
}
