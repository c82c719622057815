package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestGroupViewSince(t *testing.T) {
	member := func(role, data string) wire.GroupMember {
		return wire.GroupMember{Role: role, Data: json.RawMessage(data)}
	}
	type members = map[string]wire.GroupMember
	for name, c := range map[string]struct {
		before, after groupView
		want          wire.GroupFrame
	}{
		"nothing": {groupView{members: members{"a": member("m", "1")}, meta: []byte(`1`)},
			groupView{members: members{"a": member("m", "1")}, meta: []byte(`1`)}, wire.GroupFrame{}},
		"joined and left": {groupView{members: members{"a": member("m", ""), "b": member("m", "")}},
			groupView{members: members{"b": member("m", ""), "c": member("m", "")}},
			wire.GroupFrame{Joined: members{"c": member("m", "")}, Left: members{"a": member("m", "")}}},
		"other data": {groupView{members: members{"a": member("m", "1")}}, groupView{members: members{"a": member("m", "2")}},
			wire.GroupFrame{Joined: members{"a": member("m", "2")}}},
		"meta":            {groupView{}, groupView{meta: []byte(`1`)}, wire.GroupFrame{Meta: []byte(`1`), MetaSet: true}},
		"meta taken away": {groupView{meta: []byte(`1`)}, groupView{}, wire.GroupFrame{MetaSet: true}},
		"closed": {groupView{members: members{"a": member("m", "")}, meta: []byte(`1`)}, groupView{closed: true},
			wire.GroupFrame{Closed: true}},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.Group = "g"
			if diff := cmp.Diff(c.want, c.after.since(&c.before, "g")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestGroupFramesComeBehindTheAnswer holds answers back while the group goes on:
// nothing of it reaches a client before the answer to its join, nor behind that
// to its leave.
func TestGroupFramesComeBehindTheAnswer(t *testing.T) {
	h, r := groupRig(t, "join", "leave")
	p, other := r.dial(), r.dial()
	conn, _, _ := p.hello("")
	otherConn, _, _ := other.hello("")
	h.joins(other, otherConn)

	p.send(`{"op":"group.join","id":2,"group":"g"}`)
	join := h.next("join")
	if join.req.Conn != conn || join.req.Gateway != r.g.ID() || join.req.Epoch == 0 || join.req.Version == 0 || join.req.Role != "member" {
		t.Errorf("got %+v", join.req)
	}
	h.seat(conn, "member")
	h.say(`"early"`)
	for _, want := range []string{`"early"`, `"joined":{"` + conn + `"`} { // in any order
		if got := other.read(); !strings.Contains(got, want) && !strings.Contains(got, `"early"`) && !strings.Contains(got, `"joined"`) {
			t.Fatalf("got %s", got)
		}
	}
	h.answer(join, nil)
	p.expect(`{"id":2,"ok":{"count":2,"meta":null,"member":"` + conn + `"}}`)
	h.say(`"late"`)
	p.expect(`{"group":"g","event":"message","data":"late"}`)
	other.expect(`{"group":"g","event":"message","data":"late"}`)

	p.send(`{"op":"group.leave","id":3,"group":"g"}`)
	leave := h.next("leave")
	if leave.req.Version <= join.req.Version {
		t.Errorf("the leave has version %d, the join before it %d", leave.req.Version, join.req.Version)
	}
	h.say(`"between"`)
	h.store(func(e *wire.GroupEntry) { delete(e.Members, conn) })
	h.answer(leave, struct{}{})
	h.say(`"after"`)
	for range 3 { // between, after, and that it left
		other.read()
	}
	p.expect(`{"id":3,"ok":{}}`)
	p.send(`{"op":"unsubscribe","id":4,"topic":"t"}`)
	p.expect(`{"id":4,"ok":{}}`)
	other.ws.CloseNow()
	h.answer(h.next("leave"), struct{}{})
}

// TestGroupLeaveIsOwedUntilItIsTaken closes a connection while nobody takes its
// leave.
func TestGroupLeaveIsOwedUntilItIsTaken(t *testing.T) {
	h, r := groupRig(t, "join")
	p := r.dial()
	conn, _, _ := p.hello("")
	h.joins(p, conn)
	// A join is under way too, whose answer nobody waits for any more.
	p.send(`{"op":"group.join","id":3,"group":"g","data":1}`)
	join := h.next("join")
	p.ws.CloseNow()
	eventually(t, "the leave was tried", func() bool {
		r.g.groups.mu.Lock()
		defer r.g.groups.mu.Unlock()
		return len(r.g.groups.owed) == 1
	})
	h.serve("leave")
	leave := h.next("leave")
	if leave.req.Conn != conn || leave.req.Version <= join.req.Version {
		t.Errorf("got %+v, want a leave with a version above %d", leave.req, join.req.Version)
	}
	h.answer(leave, struct{}{})
	h.answer(join, nil) // late: who knows whether the leave is remembered
	again := h.next("leave")
	if again.req.Conn != conn || again.req.Version <= leave.req.Version {
		t.Errorf("got %+v, want a leave with a version above %d", again.req, leave.req.Version)
	}
	h.answer(again, struct{}{})
	eventually(t, "nothing is owed and no group is left", func() bool {
		r.g.groups.mu.Lock()
		defer r.g.groups.mu.Unlock()
		return len(r.g.groups.owed) == 0 && len(r.g.groups.byName) == 0
	})
}

// TestGroupJoinWithoutAnAnswerIsTakenBack breaks the read that follows a join.
func TestGroupJoinWithoutAnAnswerIsTakenBack(t *testing.T) {
	server := natsdev.Test(t)
	h := newGroupHost(t, server)
	for _, op := range []string{"join", "leave"} {
		h.serve(op)
	}
	r := startGateway(t, server, withGroups)
	p := r.dial()
	p.hello("")
	p.send(`{"op":"group.join","id":2,"group":"g"}`)
	join := h.next("join")
	h.answer(join, nil) // with no entry to be heard, and nobody to read it from
	p.expectError(2, "UNAVAILABLE")
	leave := h.next("leave")
	if leave.req.Version <= join.req.Version || leave.req.Conn != join.req.Conn {
		t.Errorf("got %+v, want a leave with a version above %d", leave.req, join.req.Version)
	}
	h.answer(leave, struct{}{})
}

// TestGroupsOfOneConnectionAreBounded joins one group too many.
func TestGroupsOfOneConnectionAreBounded(t *testing.T) {
	server := natsdev.Test(t)
	h := newGroupHost(t, server)
	h.serve("join")
	r := startGateway(t, server, withGroups)
	p := r.dial()
	p.hello("")
	for i := range groupsPerConnection {
		p.send(fmt.Sprintf(`{"op":"group.join","id":%d,"group":"g%d"}`, i+2, i))
	}
	p.send(`{"op":"group.join","id":500,"group":"more"}`)
	if got := p.expectError(500, "RESOURCE_EXHAUSTED"); fmt.Sprint(got["limit"]) != fmt.Sprint(groupsPerConnection) {
		t.Errorf("got %v, want the limit", got)
	}
}

// TestGroupSeatsAreSaidAgain gives the gateway a new epoch: it joins once more,
// and a member whose seat is gone hears so.
func TestGroupSeatsAreSaidAgain(t *testing.T) {
	h, r := groupRig(t, "join", "leave")
	p := r.dial()
	conn, _, _ := p.hello("")
	h.joins(p, conn)
	anew := func() {
		r.g.lease.mu.Lock()
		r.g.lease.epoch++
		r.g.lease.mu.Unlock()
		r.g.reassertGroups()
	}
	anew()
	again := h.next("join")
	if again.req.Conn != conn || again.req.Role != "member" {
		t.Errorf("got %+v", again.req)
	}
	h.answer(again, nil)
	r.g.reassertGroups() // says nothing: the epoch is the same
	anew()
	refused := h.next("join")
	if refused.req.Version <= again.req.Version {
		t.Errorf("got version %d behind %d", refused.req.Version, again.req.Version)
	}
	full := wire.Errorf(wire.ResourceExhausted, "the group is full").With("limit", 1)
	var guard bus.Guard
	if sent, err := guard.RespondError(refused.msg, full); err != nil || !sent {
		t.Fatal(sent, err)
	}
	p.expect(`{"op":"group","group":"g","left":{"` + conn + `":{"role":"member"}}}`)
	h.answer(h.next("leave"), struct{}{})
	p.send(`{"op":"group.members","id":9,"group":"g"}`)
	p.expectError(9, "FAILED_PRECONDITION")
}

// TestGroupSeatIsSaidAgainUntilItIsTaken refuses to take a seat again for a
// while: what the client asks meanwhile is answered, and the gateway goes on.
func TestGroupSeatIsSaidAgainUntilItIsTaken(t *testing.T) {
	h, r := groupRig(t, "join")
	p := r.dial()
	conn, _, _ := p.hello("")
	h.joins(p, conn)
	r.g.lease.mu.Lock()
	r.g.lease.epoch++
	r.g.lease.mu.Unlock()
	for range 3 { // as many epochs as the gateway likes: it is said once at a time
		r.g.reassertGroups()
	}
	p.send(`{"op":"group.members","id":9,"group":"g"}`)
	away := wire.Errorf(wire.Unavailable, "JetStream is away")
	h.refuse(h.next("join"), away)
	p.expect(`{"id":9,"ok":{"members":{"` + conn + `":{"role":"member"}},"count":1,"meta":null}}`)
	version := uint64(0)
	for range 4 {
		again := h.next("join")
		if again.req.Conn != conn || again.req.Version <= version {
			t.Errorf("got %+v, want a join above version %d", again.req, version)
		}
		version = again.req.Version
		h.refuse(again, away)
	}
	h.answer(h.next("join"), nil)
	p.send(`{"op":"group.members","id":10,"group":"g"}`)
	p.expect(`{"id":10,"ok":{"members":{"` + conn + `":{"role":"member"}},"count":1,"meta":null}}`)
	if n := len(h.asked); n != 0 {
		t.Errorf("%d requests came behind the join that was taken", n)
	}
}

// TestGroupSeatsThatAreLostAreTakenAgain has entries without a member of whom
// nobody said that it left: one that is heard, and one before the join is
// answered.
func TestGroupSeatsThatAreLostAreTakenAgain(t *testing.T) {
	h, r := groupRig(t, "join")
	p, other := r.dial(), r.dial()
	conn, _, _ := p.hello("")
	otherConn, _, _ := other.hello("")
	h.joins(p, conn)
	h.store(func(e *wire.GroupEntry) { delete(e.Members, conn) })
	again := h.next("join")
	if again.req.Conn != conn {
		t.Errorf("got %+v, want a join of %s", again.req, conn)
	}
	h.seat(conn, "member")
	h.answer(again, nil)

	other.send(`{"op":"group.join","id":2,"group":"g"}`)
	join := h.next("join")
	h.seat(otherConn, "member")
	stored := wire.GroupJoined{Count: 2, Member: otherConn, Revision: h.revision}
	h.store(func(e *wire.GroupEntry) { delete(e.Members, otherConn) })
	gr := r.g.groups.of("g")
	eventually(t, "the entry is heard", func() bool {
		gr.mu.Lock()
		defer gr.mu.Unlock()
		return gr.revision == h.revision
	})
	h.answer(join, stored)
	if again := h.next("join"); again.req.Conn != otherConn || again.req.Version <= join.req.Version {
		t.Errorf("got %+v, want another join of %s", again.req, otherConn)
	} else {
		h.seat(otherConn, "member")
		h.answer(again, nil)
	}
}

// TestGroupSeatsOfNobodyAreGivenBack stores seats under the gateway's id that
// are of a connection which is not there, of one that is in no group, and of
// one whose join is under way.
func TestGroupSeatsOfNobodyAreGivenBack(t *testing.T) {
	h, r := groupRig(t, "join", "leave")
	p, idle, joining := r.dial(), r.dial(), r.dial()
	conn, _, _ := p.hello("")
	idleConn, _, _ := idle.hello("")
	joiningConn, _, _ := joining.hello("")
	h.joins(p, conn)
	joining.send(`{"op":"group.join","id":2,"group":"g"}`)
	join := h.next("join")
	h.store(func(e *wire.GroupEntry) {
		for _, id := range []string{conn, idleConn, joiningConn, "nobody"} {
			e.Members[id] = wire.GroupSeat{
				GroupMember: wire.GroupMember{Role: "member"}, User: "u", Gateway: r.g.ID(), Epoch: r.g.lease.current(), Version: 7,
			}
		}
	})
	left := map[string]bool{}
	for range 2 {
		leave := h.next("leave")
		if left[leave.req.Conn] = true; leave.req.Gateway != r.g.ID() || leave.req.Version <= join.req.Version || leave.req.User == "" {
			t.Errorf("got %+v, want the gateway's leave above version %d", leave.req, join.req.Version)
		}
		h.store(func(e *wire.GroupEntry) { delete(e.Members, leave.req.Conn) })
		h.answer(leave, struct{}{})
	}
	if !left[idleConn] || !left["nobody"] {
		t.Errorf("got leaves of %v, want those of nobody and %s", left, idleConn)
	}
	h.answer(join, nil)
	if got := joining.read(); !strings.HasPrefix(got, `{"id":2,"ok":{"count":2`) {
		t.Errorf("got %s", got)
	}
	gr := r.g.groups.of("g")
	eventually(t, "nobody looks for strangers any more", func() bool {
		gr.mu.Lock()
		defer gr.mu.Unlock()
		return !gr.looking && len(gr.seats) == 2
	})
	if n := len(h.asked); n != 0 {
		t.Errorf("%d requests were made without need", n)
	}
}
