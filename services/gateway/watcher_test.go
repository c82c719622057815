package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// presenceHost stands for the presence service: it lists the same of each topic,
// at first nobody, and answers what gateways put when the test says so.
type presenceHost struct {
	t        *testing.T
	nc       *nats.Conn
	puts     chan *nats.Msg
	revision uint64

	mu       sync.Mutex
	over     bool // puts are answered at once
	sections []wire.PresenceStored
}

func newPresenceHost(t *testing.T, server *natsdev.Server) *presenceHost {
	t.Helper()
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	h := &presenceHost{t: t, nc: nc, puts: make(chan *nats.Msg, 64), revision: 100}
	serve := func(op string, fn func(*nats.Msg)) {
		if _, err := nc.Subscribe("fl.svc.presence."+op, fn); err != nil {
			t.Fatal(err)
		}
	}
	serve("sections", func(msg *nats.Msg) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if reply, err := json.Marshal(wire.PresenceSections{Sections: h.sections, Rev: 100}); err == nil {
			_ = msg.Respond(reply)
		}
	})
	serve("put", func(msg *nats.Msg) {
		var put wire.PresencePut
		if err := json.Unmarshal(msg.Data, &put); err != nil {
			t.Errorf("put: %v", err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.over || len(put.Sections) > 0 && put.Sections[0].Topic == "" { // the registry
			h.agree(msg, len(put.Sections))
			return
		}
		h.puts <- msg
	})
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return h
}

// agree answers a put as if all of it were stored.
func (h *presenceHost) agree(msg *nats.Msg, sections int) {
	if reply, err := json.Marshal(wire.PresencePutReply{Results: make([]wire.PresenceRevised, sections)}); err == nil {
		_ = msg.Respond(reply) // the test may be over
	}
}

// end lets everything be stored that gateways still have to say.
func (h *presenceHost) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	for len(h.puts) > 0 {
		h.agree(<-h.puts, 1)
	}
}

// next returns the next put, with what it says.
func (h *presenceHost) next() (*nats.Msg, wire.PresenceSection) {
	h.t.Helper()
	msg := recv(h.t, h.puts)
	var put wire.PresencePut
	if err := json.Unmarshal(msg.Data, &put); err != nil || len(put.Sections) != 1 {
		h.t.Fatalf("put: %v %s", err, msg.Data)
	}
	return msg, put.Sections[0]
}

// store answers a put of one section.
func (h *presenceHost) store(msg *nats.Msg) {
	h.t.Helper()
	h.revision++
	h.respond(msg, fmt.Sprintf(`{"results":[{"revision":%d}]}`, h.revision))
}

func (h *presenceHost) respond(msg *nats.Msg, reply string) {
	h.t.Helper()
	if err := msg.Respond([]byte(reply)); err != nil {
		h.t.Fatal(err)
	}
}

// heard has all gateways hear that a worker's member joined.
func (h *presenceHost) heard(topic, user string) {
	h.t.Helper()
	h.revision++
	msg := nats.NewMsg("fl.presence." + topic + "." + user + ".w")
	msg.Data = fmt.Appendf(nil, `{"topic":%q,"user":%q,"gateway":"w","conns":[{"conn":"w"}]}`, topic, user)
	msg.Header.Set("Nats-Subject", "$KV.fl_presence."+topic+"."+user+".w")
	msg.Header.Set("Nats-Sequence", fmt.Sprint(h.revision))
	msg.Header.Set("Nats-Time-Stamp", "2026-01-02T03:04:05Z")
	if err := h.nc.PublishMsg(msg); err != nil {
		h.t.Fatal(err)
	}
}

// presenceRig is a gateway that has a lease, with a presence service that does as
// the test says.
func presenceRig(t *testing.T, options ...option) (*rig, *presenceHost) {
	t.Helper()
	server := natsdev.Test(t)
	h := newPresenceHost(t, server)
	r := startGateway(t, server, options...)
	t.Cleanup(h.end) // before the gateway stops
	eventually(t, "the gateway has a lease", func() bool { return r.g.lease.current() != 0 })
	return r, h
}

// until reads frames up to one that contains part, which it returns.
func (p *peer) until(part string) string {
	p.t.Helper()
	for {
		if frame := p.read(); strings.Contains(frame, part) {
			return frame
		}
	}
}

// What a topic's presence says to a connection follows the answer to the join
// that it has asked for last, also where an older one is stored meanwhile.
func TestStateFollowsTheAnswerOfTheNewestJoin(t *testing.T) {
	r, h := presenceRig(t)
	other := r.dial()
	other.hello(token(t, auth.Claims{User: "bob"}))
	other.send(`{"op":"subscribe","id":2,"topic":"a.b","presence":"watch"}`)
	other.until(`"state":{}`)
	p := r.dial()
	_, user, _ := p.hello(token(t, auth.Claims{User: "ann"}))
	p.send(`{"op":"subscribe","id":2,"topic":"a.b"}`)
	p.until(`"id":2`)
	p.send(`{"op":"presence.join","id":3,"topic":"a.b"}`)
	first, _ := h.next()
	p.send(`{"op":"unsubscribe","id":4,"topic":"a.b"}`)
	p.until(`"id":4`)
	p.send(`{"op":"subscribe","id":5,"topic":"a.b","presence":"join"}`)
	eventually(t, "the second join is on its way", func() bool {
		r.g.roster.mu.Lock()
		defer r.g.roster.mu.Unlock()
		s := r.g.roster.sections[sectionKey{"a.b", user}]
		return s != nil && len(s.waiting) == 3
	})
	h.store(first)
	p.until(`"id":3`)
	other.until(`"joins":{"` + user)
	second, _ := h.next()
	h.heard("a.b", "cid") // a tick later p would hear it, if it heard anything
	other.until(`"joins":{"cid"`)
	h.store(second)
	if got := p.read(); !strings.Contains(got, `"id":5`) {
		t.Fatalf("got %s, want the answer to the subscribe", got)
	}
	p.until(`"state":`)
}

// The state follows the answer of op presence.join.
func TestStateFollowsTheAnswerOfAJoin(t *testing.T) {
	r, h := presenceRig(t)
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	p.send(`{"op":"subscribe","id":2,"topic":"a.b"}`)
	p.until(`"id":2`)
	for id := 3; id < 6; id++ {
		p.send(fmt.Sprintf(`{"op":"presence.join","id":%d,"topic":"a.b"}`, id))
		msg, _ := h.next()
		h.store(msg)
		if got := p.read(); !strings.Contains(got, fmt.Sprintf(`"id":%d`, id)) {
			t.Fatalf("got %s, want the answer to join %d", got, id)
		}
		p.until(`"state":`)
		p.send(`{"op":"subscribe","id":100,"topic":"a.b"}`) // neither joined nor watching
		msg, _ = h.next()
		h.store(msg)
		p.until(`"id":100`)
	}
}

// Who watches because they said so goes on when a join of theirs is refused, also
// where they said so while another join was under way.
func TestARefusedJoinDoesNotEndAWatch(t *testing.T) {
	r, h := presenceRig(t)
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	p.send(`{"op":"subscribe","id":2,"topic":"a.b"}`)
	p.until(`"id":2`)
	p.send(`{"op":"presence.join","id":3,"topic":"a.b"}`)
	first, _ := h.next()
	p.send(`{"op":"subscribe","id":4,"topic":"a.b","presence":"watch"}`)
	p.until(`"id":4`)
	h.store(first)
	p.until(`"id":3`)
	left, section := h.next()
	if len(section.Conns) != 0 {
		t.Errorf("stored %+v, want that it left", section.Conns)
	}
	h.store(left)
	p.until(`"state":`)
	p.send(`{"op":"presence.join","id":5,"topic":"a.b"}`)
	refused, _ := h.next()
	h.respond(refused, `{"results":[{"error":{"code":"RESOURCE_EXHAUSTED","message":"full","retryAfterMs":null,"details":{"limit":1}}}]}`)
	p.until(`"id":5`)
	h.heard("a.b", "cid")
	p.until(`"joins":{"cid"`)
}

// An update that was not stored in time is stored later, and its error doesn't
// say otherwise; who is not there can't update.
func TestPresenceUpdateSaysWhatIsKnown(t *testing.T) {
	r, h := presenceRig(t)
	p := r.dial()
	conn, _, _ := p.hello(token(t, auth.Claims{User: "ann"}))
	p.send(`{"op":"subscribe","id":2,"topic":"a.b","presence":"join"}`)
	msg, _ := h.next()
	h.store(msg)
	p.until(`"state":`)
	p.send(`{"op":"presence.update","id":3,"topic":"a.b","data":1}`)
	msg, _ = h.next()
	h.respond(msg, `{"results":[{"error":{"code":"UNAVAILABLE","message":"busy","details":{"outcome":"none"}}}]}`)
	if got := p.expectError(3, "UNAVAILABLE")["outcome"]; got != "unknown" {
		t.Errorf("outcome: got %v, want unknown", got)
	}
	msg, section := h.next()
	if len(section.Conns) != 1 || string(section.Conns[0].Data) != "1" {
		t.Errorf("stored %+v, want the update", section.Conns)
	}
	h.store(msg)
	p.until(`"joins":`)
	p.send(`{"op":"subscribe","id":4,"topic":"c.d"}`)
	p.until(`"id":4`)
	// As it is for a moment after a join was refused.
	r.g.connections.each(func(c *connection) {
		if c.id == conn {
			c.attend("c.d", func(a *attendance) { a.joined = true })
		}
	})
	p.send(`{"op":"presence.update","id":5,"topic":"c.d","data":1}`)
	p.expectError(5, "FAILED_PRECONDITION")
}

// A connection that takes its state slowly has it all the same, however much
// changes meanwhile: what changed follows, as fast as it is taken, and where that
// is much another state does.
func TestASlowObserverHasTheState(t *testing.T) {
	for _, c := range []struct {
		changes int
		states  int
	}{
		{heldDiffs * 3 / 4, 1},
		{2 * heldDiffs, 2},
	} {
		t.Run(fmt.Sprint(c.changes), func(t *testing.T) {
			r, h := presenceRig(t, narrow(t, 32<<10))
			section := func(i int, n int) wire.PresenceSection {
				data := fmt.Sprintf(`"%d %s"`, n, strings.Repeat("x", 1000))
				return wire.PresenceSection{Topic: "a.b", User: fmt.Sprint("u", i), Gateway: "w", Conns: []wire.PresenceConn{{Conn: "w", Data: json.RawMessage(data)}}}
			}
			const members = 60
			h.mu.Lock()
			for i := range members {
				h.sections = append(h.sections, wire.PresenceStored{PresenceSection: section(i, 0), Revision: uint64(i + 1)})
			}
			h.mu.Unlock()
			p := r.dial(narrowly)
			p.hello(token(t, auth.Claims{User: "ann"}))
			p.send(`{"op":"subscribe","id":2,"topic":"a.b","presence":"watch"}`)
			p.until(`"id":2`)
			var w *watchedRoom
			eventually(t, "a part of the state waits", func() bool {
				if w = r.g.rooms.of("a.b"); w == nil {
					return false
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				for _, o := range w.watchers {
					return w.loaded && len(o.pages) > 0
				}
				return false
			})
			for n := range c.changes {
				w.mu.Lock()
				w.room.put(&heardSection{section(n%members, n+1), uint64(101 + n)})
				w.mu.Unlock()
				r.g.rooms.speak(w, time.Now())
			}
			view := map[string]string{}
			states, rev := 0, int64(0)
			for last := fmt.Sprintf(`{"data":"%d `, c.changes); !strings.HasPrefix(view[fmt.Sprint("u", (c.changes-1)%members)], last); {
				var f struct {
					Rev          int64
					State, Joins map[string]json.RawMessage
					More         bool
				}
				if err := json.Unmarshal([]byte(p.read()), &f); err != nil {
					t.Fatal(err)
				}
				if f.State != nil && rev != 0 && f.Rev != rev {
					t.Fatalf("a state of rev %d begins before the one of rev %d was there", f.Rev, rev)
				}
				if rev = 0; f.More {
					rev = f.Rev
				} else if f.State != nil {
					states++
				}
				for user, m := range f.State {
					view[user] = string(m)
				}
				for user, m := range f.Joins {
					view[user] = string(m)
				}
			}
			if states > c.states || len(view) != members {
				t.Errorf("%d members after %d states", len(view), states)
			}
		})
	}
}
