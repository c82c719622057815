package wire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strconv"
)

// A page of history may hold a thousand messages, and a gateway reads one for
// each client that comes back: it is walked over once, without reflection.

var errPage = errors.New("not a page of messages")

// UnmarshalJSON reads what [ReplayPage.AppendJSON] writes.
func (p *ReplayPage) UnmarshalJSON(data []byte) error { return p.ParseJSON(bytes.Clone(data)) }

// ParseJSON is [ReplayPage.UnmarshalJSON] for data that nobody else needs any
// more: the page's payloads become parts of it.
func (p *ReplayPage) ParseJSON(data []byte) error {
	if !validJSON(data, 3) { // page, messages, message
		return errPage
	}
	data = bytes.TrimSpace(data)
	if data[0] != '{' {
		return errPage
	}
	*p = ReplayPage{}
	ok := true
	eachMember(data, func(name, value []byte) {
		switch string(name) {
		case "messages":
			ok = ok && p.readMessages(value)
		case "seq":
			ok = readInt(value, &p.Head.Seq) && ok
		case "ts":
			ok = readInt(value, &p.Head.Ts) && ok
		case "truncated":
			ok = readBool(value, &p.Truncated) && ok
		case "missingFrom":
			ok = readInt(value, &p.MissingFrom) && ok
		case "more":
			ok = readBool(value, &p.More) && ok
		case "base":
			ok = readPosition(value, &p.Base) && ok
		case "at":
			ok = readPosition(value, &p.At) && ok
		}
	})
	if !ok {
		return errPage
	}
	return nil
}

func (p *ReplayPage) readMessages(array []byte) bool {
	if isNull(array) {
		return true
	}
	if array[0] != '[' {
		return false
	}
	p.Messages = make([]ReplayMessage, countElements(array))
	i := skipSpace(array, 1)
	for k := range p.Messages {
		end := skipValue(array, i)
		if !p.Messages[k].read(array[i:end]) {
			return false
		}
		if i = skipSpace(array, end); array[i] == ',' {
			i = skipSpace(array, i+1)
		}
	}
	return true
}

// read reads one message of a page.
func (m *ReplayMessage) read(object []byte) bool {
	if object[0] != '{' {
		return false
	}
	ok := true
	eachMember(object, func(name, value []byte) {
		switch string(name) {
		case "seq":
			ok = readInt(value, &m.Seq) && ok
		case "prev":
			ok = readInt(value, &m.Prev) && ok
		case "ts":
			ok = readInt(value, &m.Ts) && ok
		case "event":
			ok = readString(value, &m.Event) && ok
		case "from":
			ok = readString(value, &m.User) && ok
		case "exclude":
			ok = readString(value, &m.Exclude) && ok
		case "data":
			m.Payload = value
		case "text":
			text, is := stringOf(value)
			m.Payload, ok = text, ok && is
		case "base64":
			text, is := stringOf(value)
			n, err := base64.StdEncoding.Decode(text, text)
			m.Payload, ok = text[:n], ok && is && err == nil
		}
	})
	return ok
}

func readInt(value []byte, into *int64) bool {
	n, err := strconv.ParseInt(string(value), 10, 64)
	*into = n
	return err == nil
}

func readBool(value []byte, into *bool) bool {
	*into = string(value) == "true"
	return *into || string(value) == "false"
}

func readString(value []byte, into *string) bool {
	b, ok := stringOf(value)
	*into = string(b)
	return ok
}

// stringOf decodes a string; the bytes are the caller's own where it had escapes,
// else they are the value's.
func stringOf(value []byte) ([]byte, bool) {
	if value[0] != '"' {
		return nil, false
	}
	return unquoteBytes(value)
}

func readPosition(value []byte, into *Position) bool {
	if value[0] != '{' {
		return false
	}
	ok := true
	eachMember(value, func(name, value []byte) {
		switch string(name) {
		case "seq":
			ok = readInt(value, &into.Seq) && ok
		case "ts":
			ok = readInt(value, &into.Ts) && ok
		}
	})
	return ok
}
