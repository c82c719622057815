package gateway

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// groupHost stands for the presence service: it keeps one group in the real bucket,
// and answers when the test lets it.
type groupHost struct {
	t      *testing.T
	nc     *nats.Conn
	bucket *kv.Bucket
	asked  chan groupAsk

	mu       sync.Mutex
	entry    wire.GroupEntry
	revision uint64
}

// groupAsk is a request that waits for its answer.
type groupAsk struct {
	op  string
	req wire.GroupRequest
	msg *nats.Msg
}

func newGroupHost(t *testing.T, server *natsdev.Server) *groupHost {
	t.Helper()
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := kv.Ensure(ctx, js, "fl", kv.Config{Name: "groups", Republish: "fl.groups"}); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe("fl.svc.presence.put", func(msg *nats.Msg) {
		var put wire.PresencePut
		if err := json.Unmarshal(msg.Data, &put); err != nil {
			t.Errorf("put: %v", err)
		}
		if reply, err := json.Marshal(wire.PresencePutReply{Results: make([]wire.PresenceRevised, len(put.Sections))}); err == nil {
			_ = msg.Respond(reply) // the test may be over
		}
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe("fl.svc.presence.online", func(msg *nats.Msg) { // is it there?
		_ = msg.Respond([]byte(`{"online":{}}`)) // the test may be over
	}); err != nil {
		t.Fatal(err)
	}
	return &groupHost{t: t, nc: nc, bucket: kv.Open(nc, "fl", "groups"), asked: make(chan groupAsk, 256),
		entry: wire.GroupEntry{Group: "g", Members: map[string]wire.GroupSeat{}}}
}

// serve takes requests to an endpoint from now on.
func (h *groupHost) serve(op string) {
	h.t.Helper()
	if _, err := h.nc.Subscribe("fl.svc.presence.group."+op, func(msg *nats.Msg) {
		a := groupAsk{op: op, msg: msg}
		if err := json.Unmarshal(msg.Data, &a.req); err != nil {
			h.t.Errorf("%s: %v", op, err)
		}
		h.asked <- a
	}); err != nil {
		h.t.Fatal(err)
	}
	if err := h.nc.Flush(); err != nil {
		h.t.Fatal(err)
	}
}

// next returns the next request, which must be to op.
func (h *groupHost) next(op string) groupAsk {
	h.t.Helper()
	a := recv(h.t, h.asked)
	if a.op != op {
		h.t.Fatalf("asked for %s %+v, want %s", a.op, a.req, op)
	}
	return a
}

// store changes the entry.
func (h *groupHost) store(change func(*wire.GroupEntry)) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.entry)
	value, err := json.Marshal(h.entry)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if h.revision, err = h.bucket.Put(ctx, kv.Write{Key: "g", Value: value, Expect: h.revision}); err != nil {
		h.t.Fatal(err)
	}
}

// seat stores a member.
func (h *groupHost) seat(conn, role string) {
	h.t.Helper()
	h.store(func(e *wire.GroupEntry) {
		e.Members[conn] = wire.GroupSeat{GroupMember: wire.GroupMember{Role: role}}
	})
}

// answer answers a request; nil is the answer to a join or to entry.
func (h *groupHost) answer(a groupAsk, reply any) {
	h.t.Helper()
	h.mu.Lock()
	switch {
	case reply != nil:
	case a.op == "join":
		reply = wire.GroupJoined{Count: len(h.entry.Members), Member: a.req.Conn, Revision: h.revision}
	default:
		reply = wire.GroupStored{Entry: h.entry, Revision: h.revision}
	}
	h.mu.Unlock()
	data, err := json.Marshal(reply)
	if err == nil {
		err = a.msg.Respond(data)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// say publishes a message to the group.
func (h *groupHost) say(data string) {
	h.t.Helper()
	if err := h.nc.Publish("fl.group.g", []byte(data)); err != nil {
		h.t.Fatal(err)
	}
	if err := h.nc.Flush(); err != nil {
		h.t.Fatal(err)
	}
}

func recv[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case v := <-from:
		return v
	case <-ctx.Done():
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func withGroups(_ *Config, _ *Deps, o *rules.Options) {
	o.File = []byte(`{topics: [{match: ">", subscribe: any, publish: any}], groups: [{match: ">", join: any, roles: [member, admin]}]}`)
}

// entries answers requests for the entry by themselves.
func (h *groupHost) entries() {
	h.t.Helper()
	if _, err := h.nc.Subscribe("fl.svc.presence.group.entry", func(msg *nats.Msg) {
		h.answer(groupAsk{op: "entry", msg: msg}, nil)
	}); err != nil {
		h.t.Fatal(err)
	}
}

// joins makes a client a member.
func (h *groupHost) joins(p *peer, conn string) {
	h.t.Helper()
	p.send(`{"op":"group.join","id":2,"group":"g"}`)
	join := h.next("join")
	h.seat(conn, "member")
	h.answer(join, nil)
	if got := p.read(); !strings.HasPrefix(got, `{"id":2,"ok":{"count":`) {
		h.t.Fatalf("join: %s", got)
	}
}

// refuse answers a request with an error.
func (h *groupHost) refuse(a groupAsk, err *wire.Error) {
	h.t.Helper()
	var guard bus.Guard
	if sent, err := guard.RespondError(a.msg, err); err != nil || !sent {
		h.t.Fatal(sent, err)
	}
}

// groupRig starts a gateway and a host that stands for the service: it keeps
// entries, and takes requests to the ops.
func groupRig(t *testing.T, ops ...string) (*groupHost, *rig) {
	t.Helper()
	server := natsdev.Test(t)
	h := newGroupHost(t, server)
	h.entries()
	for _, op := range ops {
		h.serve(op)
	}
	return h, startGateway(t, server, withGroups)
}
