package fairleadtest

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// sifted returns what passes of what is sent, in pieces of some size.
func sifted(l *Link, toward flow, sent []byte, size int) []byte {
	p := &passage{l: l}
	p.upgraded.Store(true)
	s := sieve{p: p, toward: toward}
	var out []byte
	for len(sent) > 0 {
		n := min(size, len(sent))
		out = append(out, s.take(sent[:n])...)
		sent = sent[n:]
	}
	return out
}

// message is a text message in frames that carry the parts.
func message(mask byte, parts ...string) (b []byte) {
	for i, part := range parts {
		first := byte(opContinue)
		if i == 0 {
			first = opText
		}
		if i == len(parts)-1 {
			first |= 0x80
		}
		masked := byte(0)
		if mask != 0 {
			masked = 0x80
		}
		if len(part) < 126 {
			b = append(b, first, masked|byte(len(part)))
		} else {
			b = binary.BigEndian.AppendUint16(append(b, first, masked|126), uint16(len(part)))
		}
		if mask != 0 {
			b = append(b, mask, mask, mask, mask)
		}
		for _, c := range []byte(part) {
			b = append(b, c^mask)
		}
	}
	return b
}

func TestSieve(t *testing.T) {
	t.Parallel()
	ping := []byte{0x89, 0}
	packed := []byte{0xC1, 3, '"', 'x', '"'}
	tests := []struct {
		name string
		drop string // frames that hold it
		n    int
		sent [][]byte
		want [][]byte
	}{
		{"nothing is armed", "", 0, [][]byte{message(0, `"x"`), ping, packed}, [][]byte{message(0, `"x"`), ping, packed}},
		{"one of two", "x", 1, [][]byte{message(0, `"x1"`), message(0, `"x2"`)}, [][]byte{message(0, `"x2"`)}},
		{"all", "x", 0, [][]byte{message(0, `"x1"`), ping, message(0, `"x2"`), message(0, `"y"`)}, [][]byte{ping, message(0, `"y"`)}},
		{"of a batch", "x", 2, [][]byte{message(0, `["x1", {"a": 1},"x2","x3"]`)}, [][]byte{message(0, `[{"a": 1},"x3"]`)}},
		{"a whole batch", "x", 0, [][]byte{message(0, `["x1","x2"]`)}, nil},
		{"an empty batch", "x", 0, [][]byte{message(0, `[]`)}, [][]byte{message(0, `[]`)}},
		{"in fragments", "x12", 1, [][]byte{message(0, `"x`, `1`, `2"`), message(0, `"x`, `13"`)}, [][]byte{message(0, `"x`, `13"`)}},
		{"masked", "x", 1, [][]byte{message(7, `"x"`), message(7, `"y"`)}, [][]byte{message(7, `"y"`)}},
		{"compressed ones are not looked at", "x", 0, [][]byte{packed, message(0, `"x"`)}, [][]byte{packed}},
		{"no JSON passes", "nothing", 0, [][]byte{message(0, `[nothing`)}, [][]byte{message(0, `[nothing`)}},
		{"a long one", "x", 1, [][]byte{message(0, `"`+string(bytes.Repeat([]byte("y"), 2_000))+`"`), message(0, `"x"`)}, [][]byte{message(0, `"`+string(bytes.Repeat([]byte("y"), 2_000))+`"`)}},
	}
	for _, test := range tests {
		for _, size := range []int{1, 7, 1 << 20} {
			l := &Link{frames: true}
			if test.drop != "" {
				l.drop(back, test.n, func(frame []byte) bool { return bytes.Contains(frame, []byte(test.drop)) })
			}
			if got, want := sifted(l, back, bytes.Join(test.sent, nil), size), bytes.Join(test.want, nil); !bytes.Equal(got, want) {
				t.Errorf("%s, by %d: got\n%.200q, want\n%.200q", test.name, size, got, want)
			}
		}
	}
}

// Of a batch of a client's the rest is sent as a client has to: masked.
func TestSieveMasks(t *testing.T) {
	t.Parallel()
	l := &Link{frames: true}
	l.drop(there, 1, func(frame []byte) bool { return string(frame) == "1" })
	got := sifted(l, there, message(9, `[1,2,1]`), 3)
	f, ok := parseFrame(got)
	if !ok || !f.masked || string(f.payload) != "[2,1]" || f.size != len(got) {
		t.Errorf("got %q", got)
	}
}

// Until the upgrade bytes are HTTP, and what follows in the same read is frames.
func TestSievePassesHTTP(t *testing.T) {
	t.Parallel()
	l := &Link{frames: true}
	l.Drop(0, nil)
	for _, size := range []int{1, 20, 1 << 20} {
		p := &passage{l: l}
		s := sieve{p: p, toward: back}
		sent := append([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"), message(0, `{"op":"ping"}`)...)
		var got []byte
		for i := 0; i < len(sent); i += size {
			got = append(got, s.take(sent[i:min(i+size, len(sent))])...)
		}
		if want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"; string(got) != want || !p.upgraded.Load() {
			t.Errorf("by %d: got %q, want %q", size, got, want)
		}
	}
	s := sieve{p: &passage{l: l}, toward: back}
	if got := s.take([]byte("HTTP/1.1 403 Forbidden\r\n\r\nno")); string(got) != "HTTP/1.1 403 Forbidden\r\n\r\nno" {
		t.Errorf("a refusal: got %q", got)
	}
}

// No bytes make the sieve panic, and without drops it loses none of a frame that
// is whole. (A control frame overtakes the fragments of a message.)
func FuzzSieve(f *testing.F) {
	f.Add(message(0, `["x1","x2"]`), uint8(3), true)
	f.Add([]byte{0x01, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint8(1), false)
	f.Fuzz(func(t *testing.T, sent []byte, size uint8, armed bool) {
		l := &Link{frames: true}
		if armed {
			l.Drop(0, func(wire.ServerFrame) bool { return true })
		}
		got := sifted(l, back, sent, max(1, int(size)))
		whole, later := 0, 0 // later: of a message that is not whole yet
		for rest := sent; ; {
			frame, ok := parseFrame(rest)
			if !ok {
				break
			}
			rest = rest[frame.size:]
			if whole += frame.size; frame.op < opControl {
				if later += frame.size; frame.final {
					later = 0
				}
			}
		}
		if want := whole - later; len(got) > want || !armed && len(got) != want {
			t.Errorf("got %d bytes of %d, want %d", len(got), len(sent), want)
		}
	})
}
