package integration

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// steered is a client that never subscribes by itself and keeps every frame.
type steered struct {
	*peer
	mu     sync.Mutex
	frames []wire.ServerFrame
	more   chan struct{} // closed and replaced at every frame
}

func newSteered(t *testing.T, url, user string) *steered {
	t.Helper()
	s := &steered{peer: newPeer(t, url, user), more: make(chan struct{})}
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(ended)
		for {
			_, data, err := s.ws.Read(ctx)
			if err != nil {
				return
			}
			frames, err := wire.DecodeServer(data)
			if err != nil {
				t.Errorf("%s: %v", data, err)
				return
			}
			s.mu.Lock()
			s.frames = append(s.frames, frames...)
			close(s.more)
			s.more = make(chan struct{})
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return s
}

// heard waits until the frames so far are as ok says, and returns them.
func (s *steered) heard(what string, ok func([]wire.ServerFrame) bool) []wire.ServerFrame {
	s.t.Helper()
	timeout := time.After(patience)
	for {
		s.mu.Lock()
		frames, more := s.frames[:len(s.frames):len(s.frames)], s.more
		s.mu.Unlock()
		if ok(frames) {
			return frames
		}
		select {
		case <-more:
		case <-timeout:
			s.t.Fatalf("never: %s; there are %d frames", what, len(frames))
		}
	}
}

// rounds checks what a client hears of a topic that it is put on and taken off:
// subscribed, then messages in order without a gap, then unsubscribed, and so on.
// It returns the rounds that ended and all messages.
func rounds(frames []wire.ServerFrame, topic string) (ended, messages int, problem string) {
	on, last := false, 0
	for i, f := range frames {
		switch {
		case f.Op == "system" && f.Event == wire.SystemSubscribed && f.What == topic:
			if on {
				return ended, messages, fmt.Sprintf("frame %d: subscribed twice", i)
			}
			on, last = true, 0
		case f.Op == "system" && f.Event == wire.SystemUnsubscribed && f.What == topic:
			if !on {
				return ended, messages, fmt.Sprintf("frame %d: unsubscribed twice", i)
			}
			on = false
			ended++
		case f.Kind == wire.KindMessage && f.Topic == topic:
			n, err := strconv.Atoi(string(f.Data))
			switch {
			case !on:
				return ended, messages, fmt.Sprintf("frame %d: message %s while not subscribed", i, f.Data)
			case err != nil || last != 0 && n != last+1:
				return ended, messages, fmt.Sprintf("frame %d: message %s behind %d", i, f.Data, last)
			}
			last = n
			messages++
		case f.Kind == wire.KindReply && f.Error != nil, f.Kind == wire.KindReply && f.ID == 0:
			return ended, messages, fmt.Sprintf("frame %d: %s, which nobody asked for", i, f.Raw)
		}
	}
	return ended, messages, ""
}

// The check sees what it is there for.
func TestRoundsSeesWrongOrder(t *testing.T) {
	on := `{"op":"system","event":"subscribed","what":"a","at":1}`
	off := `{"op":"system","event":"unsubscribed","what":"a","at":1}`
	m := func(n int) string { return fmt.Sprintf(`{"topic":"a","event":"message","data":%d}`, n) }
	for name, test := range map[string]struct {
		frames []string
		bad    bool
	}{
		"good":           {[]string{on, m(4), m(5), off, on, m(9), off}, false},
		"early message":  {[]string{m(1), on, m(2)}, true},
		"late message":   {[]string{on, m(1), off, m(2)}, true},
		"gap":            {[]string{on, m(1), m(3)}, true},
		"repeated":       {[]string{on, m(1), m(1)}, true},
		"twice on":       {[]string{on, m(1), on}, true},
		"twice off":      {[]string{on, off, off}, true},
		"error":          {[]string{on, `{"id":0,"error":{"code":"INTERNAL","message":""}}`}, true},
		"another's word": {[]string{`{"topic":"b","event":"message","data":1}`, on, off}, false},
	} {
		frames, err := wire.DecodeServer([]byte("[" + strings.Join(test.frames, ",") + "]"))
		must(t, err)
		if _, _, problem := rounds(frames, "a"); (problem != "") != test.bad {
			t.Errorf("%s: %q", name, problem)
		}
	}
}

// An operator puts users on topics and takes them off while messages stream:
// the client hears of it before the first message and behind the last, gaps in
// between there are none.
func TestOperatorsSubscribeAndUnsubscribeUnderAStream(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{"plain", "chat"} { // which is replayed
		t.Run(rule, func(t *testing.T) {
			const clients, turns = 3, 15
			s := anyReplayed(t, 1000, clients)
			gateways, topic := s.size(), unique(rule)
			worker, operator := s.worker(), s.operator()
			var all []*steered
			for i := range clients {
				all = append(all, newSteered(t, s.url(i), "ann"))
			}
			stop, streamed := make(chan struct{}), make(chan error, 1)
			go func() {
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for n := 1; ; n++ {
					if err := worker.Publish("fl.topic."+topic, []byte(strconv.Itoa(n))); err != nil {
						streamed <- err
						return
					}
					select {
					case <-stop:
						streamed <- nil
						return
					case <-tick.C:
					}
				}
			}()
			for turn := range turns {
				ordered(t, operator, "user.ann", `{"action":"subscribe","topic":"`+topic+`"}`, gateways, clients)
				for _, c := range all {
					_, before, _ := rounds(c.heard("subscribed", func([]wire.ServerFrame) bool { return true }), topic)
					c.heard("a message of the round", func(f []wire.ServerFrame) bool {
						_, messages, problem := rounds(f, topic)
						return messages > before || problem != ""
					})
				}
				ordered(t, operator, "user.ann", `{"action":"unsubscribe","topic":"`+topic+`"}`, gateways, clients)
				for i, c := range all {
					frames := c.heard("the end of the round", func(f []wire.ServerFrame) bool {
						ended, _, problem := rounds(f, topic)
						return ended == turn+1 || problem != ""
					})
					if _, _, problem := rounds(frames, topic); problem != "" {
						t.Fatalf("client %d, turn %d: %s", i, turn, problem)
					}
				}
			}
			ordered(t, operator, "user.ann", `{"action":"unsubscribe","topic":"`+topic+`"}`, gateways, 0)
			close(stop)
			must(t, receive(t, streamed))
			for i, c := range all {
				c.send(`{"op":"unsubscribe","id":77,"topic":"none.here"}`)
				frames := c.heard("the last answer", func(f []wire.ServerFrame) bool { return f[len(f)-1].ID == 77 })
				if ended, _, problem := rounds(frames, topic); problem != "" || ended != turns {
					t.Errorf("client %d: %d rounds of %d; %s", i, ended, turns, problem)
				}
			}
		})
	}
}

// What an operator says counts whatever the rule says; what protects the gateway
// holds for operators too, and the client's own subscriptions stay as they are.
func TestAnOperatorsWordStandsAboveTheRule(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	rules := rulesFile(t, "topics:\n  - {match: closed.>, subscribe: none, publish: none}\n  - {match: \">\", subscribe: user, publish: user, wildcards: true}\n")
	g := startGateway(t, server.ClientURL(), "FAIRLEAD_TOPICS_FILE="+rules, "FAIRLEAD_LIMIT_TOPICS_PER_CONNECTION=2")
	worker := connect(t, server.ClientURL())
	c := dial(t, g.ws(), client.Options{Token: token("ann", nil)})
	heard := make(chan string, 16)
	c.OnSystem(func(e client.SystemEvent) { heard <- e.Event + " " + e.What })
	c.OnMessage(func(m client.Message) { heard <- m.Topic + " " + string(m.Data) })
	conn := "conn." + c.Welcome().Conn
	if _, err := c.Subscribe(within(t), "closed.a", client.SubscribeOptions{}); wire.AsError(err).Code != wire.PermissionDenied {
		t.Fatalf("subscribe by herself: %v, want PERMISSION_DENIED", err)
	}
	own := subscribe(t, c, "open.a")
	ordered(t, worker, conn, `{"action":"subscribe","topic":"open.a"}`, 1, 1) // she has it: nothing changes
	ordered(t, worker, conn, `{"action":"subscribe","topic":"closed.*"}`, 1, 1)
	if got := receive(t, heard); got != "subscribed closed.*" {
		t.Fatalf("got %q, want subscribed closed.*", got)
	}
	must(t, worker.Publish("fl.topic.closed.b", []byte(`1`)))
	if got := receive(t, heard); got != "closed.b 1" {
		t.Fatalf("got %q, want the message", got)
	}
	said := order(t, worker, conn, `{"action":"subscribe","topic":"third"}`, 1)
	if len(said.codes) != 1 || said.codes[0] != "RESOURCE_EXHAUSTED" {
		t.Errorf("above the limit: %+v, want RESOURCE_EXHAUSTED", said)
	}
	publish(t, c, "open.a", `"mine"`)
	expect(t, own, "", `"mine"`)
	ordered(t, worker, "user.ann", `{"action":"unsubscribe","topic":"open.a"}`, 1, 1)
	if got := receive(t, heard); got != "unsubscribed open.a" {
		t.Errorf("got %q, want unsubscribed open.a", got)
	}
	ordered(t, worker, "user.ann", `{"action":"unsubscribe","topic":"open.a"}`, 1, 0)
	ordered(t, worker, "user.bob", `{"action":"subscribe","topic":"open.a"}`, 1, 0)
	must(t, c.Unsubscribe(within(t), "closed.*")) // an operator's subscription is hers to end
	ordered(t, worker, "user.ann", `{"action":"unsubscribe","topic":"closed.*"}`, 1, 0)
}

// Messages of operators while the client itself subscribes, unsubscribes and
// leaves, as fast as both can.
func TestOperatorsAndClientsAtTheSameTime(t *testing.T) {
	t.Parallel()
	s := openStack(t, 1)
	gateways, prefix := s.size(), unique("t")
	worker := s.operator()
	for round := range 8 {
		c := newSteered(t, s.url(0), "ann")
		var both sync.WaitGroup
		both.Go(func() {
			for i := range 60 {
				for _, action := range []string{"subscribe", "unsubscribe"} {
					body := fmt.Sprintf(`{"action":"%s","topic":"%s.%d"}`, action, prefix, i%3)
					if err := worker.PublishMsg(&nats.Msg{Subject: "fl.control.user.ann", Data: []byte(body)}); err != nil {
						t.Error(err)
					}
				}
			}
		})
		for i := range 60 {
			c.send(fmt.Sprintf(`[{"op":"subscribe","id":%d,"topic":"%s.%d"},{"op":"unsubscribe","id":%d,"topic":"%s.%d"}]`, 2*i+10, prefix, i%3, 2*i+11, prefix, i%3))
		}
		if round%2 == 0 {
			c.heard("all answers", func(f []wire.ServerFrame) bool {
				n := 0
				for _, one := range f {
					if one.Kind == wire.KindReply && one.Error == nil {
						n++
					}
				}
				return n == 120
			})
		}
		both.Wait()
		c.ws.Close(websocket.StatusNormalClosure, "")
	}
	eventually(t, "nobody is subscribed to anything", func() (any, bool) {
		said := order(t, worker, "user.ann", `{"action":"unsubscribe","topic":"`+prefix+`.0"}`, gateways)
		return said, said.reached == 0
	})
}
