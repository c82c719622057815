package bench

import (
	"fmt"
	"strconv"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Dialect is what differs between servers on the wire. Replies look alike in
// all of them: {"id":<n>,"error":… for a failure, anything else behind the id
// for success.
type Dialect interface {
	// Subprotocol is offered in the upgrade; "" offers none.
	Subprotocol() string
	// Hello, Subscribe and Publish append one client frame's JSON. id 0 asks
	// for no reply, where the protocol knows that.
	Hello(dst []byte, id int64, token string) []byte
	Subscribe(dst []byte, id int64, topic string) []byte
	Publish(dst []byte, id int64, topic string, data []byte) []byte
	// Acks reports whether publishes are answered even when nobody asks.
	Acks() bool
	// Join appends the parts of one text message of several frames: what
	// stands before frame i of n, and after the last one for i = n.
	Join(dst []byte, i, n int) []byte
	// Pong returns what answers a server's ping in a text frame, nil for
	// any other frame.
	Pong(frame []byte) []byte
}

// ParseDialect returns the dialect of that name: fairlead or centrifugo.
func ParseDialect(name string) (Dialect, error) {
	switch name {
	case "", "fairlead":
		return Fairlead{}, nil
	case "centrifugo":
		return Centrifugo{}, nil
	}
	return nil, fmt.Errorf("protocol %q: fairlead or centrifugo", name)
}

// Fairlead is protocol version 1: JSON, frames joined as an array.
type Fairlead struct{}

// Subprotocol returns fairlead.v1.
func (Fairlead) Subprotocol() string { return "fairlead.v1" }

// Hello appends a hello.
func (Fairlead) Hello(dst []byte, id int64, token string) []byte {
	dst = append(dst, `{"op":"hello","client":"fairlead-bench","id":`...)
	dst = strconv.AppendInt(dst, id, 10)
	if token != "" {
		dst = wire.AppendString(append(dst, `,"token":`...), token)
	}
	return append(dst, '}')
}

// Subscribe appends a subscribe.
func (Fairlead) Subscribe(dst []byte, id int64, topic string) []byte {
	dst = strconv.AppendInt(append(dst, `{"op":"subscribe","id":`...), id, 10)
	dst = wire.AppendString(append(dst, `,"topic":`...), topic)
	return append(dst, '}')
}

// Publish appends a publish.
func (Fairlead) Publish(dst []byte, id int64, topic string, data []byte) []byte {
	dst = append(dst, `{"op":"publish",`...)
	if id != 0 {
		dst = append(strconv.AppendInt(append(dst, `"id":`...), id, 10), ',')
	}
	dst = wire.AppendString(append(dst, `"topic":`...), topic)
	dst = append(append(dst, `,"data":`...), data...)
	return append(dst, '}')
}

// Acks is false: a publish without id is not answered.
func (Fairlead) Acks() bool { return false }

// Join makes an array.
func (Fairlead) Join(dst []byte, i, n int) []byte {
	switch {
	case n == 1:
		return dst
	case i == 0:
		return append(dst, '[')
	case i == n:
		return append(dst, ']')
	}
	return append(dst, ',')
}

// Pong returns nil: the ping of RFC 6455 that comes with the op is answered by the codec.
func (Fairlead) Pong([]byte) []byte { return nil }

// Centrifugo is the JSON form of Centrifugo's bidirectional client protocol:
// commands and replies joined by newlines.
type Centrifugo struct{}

// Subprotocol returns "": Centrifugo's default is JSON.
func (Centrifugo) Subprotocol() string { return "" }

// Hello appends a connect command.
func (Centrifugo) Hello(dst []byte, id int64, token string) []byte {
	dst = strconv.AppendInt(append(dst, `{"id":`...), id, 10)
	dst = append(dst, `,"connect":{`...)
	if token != "" {
		dst = wire.AppendString(append(dst, `"token":`...), token)
	}
	return append(dst, "}}"...)
}

// Subscribe appends a subscribe command.
func (Centrifugo) Subscribe(dst []byte, id int64, topic string) []byte {
	dst = strconv.AppendInt(append(dst, `{"id":`...), id, 10)
	dst = wire.AppendString(append(dst, `,"subscribe":{"channel":`...), topic)
	return append(dst, "}}"...)
}

// Publish appends a publish command; it always has an id.
func (Centrifugo) Publish(dst []byte, id int64, topic string, data []byte) []byte {
	dst = strconv.AppendInt(append(dst, `{"id":`...), max(id, 1), 10)
	dst = wire.AppendString(append(dst, `,"publish":{"channel":`...), topic)
	dst = append(append(dst, `,"data":`...), data...)
	return append(dst, "}}"...)
}

// Acks is true: every publish is answered.
func (Centrifugo) Acks() bool { return true }

// Join parts frames by a newline.
func (Centrifugo) Join(dst []byte, i, n int) []byte {
	if i == 0 || i == n {
		return dst
	}
	return append(dst, '\n')
}

// Pong answers an empty object by one.
func (Centrifugo) Pong(frame []byte) []byte {
	if len(frame) == 2 && string(frame) == "{}" {
		return frame
	}
	return nil
}
