package wire

import (
	"strconv"
	"strings"
	"time"
)

// Frame is one frame from a client, checked: names and sizes are as the
// protocol allows. Its strings are its own; Data, Meta and Messages alias the
// bytes that were decoded.
type Frame struct {
	ID int64 // 0: the frame has none
	Op Op

	Topic   string // of subscribe and unsubscribe: topic or pattern
	Event   string
	Key     string // idempotency key
	Method  string
	Token   string
	Session string
	Client  string // what the client calls itself
	Group   string
	Role    string
	Member  string
	Page    string // cursor of a paged listing
	Ref     string // of reply: the request that it answers
	RefID   int64  // of cancel: the id of the call

	Data     []byte // raw JSON; nil: absent
	Meta     []byte // raw JSON; nil: absent
	Messages []BatchMessage
	Error    *Error // of reply

	Presence string // "", "watch" or "join"
	Cursors  bool
	Atomic   bool
	NoEcho   bool
	After    int64 // valid when HasAfter
	Ts       int64
	Last     int64 // 0: absent
	Limit    int64 // 0: absent
	Timeout  time.Duration
	HasAfter bool
	HasTs    bool
}

// BatchMessage is one message of a `batch`.
type BatchMessage struct {
	Topic, Event, Key string
	Data              []byte // raw JSON; nil: absent
}

// field is a member of a client frame. Members that an op does not list are
// unknown there and ignored.
type field uint8

const (
	fieldTopic field = iota
	fieldPattern
	fieldEvent
	fieldData
	fieldKey
	fieldEcho
	fieldToken
	fieldClient
	fieldSession
	fieldAfter
	fieldTs
	fieldLast
	fieldPresence
	fieldCursors
	fieldMessages
	fieldAtomic
	fieldLimit
	fieldPage
	fieldGroup
	fieldRole
	fieldMember
	fieldMeta
	fieldMethod
	fieldTimeout
	fieldRef
	fieldRefID
	fieldError
	numFields
)

var fieldNames = [numFields]string{
	fieldTopic: "topic", fieldPattern: "topic", fieldEvent: "event", fieldData: "data", fieldKey: "key",
	fieldEcho: "echo", fieldToken: "token", fieldClient: "client", fieldSession: "session", fieldAfter: "after",
	fieldTs: "ts", fieldLast: "last", fieldPresence: "presence", fieldCursors: "cursors", fieldMessages: "messages",
	fieldAtomic: "atomic", fieldLimit: "limit", fieldPage: "cursor", fieldGroup: "group", fieldRole: "role",
	fieldMember: "member", fieldMeta: "meta", fieldMethod: "method", fieldTimeout: "timeoutMs", fieldRef: "ref",
	fieldRefID: "ref", fieldError: "error",
}

// fieldOf returns the member of that name, or numFields. Of two members that
// share a name, it returns the first.
func fieldOf(name []byte) field {
	switch string(name) {
	case "topic":
		return fieldTopic
	case "event":
		return fieldEvent
	case "data":
		return fieldData
	case "key":
		return fieldKey
	case "echo":
		return fieldEcho
	case "token":
		return fieldToken
	case "client":
		return fieldClient
	case "session":
		return fieldSession
	case "after":
		return fieldAfter
	case "ts":
		return fieldTs
	case "last":
		return fieldLast
	case "presence":
		return fieldPresence
	case "cursors":
		return fieldCursors
	case "messages":
		return fieldMessages
	case "atomic":
		return fieldAtomic
	case "limit":
		return fieldLimit
	case "cursor":
		return fieldPage
	case "group":
		return fieldGroup
	case "role":
		return fieldRole
	case "member":
		return fieldMember
	case "meta":
		return fieldMeta
	case "method":
		return fieldMethod
	case "timeoutMs":
		return fieldTimeout
	case "ref":
		return fieldRef
	case "error":
		return fieldError
	}
	return numFields
}

// DecodeFrames decodes one WebSocket text message from a client: a frame, or
// an array of at most [MaxFrames]. It decodes each frame in order into f, which
// the caller provides so that nothing is allocated for it, and calls each, with
// the error that answers a bad one; f then holds the id, op and topic as far as
// they could be read. A message that is no JSON, or holds too many frames, is
// one call. each returns false to stop.
//
// Unknown members are ignored. A member that appears twice counts as it
// appears last.
func DecodeFrames(data []byte, f *Frame, each func(err *Error) bool) {
	*f = Frame{}
	if !ValidJSON(data) {
		each(&Error{Code: InvalidArgument, Message: "frame: a JSON object in UTF-8, or an array of them"})
		return
	}
	i := skipSpace(data, 0)
	if data[i] != '[' {
		each(decodeFrame(data[i:], f))
		return
	}
	if countElements(data[i:]) > MaxFrames {
		each(InvalidField("frame", "an array of at most "+strconv.Itoa(MaxFrames)+" frames"))
		return
	}
	for i = skipSpace(data, i+1); data[i] != ']'; {
		end := skipValue(data, i)
		*f = Frame{}
		if !each(decodeFrame(data[i:end], f)) {
			return
		}
		if i = skipSpace(data, end); data[i] == ',' {
			i = skipSpace(data, i+1)
		}
	}
}

func decodeFrame(b []byte, f *Frame) *Error {
	if b[0] != '{' {
		return InvalidField("frame", "a JSON object, or an array of them")
	}
	var raw [numFields][]byte
	var id, op []byte
	eachMember(b, func(name, value []byte) {
		switch string(name) {
		case "id":
			id = value
		case "op":
			op = value
		default:
			if fld := fieldOf(name); fld < numFields {
				raw[fld] = value
			}
		}
	})
	raw[fieldPattern], raw[fieldRefID] = raw[fieldTopic], raw[fieldRef]
	var bad *Error
	note := func(err *Error) {
		if bad == nil && err != nil {
			bad = err
		}
	}
	if id != nil {
		note(setInt(&f.ID, "id", id, 1, MaxID))
	}
	if len(op) == 0 || op[0] != '"' {
		note(InvalidField("op", "a string that names an op"))
		return bad
	}
	name, _ := unquoteBytes(op)
	if f.Op = opsByName[string(name)]; f.Op == OpUnknown {
		note(InvalidField("op", "no op is called "+quoteShort(string(name))))
		return bad
	}
	spec := &Ops[f.Op]
	if spec.NeedsID && f.ID == 0 {
		note(InvalidField("id", "an integer from 1 to 2^53-1; `"+spec.Name+"` is always answered"))
	}
	for _, fld := range spec.required {
		if raw[fld] == nil || fld != fieldData && isNull(raw[fld]) {
			note(InvalidField(fieldNames[fld], "is required by `"+spec.Name+"`"))
			continue
		}
		note(f.set(fld, raw[fld]))
	}
	for _, fld := range spec.optional {
		if raw[fld] != nil && (fld == fieldData || fld == fieldMeta || !isNull(raw[fld])) {
			note(f.set(fld, raw[fld]))
		}
	}
	if bad == nil {
		bad = f.check()
	}
	return bad
}

// check looks at what concerns more than one member.
func (f *Frame) check() *Error {
	switch f.Op {
	case OpSubscribe:
		switch {
		case f.HasAfter && f.Last > 0:
			return InvalidField("last", "not together with `after`")
		case f.HasAfter && IsPattern(f.Topic):
			return InvalidField("after", "not with a wildcard")
		}
	case OpPublish, OpGroupPublish, OpGroupSend:
		if f.Event == "" {
			f.Event = DefaultEvent
		}
	}
	return nil
}

func (f *Frame) set(fld field, raw []byte) *Error {
	switch fld {
	case fieldTopic:
		return setString(&f.Topic, "topic", raw, CheckTopic)
	case fieldPattern:
		return setString(&f.Topic, "topic", raw, CheckPattern)
	case fieldEvent:
		return setString(&f.Event, "event", raw, CheckEvent)
	case fieldKey:
		return setString(&f.Key, "key", raw, CheckKey)
	case fieldMethod:
		return setString(&f.Method, "method", raw, CheckMethod)
	case fieldGroup:
		return setString(&f.Group, "group", raw, CheckGroup)
	case fieldRole:
		return setString(&f.Role, "role", raw, CheckRole)
	case fieldToken:
		return setString(&f.Token, "token", raw, nil)
	case fieldClient:
		return setString(&f.Client, "client", raw, nil)
	case fieldSession:
		return setString(&f.Session, "session", raw, nil)
	case fieldMember:
		return setString(&f.Member, "member", raw, nil)
	case fieldPage:
		return setString(&f.Page, "cursor", raw, nil)
	case fieldRef:
		return setString(&f.Ref, "ref", raw, nil)
	case fieldData:
		f.Data = raw
		return f.checkSize("data", raw)
	case fieldMeta:
		f.Meta = raw
		return f.checkSize("meta", raw)
	case fieldEcho:
		echo := true
		err := setBool(&echo, "echo", raw)
		f.NoEcho = !echo
		return err
	case fieldCursors:
		return setBool(&f.Cursors, "cursors", raw)
	case fieldAtomic:
		return setBool(&f.Atomic, "atomic", raw)
	case fieldAfter:
		f.HasAfter = true
		return setInt(&f.After, "after", raw, 0, MaxID)
	case fieldTs:
		f.HasTs = true
		return setInt(&f.Ts, "ts", raw, -MaxID, MaxID)
	case fieldLast:
		return setInt(&f.Last, "last", raw, 1, 1000)
	case fieldLimit:
		return setInt(&f.Limit, "limit", raw, 1, 1000)
	case fieldRefID:
		return setInt(&f.RefID, "ref", raw, 1, MaxID)
	case fieldTimeout:
		var ms int64
		err := setInt(&ms, "timeoutMs", raw, 1, 60_000)
		f.Timeout = time.Duration(ms) * time.Millisecond
		return err
	case fieldPresence:
		err := setString(&f.Presence, "presence", raw, nil)
		if err == nil && f.Presence != "watch" && f.Presence != "join" {
			return InvalidField("presence", `"watch" or "join"`)
		}
		return err
	case fieldMessages:
		return f.setMessages(raw)
	case fieldError:
		f.Error = decodeError(raw)
	}
	return nil
}

// checkSize bounds what a member, a cursor or a group may say of itself.
func (f *Frame) checkSize(name string, raw []byte) *Error {
	most := 0
	switch f.Op {
	case OpSubscribe, OpPresenceJoin, OpPresenceUpdate, OpGroupJoin, OpGroupMeta:
		most = MaxMemberData
	case OpCursor:
		most = MaxCursorData
	}
	if most > 0 && len(raw) > most {
		return InvalidField(name, "at most "+strconv.Itoa(most)+" bytes")
	}
	return nil
}

func (f *Frame) setMessages(raw []byte) *Error {
	if raw[0] != '[' {
		return InvalidField("messages", "an array of {topic, event?, data, key?}")
	}
	n := countElements(raw)
	if n > MaxBatch {
		return InvalidField("messages", "at most "+strconv.Itoa(MaxBatch)+" messages")
	}
	f.Messages = make([]BatchMessage, 0, n)
	for i := skipSpace(raw, 1); raw[i] != ']'; {
		end := skipValue(raw, i)
		m := BatchMessage{Event: DefaultEvent}
		at := "messages[" + strconv.Itoa(len(f.Messages)) + "]."
		if raw[i] != '{' {
			return InvalidField("messages", "an array of objects")
		}
		var topic, event, key []byte
		eachMember(raw[i:end], func(name, value []byte) {
			switch string(name) {
			case "topic":
				topic = value
			case "event":
				event = value
			case "key":
				key = value
			case "data":
				m.Data = value
			}
		})
		if topic == nil {
			return InvalidField(at+"topic", "is required")
		}
		bad := setString(&m.Topic, at+"topic", topic, CheckTopic)
		if bad == nil && event != nil && !isNull(event) {
			bad = setString(&m.Event, at+"event", event, CheckEvent)
		}
		if bad == nil && key != nil && !isNull(key) {
			bad = setString(&m.Key, at+"key", key, CheckKey)
		}
		if bad != nil {
			return bad
		}
		f.Messages = append(f.Messages, m)
		if i = skipSpace(raw, end); raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return nil
}

func setString(dst *string, name string, raw []byte, check func(string) error) *Error {
	if raw[0] != '"' {
		return InvalidField(name, "a string")
	}
	s, ok := unquote(raw)
	if !ok {
		return InvalidField(name, "a string of Unicode characters, without half a surrogate pair")
	}
	*dst = s
	if check == nil {
		return nil
	}
	if err := check(s); err != nil {
		e := AsError(err)
		if field, _ := e.Details["field"].(string); field != name {
			return InvalidField(name, strings.TrimPrefix(e.Message, field+": "))
		}
		return e
	}
	return nil
}

func setBool(dst *bool, name string, raw []byte) *Error {
	switch string(raw) {
	case "true":
		*dst = true
	case "false":
		*dst = false
	default:
		return InvalidField(name, "true or false")
	}
	return nil
}

func setInt(dst *int64, name string, raw []byte, least, most int64) *Error {
	n, ok := parseInt(raw)
	if !ok || n < least || n > most {
		return InvalidField(name, "an integer from "+strconv.FormatInt(least, 10)+" to "+strconv.FormatInt(most, 10))
	}
	*dst = n
	return nil
}
