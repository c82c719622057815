//go:build unix

package integration

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// roamers are clients that publish and listen, and move when their gateway
// leaves.
type roamers struct {
	t       *testing.T
	checker *checker
	url     string

	all, publishers      sync.WaitGroup
	live, acked          atomic.Int64
	moved, asked, closed atomic.Int64
	late                 atomic.Int64
	quiet                atomic.Bool
}

// stay is one connection of a roamer.
type stay struct {
	conn     *client.Client
	listener *listener
	drain    chan client.Drain
}

// roam keeps a client connected until ctx ends. An obedient one moves when the
// drain frame says, before it leaves; the other waits to be closed.
func (r *roamers) roam(ctx context.Context, user, topic string, obedient bool) {
	var current atomic.Pointer[stay]
	s := r.connect(user, topic, nil)
	if s == nil {
		return
	}
	var seen *listener // over all connections of one who never goes without
	if obedient {
		seen = s.listener.overall()
	}
	current.Store(s)
	r.live.Add(1)
	done := make(chan struct{})
	r.publishers.Add(1)
	go func() {
		defer close(done)
		defer r.publishers.Done()
		r.talk(user, topic, &current)
	}()
	defer func() { <-done }()
	for {
		var asked <-chan client.Drain
		if obedient {
			asked = s.drain
		}
		select {
		case <-ctx.Done():
			return
		case d := <-asked:
			select {
			case <-time.After(d.After):
			case <-ctx.Done():
				return
			}
			old := s
			if s = r.connect(user, topic, seen); s == nil {
				return
			}
			// Only if the old connection still answers was it there together
			// with the new one; a slow machine may have been too late.
			if err := old.conn.Unsubscribe(ctx, "drain.none"); err != nil {
				seen.excuse()
				r.late.Add(1)
			} else {
				r.asked.Add(1)
			}
			current.Store(s)
			r.moved.Add(1)
			r.all.Go(func() { // what is on its way still comes by the old one
				old.conn.Wait()
				old.listener.leave()
			})
		case <-s.conn.Done():
			if e := s.conn.CloseError(); e.Code != wire.CloseGoingAway {
				r.t.Errorf("%s: closed with %v, want 1001", user, e)
			}
			if obedient { // before its delay was over, which leaves a quarter of the window
				seen.excuse()
				r.late.Add(1)
			}
			r.closed.Add(1)
			r.live.Add(-1)
			s.conn.Wait()
			s.listener.leave()
			if s = r.connect(user, topic, seen); s == nil {
				return
			}
			current.Store(s)
			r.moved.Add(1)
			r.live.Add(1)
		}
	}
}

// connect connects through the balancer, as often as it takes.
func (r *roamers) connect(user, topic string, union *listener) *stay {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		conn, err := client.Dial(ctx, r.url, client.Options{Token: token(user, nil), Batch: true, RequestTimeout: patience})
		if err == nil {
			s := &stay{conn: conn, drain: make(chan client.Drain, 1)}
			conn.OnDrain(func(d client.Drain) { s.drain <- d })
			r.t.Cleanup(func() { conn.Abort(); conn.Wait() })
			s.listener, err = r.checker.attach(ctx, conn, user+" on "+conn.Welcome().Gateway, topic, union)
			if err == nil {
				return s
			}
			conn.Abort()
		}
		select {
		case <-ctx.Done():
			r.t.Errorf("%s cannot connect: %v", user, err)
			return nil
		case <-time.After(20 * time.Millisecond): // a client's backoff
		}
	}
}

// talk publishes, one message at a time, over whatever connection is there. To
// the checker each connection is a publisher of its own: what was acknowledged
// by one gateway has been handed to NATS, and may be overtaken by what is
// published through the next.
func (r *roamers) talk(user, topic string, current *atomic.Pointer[stay]) {
	var s *stay
	connection, n := 0, 0
	for !r.quiet.Load() {
		if now := current.Load(); now != s {
			s, connection, n = now, connection+1, 0
		}
		n++
		m := message{topic, fmt.Sprintf("%s.%d", user, connection), n}
		r.checker.begin(m)
		if _, err := s.conn.Publish(context.Background(), topic, "", m.data(), client.PublishOptions{}); err == nil {
			r.checker.ack(m)
			r.acked.Add(1)
			continue
		}
		<-time.After(10 * time.Millisecond) // lost with its connection: the next one comes
	}
}
