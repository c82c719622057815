package wire

import (
	"errors"
	"strconv"
)

// CursorMessage is what gateways tell one another of the cursors of a topic.
// Messages of one gateway take effect in the order it sent them.
type CursorMessage struct {
	Gateway string // who says it
	Topic   string // of an answer to Ask, which comes by another subject
	Moved   []CursorMove
	Gone    []CursorGone
	// Ask wants every other gateway to answer with all it has.
	Ask bool
	// Whole says that Moved is a page of all cursors of the gateway: with the
	// last page, which lacks More, what was in none of them is gone.
	Whole bool
	Page  int64 // from 0
	More  bool
}

// CursorMove is a user's cursor where its gateway last saw it.
type CursorMove struct {
	User string
	// At orders the moves of a user, whatever gateway they were made on: ms
	// since 1970, or more where that would not be greater than the move before.
	At int64
	// AgeMs is how long ago it moved, in ms.
	AgeMs int64
	Data  []byte // raw JSON, never null
}

// CursorGone says that a user's cursor is gone: that of the move At and of all
// before it, whatever gateway they were made on.
type CursorGone struct {
	User string
	At   int64
	// AgeMs is how long ago it went, in ms.
	AgeMs int64
}

// cursorEntries bounds the moves, and the ends, of one message: more than fit
// into any that a gateway makes.
const cursorEntries = 1 << 15

// AppendCursorMove appends `"ann":{"at":…,"data":…}` to the inside of `moved`
// of a [CursorMessage], behind a comma where dst has something in it already.
func AppendCursorMove(dst []byte, m *CursorMove) []byte {
	if len(dst) > 0 {
		dst = append(dst, ',')
	}
	dst = append(AppendString(dst, m.User), `:{"at":`...)
	dst = strconv.AppendInt(dst, m.At, 10)
	if m.AgeMs > 0 {
		dst = strconv.AppendInt(append(dst, `,"age":`...), m.AgeMs, 10)
	}
	dst = append(append(dst, `,"data":`...), m.Data...)
	return append(dst, '}')
}

// AppendCursor appends `"ann":…` to the inside of `all` or `moved` of a frame,
// behind a comma where dst has something in it already.
func AppendCursor(dst []byte, user string, data []byte) []byte {
	if len(dst) > 0 {
		dst = append(dst, ',')
	}
	return append(append(AppendString(dst, user), ':'), data...)
}

// AppendCursorEnd appends `"ann":…` to the inside of `gone` of a
// [CursorMessage], behind a comma where dst has something in it already: At
// alone, or an object where there is an age.
func AppendCursorEnd(dst []byte, g CursorGone) []byte {
	if len(dst) > 0 {
		dst = append(dst, ',')
	}
	dst = append(AppendString(dst, g.User), ':')
	if g.AgeMs == 0 {
		return strconv.AppendInt(dst, g.At, 10)
	}
	dst = strconv.AppendInt(append(dst, `{"at":`...), g.At, 10)
	return append(strconv.AppendInt(append(dst, `,"age":`...), g.AgeMs, 10), '}')
}

// AppendCursorGone appends a user to the inside of `gone` of a frame, behind a
// comma where dst has something in it already.
func AppendCursorGone(dst []byte, user string) []byte {
	if len(dst) > 0 {
		dst = append(dst, ',')
	}
	return AppendString(dst, user)
}

// AppendCursorMessage appends m with moved and gone, which are passed as the
// inside of their objects, in place of its own.
func AppendCursorMessage(dst []byte, m *CursorMessage, moved, gone []byte) []byte {
	dst = AppendString(append(dst, `{"gateway":`...), m.Gateway)
	if m.Topic != "" {
		dst = AppendString(append(dst, `,"topic":`...), m.Topic)
	}
	if m.Ask {
		dst = append(dst, `,"ask":true`...)
	}
	if m.Whole {
		dst = append(dst, `,"whole":true`...)
		if m.Page > 0 {
			dst = strconv.AppendInt(append(dst, `,"page":`...), m.Page, 10)
		}
		if m.More {
			dst = append(dst, `,"more":true`...)
		}
	}
	if len(moved) > 0 {
		dst = appendObject(dst, `,"moved":{`, moved)
	}
	if len(gone) > 0 {
		dst = appendObject(dst, `,"gone":{`, gone)
	}
	return append(dst, '}')
}

// AppendCursorsAll appends the frame that says where the cursors of a topic
// are, as [AppendCursor] builds the inside of its object.
func AppendCursorsAll(dst []byte, topic string, all []byte) []byte {
	return append(appendObject(appendCursors(dst, topic), `,"all":{`, all), '}')
}

// AppendCursorsMoved appends the frame that says which cursors of a topic
// moved and which are gone. What nobody did is left out.
func AppendCursorsMoved(dst []byte, topic string, moved, gone []byte) []byte {
	dst = appendCursors(dst, topic)
	if len(moved) > 0 {
		dst = appendObject(dst, `,"moved":{`, moved)
	}
	if len(gone) > 0 {
		dst = append(append(append(dst, `,"gone":[`...), gone...), ']')
	}
	return append(dst, '}')
}

func appendCursors(dst []byte, topic string) []byte {
	return AppendString(append(dst, `{"op":"cursors","topic":`...), topic)
}

var errCursorMessage = errors.New("decode cursors: no message of a gateway")

// DecodeCursorMessage decodes what [AppendCursorMessage] made. Names and sizes
// are as the protocol allows; members it does not know are ignored. Data aliases
// what was decoded.
func DecodeCursorMessage(data []byte) (*CursorMessage, error) {
	if !ValidJSON(data) {
		return nil, errCursorMessage
	}
	data = data[skipSpace(data, 0):]
	if data[0] != '{' {
		return nil, errCursorMessage
	}
	m, ok := &CursorMessage{}, true
	eachMember(data, func(name, value []byte) {
		switch string(name) {
		case "gateway":
			ok = ok && setString(&m.Gateway, "gateway", value, CheckKey) == nil
		case "topic":
			ok = ok && setString(&m.Topic, "topic", value, CheckTopic) == nil
		case "ask":
			ok = ok && setBool(&m.Ask, "ask", value) == nil
		case "whole":
			ok = ok && setBool(&m.Whole, "whole", value) == nil
		case "page":
			ok = ok && setInt(&m.Page, "page", value, 0, MaxID) == nil
		case "more":
			ok = ok && setBool(&m.More, "more", value) == nil
		case "moved":
			ok = ok && m.decodeMoved(value)
		case "gone":
			ok = ok && m.decodeGone(value)
		}
	})
	if !ok || m.Gateway == "" {
		return nil, errCursorMessage
	}
	return m, nil
}

func (m *CursorMessage) decodeMoved(raw []byte) bool {
	if raw[0] != '{' {
		return false
	}
	ok := true
	m.Moved = nil
	eachMember(raw, func(name, value []byte) {
		move := CursorMove{User: string(name)}
		if ok = ok && value[0] == '{' && len(m.Moved) < cursorEntries && CheckUser(move.User) == nil; !ok {
			return
		}
		eachMember(value, func(name, value []byte) {
			switch string(name) {
			case "at":
				ok = ok && setInt(&move.At, "at", value, 1, MaxID) == nil
			case "age":
				ok = ok && setInt(&move.AgeMs, "age", value, 0, MaxID) == nil
			case "data":
				move.Data = value
			}
		})
		ok = ok && move.At > 0 && len(move.Data) > 0 && len(move.Data) <= MaxCursorData && !isNull(move.Data)
		m.Moved = append(m.Moved, move)
	})
	return ok
}

func (m *CursorMessage) decodeGone(raw []byte) bool {
	if raw[0] != '{' {
		return false
	}
	ok := true
	m.Gone = nil
	eachMember(raw, func(name, value []byte) {
		g := CursorGone{User: string(name)}
		if ok = ok && len(m.Gone) < cursorEntries && CheckUser(g.User) == nil; !ok {
			return
		}
		if value[0] != '{' {
			ok = setInt(&g.At, "gone", value, 1, MaxID) == nil
		} else {
			eachMember(value, func(name, value []byte) {
				switch string(name) {
				case "at":
					ok = ok && setInt(&g.At, "at", value, 1, MaxID) == nil
				case "age":
					ok = ok && setInt(&g.AgeMs, "age", value, 0, MaxID) == nil
				}
			})
			ok = ok && g.At > 0
		}
		m.Gone = append(m.Gone, g)
	})
	return ok
}
