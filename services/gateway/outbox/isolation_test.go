package outbox

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// isolation delivers to healthy peers and to some that never read, and returns
// an error unless every healthy one gets everything.
func isolation(srv *server, proto string, healthy, stalled, messages int, within time.Duration) error {
	var all []*session
	var peers []*peer
	for i := range healthy + stalled {
		p, ses := srv.dial(proto)
		all = append(all, ses)
		if i >= stalled { // the stalled ones are delivered to first
			peers = append(peers, p)
		}
	}
	// More for each stalled peer than the kernel buffers on its way.
	for _, ses := range all[:stalled] {
		ses.Send(bytes.Repeat([]byte("1"), 12<<20))
	}
	errs := make(chan error, healthy)
	for _, p := range peers {
		_ = p.SetReadDeadline(time.Now().Add(within))
		go func() {
			for got := 0; got < messages; {
				f, err := p.next()
				if err != nil {
					errs <- fmt.Errorf("%d of %d messages, then %w", got, messages, err)
					return
				}
				got += bytes.Count(f.payload, []byte(`{"n":`))
			}
			errs <- nil
		}()
	}
	src := &Source{}
	pad := bytes.Repeat([]byte("x"), 4000)
	for i := range messages {
		m := fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, i, pad)
		for _, ses := range all {
			ses.Deliver(m, src)
		}
	}
	var first error
	for range peers {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	for i, ses := range all[stalled:] {
		if ses.isClosing() && first == nil {
			first = fmt.Errorf("healthy connection %d was closed", i)
		}
	}
	return first
}

func TestStalledPeersHoldUpNobody(t *testing.T) {
	for _, tc := range []struct {
		name  string
		proto string
		setup setup
	}{
		{"batches", "fairlead.v1", setup{}},
		{"single frames", "", setup{}},
		{"without raw sockets", "fairlead.v1", setup{wrap: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv := serve(t, Config{QueueBytes: 64 << 20}, tc.setup)
			if err := isolation(srv, tc.proto, 50, 3, 500, patience); err != nil {
				t.Error(err)
			}
			await(t, "3 blocked connections", func() bool { return srv.Stats().Blocked == 3 })
		})
	}
}

// With flushers that wait for the peer, the check above must notice.
func TestStalledPeersWouldHoldUpOthers(t *testing.T) {
	srv := serve(t, Config{QueueBytes: 64 << 20}, setup{alter: func(o *Outbox) {
		o.finish = func(c *Conn, rest *chunk) { c.drain(rest) }
	}})
	if err := isolation(srv, "fairlead.v1", 50, 3, 500, time.Second); err == nil {
		t.Error("flushers that wait for stalled peers were not noticed")
	}
}
