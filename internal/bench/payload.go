package bench

import (
	"bytes"
	"fmt"
	"strconv"
)

// A payload is {"t":<19 digits>,"n":<10 digits>,"p":"xxx…"}: when it was due in
// nanoseconds since 1970, its number on its topic (from firstNumber, so that
// the width is fixed), and filling.
const (
	payloadMark = `{"t":`
	markDigits  = 19
	numberAt    = len(payloadMark) + markDigits + len(`,"n":`)
	numDigits   = 10
	firstNumber = 1_000_000_000
	lastNumber  = 9_999_999_999
	// MinPayload is the size of a payload without filling, in bytes.
	MinPayload = numberAt + numDigits + len(`,"p":"`) + len(`"}`)
)

var mark = []byte(payloadMark)

// template is a payload to copy and to put numbers into.
type template []byte

func newTemplate(size int) (template, error) {
	if size < MinPayload {
		return nil, fmt.Errorf("payload of %d bytes: at least %d", size, MinPayload)
	}
	t := append(make([]byte, 0, size), payloadMark...)
	t = append(t, "0000000000000000000"...)
	t = append(t, `,"n":`...)
	t = append(t, "0000000000"...)
	t = append(t, `,"p":"`...)
	t = append(t, bytes.Repeat([]byte("x"), size-MinPayload)...)
	return append(t, `"}`...), nil
}

// stamp writes the due time and the number into the template.
func (t template) stamp(due, number int64) {
	strconv.AppendInt(t[:len(payloadMark)], due, 10)
	strconv.AppendInt(t[:numberAt], number, 10)
}

// scanPayloads calls fn for each payload of size bytes in a text frame and
// returns how many there were, and false if one was cut short or damaged.
func scanPayloads(frame []byte, size int, fn func(due, number int64)) (n int, ok bool) {
	for {
		i := bytes.Index(frame, mark)
		if i < 0 {
			return n, true
		}
		frame = frame[i:]
		if len(frame) < size || frame[size-1] != '}' {
			return n, false
		}
		due, ok1 := digits(frame[len(payloadMark) : len(payloadMark)+markDigits])
		number, ok2 := digits(frame[numberAt : numberAt+numDigits])
		if !ok1 || !ok2 {
			return n, false
		}
		fn(due, number)
		n++
		frame = frame[size:]
	}
}

func digits(b []byte) (n int64, ok bool) {
	for _, c := range b {
		d := c - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + int64(d)
	}
	return n, true
}

var (
	replyMark = []byte(`{"id":`)
	errorMark = []byte(`,"error"`)
)

// scanReplies calls fn for each reply in a text frame: its id and, for an
// error, the frame from there on.
func scanReplies(frame []byte, fn func(id int64, failed []byte)) {
	for {
		i := bytes.Index(frame, replyMark)
		if i < 0 {
			return
		}
		frame = frame[i:]
		j := len(replyMark)
		for j < len(frame) && frame[j]-'0' <= 9 {
			j++
		}
		id, _ := digits(frame[len(replyMark):j]) // only digits
		if bytes.HasPrefix(frame[j:], errorMark) {
			fn(id, frame)
		} else {
			fn(id, nil)
		}
		frame = frame[j:]
	}
}
