package bench

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// followed is a client's place on a replayed topic.
type followed struct {
	topic  string
	from   wire.Position // where it resumes from, if always from the same place
	at     wire.Position // of the newest message it has
	owed   int64         // the payload's number it has to come to; 0: none
	began  int64         // when it began to catch up, unix nanoseconds
	asked  bool          // it has asked, and has no answer
	doomed bool          // its gateway is about to be killed
}

// Member names in a message of a replayed topic, in the order they come.
var (
	seqMark  = []byte(`,"seq":`)
	prevMark = []byte(`,"prev":`)
	tsMark   = []byte(`,"ts":`)
)

// scanFollowed calls fn for each message of a replayed topic in a frame: the
// payload's number, where the message stands and which comes before it. It is
// false where something was cut or has no position.
func scanFollowed(frame []byte, size int, fn func(number int64, at wire.Position, prev int64)) (n int, ok bool) {
	for {
		i := bytes.Index(frame, mark)
		if i < 0 {
			return n, true
		}
		frame = frame[i:]
		if len(frame) < size || frame[size-1] != '}' {
			return n, false
		}
		number, ok1 := digits(frame[numberAt : numberAt+numDigits])
		frame = frame[size:]
		var at wire.Position
		var prev int64
		var ok2, ok3, ok4 bool
		at.Seq, frame, ok2 = member(frame, seqMark)
		prev, frame, ok3 = member(frame, prevMark)
		at.Ts, frame, ok4 = member(frame, tsMark)
		if !ok1 || !ok2 || !ok3 || !ok4 || len(frame) == 0 || frame[0] != '}' {
			return n, false
		}
		fn(number, at, prev)
		n++
	}
}

// member reads a number behind a name that frame begins with.
func member(frame, name []byte) (v int64, rest []byte, ok bool) {
	rest, ok = bytes.CutPrefix(frame, name)
	if !ok {
		return 0, frame, false
	}
	n := 0
	for n < len(rest) && rest[n]-'0' <= 9 {
		n++
	}
	v, _ = digits(rest[:n]) // only digits
	return v, rest[n:], n > 0
}

// follow counts a message, and holds it against the one before: its number must
// be the next, and so must its place in the chain.
func (t *tally) follow(c *conn, number int64, at wire.Position, prev int64) {
	f := c.followed
	t.delivered++
	switch {
	case number < c.next:
		t.repeated++
		t.failed(fmt.Sprintf("client %d: number %d came again, %d was next", c.index, number, c.next))
		return
	case number > c.next:
		t.lost += number - c.next
		t.failed(fmt.Sprintf("client %d: number %d came, %d was next", c.index, number, c.next))
	case f.at.Seq > 0 && prev != f.at.Seq:
		t.damaged++
		t.failed(fmt.Sprintf("client %d: %d came behind %d, and says it follows %d", c.index, at.Seq, f.at.Seq, prev))
	}
	c.next, f.at = number+1, at
}

// appendResume appends a subscribe from a position.
func appendResume(dst []byte, id int64, topic string, at wire.Position) []byte {
	dst = strconv.AppendInt(append(dst, `{"op":"subscribe","id":`...), id, 10)
	dst = wire.AppendString(append(dst, `,"topic":`...), topic)
	dst = strconv.AppendInt(append(dst, `,"after":`...), at.Seq, 10)
	dst = strconv.AppendInt(append(dst, `,"ts":`...), at.Ts, 10)
	return append(dst, '}')
}

// appendUnsubscribe appends an unsubscribe.
func appendUnsubscribe(dst []byte, id int64, topic string) []byte {
	dst = strconv.AppendInt(append(dst, `{"op":"unsubscribe","id":`...), id, 10)
	dst = wire.AppendString(append(dst, `,"topic":`...), topic)
	return append(dst, '}')
}

var (
	recoveredMark = []byte(`"recovered":true`)
	truncatedMark = []byte(`{"op":"truncated"`)
)
