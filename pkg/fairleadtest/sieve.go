package fairleadtest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
)

// drop is frames that are to be lost.
type drop struct {
	left  int
	all   bool
	match func(frame []byte) bool
}

// sieve tells the WebSocket messages of one direction apart (RFC 6455 section
// 5.2) and takes out what is to be lost. Everything else passes as it came.
type sieve struct {
	p      *passage
	toward flow
	rest   []byte // read, and not a whole message yet

	// Of a message in fragments, those that came: as they are, and what they carry.
	parts, payload []byte
	text           bool
}

var upgrade = []byte("HTTP/1.1 101")

const (
	opContinue = 0x0
	opText     = 0x1
	opControl  = 0x8 // and above
)

// take returns what passes of the next bytes, which it does not keep.
func (s *sieve) take(b []byte) []byte {
	if !s.p.l.frames || len(b) == 0 {
		return bytes.Clone(b)
	}
	s.rest = append(s.rest, b...)
	var passes []byte
	if !s.p.upgraded.Load() {
		head := s.head()
		passes, s.rest = append(passes, s.rest[:head]...), s.rest[head:]
		if !s.p.upgraded.Load() {
			return passes
		}
	}
	for {
		f, ok := parseFrame(s.rest)
		if !ok {
			return passes
		}
		passes = s.frame(passes, f)
		s.rest = s.rest[f.size:]
	}
}

// head returns how much of rest is still HTTP. What a client sends is until the
// gateway has agreed, which it is told before it may send a frame.
func (s *sieve) head() int {
	if s.toward == there {
		return len(s.rest)
	}
	n := min(len(s.rest), len(upgrade))
	if !bytes.Equal(s.rest[:n], upgrade[:n]) {
		return len(s.rest)
	}
	end := bytes.Index(s.rest, []byte("\r\n\r\n"))
	if n < len(upgrade) || end < 0 {
		return 0
	}
	s.p.upgraded.Store(true)
	return end + 4
}

// wsFrame is one frame as RFC 6455 means it.
type wsFrame struct {
	size    int // with its head
	raw     []byte
	op      byte
	final   bool
	packed  bool // compressed: what it holds is not looked at
	masked  bool
	payload []byte // unmasked
}

// parseFrame returns the frame that b begins with, false while it is not whole.
func parseFrame(b []byte) (f wsFrame, ok bool) {
	if len(b) < 2 {
		return f, false
	}
	f.op, f.final, f.packed, f.masked = b[0]&0x0F, b[0]&0x80 != 0, b[0]&0x70 != 0, b[1]&0x80 != 0
	head, n := 2, uint64(b[1]&0x7F)
	switch n {
	case 126:
		head = 4
		if len(b) < head {
			return f, false
		}
		n = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		head = 10
		if len(b) < head {
			return f, false
		}
		n = binary.BigEndian.Uint64(b[2:])
	}
	var key []byte
	if f.masked {
		head += 4
		if len(b) < head {
			return f, false
		}
		key = b[head-4 : head]
	}
	if uint64(len(b)-head) < n {
		return f, false
	}
	f.size = head + int(n)
	f.raw = b[:f.size]
	f.payload = bytes.Clone(b[head:f.size])
	if f.masked {
		for i := range f.payload {
			f.payload[i] ^= key[i%4]
		}
	}
	return f, true
}

// frame appends what passes of one frame.
func (s *sieve) frame(passes []byte, f wsFrame) []byte {
	if f.op >= opControl {
		return append(passes, f.raw...)
	}
	if f.op != opContinue {
		s.text = f.op == opText && !f.packed
	}
	s.parts = append(s.parts, f.raw...)
	s.payload = append(s.payload, f.payload...)
	if !f.final {
		return passes
	}
	parts, payload := s.parts, s.payload
	s.parts, s.payload = nil, nil
	if !s.text {
		return append(passes, parts...)
	}
	left, changed := s.p.l.judge(s.toward, payload)
	switch {
	case !changed:
		return append(passes, parts...)
	case left == nil:
		return passes
	}
	return appendText(passes, left, f.masked)
}

// judge returns what is left of a message, nil for nothing.
func (l *Link) judge(toward flow, message []byte) (left []byte, changed bool) {
	l.mu.Lock()
	armed := len(l.drops[toward]) > 0
	l.mu.Unlock()
	if !armed {
		return message, false
	}
	frames := []json.RawMessage{message}
	batch := bytes.HasPrefix(bytes.TrimLeft(message, " \t\r\n"), []byte("["))
	if batch && json.Unmarshal(message, &frames) != nil {
		return message, false
	}
	kept := frames[:0:0]
	for _, frame := range frames {
		if !l.lost(toward, frame) {
			kept = append(kept, frame)
		}
	}
	switch {
	case len(kept) == len(frames):
		return message, false
	case len(kept) == 0:
		return nil, true
	case !batch:
		return kept[0], true
	}
	left = []byte{'['}
	for i, frame := range kept {
		if i > 0 {
			left = append(left, ',')
		}
		left = append(left, frame...)
	}
	return append(left, ']'), true
}

// lost reports whether a frame is to be lost, and counts it.
func (l *Link) lost(toward flow, frame []byte) bool {
	l.mu.Lock()
	drops := append([]*drop(nil), l.drops[toward]...)
	l.mu.Unlock()
	for _, d := range drops {
		if !d.match(frame) { // the test's own, which may use the link
			continue
		}
		l.mu.Lock()
		takes := d.all || d.left > 0
		if takes {
			d.left--
			l.dropped++
		}
		l.mu.Unlock()
		if takes {
			return true
		}
	}
	return false
}

// appendText appends a text message in one frame. The mask that RFC 6455 wants
// of a client is all zeros: nobody is to be protected from a test.
func appendText(b, payload []byte, masked bool) []byte {
	var mask byte
	if masked {
		mask = 0x80
	}
	b = append(b, 0x80|opText)
	switch n := len(payload); {
	case n < 126:
		b = append(b, mask|byte(n))
	case n <= 0xFFFF:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if masked {
		b = append(b, 0, 0, 0, 0)
	}
	return append(b, payload...)
}
