package integration

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The cursors of a gateway that is killed are gone once its lease is over,
// however long theirs is, and nobody else's are.
func TestCursorsOfAKilledGateway(t *testing.T) {
	t.Parallel()
	const slack = 2 * time.Second
	s := cursorStack(t, 3)
	ann, bob := pointing(t, s.as(0, "ann"), "doc.1"), pointing(t, s.as(1, "bob"), "doc.1")
	ann.move(1)
	bob.move(2)
	var dead []*pointer
	want := []string{"ann", "1", "bob", "2"}
	all := want
	for i := range 5 {
		p := pointing(t, s.as(2, fmt.Sprint("dead", i)), "doc.1")
		p.move(i)
		dead, all = append(dead, p), append(all, fmt.Sprint("dead", i), fmt.Sprint(i))
	}
	for _, p := range append(dead, ann, bob) {
		p.sees(all...)
	}
	// Longer than a lease nothing is heard of anybody: who lives stays.
	<-time.After(testLease + slack)
	ann.sees(all...)
	killed := time.Now()
	s.gateways[2].kill()
	ann.sees(want...)
	bob.sees(want...)
	if took := time.Since(killed); took > testLease+slack {
		t.Errorf("gone %s after the kill, want at most a lease of %s and %s", took, testLease, slack)
	}
	pointing(t, s.as(1, "late"), "doc.1").sees(want...)
}

// A gateway that stops takes its cursors along, whatever the window.
func TestCursorsOfAStoppedGateway(t *testing.T) {
	t.Parallel()
	s := cursorStack(t, 2, "FAIRLEAD_GATEWAY_LEASE=600s", "FAIRLEAD_DRAIN_WINDOW=100ms")
	ann := pointing(t, s.as(0, "ann"), "still.1")
	<-time.After(3 * time.Second) // others are asked again after two, and bob's gateway must not be one that owes an answer
	bob := pointing(t, s.as(1, "bob"), "still.1")
	bob.move(1)
	ann.sees("bob", "1")
	ordered(t, s.worker(), "gateway."+bob.Welcome().Gateway, `{"action":"drain"}`, 1, 1)
	if code := s.gateways[1].exit(patience); code != 0 {
		t.Errorf("the gateway's exit code: got %d", code)
	}
	ann.sees()
}

// A gateway is cut off NATS: what is on it goes on among its own clients, goes
// away for all others when its lease is over, and when it is back everybody
// agrees again, also about who left meanwhile.
func TestCursorsOfAGatewayThatIsCutOff(t *testing.T) {
	t.Parallel()
	url := natsdev.Test(t).ClientURL()
	l := startLink(t, to(tcp(url)), nil)
	s := &stack{t: t, nats: url}
	s.add(cursorEnv(t)...)
	s.add(cursorEnv(t)...)
	s.nats = "nats://" + l.addr()
	s.add(cursorEnv(t)...)
	s.nats = url
	ann, bob := pointing(t, s.as(0, "ann"), "doc.1"), pointing(t, s.as(1, "bob"), "doc.1")
	cid, dan := pointing(t, s.as(2, "cid"), "doc.1"), pointing(t, s.as(2, "dan"), "doc.1")
	gone := s.as(2, "gone")
	subscribe(t, gone, "doc.1")
	for _, p := range []*pointer{ann, bob, cid, dan} {
		p.move(1)
	}
	asked(t, gone, "cursor", `{"topic":"doc.1","data":1}`)
	for _, p := range []*pointer{ann, bob, cid, dan} {
		p.sees("ann", "1", "bob", "1", "cid", "1", "dan", "1", "gone", "1")
	}
	l.cut()
	eventually(t, "the gateway notices", func() (any, bool) {
		status, body := get(t, s.gateways[2].http("/readyz"))
		return body, status != 200
	})
	ann.move(2)
	bob.move(nil)
	cid.move(2)
	dan.move(nil)
	gone.Close(wire.CloseNormal)
	cid.sees("ann", "1", "bob", "1", "cid", "2")
	dan.sees("ann", "1", "bob", "1", "cid", "2")
	ann.sees("ann", "2") // once the lease is over
	bob.sees("ann", "2")
	l.restore()
	for _, p := range []*pointer{ann, bob, cid, dan} {
		p.sees("ann", "2", "cid", "2")
	}
	cid.move(3)
	bob.move(3)
	for _, p := range []*pointer{ann, bob, cid, dan} {
		p.sees("ann", "2", "bob", "3", "cid", "3")
		for _, fault := range p.faults() {
			t.Error(fault)
		}
	}
}

// NATS is away from everybody: each gateway goes on by itself, and afterwards
// they agree.
func TestCursorsOutliveNATS(t *testing.T) {
	t.Parallel()
	url := natsdev.Test(t).ClientURL()
	l := startLink(t, to(tcp(url)), nil)
	s := &stack{t: t, nats: "nats://" + l.addr()}
	for range 3 {
		s.add(cursorEnv(t)...)
	}
	var all []*pointer
	for i := range 6 {
		all = append(all, pointing(t, s.as(i, fmt.Sprint("u", i)), "doc.1"))
	}
	agree := func(round int, except ...int) {
		t.Helper()
		var want []string
		for i := range all {
			if len(except) == 0 || i != except[0] {
				want = append(want, fmt.Sprint("u", i), fmt.Sprint(round))
			}
		}
		for _, p := range all {
			p.sees(want...)
		}
	}
	for round := range 3 {
		for _, p := range all {
			p.move(10 * round)
		}
		agree(10 * round)
		l.cut()
		for _, g := range s.gateways {
			eventually(t, "the gateway notices", func() (any, bool) {
				status, body := get(t, g.http("/readyz"))
				return body, status != 200
			})
		}
		for i, p := range all {
			if i != round {
				p.move(10*round + 1)
			}
		}
		all[round].move(nil)
		near := all[round+3] // of the same gateway
		must(t, near.view.Wait(within(t), func(now map[string]json.RawMessage) bool {
			return now[fmt.Sprint("u", round)] == nil && string(now[fmt.Sprint("u", round+3)]) == fmt.Sprint(10*round+1)
		}))
		l.restore()
		agree(10*round+1, round)
	}
	for _, p := range all {
		for _, fault := range p.faults() {
			t.Error(fault)
		}
	}
}
