package outbox

import (
	"strings"
	"testing"
	"time"
)

const heartbeat = 200 * time.Millisecond

func TestSilentPeerIsPingedAndClosed(t *testing.T) {
	srv := serve(t, Config{Heartbeat: heartbeat}, setup{})
	began := time.Now()
	p, ses := srv.dial("")
	p.must(9)
	if got, want := string(p.must(1).payload), `{"op":"ping"}`; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	for {
		f, err := p.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.op == 8 {
			if got := f.String(); !strings.HasPrefix(got, "close 4408") {
				t.Errorf("got %s, want 4408", got)
			}
			break
		}
	}
	if took := time.Since(began); took < 2*heartbeat {
		t.Errorf("closed after %v, want two heartbeats at least", took)
	}
	p.write(headClose, []byte{0x11, 0x38})
	if got := ses.result(t); got.Code != 4408 || got.ByPeer {
		t.Errorf("got %v, want 4408 from here", got)
	}
}

// Whatever is received is a sign of life: an automatic pong is enough.
func TestPeerThatOnlyAnswersPingsStays(t *testing.T) {
	srv := serve(t, Config{Heartbeat: heartbeat}, setup{})
	p, ses := srv.dial("")
	for range 6 {
		p.must(9)
		p.must(1)
		p.write(headPong, nil)
	}
	if ses.isClosing() {
		t.Error("closed although it answered")
	}
}

// A peer that is sent to all the time gets no application ping, but still has
// to be asked whether it is there.
func TestBusySubscriberIsPinged(t *testing.T) {
	srv := serve(t, Config{Heartbeat: heartbeat}, setup{})
	p, ses := srv.dial("")
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(heartbeat / 8)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				ses.Send([]byte(`{"topic":"t"}`))
			case <-stop:
				return
			}
		}
	}()
	for pings := 0; pings < 5; {
		f, err := p.next()
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case f.op == 9:
			pings++
			p.write(headPong, nil)
		case f.op != 1 || string(f.payload) == string(pingFrame):
			t.Fatalf("got %v", f)
		}
	}
}

func TestWriteWithoutProgressEnds(t *testing.T) {
	srv := serve(t, Config{Heartbeat: heartbeat, CloseGrace: heartbeat}, setup{})
	p, ses := srv.dial("")
	began := time.Now()
	ses.stall(t)
	// Alive, but it does not read.
	stop := make(chan struct{})
	go func() {
		tick := time.NewTicker(heartbeat / 4)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if _, err := p.Write(clientFrame(headPong, nil)); err != nil {
					return
				}
			case <-stop:
				return
			}
		}
	}()
	defer close(stop)
	if got := ses.result(t); got.Code != 1013 || got.ByPeer {
		t.Errorf("got %v, want 1013 from here", got)
	}
	if took := time.Since(began); took < 3*heartbeat {
		t.Errorf("ended after %v", took)
	}
}
