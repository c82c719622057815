package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// peer is a WebSocket client that sends and sees raw frames.
type peer struct {
	t  *testing.T
	ws *websocket.Conn
}

// newPeer connects without a subprotocol, so that each frame comes alone, and
// says hello.
func newPeer(t *testing.T, url, user string) *peer {
	t.Helper()
	ws, _, err := websocket.Dial(within(t), url, &websocket.DialOptions{HTTPClient: web})
	must(t, err)
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(-1)
	p := &peer{t, ws}
	p.send(`{"op":"hello","id":1,"token":"` + token(user, nil) + `"}`)
	if got := p.read(); !strings.Contains(got, `"ok"`) {
		t.Fatalf("hello: %s", got)
	}
	return p
}

func (p *peer) send(frame string) {
	p.t.Helper()
	must(p.t, p.ws.Write(within(p.t), websocket.MessageText, []byte(frame)))
}

func (p *peer) read() string {
	p.t.Helper()
	_, data, err := p.ws.Read(within(p.t))
	must(p.t, err)
	return string(data)
}

// refused reads the next frame, an error of this id and code, and returns it.
func (p *peer) refused(what string, id int64, code string) (e struct {
	Message      string
	RetryAfterMs *int64
	Details      map[string]any
}) {
	p.t.Helper()
	var f struct {
		ID    int64
		Error json.RawMessage
	}
	got := p.read()
	var is struct{ Code string }
	if json.Unmarshal([]byte(got), &f) != nil || json.Unmarshal(f.Error, &is) != nil || f.ID != id || is.Code != code {
		p.t.Fatalf("%s: got %.200s, want error %s for id %d", what, got, code, id)
	}
	must(p.t, json.Unmarshal(f.Error, &e))
	return e
}

// usable proves that the connection still serves.
func (p *peer) usable(after string) {
	p.t.Helper()
	p.send(`{"op":"unsubscribe","id":99,"topic":"none.here"}`)
	if got, want := p.read(), `{"id":99,"ok":{}}`; got != want {
		p.t.Fatalf("after %s: got %s, want %s", after, got, want)
	}
}

// Nothing that a client sends by mistake costs it the connection.
func TestBadInputIsAnErrorAndTheConnectionStays(t *testing.T) {
	t.Parallel()
	s := openStack(t, 1)
	topic := unique("a.b")
	p := newPeer(t, s.url(0), "clumsy")
	manyFrames := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`{"op":"pong"},`, n), ",") + "]"
	}
	tests := []struct {
		name, frame string
		id          int64
		code, holds string
	}{
		{"not JSON", `hello?`, 0, "INVALID_ARGUMENT", ""},
		{"nothing", ``, 0, "INVALID_ARGUMENT", ""},
		{"half a frame", `{"op":"publish","id":7,"topic":"` + topic + `"`, 0, "INVALID_ARGUMENT", ""},
		{"a string", `"hello"`, 0, "INVALID_ARGUMENT", ""},
		{"null", `null`, 0, "INVALID_ARGUMENT", ""},
		{"two values", `{"op":"pong"} {"op":"pong"}`, 0, "INVALID_ARGUMENT", ""},
		{"an array of arrays", `[[{"op":"pong"}]]`, 0, "INVALID_ARGUMENT", ""},
		{"no op", `{"id":7}`, 7, "INVALID_ARGUMENT", "op"},
		{"an unknown op", `{"op":"explode","id":7}`, 7, "INVALID_ARGUMENT", "op"},
		{"a cursor where the rule has none", `{"op":"cursor","id":7,"topic":"` + topic + `","data":1}`, 7, "PERMISSION_DENIED", "cursors"},
		{"the past of a topic that keeps none", `{"op":"history","id":7,"topic":"` + topic + `","after":0}`, 7, "FAILED_PRECONDITION", "replay"},
		{"an id that is no number", `{"op":"subscribe","id":"7","topic":"` + topic + `"}`, 0, "INVALID_ARGUMENT", "id"},
		{"an id out of range", `{"op":"subscribe","id":9007199254740992,"topic":"` + topic + `"}`, 0, "INVALID_ARGUMENT", "id"},
		{"no id", `{"op":"subscribe","topic":"` + topic + `"}`, 0, "INVALID_ARGUMENT", "id"},
		{"no topic", `{"op":"subscribe","id":7}`, 7, "INVALID_ARGUMENT", "topic"},
		{"an empty token", `{"op":"publish","id":7,"topic":"a..b","data":1}`, 7, "INVALID_ARGUMENT", "topic"},
		{"a system subject", `{"op":"publish","id":7,"topic":"$JS.API.STREAM.PURGE.X","data":1}`, 7, "INVALID_ARGUMENT", "topic"},
		{"a line break in a topic", `{"op":"publish","id":7,"topic":"a\r\nPUB x 1","data":1}`, 7, "INVALID_ARGUMENT", "topic"},
		{"a long topic", `{"op":"publish","id":7,"topic":"` + strings.Repeat("a", 256) + `","data":1}`, 7, "INVALID_ARGUMENT", "topic"},
		{"a publish to a pattern", `{"op":"publish","id":7,"topic":"a.*","data":1}`, 7, "INVALID_ARGUMENT", "topic"},
		{"a bad event", `{"op":"publish","id":7,"topic":"` + topic + `","event":"a b","data":1}`, 7, "INVALID_ARGUMENT", "event"},
		{"bad JSON as data", `{"op":"publish","id":7,"topic":"` + topic + `","data":{"a":}}`, 0, "INVALID_ARGUMENT", ""},
		{"a second hello", `{"op":"hello","id":7}`, 7, "FAILED_PRECONDITION", ""},
		{"257 frames", manyFrames(257), 0, "INVALID_ARGUMENT", "256"},
	}
	for _, test := range tests {
		p.send(test.frame)
		e := p.refused(test.name, test.id, test.code)
		if !strings.Contains(e.Message, test.holds) {
			t.Errorf("%s: message %q does not say %q", test.name, e.Message, test.holds)
		}
		p.usable(test.name)
	}
	for name, frame := range map[string]string{"256 frames": manyFrames(256), "an empty array": `[]`, "unknown fields": `{"op":"pong","colour":"blue"}`} {
		p.send(frame)
		p.usable(name) // and nothing before it
	}
	must(t, p.ws.Write(within(t), websocket.MessageBinary, []byte{1, 2, 3}))
	p.refused("binary", 0, "INVALID_ARGUMENT")
	p.usable("binary")

	for _, size := range []int{1_000_001, 15_000_000} {
		p.send(`{"op":"publish","id":7,"topic":"` + topic + `","data":"` + strings.Repeat("x", size-46) + `"}`)
		e := p.refused("oversized", 0, "RESOURCE_EXHAUSTED")
		if e.RetryAfterMs != nil || e.Details["limit"] != 1e6 || e.Details["observed"].(float64) < float64(size)-10 {
			t.Errorf("oversized: got %+v, want no retry, the limit and %d observed", e, size)
		}
		p.usable("an oversized frame")
	}
	p.send(strings.Repeat("x", 16_000_001))
	if code := drainUntilClosed(p.ws); code != 1009 {
		t.Errorf("above 16 times the limit: got close %d, want 1009", code)
	}
}

// A frame in bytes that are no UTF-8 never reaches another client.
func TestInvalidUTF8IsRefused(t *testing.T) {
	t.Parallel()
	s := anyStack(t, 1)
	p := newPeer(t, s.url(0), "clumsy")
	p.send("{\"op\":\"publish\",\"id\":7,\"topic\":\"a.b\",\"data\":\"\xff\xfe\"}")
	p.refused("invalid UTF-8", 0, "INVALID_ARGUMENT")
	p.usable("invalid UTF-8")
}

// Whoever does not even speak HTTP, or stops half-way, costs no more than a
// socket for a moment.
func TestGarbageOnTheSocketIsNoMatter(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1, "FAIRLEAD_HELLO_TIMEOUT=200ms")
	g := s.gateways[0]
	ann := s.as(0, "ann")
	for name, test := range map[string]struct{ bytes, answer string }{
		"garbage":         {"\x16\x03\x01\x00\xff\x00garbage\r\n\r\n", "HTTP/1.1 400"},
		"a half upgrade":  {"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n", ""}, // and nothing for 5 s
		"an old upgrade":  {"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAA\r\n\r\n", "HTTP/1.1 4"},
		"a large header":  {"GET /ws HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", "HTTP/1.1 431"},
		"an HTTP request": {"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 426"},
	} {
		nc := open(t, g.addr)
		_, err := io.WriteString(nc, test.bytes)
		must(t, err)
		answer := make([]byte, len(test.answer)+1)
		n, err := io.ReadFull(nc, answer)
		if test.answer == "" {
			n, err = 0, errors.Join(unwanted(n, err), nc.Close())
		}
		if err != nil || !strings.HasPrefix(string(answer[:n]), test.answer) {
			t.Errorf("%s: got %q, %v; want %q", name, answer[:n], err, test.answer)
		}
	}

	// WebSocket frames that break RFC 6455.
	for name, test := range map[string]struct {
		bytes string
		code  int
	}{
		"an unmasked frame":   {"\x81\x05hello", 1002},
		"a reserved opcode":   {"\x83\x80\x00\x00\x00\x00", 1002},
		"a fragmented ping":   {"\x09\x80\x00\x00\x00\x00", 1002},
		"a reserved bit":      {"\xc1\x80\x00\x00\x00\x00", 1002},
		"a lone continuation": {"\x80\x80\x00\x00\x00\x00", 1002},
	} {
		nc := upgraded(t, g.addr)
		_, err := io.WriteString(nc, test.bytes)
		must(t, err)
		if code, err := closeFrame(nc); err != nil || code != test.code {
			t.Errorf("%s: got close %d, %v; want %d", name, code, err, test.code)
		}
	}

	// One who is upgraded and never says hello is sent away.
	nc := upgraded(t, g.addr)
	if code, err := closeFrame(nc); err != nil || code != 4408 {
		t.Errorf("without hello: got close %d, %v; want 4408", code, err)
	}

	room := subscribe(t, ann, "still.here")
	publish(t, ann, "still.here", `1`)
	expect(t, room, "ann", `1`)
}

// unwanted is nil if the server hung up without a word.
func unwanted(n int, err error) error {
	if n == 0 && errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("read %d bytes, %w", n, err)
}

// closeFrame reads a close frame and returns its code.
func closeFrame(r io.Reader) (code int, err error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, err
	}
	if head[0] != 0x88 {
		return 0, fmt.Errorf("opcode %#x, want a close frame", head[0])
	}
	return int(head[2])<<8 | int(head[3]), nil
}

func open(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	must(t, err)
	must(t, nc.SetReadDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { nc.Close() })
	return nc
}

// upgraded returns a socket right behind a WebSocket upgrade.
func upgraded(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc := open(t, addr)
	_, err := fmt.Fprintf(nc, "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", addr)
	must(t, err)
	r := bufio.NewReaderSize(nc, 1)
	resp, err := http.ReadResponse(r, nil)
	must(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %s", resp.Status)
	}
	return &early{nc, r}
}

// early is a connection of which a little was read ahead.
type early struct {
	net.Conn
	r io.Reader
}

func (e *early) Read(b []byte) (int, error) { return e.r.Read(b) }
