package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

func TestFramesArriveInOrder(t *testing.T) {
	for _, proto := range []string{"fairlead.v1", ""} {
		t.Run("subprotocol "+proto, func(t *testing.T) {
			srv := serve(t, Config{QueueBytes: 64 << 20}, setup{})
			p, ses := srv.dial(proto)
			if got, want := ses.Batch(), proto != ""; got != want {
				t.Fatalf("Batch: got %v, want %v", got, want)
			}
			if got, want := ses.Owner, any("owner"); got != want {
				t.Fatalf("Owner: got %v, want %v", got, want)
			}
			const n = 20_000
			src := &Source{}
			go func() {
				for i := range n {
					m := fmt.Appendf(nil, `{"n":%d,"pad":%q}`, i, strings.Repeat("p", i%97*i%1300))
					if i%3 == 0 {
						ses.Send(m)
					} else {
						ses.Deliver(m, src)
					}
				}
			}()
			for i := 0; i < n; {
				f := p.must(1)
				if proto == "" && f.payload[0] != '{' {
					t.Fatalf("a client without subprotocol got %v", f)
				}
				if len(f.payload) > 64<<10 {
					t.Fatalf("joined to %d bytes", len(f.payload))
				}
				for part := range bytes.SplitSeq(f.payload, []byte(`{"n":`)) {
					if len(part) < 2 {
						continue // before the first
					}
					var got int
					if _, err := fmt.Sscanf(string(part), "%d", &got); err != nil || got != i {
						t.Fatalf("got message %d (%v), want %d", got, err, i)
					}
					i++
				}
			}
			await(t, "idle", ses.Idle)
			s := ses.Stats()
			if s.MessagesOut != n || s.FramesOut > n || s.Queued != 0 {
				t.Errorf("got %+v", s)
			}
			if proto == "" && s.FramesOut != n {
				t.Errorf("got %d WebSocket messages, want %d", s.FramesOut, n)
			}
		})
	}
}

func TestLargeFramesArriveIntact(t *testing.T) {
	srv := serve(t, Config{QueueBytes: 64 << 20}, setup{})
	p, ses := srv.dial("fairlead.v1")
	var want []string
	for i := range 12 {
		m := fmt.Sprintf(`{"n":%d,"pad":%q}`, i, strings.Repeat(string(rune('a'+i)), i*i*20_000))
		want = append(want, m)
		ses.Send([]byte(m))
	}
	got, err := p.messages(len(want))
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("message %d differs: %d bytes, want %d", i, len(got[i]), len(want[i]))
		}
	}
}

func TestControlFramesStayBetweenDataFrames(t *testing.T) {
	srv := serve(t, Config{QueueBytes: 64 << 20}, setup{})
	p, ses := srv.dial("fairlead.v1")
	plug := ses.stall(t)
	for i := range 50 {
		p.write(headPing, fmt.Appendf(nil, "ping %d %s", i, strings.Repeat("x", 100)))
	}
	p.write(headText, []byte(`{"id":1}`)) // read behind the pings: the pong for the last one waits
	if r := <-ses.reads; r.err != nil {
		t.Fatal(r.err)
	}
	ses.Send([]byte(`{"n":1}`))
	p.unplug(plug)
	if got, want := string(p.must(0xA).payload), "ping 49 "+strings.Repeat("x", 100); got != want {
		t.Errorf("got pong %q, want %q", got, want)
	}
	if got, want := string(p.must(1).payload), `{"n":1}`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	// And with everything in motion: every frame is valid, the last ping is answered.
	const rounds = 300
	go func() {
		big := []byte(`"` + strings.Repeat("z", 150_000) + `"`)
		for i := range rounds {
			ses.Send(big)
			_, _ = p.Write(clientFrame(headPing, fmt.Appendf(nil, "%d", i)))
		}
	}()
	last, data := "", 0
	for last != fmt.Sprint(rounds-1) || data < rounds {
		f, err := p.next()
		if err != nil {
			t.Fatal(err)
		}
		switch f.op {
		case 0xA:
			last = string(f.payload)
		case 1:
			data += bytes.Count(f.payload, []byte(`zz"`))
		default:
			t.Fatalf("got %v", f)
		}
	}
}

func TestCloseSendsWhatIsQueued(t *testing.T) {
	srv := serve(t, Config{}, setup{})
	p, ses := srv.dial("")
	plug := ses.stall(t)
	ses.Send([]byte(`{"n":1}`))
	ses.Send([]byte(`{"n":2}`))
	ses.Close(1001, "drain")
	ses.Close(4403, "too late")
	ses.Send([]byte(`{"n":3}`))
	p.unplug(plug)
	p.must(1)
	p.must(1)
	if got, want := p.must(8).String(), `close 1001 "drain"`; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	p.write(headText, []byte(`{"id":1}`)) // dropped: the connection is closing
	p.write(headClose, []byte{0x03, 0xE9})
	if _, err := p.next(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end of the stream", err)
	}
	if r := <-ses.reads; r.err == nil {
		t.Errorf("a message was read while closing: %q", r.data)
	} else if got, want := *r.err.(*ClosedError), (ClosedError{1001, "drain", false}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, _, err := ses.Read(); err == nil {
		t.Error("Read after the end returned no error")
	}
}

func TestPeerCloses(t *testing.T) {
	cases := []struct {
		name, payload string
		echo          string
		want          ClosedError
	}{
		{"with a reason", "\x03\xe8bye", "\x03\xe8bye", ClosedError{1000, "bye", true}},
		{"without a code", "", "", ClosedError{1005, "", true}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			srv := serve(t, Config{}, setup{})
			p, ses := srv.dial("")
			p.write(headClose, []byte(tc.payload))
			if got := string(p.must(8).payload); got != tc.echo {
				t.Errorf("got echo %q, want %q", got, tc.echo)
			}
			if _, err := p.next(); !errors.Is(err, io.EOF) {
				t.Errorf("got %v, want the end of the stream", err)
			}
			if got := *ses.result(t); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			await(t, "unregistered", func() bool { return srv.Stats().Connections == 0 })
		})
	}
}

func TestPeerVanishes(t *testing.T) {
	srv := serve(t, Config{}, setup{})
	p, ses := srv.dial("")
	_ = p.Close()
	if got, want := *ses.result(t), (ClosedError{1006, "", true}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if code, _, byPeer := ses.Closed(); code != 1006 || !byPeer {
		t.Errorf("Closed: got %d, %v", code, byPeer)
	}
}

func TestProtocolErrorsAreAnswered(t *testing.T) {
	cases := map[string][]byte{
		"reserved bit":  clientFrame(0xC1, []byte("{}")),
		"unmasked":      {headText, 2, '{', '}'},
		"unknown op":    clientFrame(0x83, nil),
		"continuation":  clientFrame(0x80, []byte("{}")),
		"close code":    clientFrame(headClose, []byte{0, 1}),
		"control frame": clientFrame(0x09, nil), // fragmented
	}
	for name, bytes := range cases {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, Config{}, setup{})
			p, ses := srv.dial("")
			if _, err := p.Write(append(bytes, strings.Repeat("rest", 1000)...)); err != nil {
				t.Fatal(err)
			}
			if f := p.must(8); f.payload[0] != 3 || f.payload[1] != 0xEA {
				t.Errorf("got %v, want 1002", f)
			}
			// It is read on, lest a reset overtakes the close frame.
			for range 16 {
				if _, err := p.Write(make([]byte, 64<<10)); err != nil {
					t.Fatalf("behind the close frame: %v", err)
				}
			}
			_ = p.Close()
			if got := ses.result(t); got.Code != 1002 || got.ByPeer {
				t.Errorf("got %v, want 1002 from here", got)
			}
		})
	}
}

func TestPeerThatDoesNotAnswerCloseIsReset(t *testing.T) {
	for _, stalled := range []bool{false, true} {
		t.Run(fmt.Sprintf("stalled %v", stalled), func(t *testing.T) {
			const grace = 200 * time.Millisecond
			srv := serve(t, Config{CloseGrace: grace}, setup{})
			p, ses := srv.dial("")
			if stalled {
				ses.stall(t)
			}
			began := time.Now()
			ses.Close(1001, "drain")
			if got := *ses.result(t); got.Code != 1001 || got.ByPeer {
				t.Errorf("got %v", got)
			}
			if took := time.Since(began); took < grace {
				t.Errorf("reset after %v, want %v at least", took, grace)
			}
			if _, err := io.Copy(io.Discard, p.br); !isReset(err) {
				t.Errorf("got %v, want a reset", err)
			}
		})
	}
}

func TestAbort(t *testing.T) {
	srv := serve(t, Config{}, setup{})
	p, ses := srv.dial("")
	ses.stall(t)
	ses.Abort()
	ses.Abort()
	if got, want := *ses.result(t), (ClosedError{1006, "", false}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := io.Copy(io.Discard, p.br); !isReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
	if !ses.Idle() {
		t.Error("an ended connection has something to write")
	}
}
