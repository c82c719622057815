package outbox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test that is expected to end.
const patience = 20 * time.Second

// server is an Outbox behind a real listener.
type server struct {
	*Outbox
	t        testing.TB
	http     *httptest.Server
	sessions chan *session
	readers  sync.WaitGroup
	cancel   context.CancelFunc
	stopped  chan struct{}
}

// session is the gateway's half of one connection.
type session struct {
	*Conn
	reads chan read // what Read returned; closed behind the terminal error
}

type read struct {
	kind MessageKind
	data string
	err  error
}

type setup struct {
	tls   bool
	quiet bool // the peers send nothing: no room for messages
	wrap  bool // no raw sockets, as on other platforms
	alter func(*Outbox)
}

func serve(t testing.TB, cfg Config, s setup) *server {
	t.Helper()
	srv := &server{Outbox: New(cfg), t: t, sessions: make(chan *session, 1024), stopped: make(chan struct{})}
	if s.alter != nil {
		s.alter(srv.Outbox)
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv.cancel = cancel
	go func() {
		defer close(srv.stopped)
		if err := srv.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	srv.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := srv.Upgrade(w, r, UpgradeOptions{Subprotocols: []string{"fairlead.v1"}, Owner: "owner"})
		if err != nil {
			return
		}
		room := 1024
		if s.quiet {
			room = 1
		}
		ses := &session{Conn: c, reads: make(chan read, room)}
		srv.readers.Go(ses.read)
		srv.sessions <- ses
	}))
	srv.http.Listener = narrow{srv.http.Listener, s.wrap}
	if s.tls {
		srv.http.StartTLS()
	} else {
		srv.http.Start()
	}
	t.Cleanup(srv.stop)
	return srv
}

func (s *session) read() {
	defer close(s.reads)
	for {
		kind, data, err := s.Read()
		s.reads <- read{kind, string(data), err}
		var end *ClosedError
		if errors.As(err, &end) {
			return
		}
	}
}

func (s *server) stop() {
	s.cancel()
	select {
	case <-s.stopped:
	case <-time.After(patience):
		s.t.Error("Run did not return")
	}
	s.http.Close()
	s.readers.Wait()
}

// narrow gives accepted connections a small send buffer, so that a peer that
// does not read is noticed soon.
type narrow struct {
	net.Listener
	wrap bool
}

func (l narrow) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if err := c.(*net.TCPConn).SetWriteBuffer(128 << 10); err != nil {
		return nil, err
	}
	if l.wrap {
		c = struct{ net.Conn }{c}
	}
	return c, nil
}

// peer is a client that does nothing by itself.
type peer struct {
	net.Conn
	t  testing.TB
	br *bufio.Reader
}

// dial connects without subprotocol if proto is "".
func (s *server) dial(proto string) (*peer, *session) {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.http.Listener.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	return s.handshake(nc, proto)
}

func (s *server) handshake(nc net.Conn, proto string, early ...byte) (*peer, *session) {
	s.t.Helper()
	s.t.Cleanup(func() { _ = nc.Close() })
	if tcp, ok := nc.(*net.TCPConn); ok {
		if err := tcp.SetReadBuffer(128 << 10); err != nil {
			s.t.Fatal(err)
		}
	}
	p := &peer{Conn: nc, t: s.t, br: bufio.NewReader(nc)}
	p.patient()
	req := "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	if proto != "" {
		req += "Sec-WebSocket-Protocol: " + proto + "\r\n"
	}
	if _, err := nc.Write(append([]byte(req+"\r\n"), early...)); err != nil {
		s.t.Fatal(err)
	}
	res, err := http.ReadResponse(p.br, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if got, want := res.StatusCode, http.StatusSwitchingProtocols; got != want {
		s.t.Fatalf("got status %d, want %d", got, want)
	}
	select {
	case ses := <-s.sessions:
		return p, ses
	case <-time.After(patience):
		s.t.Fatal("no session")
		return nil, nil
	}
}

func (p *peer) patient() { _ = p.SetDeadline(time.Now().Add(patience)) }

// frame is a WebSocket frame as it was on the wire.
type frame struct {
	op      byte
	payload []byte
}

func (f frame) String() string {
	if f.op == 0x8 && len(f.payload) >= 2 {
		return fmt.Sprintf("close %d %q", binary.BigEndian.Uint16(f.payload), f.payload[2:])
	}
	return fmt.Sprintf("op %d, %d bytes, %.60q", f.op, len(f.payload), f.payload)
}

// next reads one frame; servers send them final and unmasked.
func (p *peer) next() (frame, error) {
	var h [8]byte
	if _, err := io.ReadFull(p.br, h[:2]); err != nil {
		return frame{}, err
	}
	if h[0]&0xF0 != 0x80 || h[1]&0x80 != 0 {
		return frame{}, fmt.Errorf("invalid head %x", h[:2])
	}
	f, n := frame{op: h[0] & 0xF}, uint64(h[1])
	switch n {
	case 126:
		if _, err := io.ReadFull(p.br, h[:2]); err != nil {
			return frame{}, err
		}
		n = uint64(binary.BigEndian.Uint16(h[:2]))
	case 127:
		if _, err := io.ReadFull(p.br, h[:8]); err != nil {
			return frame{}, err
		}
		n = binary.BigEndian.Uint64(h[:8])
	}
	if n > 64<<20 || f.op >= 8 && n > 125 {
		return frame{}, fmt.Errorf("op %d of %d bytes", f.op, n)
	}
	f.payload = make([]byte, n)
	_, err := io.ReadFull(p.br, f.payload)
	return f, err
}

// must reads the next frame and requires its op.
func (p *peer) must(op byte) frame {
	p.t.Helper()
	f, err := p.next()
	if err != nil {
		p.t.Fatalf("reading: %v", err)
	}
	if f.op != op {
		p.t.Fatalf("got %v, want op %d", f, op)
	}
	return f
}

// messages reads data frames until n messages came, arrays taken apart.
func (p *peer) messages(n int) ([]string, error) {
	var got []string
	for len(got) < n {
		f, err := p.next()
		if err != nil {
			return got, err
		}
		if f.op != 1 {
			return got, fmt.Errorf("got %v", f)
		}
		if f.payload[0] != '[' {
			got = append(got, string(f.payload))
			continue
		}
		var all []json.RawMessage
		if err := json.Unmarshal(f.payload, &all); err != nil {
			return got, err
		}
		if len(all) < 2 || len(all) > 256 {
			return got, fmt.Errorf("array of %d", len(all))
		}
		for _, m := range all {
			got = append(got, string(m))
		}
	}
	return got, nil
}

// write sends one frame, masked.
func (p *peer) write(first byte, payload []byte) {
	p.t.Helper()
	if _, err := p.Write(clientFrame(first, payload)); err != nil {
		p.t.Fatalf("writing: %v", err)
	}
}

func clientFrame(first byte, payload []byte) []byte {
	b := appendHead(nil, first, len(payload))
	b[1] |= 0x80
	mask := []byte{1, 2, 3, 4}
	b = append(b, mask...)
	for i, x := range payload {
		b = append(b, x^mask[i&3])
	}
	return b
}

// await polls until ok.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// stall makes the connection blocked in the middle of one large frame, whose
// payload it returns, with an empty queue.
func (s *session) stall(t testing.TB) []byte {
	t.Helper()
	plug := []byte(`{"plug":"` + strings.Repeat("x", 12<<20) + `"}`)
	s.Send(plug)
	await(t, "blocked", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.blocked && s.q == nil
	})
	return plug
}

func (p *peer) unplug(plug []byte) {
	p.t.Helper()
	if f := p.must(1); !bytes.Equal(f.payload, plug) {
		p.t.Fatalf("the frame under way came as %v", f)
	}
}

// result waits for the terminal error.
func (s *session) result(t testing.TB) *ClosedError {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case r, ok := <-s.reads:
			var end *ClosedError
			if !ok {
				t.Fatal("reader ended without a terminal error")
			}
			if errors.As(r.err, &end) {
				return end
			}
		case <-late:
			t.Fatal("no terminal error")
		}
	}
}

func isReset(err error) bool {
	return err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, os.ErrDeadlineExceeded)
}
