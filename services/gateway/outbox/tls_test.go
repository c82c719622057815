package outbox

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// tap records what the client's side of a TCP connection receives.
type tap struct {
	net.Conn
	mu   sync.Mutex
	wire bytes.Buffer
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wire.Write(p[:n])
	return n, err
}

func (s *server) dialTLS() (*tap, *peer, *session) {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.http.Listener.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	t := &tap{Conn: nc}
	pool := s.http.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	p, ses := s.handshake(tls.Client(t, &tls.Config{RootCAs: pool, ServerName: "example.com", NextProtos: []string{"http/1.1"}}), "fairlead.v1")
	return t, p, ses
}

func TestTLSConnectionsAreWrittenThroughTLS(t *testing.T) {
	srv := serve(t, Config{QueueBytes: 64 << 20}, setup{tls: true})
	wire, p, ses := srv.dialTLS()
	if ses.raw != nil {
		t.Fatal("a TLS connection has a raw socket")
	}
	const n = 2000
	go func() {
		for i := range n {
			ses.Deliver(fmt.Appendf(nil, `{"n":%d,"secret":"plainly visible"}`, i), &Source{})
		}
		ses.Send(sized("plainly visible", 300_000))
	}()
	got, err := p.messages(n + 1)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range got[:n] {
		if want := fmt.Sprintf(`{"n":%d,"secret":"plainly visible"}`, i); m != want {
			t.Fatalf("got %s, want %s", m, want)
		}
	}
	p.write(headPing, []byte("hi"))
	p.must(0xA)
	ses.Close(1001, "drain")
	p.must(8)
	p.write(headClose, []byte{0x03, 0xE9})
	if _, err := p.next(); err != io.EOF {
		t.Errorf("got %v, want a TLS close notification", err)
	}

	wire.mu.Lock()
	defer wire.mu.Unlock()
	b := wire.wire.Bytes()
	if bytes.Contains(b, []byte("plainly visible")) || len(b) < 300_000 {
		t.Errorf("%d bytes on the wire, plain text among them", len(b))
	}
	for len(b) > 0 { // TLS records from end to end
		if len(b) < 5 || b[0] < 20 || b[0] > 23 || b[1] != 3 {
			t.Fatalf("no TLS record on the wire: %x", b[:min(len(b), 16)])
		}
		b = b[min(len(b), 5+int(b[3])<<8+int(b[4])):]
	}
}

func TestStalledTLSPeers(t *testing.T) {
	srv := serve(t, Config{QueueBytes: 1000, CloseGrace: 200 * time.Millisecond}, setup{tls: true})
	_, _, stalled := srv.dialTLS()
	stalled.stall(t)
	_, p, ses := srv.dialTLS()
	for i := range 100 {
		ses.Send(fmt.Appendf(nil, `{"n":%d}`, i))
		if _, err := p.messages(1); err != nil {
			t.Fatal(err)
		}
	}
	src := &Source{Policy: Conflate}
	await(t, "counted as behind", func() bool { return srv.Stats().Blocked == 1 })
	for i := range 100 {
		stalled.Deliver(sized(fmt.Sprint(i), 100), src)
	}
	if got, want := stalled.Stats(), 100; got.Queued != want || got.Conflated != 99 {
		t.Errorf("got %+v, want %d bytes queued", got, want)
	}
	stalled.Send(sized("x", 950))
	if got := stalled.result(t); got.Code != 1013 {
		t.Errorf("got %v, want 1013", got)
	}
}

// A connection of another kind is written through itself, never behind its back.
func TestWrappedConnectionsHaveNoRawSocket(t *testing.T) {
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	if rawConn(a) != nil || rawConn(&tap{Conn: a}) != nil || rawConn(struct{ *net.TCPConn }{}) != nil {
		t.Error("got a raw socket")
	}
}
