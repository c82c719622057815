package outbox

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Everything that can end a connection, at once: the end is told once, and no
// goroutine or connection is left.
func TestEndsFromAllSides(t *testing.T) {
	for _, tc := range []struct {
		name   string
		rounds int
		setup  setup
	}{
		{"raw", 300, setup{}},
		{"tls", 40, setup{tls: true}},
		{"wrapped", 100, setup{wrap: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv := serve(t, Config{QueueBytes: 1 << 20}, tc.setup)
			for i := range tc.rounds {
				var p *peer
				var ses *session
				if tc.setup.tls {
					_, p, ses = srv.dialTLS()
				} else {
					p, ses = srv.dial("fairlead.v1")
				}
				endFromAllSides(t, i, p, ses)
			}
			await(t, "unregistered", func() bool { return srv.Stats().Connections == 0 })
		})
	}
}

func endFromAllSides(t *testing.T, i int, p *peer, ses *session) {
	var all sync.WaitGroup
	start := make(chan struct{})
	at := func(f func()) {
		all.Go(func() {
			<-start
			f()
		})
	}
	message := []byte(`"` + strings.Repeat("m", 20_000) + `"`)
	src := &Source{Policy: Policy(i % 3)}
	at(func() {
		for range 20 {
			ses.Deliver(message, src)
		}
	})
	at(func() { ses.Send(message) })
	if i&1 != 0 {
		at(func() { ses.Close(1001, "drain") })
	}
	if i&2 != 0 {
		at(ses.Abort)
	}
	if i&4 != 0 {
		at(func() { _, _ = p.Write(clientFrame(headClose, []byte{0x03, 0xE8})) })
	}
	if i&8 != 0 {
		at(func() { _, _ = p.Write(clientFrame(headPing, []byte("ping"))) })
	}
	if i&16 != 0 || i&7 == 0 {
		at(func() { _ = p.Close() })
	}
	at(func() { _, _ = ses.Stats(), ses.Idle() })
	at(func() {
		for { // a client that answers
			f, err := p.next()
			if err != nil {
				return
			}
			if f.op == 8 {
				_, _ = p.Write(clientFrame(headClose, f.payload))
			}
		}
	})
	close(start)
	end := ses.result(t)
	all.Wait()
	ok := end.Code == 1001 && !end.ByPeer && i&1 != 0 || end.Code == 1000 && end.ByPeer && i&4 != 0 || end.Code == 1006
	if !ok {
		t.Errorf("round %d: got %v", i, end)
	}
	code, reason, byPeer := ses.Closed()
	if code != end.Code || reason != end.Reason || byPeer != end.ByPeer {
		t.Errorf("round %d: Closed says %d %q %v, Read said %v", i, code, reason, byPeer, end)
	}
	if _, ok := <-ses.reads; ok {
		t.Errorf("round %d: read on after the end", i)
	}
}

func TestRunEndsWithOpenConnections(t *testing.T) {
	srv := serve(t, Config{}, setup{})
	p, idle := srv.dial("")
	_, stalled := srv.dial("")
	stalled.stall(t)
	_, closing := srv.dial("")
	closing.Close(1001, "drain")
	srv.cancel()
	<-srv.stopped
	if got := idle.result(t); got.Code != 1006 || got.ByPeer {
		t.Errorf("got %v, want 1006 from here", got)
	}
	if got := stalled.result(t); got.Code != 1006 {
		t.Errorf("got %v, want 1006", got)
	}
	if got := closing.result(t); got.Code != 1001 {
		t.Errorf("got %v, want 1001", got)
	}
	if _, err := io.Copy(io.Discard, p.br); !isReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
	if got := srv.Stats().Connections; got != 0 {
		t.Errorf("%d connections are left", got)
	}
	idle.Send([]byte("{}")) // nothing happens
	idle.Close(1000, "")

	res, err := http.Get(srv.http.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got, want := res.StatusCode, http.StatusServiceUnavailable; got != want {
		t.Errorf("Upgrade after Run: got %d, want %d", got, want)
	}
	if err := srv.Run(context.Background()); err == nil {
		t.Error("Run could be called twice")
	}
}

func TestUpgradeRefusesOtherRequests(t *testing.T) {
	srv := serve(t, Config{}, setup{})
	res, err := http.Get(srv.http.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got, want := res.StatusCode, http.StatusUpgradeRequired; got != want {
		t.Errorf("got %d, want %d", got, want)
	}
}

// The reason is told before the socket closes even if the peer closes at the
// same time, many times over.
func TestCrossingCloses(t *testing.T) {
	srv := serve(t, Config{}, setup{})
	for range 200 {
		p, ses := srv.dial("")
		go ses.Close(1001, "drain")
		p.write(headClose, []byte{0x03, 0xE8})
		f := p.must(8)
		if _, err := p.next(); !errors.Is(err, io.EOF) {
			t.Fatalf("got %v behind %v", err, f)
		}
		if end := ses.result(t); end.ByPeer != (f.payload[1] == 0xE8) {
			t.Fatalf("sent %v, ended with %v", f, end)
		}
	}
}
