package outbox

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
)

func (s *session) mustRead(t *testing.T, kind MessageKind, want string) {
	t.Helper()
	r, ok := <-s.reads
	if !ok || r.err != nil || r.kind != kind || r.data != want {
		t.Fatalf("got kind %d, %.80q, %v; want kind %d, %.80q", r.kind, r.data, r.err, kind, want)
	}
}

func TestReadMessages(t *testing.T) {
	srv := serve(t, Config{}, setup{})
	p, ses := srv.dial("")
	big := strings.Repeat("0123456789", 50_000)
	p.write(headText, []byte(`{"id":1}`))
	p.write(0x82, []byte{0, 1, 2})
	p.write(headText, nil)
	p.write(headText, []byte(big))
	p.write(headText, []byte(`{"id":2}`))
	ses.mustRead(t, Text, `{"id":1}`)
	ses.mustRead(t, Binary, "\x00\x01\x02")
	ses.mustRead(t, Text, "")
	ses.mustRead(t, Text, big)
	ses.mustRead(t, Text, `{"id":2}`)
	if s := ses.Stats(); s.FramesIn != 5 || s.BytesIn < uint64(len(big)) {
		t.Errorf("got %+v", s)
	}
}

func TestReadFragments(t *testing.T) {
	srv := serve(t, Config{}, setup{})
	p, ses := srv.dial("")
	p.write(0x01, []byte(`{"id"`))
	p.write(headPing, []byte("between"))
	p.write(0x00, nil)
	p.write(0x00, []byte(`:`))
	p.write(0x80, []byte(`1}`))
	ses.mustRead(t, Text, `{"id":1}`)
	if got, want := string(p.must(0xA).payload), "between"; got != want {
		t.Errorf("got pong %q, want %q", got, want)
	}
}

// Every byte in a segment of its own, beginning in the handshake's.
func TestReadSplitAnywhere(t *testing.T) {
	srv := serve(t, Config{}, setup{})
	nc, err := net.Dial("tcp", srv.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	first := clientFrame(headText, []byte(`{"early":true}`))
	second := clientFrame(headText, []byte(`{"id":1}`))
	p, ses := srv.handshake(nc, "", append(first, second[:3]...)...)
	ses.mustRead(t, Text, `{"early":true}`)
	for _, b := range append(second[3:], clientFrame(headText, []byte(strings.Repeat("x", 300)))...) {
		if _, err := p.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	ses.mustRead(t, Text, `{"id":1}`)
	ses.mustRead(t, Text, strings.Repeat("x", 300))
}

func TestReadTooLarge(t *testing.T) {
	const limit = 1000
	srv := serve(t, Config{ReadLimit: limit}, setup{})
	p, ses := srv.dial("")
	p.write(headText, bytes.Repeat([]byte("a"), limit))
	ses.mustRead(t, Text, strings.Repeat("a", limit))
	for _, n := range []int{limit + 1, 16 * limit} {
		p.write(headText, bytes.Repeat([]byte("b"), n))
		r := <-ses.reads
		var large *TooLarge
		if !errors.As(r.err, &large) || large.Observed != int64(n) || large.Limit != limit {
			t.Fatalf("got %v, want one over the limit with %d bytes", r.err, n)
		}
	}
	p.write(headText, []byte(`{"id":1}`))
	ses.mustRead(t, Text, `{"id":1}`)

	// In fragments, and the last never comes.
	p.write(0x01, bytes.Repeat([]byte("c"), 8*limit))
	p.write(0x00, bytes.Repeat([]byte("c"), 8*limit))
	p.write(0x00, []byte("c"))
	if got, want := p.must(8).String(), `close 1009 "message over 16000 bytes"`; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	p.write(0x80, []byte("c"))
	p.write(headClose, []byte{0x03, 0xF1})
	if got := *ses.result(t); got.Code != 1009 || got.ByPeer {
		t.Errorf("got %v, want 1009 from here", got)
	}
}

// What is over the limit is counted, not kept.
func TestReadTooLargeIsNotKept(t *testing.T) {
	const limit = 100_000
	o := New(Config{ReadLimit: limit})
	c := &Conn{o: o, fl: o.flushers[0], slot: -1}
	size, err := c.readMessage(bytes.NewReader(make([]byte, 16*limit)))
	if err != nil || size != 16*limit {
		t.Fatalf("got %d, %v", size, err)
	}
	if got := cap(*c.in.message); got > 2*limit {
		t.Errorf("a buffer of %d bytes for a limit of %d", got, limit)
	}
}
