package integration

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

// A gateway loses its way to NATS again and again while others publish. Its
// clients stay, and see every message once and in order; what is published
// through it under a key is stored once.
func TestACutLinkToNATSCostsNoReplayedMessage(t *testing.T) {
	t.Parallel()
	throughALink(t, func(l *link, f *feeder, round int) {
		l.cut()
		if round%2 == 0 { // else it is back before anything was missed
			f.more(100)
		}
		l.restore()
	})
}

// The link takes one direction's bytes and loses them, without a sign, before
// it breaks.
func TestALinkThatSwallowsMessagesCostsNone(t *testing.T) {
	t.Parallel()
	throughALink(t, func(l *link, f *feeder, round int) {
		lost := &l.fromBackend
		if round%2 == 1 {
			lost = &l.toBackend
		}
		lost.Store(true)
		f.more(150)
		l.cut()
		lost.Store(false)
		l.restore()
	})
}

func throughALink(t *testing.T, harm func(l *link, f *feeder, round int)) {
	t.Helper()
	const rounds = 4
	server := natsdev.Test(t)
	file := rulesFile(t, fmt.Sprintf(replayedRules, 100_000))
	startReplay(t, server.ClientURL(), file)
	l := startLink(t, to(strings.TrimPrefix(server.ClientURL(), "nats://")), nil)
	s := &stack{t: t, nats: "nats://" + l.addr()}
	behindLink := s.add("FAIRLEAD_TOPICS_FILE=" + file)
	s.nats = server.ClientURL()
	s.add("FAIRLEAD_TOPICS_FILE=" + file)

	fed, said := unique("chat.fed"), unique("chat.said")
	var back atomic.Int64
	watch := s.as(0, "watch")
	watch.OnSystem(func(e client.SystemEvent) {
		if e.Event == "recovered" {
			back.Add(1)
		}
	})
	var clients []*client.Client
	var ofFed, ofSaid []*follower
	for i := range 6 {
		c := s.as(i%2, fmt.Sprintf("user%d", i))
		clients = append(clients, c)
		name := fmt.Sprintf("user%d on gateway %d", i, i%2)
		for topic, all := range map[string]*[]*follower{fed: &ofFed, said: &ofSaid} {
			sub, err := c.Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
			must(t, err)
			*all = append(*all, following(t, name, sub))
		}
	}
	f := feed(t, s.nats, fed, 500)
	v := speak(t, s.as(0, "speaker"), said)
	f.more(50)
	for round := range rounds {
		was := back.Load()
		harm(l, f, round)
		eventually(t, "the gateway has NATS back", func() (any, bool) { return back.Load(), back.Load() > was })
		behindLink.ready()
		f.more(50)
		v.more(1)
	}
	nFed, nSaid := f.stop(), v.stop()
	for _, one := range ofFed {
		one.whole(0, nFed)
	}
	for _, one := range ofSaid {
		one.whole(0, nSaid)
	}
	for i, c := range append(clients, watch) {
		if err := c.CloseError(); err != nil {
			t.Errorf("client %d did not stay: %v", i, err)
		}
	}
}

// speaker publishes the numbers from 0 up over a client, one behind the other,
// each under a key, again until it is acknowledged.
type speaker struct {
	t     *testing.T
	acked atomic.Int64
	quit  context.CancelFunc
	done  chan struct{}
}

func speak(t *testing.T, c *client.Client, topic string) *speaker {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	v := &speaker{t: t, quit: cancel, done: make(chan struct{})}
	go func() {
		defer close(v.done)
		for {
			n := v.acked.Load()
			_, err := c.Publish(context.Background(), topic, "", n, client.PublishOptions{Key: strconv.FormatInt(n, 10)})
			if err == nil {
				v.acked.Add(1)
			}
			if ctx.Err() != nil && (err == nil || c.CloseError() != nil) {
				return
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { cancel(); c.Abort(); <-v.done })
	return v
}

// more waits until n more numbers are acknowledged.
func (v *speaker) more(n int64) {
	v.t.Helper()
	want := v.acked.Load() + n
	eventually(v.t, "the speaker is acknowledged", func() (any, bool) { return v.acked.Load(), v.acked.Load() >= want })
}

// stop ends it behind its next acknowledgement, and returns how many there were.
func (v *speaker) stop() int {
	v.quit()
	<-v.done
	return int(v.acked.Load())
}
