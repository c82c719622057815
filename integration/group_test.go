package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestGroupMembersOnTwoGatewaysHearOneAnother(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	lobby := unique("lobby")
	of := `"group":"` + lobby + `"`
	ann := newGuest(t, s.url(0), "ann", lobby, "admin")
	bob := newGuest(t, s.url(1), "bob", lobby)
	cat := newGuest(t, s.url(0), "cat", lobby, "viewer")

	ann.fails("group.members", of, wire.FailedPrecondition)
	ann.fails("group.publish", of+`,"event":"x"`, wire.FailedPrecondition)
	ann.ok("group.leave", of, `{}`) // where she is not
	bob.fails("group.join", of+`,"role":"admin"`, wire.PermissionDenied)
	bob.fails("group.join", of+`,"role":"king"`, wire.InvalidArgument)

	ann.ok("group.join", of+`,"role":"admin","data":{"name":"<Ann>"}`, `{"count":1,"meta":null,"member":"`+ann.conn+`"}`)
	bob.ok("group.join", of, `{"count":2,"meta":null,"member":"`+bob.conn+`"}`)
	ann.hears(`{"op":"group","group":"` + lobby + `","joined":{"` + bob.conn + `":{"role":"member"}}}`)
	cat.ok("group.join", of+`,"role":"viewer"`, "")
	for _, g := range []*guest{ann, bob} {
		g.hears(`{"op":"group","group":"` + lobby + `","joined":{"` + cat.conn + `":{"role":"viewer"}}}`)
	}
	bob.ok("group.join", of, "") // once more: nobody hears of it
	bob.sees(lobby, ann.conn, bob.conn, cat.conn)
	ann.quiet("a second join")

	// To all, to a role, to one.
	bob.ok("group.publish", of+`,"event":"move","data":{"to":"<e4>"}`, `{}`)
	for _, g := range []*guest{ann, bob, cat} {
		g.hears(`{"group":"` + lobby + `","event":"move","data":{"to":"<e4>"},"from":"bob"}`)
	}
	bob.ok("group.publish", of+`,"event":"move","data":1,"role":"admin"`, `{}`)
	bob.ok("group.send", of+`,"member":"`+cat.conn+`","event":"hint","data":2`, `{}`)
	ann.hears(`{"group":"` + lobby + `","event":"move","data":1,"from":"bob"}`)
	cat.hears(`{"group":"` + lobby + `","event":"hint","data":2,"from":"bob"}`)
	bob.fails("group.send", of+`,"member":"nobody","event":"hint"`, wire.NotFound)

	// The meta, which the rule lets admins set.
	bob.fails("group.meta", of+`,"meta":1`, wire.PermissionDenied)
	ann.ok("group.meta", of+`,"meta":{"round":2}`, `{"meta":{"round":2}}`)
	bob.hears(`{"op":"group","group":"` + lobby + `","meta":{"round":2}}`)
	bob.ok("group.meta", of, `{"meta":{"round":2}}`)
	ann.hears(`{"op":"group","group":"` + lobby + `","meta":{"round":2}}`)
	cat.hears(`{"op":"group","group":"` + lobby + `","meta":{"round":2}}`)

	// Another role and other data are a join, for the others.
	ann.ok("group.join", of+`,"data":2`, "")
	bob.hears(`{"op":"group","group":"` + lobby + `","joined":{"` + ann.conn + `":{"role":"member","data":2}}}`)
	cat.hears(`{"op":"group","group":"` + lobby + `","joined":{"` + ann.conn + `":{"role":"member","data":2}}}`)
	ann.quiet("her own join")

	cat.ok("group.leave", of, `{}`)
	for _, g := range []*guest{ann, bob} {
		g.hears(`{"op":"group","group":"` + lobby + `","left":{"` + cat.conn + `":{"role":"viewer"}}}`)
	}
	bob.ok("group.publish", of+`,"event":"bye"`, `{}`)
	ann.hears(`{"group":"` + lobby + `","event":"bye","data":null,"from":"bob"}`)
	cat.quiet("after the answer to leave")
	cat.fails("group.publish", of+`,"event":"x"`, wire.FailedPrecondition)

	// Without a word and with one: both are gone at once.
	dan := newGuest(t, s.url(1), "dan", lobby)
	dan.ok("group.join", of, "")
	ann.hears(`{"op":"group","group":"` + lobby + `","joined":{"` + dan.conn + `":{"role":"member"}}}`)
	began := time.Now()
	dan.ws.CloseNow()
	ann.hears(`{"op":"group","group":"` + lobby + `","left":{"` + dan.conn + `":{"role":"member"}}}`)
	if took := time.Since(began); took > testLease/2 {
		t.Errorf("who dropped the connection was gone after %s", took)
	}
	must(t, bob.ws.Close(websocket.StatusNormalClosure, ""))
	ann.hears(`{"op":"group","group":"` + lobby + `","left":{"` + bob.conn + `":{"role":"member"}}}`)
	ann.sees(lobby, ann.conn)
}

func TestGroupOfTenSeatsHasTen(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	ten := unique("ten")
	var in, full atomic.Int64
	var all sync.WaitGroup
	var last atomic.Pointer[guest]
	for i := range 100 {
		all.Go(func() {
			g, err := tryGuest(t, s.url(i), token(fmt.Sprint("u", i), nil))
			if err != nil {
				t.Errorf("connect: %v", err)
				return
			}
			switch f := g.ask("group.join", `"group":"`+ten+`"`); {
			case f.Error == nil:
				in.Add(1)
				last.Store(g)
			case f.Error.Code == wire.ResourceExhausted && fmt.Sprint(f.Error.Details["limit"]) == "10":
				full.Add(1)
			default:
				t.Errorf("join: %s", f.Raw)
			}
		})
	}
	all.Wait()
	if in.Load() != 10 || full.Load() != 90 {
		t.Fatalf("got %d in and %d refused, want 10 and 90", in.Load(), full.Load())
	}
	// A seat that is given back is free.
	last.Load().ok("group.leave", `"group":"`+ten+`"`, `{}`)
	newGuest(t, s.url(0), "late", ten).ok("group.join", `"group":"`+ten+`"`, "")
}

// TestGroupOpsOfOneConnectionKeepTheirOrder sends joins and leaves without
// waiting: the last one counts.
func TestGroupOpsOfOneConnectionKeepTheirOrder(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	hall := unique("hall")
	seer := newGuest(t, s.url(1), "seer", hall)
	seer.ok("group.join", `"group":"`+hall+`"`, "")
	ann := newGuest(t, s.url(0), "ann", hall)
	for i := range 60 {
		first, second := "group.join", "group.leave"
		if i%2 == 1 {
			first, second = second, first
		}
		ann.send(fmt.Sprintf(`[{"op":%q,"id":%d,"group":"`+hall+`"},{"op":%q,"id":%d,"group":"`+hall+`"}]`, first, 10+2*i, second, 11+2*i))
	}
	for i := range 120 {
		ann.answer(int64(10 + i))
	}
	ann.id = 1000
	seer.sees(hall, seer.conn, ann.conn) // the last was a join
	ann.ok("group.leave", `"group":"`+hall+`"`, `{}`)
	seer.sees(hall, seer.conn)
	// At once twice: one member.
	ann.send(`[{"op":"group.join","id":2001,"group":"` + hall + `"},{"op":"group.join","id":2002,"group":"` + hall + `"}]`)
	ann.answer(2001)
	if f := ann.answer(2002); !strings.Contains(string(f.OK), `"count":2`) {
		t.Errorf("a double join: got %s, want a count of 2", f.Raw)
	}
	// Gone while its join is under way.
	ann.send(`[{"op":"group.leave","id":2003,"group":"` + hall + `"},{"op":"group.join","id":2004,"group":"` + hall + `"}]`)
	ann.ws.CloseNow()
	seer.sees(hall, seer.conn)
}

// TestGroupSeatsOfAKilledGatewayAreFree kills a gateway: its members are gone
// within the lease and a moment, and who waited for a seat gets in.
func TestGroupSeatsOfAKilledGatewayAreFree(t *testing.T) {
	t.Parallel()
	s, _ := presenceStack(t, 2, 2)
	const of = `"group":"ten"`
	left := newGuest(t, s.url(1), "left", "ten")
	left.ok("group.join", of, "")
	for i := range 9 {
		newGuest(t, s.url(0), fmt.Sprint("u", i), "ten").ok("group.join", of, "")
	}
	waiting := newGuest(t, s.url(1), "waiting", "ten")
	waiting.fails("group.join", of, wire.ResourceExhausted)
	began := time.Now()
	s.gateways[0].kill()
	const most = testLease + 2*time.Second
	for {
		f := waiting.ask("group.join", of)
		if f.Error == nil {
			break
		}
		if time.Since(began) > most {
			t.Fatalf("after %s: %s", time.Since(began), f.Raw)
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Logf("the waiting one got in after %s", time.Since(began))
	left.sees("ten", left.conn, waiting.conn)
	if took := time.Since(began); took > most {
		t.Errorf("the members of the killed gateway were gone after %s, want within %s", took, most)
	}
}

// TestGroupIsClosedByAWorker closes one with a plain NATS request.
func TestGroupIsClosedByAWorker(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	team := unique("team 7")
	of := `"group":"` + team + `"`
	ann, bob := newGuest(t, s.url(0), "ann", team), newGuest(t, s.url(1), "bob", team)
	worker := s.worker()
	if reply, code := svc(t, worker, "group.create", `{`+of+`,"meta":{"name":"seven"},"maxMembers":2}`); code != "" {
		t.Fatalf("create: %s %s", code, reply)
	}
	ann.ok("group.join", of, `{"count":1,"meta":{"name":"seven"},"member":"`+ann.conn+`"}`)
	bob.ok("group.join", of, "")
	newGuest(t, s.url(0), "cat", team).fails("group.join", of, wire.ResourceExhausted)
	ann.hears(`{"op":"group","group":"` + team + `","joined":{"` + bob.conn + `":{"role":"member"}}}`)

	// A worker takes one out, speaks to all, and closes it.
	if reply, code := svc(t, worker, "group.leave", `{`+of+`,"conn":"`+bob.conn+`"}`); code != "" {
		t.Fatalf("leave: %s %s", code, reply)
	}
	bob.hears(`{"op":"group","group":"` + team + `","left":{"` + bob.conn + `":{"role":"member"}}}`)
	ann.hears(`{"op":"group","group":"` + team + `","left":{"` + bob.conn + `":{"role":"member"}}}`)
	bob.fails("group.members", of, wire.FailedPrecondition)
	bob.ok("group.join", of, "")
	ann.hears(`{"op":"group","group":"` + team + `","joined":{"` + bob.conn + `":{"role":"member"}}}`)
	if reply, code := svc(t, worker, "group.publish", `{`+of+`,"event":"news","data":[1]}`); code != "" {
		t.Fatalf("publish: %s %s", code, reply)
	}
	for _, g := range []*guest{ann, bob} {
		g.hears(`{"group":"` + team + `","event":"news","data":[1]}`)
	}
	for range 2 { // closing twice is safe
		if reply, code := svc(t, worker, "group.close", `{`+of+`}`); code != "" {
			t.Fatalf("close: %s %s", code, reply)
		}
	}
	for _, g := range []*guest{ann, bob} {
		g.hears(`{"op":"group","group":"` + team + `","closed":true}`)
		g.fails("group.publish", of+`,"event":"x"`, wire.FailedPrecondition)
		g.fails("group.join", of, wire.FailedPrecondition)
		g.quiet("in a closed group")
	}
	if reply, code := svc(t, worker, "group.publish", `{`+of+`,"event":"x"}`); code != "" {
		t.Errorf("publish to a closed group: %s %s", code, reply)
	}
}

// withAFarGateway starts a gateway and replicas of the service, and one more
// gateway that has its NATS over a link that can be cut.
func withAFarGateway(t *testing.T) (s *stack, way *link, far *gateway) {
	t.Helper()
	server := natsdev.Test(t)
	s, _ = presenceStackOn(t, server.ClientURL(), 1, 2)
	way = startLink(t, to(strings.TrimPrefix(server.ClientURL(), "nats://")), nil)
	far = startGateway(t, "nats://"+way.addr(), "FAIRLEAD_TOPICS_FILE="+rulesFile(t, presenceRules), "FAIRLEAD_GATEWAY_LEASE="+testLease.String())
	return s, way, far
}

// TestGroupTakesBackWhoWasTakenForDead cuts a gateway off until its members were
// taken out: when it is back, so are they, and never heard of it.
func TestGroupTakesBackWhoWasTakenForDead(t *testing.T) {
	t.Parallel()
	s, link, far := withAFarGateway(t)
	const of = `"group":"ten"`
	seer := newGuest(t, s.url(0), "seer", "ten")
	seer.ok("group.join", of, "")
	stays, unlucky := newGuest(t, far.ws(), "stays", "ten"), newGuest(t, far.ws(), "unlucky", "ten", "admin")
	stays.ok("group.join", of+`,"data":7`, "")
	seer.sees("ten", seer.conn, stays.conn)
	unlucky.ok("group.join", of+`,"role":"admin"`, "")
	seer.sees("ten", seer.conn, stays.conn, unlucky.conn)
	stays.sees("ten", seer.conn, stays.conn, unlucky.conn)
	link.cut()
	seer.sees("ten", seer.conn)
	for i := range 9 { // all seats but one are taken meanwhile, and that too
		g := newGuest(t, s.url(0), fmt.Sprint("u", i), "ten")
		g.ok("group.join", of, "")
		if i == 8 {
			g.ok("group.leave", of, `{}`)
		}
	}
	link.restore()
	var back, out *guest
	for _, g := range []*guest{stays, unlucky} {
		g.heard = nil
	}
	eventually(t, "one of the two has a seat again, the other knows that it has none", func() (any, bool) {
		back, out = nil, nil
		for _, g := range []*guest{stays, unlucky} {
			f := g.ask("group.members", of)
			var m wire.GroupMembers
			if f.Error == nil {
				must(t, json.Unmarshal(f.OK, &m))
			}
			if _, is := m.Members[g.conn]; is {
				back = g
			}
			if f.Error != nil && f.Error.Code == wire.FailedPrecondition {
				out = g
			}
		}
		return []*guest{back, out}, back != nil && out != nil
	})
	told := func(g *guest) bool {
		for _, f := range g.heard {
			if _, is := f.Left[g.conn]; is {
				return true
			}
		}
		return false
	}
	if !told(out) || told(back) {
		t.Errorf("told that they left: %v who has no seat, %v who has; want true and false", told(out), told(back))
	}
}

// TestGroupHasNoGhostsAfterACut drops a connection while its gateway has no
// NATS, and expects the member to be gone when it is back; those who stayed are
// members as before.
func TestGroupHasNoGhostsAfterACut(t *testing.T) {
	t.Parallel()
	s, link, far := withAFarGateway(t)
	const of = `"group":"lobby"`
	seer := newGuest(t, s.url(0), "seer", "lobby")
	gone, stays := newGuest(t, far.ws(), "gone", "lobby"), newGuest(t, far.ws(), "stays", "lobby")
	for _, g := range []*guest{seer, gone, stays} {
		g.ok("group.join", of, "")
	}
	seer.sees("lobby", seer.conn, gone.conn, stays.conn)
	link.cut()
	gone.ws.CloseNow()
	for !strings.Contains(stays.read(), `"degraded"`) {
		continue
	}
	// Another of the gateway's connections may not have noticed the cut yet.
	stays.fails("group.publish", of+`,"event":"x"`, wire.Unavailable, wire.DeadlineExceeded)
	link.restore()
	seer.sees("lobby", seer.conn, stays.conn)
	stays.sees("lobby", seer.conn, stays.conn)
	seer.ok("group.publish", of+`,"event":"back"`, `{}`)
	stays.hears(`{"group":"lobby","event":"back","data":null,"from":"seer"}`)
}
