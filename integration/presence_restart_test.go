//go:build unix

package integration

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// fleet is the gateways that take new clients.
type fleet struct {
	mu   sync.Mutex
	urls []string
	turn int
}

func (f *fleet) next() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn++
	return f.urls[f.turn%len(f.urls)]
}

func (f *fleet) set(urls []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.urls = urls
}

// wanderer is a member that goes to another gateway when its own leaves, in the
// way that its manner says.
type wanderer struct {
	t      *testing.T
	fleet  *fleet
	user   string
	topic  string
	manner int

	mu    sync.Mutex
	stays []*witness // one for each connection it has had
	moves int
}

const (
	movesFirst   = iota // goes to the other gateway, then says goodbye to the old
	leavesFirst         // says goodbye, then goes to the other
	breaksOff           // drops its connection, then goes to the other
	waitsToClose        // stays until it is closed
	manners
)

// wander keeps the member connected until ctx ends.
func (w *wanderer) wander(ctx context.Context, c *client.Client, drains <-chan client.Drain) {
	for {
		drain := drains
		if w.manner == waitsToClose {
			drain = nil
		}
		select {
		case <-ctx.Done():
			return
		case d := <-drain:
			select {
			case <-time.After(d.After):
			case <-ctx.Done():
				return
			}
		case <-c.Done():
		}
		old := c
		switch w.manner {
		case leavesFirst:
			old.Close(wire.CloseNormal)
		case breaksOff:
			old.Abort()
		}
		if w.manner == leavesFirst || w.manner == breaksOff {
			select {
			case <-time.After(300 * time.Millisecond): // some time passes before anybody is back
			case <-ctx.Done():
				return
			}
		}
		c, drains = w.arrive(ctx)
		if c == nil {
			return
		}
		old.Close(wire.CloseNormal)
		w.mu.Lock()
		w.moves++
		w.mu.Unlock()
	}
}

// arrive connects somewhere and joins, as often as it takes.
func (w *wanderer) arrive(ctx context.Context) (*client.Client, <-chan client.Drain) {
	for ctx.Err() == nil {
		drains := make(chan client.Drain, 1)
		c, err := tryDial(w.t, w.fleet.next(), client.Options{Token: token(w.user, nil)})
		if err == nil {
			c.OnDrain(func(d client.Drain) { drains <- d })
			var stay *witness
			if stay, err = attest(within(w.t), w.t, c, w.topic, "join", `"`+w.user+`"`); err == nil {
				w.mu.Lock()
				w.stays = append(w.stays, stay)
				w.mu.Unlock()
				return c, drains
			}
			c.Abort()
		}
		select {
		case <-time.After(50 * time.Millisecond): // a client's backoff
		case <-ctx.Done():
		}
	}
	return nil, nil
}

// All gateways but one are restarted one after another, and everybody moves: who
// watches sees nobody go, be it on the gateway that stays or on the way itself.
func TestARollingRestartDoesNotFlicker(t *testing.T) {
	t.Parallel()
	const topic, members = "long.roll", 12
	env := []string{"FAIRLEAD_DRAIN_WINDOW=1s"}
	s, _ := presenceStack(t, 3, 2, env...)
	env = append(env, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, presenceRules), "FAIRLEAD_GATEWAY_LEASE="+testLease.String())
	eye := witnessing(t, s.as(2, "eye"), topic, "watch")

	all := &fleet{urls: slices.Clone(s.urls[:2])} // so that each of them has some
	ctx, stop := context.WithCancel(context.Background())
	var moving sync.WaitGroup
	defer moving.Wait()
	defer stop()
	truth := roll{"quitter": ""}
	var wanderers []*wanderer
	for i := range members {
		w := &wanderer{t: t, fleet: all, user: fmt.Sprintf("user%d", i), topic: topic, manner: i / 2 % manners}
		truth[w.user] = `"` + w.user + `"`
		wanderers = append(wanderers, w)
		c, drains := w.arrive(ctx)
		moving.Go(func() { w.wander(ctx, c, drains) })
	}
	quitter := s.as(1, "quitter")
	joining(t, quitter, topic, "")
	nc := s.worker()
	settles(t, nc, topic, truth, eye)

	for i := range 2 {
		fresh := s.add(env...)
		all.set([]string{s.urls[2], fresh.ws()})
		s.gateways[i].signal()
		if code := s.gateways[i].exit(patience); code != 0 {
			t.Errorf("gateway %d: exit code %d, want 0", i, code)
		}
	}
	<-quitter.Done() // and does not come back
	settles(t, nc, topic, truth, eye)
	eye.until("who did not come back is gone", func(m client.Members) bool { return !m.Has("quitter") })
	delete(truth, "quitter")
	settles(t, nc, topic, truth, eye)
	passes(testLease) // nothing of a gateway that left is still to come
	eye.sawLeave("quitter")
	stop()
	moving.Wait()
	moves := 0
	for _, w := range wanderers {
		moves += w.moves
		for i, stay := range w.stays {
			gone := stay.departures()
			delete(gone, "quitter")
			if err := stay.view.Err(); err != nil || len(gone) > 0 {
				t.Errorf("%s saw on its connection %d that %v went, err %v", w.user, i, gone, err)
			}
		}
	}
	if moves < members {
		t.Errorf("%d moves of %d members", moves, members)
	}
}
