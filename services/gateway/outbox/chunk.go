package outbox

import (
	"encoding/binary"
	"unicode/utf8"
)

// RFC 6455 section 5.2: first byte of a final frame.
const (
	headText  = 0x81
	headClose = 0x88
	headPing  = 0x89
	headPong  = 0x8A
)

const (
	maxControl = 125 // bytes of a control frame's payload, RFC 6455 section 5.5
	maxHead    = 10  // bytes of a server frame's head
	maxJoin    = 256 // frames in one JSON array, by the protocol
	keepItems  = 4096
)

// chunk is what one write carries: whole WebSocket frames, or what is left of
// them. It is filled in two steps: take under the connection's lock, build
// outside of it.
type chunk struct {
	lead []byte // control frames and the head of body, in leadBuf
	body []byte // a shared frame, or joined

	items  []item // taken and not yet built: items[from:]
	from   int
	joined []byte // scratch; at most FrameBytes and a little

	size     int // bytes of lead and body as built
	frames   int // WebSocket messages
	messages int // frames passed to Send and Deliver
	closes   bool
	leadBuf  [2*(maxControl+2) + 2 + maxHead]byte
}

func (ch *chunk) reset() {
	ch.lead, ch.body = ch.leadBuf[:0], nil
	ch.frames, ch.messages, ch.closes = 0, 0, false
}

func (ch *chunk) len() int { return len(ch.lead) + len(ch.body) }

// advance drops the first n bytes, which were written.
func (ch *chunk) advance(n int) {
	k := min(n, len(ch.lead))
	ch.lead, ch.body = ch.lead[k:], ch.body[n-k:]
}

// take moves the oldest frames of q, as many as fit into limit bytes, but at
// least one, into ch.
func (ch *chunk) take(q *queue, batch bool, limit int) {
	// A comma or bracket per frame, or a head.
	each, most := maxHead, len(q.items)
	if batch {
		each, most = 1, maxJoin
	}
	if q.live <= most && q.bytes+q.live*each < limit && q.gaps == nil {
		ch.messages = q.live
		taken := q.items
		ch.from = q.head
		q.restart(ch.items[:0])
		ch.items = taken
		return
	}
	size := 1
	for q.live > 0 && ch.messages < most {
		size += q.peek() + each
		if size > limit && ch.messages > 0 {
			break
		}
		ch.items = append(ch.items, q.pop())
		ch.messages++
	}
}

// build turns the items taken into lead and body: a single frame as it is;
// several as one JSON array, or for a connection without batches as WebSocket
// messages that share a write.
func (ch *chunk) build(batch bool) {
	items := ch.items[ch.from:]
	switch {
	case ch.messages == 0: // control frames only
	case ch.messages == 1:
		for _, it := range items {
			if it.frame != nil {
				ch.body = it.frame
			}
		}
		ch.frames = 1
		ch.lead = appendHead(ch.lead, headText, len(ch.body))
	case batch:
		b := append(ch.joined[:0], '[')
		for _, it := range items {
			if it.frame == nil {
				continue
			}
			b = append(b, it.frame...)
			b = append(b, ',')
		}
		b[len(b)-1] = ']'
		ch.joined, ch.body, ch.frames = b, b, 1
		ch.lead = appendHead(ch.lead, headText, len(b))
	default:
		b := ch.joined[:0]
		for _, it := range items {
			if it.frame == nil {
				continue
			}
			b = appendHead(b, headText, len(it.frame))
			b = append(b, it.frame...)
		}
		ch.joined, ch.body, ch.frames = b, b, ch.messages
	}
	clear(ch.items)
	ch.items, ch.from = ch.items[:0], 0
	if cap(ch.items) > keepItems {
		ch.items = nil
	}
	ch.size = ch.len()
}

// appendHead appends the head of an unmasked final frame of n bytes.
func appendHead(b []byte, first byte, n int) []byte {
	switch {
	case n <= maxControl:
		return append(b, first, byte(n))
	case n <= 0xFFFF:
		return binary.BigEndian.AppendUint16(append(b, first, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, first, 127), uint64(n))
}

// appendClose appends a close frame. A code that must not appear on the wire
// (RFC 6455 section 7.4.1) gives one without payload.
func appendClose(b []byte, code int, reason string) []byte {
	if code < 1000 || code > 4999 || code == 1004 || code == 1005 || code == 1006 || code == 1015 {
		return append(b, headClose, 0)
	}
	reason = clip(reason, maxControl-2)
	b = append(b, headClose, byte(2+len(reason)))
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, reason...)
}

// clip shortens s to at most n bytes of whole characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
