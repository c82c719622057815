package gateway

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A message with a key waits for a slow reader, who begins to listen to something
// else, or to the same anew. What comes from there under the key does not take its
// place, in front of the answer: the client would take it for nobody's.
func TestNoMessageWithAKeyPassesTheAnswer(t *testing.T) {
	server := natsdev.Test(t)
	h := newGroupHost(t, server)
	h.entries()
	h.serve("join")
	r := startGateway(t, server, narrow(t, 256<<10),
		withRules(`{topics: [{match: ">", subscribe: any, publish: any, slow: drop-oldest}], groups: [{match: ">", join: any, roles: [member]}]}`))
	nc := r.bus()
	keyed := func(t *testing.T, subject, data string) {
		t.Helper()
		before := r.g.metrics.deliveries.Load()
		if err := nc.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{wire.HeaderCoalesce: {"k"}}, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the message is queued", func() bool { return r.g.metrics.deliveries.Load() > before })
	}
	listened := func(t *testing.T, topic string) {
		t.Helper()
		eventually(t, "the subscription is there", func() bool {
			in := r.g.fanout.hub.find(r.g.fanout.hub.shard("fl.topic."+topic), "fl.topic."+topic)
			return in != nil && in.count() == 1
		})
	}
	for name, c := range map[string]struct {
		begin   func(t *testing.T, p *peer, conn string)
		subject string
		answer  string
	}{
		"the topic anew": {func(t *testing.T, p *peer, _ string) {
			p.send(`[{"op":"unsubscribe","id":10,"topic":"t"},{"op":"subscribe","id":11,"topic":"t"},{"op":"subscribe","id":12,"topic":"mark1"}]`)
			listened(t, "mark1")
		}, "fl.topic.t", `{"id":11,"ok":`},
		"another topic": {func(t *testing.T, p *peer, _ string) {
			p.send(`{"op":"subscribe","id":11,"topic":"u"}`)
			listened(t, "u")
		}, "fl.topic.u", `{"id":11,"ok":`},
		"by an operator": {func(t *testing.T, _ *peer, conn string) {
			reply, err := nc.Request("fl.control.conn."+conn, []byte(`{"action":"subscribe","topic":"v"}`), patience)
			if err != nil || !strings.Contains(string(reply.Data), `"reached":1`) {
				t.Fatalf("%v, %v", reply, err)
			}
		}, "fl.topic.v", `"event":"subscribed"`},
		"a group": {func(t *testing.T, p *peer, conn string) {
			p.send(`{"op":"group.join","id":11,"group":"g"}`)
			join := h.next("join")
			h.seat(conn, "member")
			h.answer(join, nil)
			eventually(t, "the seat is taken", func() bool {
				gr := r.g.groups.of("g")
				gr.mu.Lock()
				defer gr.mu.Unlock()
				return len(gr.seats) == 1
			})
		}, "fl.group.g", `{"id":11,"ok":`},
	} {
		t.Run(name, func(t *testing.T) {
			p := r.dial(narrowly)
			defer p.ws.CloseNow()
			conn, _, _ := p.hello("")
			p.subscribe(2, "t")
			p.subscribe(3, "flood")
			r.stall(t, nc, 48<<10)
			keyed(t, "fl.topic.t", "1")
			c.begin(t, p, conn)
			keyed(t, c.subject, "2")
			var order []string
			for len(order) == 0 || !strings.Contains(order[len(order)-1], `"data":2`) {
				if got := p.read(); !strings.Contains(got, `"flood"`) {
					order = append(order, got)
				}
			}
			all := strings.Join(order, "\n")
			if first, answer := strings.Index(all, `"data":1`), strings.Index(all, c.answer); first < 0 || answer < first {
				t.Errorf("got\n%s\nwant the first value, the answer and the second", all)
			}
		})
		for _, topic := range []string{"t", "flood"} { // the next one's are its own
			eventually(t, "the client is gone", func() bool {
				in := r.g.fanout.hub.find(r.g.fanout.hub.shard("fl.topic."+topic), "fl.topic."+topic)
				return in == nil || in.count() == 0
			})
		}
	}
}

// stall has a topic `flood` fill the sockets of the one who listens to it, and
// then so many bytes of its queue.
func (r *rig) stall(t *testing.T, nc *nats.Conn, bytes int) *connection {
	t.Helper()
	var c *connection
	r.g.fanout.hub.find(r.g.fanout.hub.shard("fl.topic.flood"), "fl.topic.flood").each(func(only *connection) { c = only })
	for n := 0; c.out.Queued() < bytes; n++ {
		if n > 10_000 {
			t.Fatal("the sockets are never full")
		}
		before := r.g.metrics.deliveries.Load()
		tell(t, nc, "fl.topic.flood", `"`+strings.Repeat("x", 4000)+`"`)
		eventually(t, "it is queued", func() bool { return r.g.metrics.deliveries.Load() > before })
	}
	return c
}

// What a connection keeps of a batch does not hold the rest of it in memory.
func TestFramesOfABatchAreNotHeldByAFew(t *testing.T) {
	g := &Service{}
	big := `"` + strings.Repeat("x", 1000) + `"`
	for name, c := range map[string]struct {
		body   string
		shared bool
	}{
		"little is kept": {`[{"data":1},{"data":` + big + `,"exclude":"me"}]`, false},
		"most is kept":   {`[{"data":` + big + `},{"data":1,"exclude":"me"}]`, true},
	} {
		p, err := g.pack(&wire.Message{Topic: "t"}, &wire.Meta{Batch: true}, &nats.Msg{Data: []byte(c.body)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		frames := p.framesOf("me")
		if len(frames) != 1 || string(frames[0]) != string(p.frames[0]) {
			t.Fatalf("%s: got %s", name, frames)
		}
		if got := &frames[0][0] == &p.frames[0][0]; got != c.shared {
			t.Errorf("%s: the memory is shared: %v, want %v", name, got, c.shared)
		}
		if all := p.framesOf("somebody"); fmt.Sprint(&all[0][0]) != fmt.Sprint(&p.frames[0][0]) {
			t.Errorf("%s: who gets all gets copies", name)
		}
	}
}
