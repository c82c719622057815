package integration

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A topic has as many members as its rule allows, whoever comes when and where.
func TestMaxMembersIsExact(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	full := unique("full")
	const many = 50
	clients := make([]*client.Client, many)
	for i := range clients {
		clients[i] = s.as(i, fmt.Sprintf("u%02d", i))
	}
	eye := watching(t, s.as(0, "eye"), full)
	eye.sees()
	nc := s.worker()
	for round := range 3 {
		in := make([]bool, many)
		var work sync.WaitGroup
		for i, c := range clients {
			work.Go(func() {
				_, err := c.Subscribe(within(t), full, client.SubscribeOptions{Presence: "join"})
				in[i] = err == nil
				if err == nil {
					return
				}
				e := wire.AsError(err)
				if e.Code != wire.ResourceExhausted || fmt.Sprint(e.Details["limit"]) != "2" || e.Details["topic"] != full || e.Details["op"] != "subscribe" {
					t.Errorf("u%02d: got %v %v, want RESOURCE_EXHAUSTED with limit 2", i, err, e.Details)
				}
			})
		}
		work.Wait()
		var members []string
		var seated []*client.Client
		for i, ok := range in {
			if ok {
				members, seated = append(members, fmt.Sprintf("u%02d", i)), append(seated, clients[i])
			} else if e := denied(t, clients[i], "presence.join", `{"topic":"`+full+`"}`, wire.FailedPrecondition); e == nil {
				t.Errorf("u%02d is subscribed though its join was refused", i)
			}
		}
		if len(members) != 2 {
			t.Fatalf("round %d: %v are in, want two", round, members)
		}
		eye.sees(members...)
		if got, _ := svc(t, nc, "count", `{"topic":"`+full+`"}`); got != `{"count":2}` {
			t.Errorf("count: got %s", got)
		}
		for i, c := range seated { // by either way out
			if i == 0 {
				must(t, c.Unsubscribe(within(t), full))
				continue
			}
			asked(t, c, "presence.leave", `{"topic":"`+full+`"}`)
			must(t, c.Unsubscribe(within(t), full))
		}
		eye.sees()
	}
}

// A seat that is given back can be taken at once, on any gateway and replica.
func TestLeaveFreesTheSeat(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	full := unique("full")
	nc := s.worker()
	a, b, c := s.as(0, "ann"), s.as(1, "bob"), s.as(0, "cid")
	for _, p := range []*client.Client{a, b, c} {
		subscribe(t, p, full)
	}
	asked(t, a, "presence.join", `{"topic":"`+full+`"}`)
	asked(t, b, "presence.join", `{"topic":"`+full+`"}`)
	for i := range 20 {
		denied(t, c, "presence.join", `{"topic":"`+full+`"}`, wire.ResourceExhausted)
		asked(t, b, "presence.leave", `{"topic":"`+full+`"}`)
		asked(t, c, "presence.join", `{"topic":"`+full+`"}`)
		denied(t, b, "presence.join", `{"topic":"`+full+`"}`, wire.ResourceExhausted)
		denied(t, b, "presence.update", `{"topic":"`+full+`","data":1}`, wire.FailedPrecondition)
		if _, code := svc(t, nc, "join", `{"topic":"`+full+`","user":"bot"}`); code != "RESOURCE_EXHAUSTED" {
			t.Fatalf("a worker's join of a full topic: got %q", code)
		}
		asked(t, c, "presence.leave", `{"topic":"`+full+`"}`)
		if i%2 == 0 {
			if got, code := svc(t, nc, "join", `{"topic":"`+full+`","user":"bot"}`); code != "" {
				t.Fatalf("a worker's join of a free seat: got %s", got)
			}
			denied(t, b, "presence.join", `{"topic":"`+full+`"}`, wire.ResourceExhausted)
			svc(t, nc, "leave", `{"topic":"`+full+`","user":"bot"}`)
		}
		asked(t, b, "presence.join", `{"topic":"`+full+`"}`)
	}
	eye := watching(t, s.as(1, "eye"), full)
	eye.sees("ann", "bob")
}

// A seat is a user's, not a connection's.
func TestSecondConnectionNeedsNoSeat(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	full := unique("full")
	eye := watching(t, s.as(1, "eye"), full)
	joining(t, s.as(0, "ann"), full, "1")
	joining(t, s.as(0, "bob"), full, "1")
	eye.sees("ann", "bob")
	var more []*observer
	for i := range 4 {
		more = append(more, joining(t, s.as(i, "ann"), full, fmt.Sprint(i+2)))
	}
	eye.says("ann", "5")
	for _, o := range more {
		o.Close(wire.CloseNormal)
	}
	eye.says("ann", "1")
	// Ann keeps the seat as long as one of hers is there.
	cid := s.as(1, "cid")
	subscribe(t, cid, full)
	denied(t, cid, "presence.join", `{"topic":"`+full+`"}`, wire.ResourceExhausted)
	eye.sees("ann", "bob")
}

// A join that is refused says so to each that asked, however they were sent.
func TestRefusedJoinsInARow(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 1, 1)
	full := unique("full")
	eye := watching(t, s.as(0, "eye"), full)
	joining(t, s.as(0, "ann"), full, "")
	joining(t, s.as(0, "bob"), full, "")
	eye.sees("ann", "bob")
	p := newPeer(t, s.url(0), "cid")
	p.send(`{"op":"subscribe","id":2,"topic":"` + full + `"}`)
	p.hears(2)
	for round := range 20 {
		for i, op := range []string{"join", "join", "leave", "join", "join", "leave", "join"} {
			p.send(fmt.Sprintf(`{"op":"presence.%s","id":%d,"topic":"`+full+`"}`, op, 10+i))
		}
		answered := map[int64]*wire.Error{}
		for len(answered) < 7 {
			frames, err := wire.DecodeServer([]byte(p.read()))
			must(t, err)
			for _, f := range frames {
				if f.Kind == wire.KindReply {
					answered[f.ID] = f.Error
				}
			}
		}
		for id, err := range answered {
			leave := id == 12 || id == 15
			switch {
			case leave && err != nil:
				t.Errorf("round %d: leave %d: %v", round, id, err)
			case id == 16 && (err == nil || err.Code != wire.ResourceExhausted):
				t.Errorf("round %d: the last join was answered %v, and the topic is full", round, err)
			}
		}
		p.send(`{"op":"presence.update","id":30,"topic":"` + full + `","data":1}`)
		if _, reply := p.hears(30); reply.Error == nil || reply.Error.Code != wire.FailedPrecondition {
			t.Errorf("round %d: an update of who was refused: %s", round, reply.Raw)
		}
		if now := eye.view.Now(); now.Has("cid") {
			t.Fatalf("round %d: there are %v", round, now.Names())
		}
	}
}

// Many changes at once make few frames, and none of what was over before anybody
// could hear it.
func TestTick(t *testing.T) {
	s := anyPresence(t, 2, 2)
	now := unique("now")
	p := newPeer(t, s.url(0), "eye")
	p.send(`{"op":"subscribe","id":2,"topic":"` + now + `","presence":"watch"}`)
	p.hears(2)
	view := client.NewPresence()
	f := p.presence()
	view.Apply(&f)
	nc := s.worker()
	const many = 100
	begun := time.Now()
	var work sync.WaitGroup
	for i := range many {
		work.Go(func() {
			body := fmt.Appendf(nil, `{"topic":"`+now+`","user":"u%d","data":1}`, i)
			if _, err := nc.Request("fl.svc.presence.join", body, patience); err != nil {
				t.Error(err)
			}
		})
	}
	frames, told := 0, map[string]int{}
	for len(view.Now().Users) < many {
		f := p.presence()
		view.Apply(&f)
		frames++
		for user := range f.Joins {
			told[user]++
		}
	}
	work.Wait()
	must(t, view.Err())
	if most := int(time.Since(begun)/(50*time.Millisecond)) + 1; frames > most {
		t.Errorf("%d frames in %s, want at most %d", frames, time.Since(begun), most)
	}
	for user, n := range told {
		if n != 1 {
			t.Errorf("%s was told of %d times", user, n)
		}
	}
}

// Who comes and goes within a tick was never there, for others.
func TestNothingIsSaidOfWhoWasThereForLessThanATick(t *testing.T) {
	s := anyPresence(t, 1, 1)
	now := unique("now")
	eye := newPeer(t, s.url(0), "eye")
	eye.send(`{"op":"subscribe","id":2,"topic":"` + now + `","presence":"watch"}`)
	eye.hears(2)
	eye.presence()
	p := newPeer(t, s.url(0), "ann")
	p.send(`{"op":"subscribe","id":2,"topic":"` + now + `"}`)
	p.hears(2)
	const rounds = 30
	for i := range rounds {
		id := int64(10 + 2*i)
		p.send(fmt.Sprintf(`{"op":"presence.join","id":%d,"topic":"`+now+`"}`, id))
		p.send(fmt.Sprintf(`{"op":"presence.leave","id":%d,"topic":"`+now+`"}`, id+1))
		p.hears(id + 1)
	}
	p.send(`{"op":"presence.join","id":9,"topic":"` + now + `","data":"last"}`)
	frames := 0
	for {
		f := eye.presence()
		if frames++; string(f.Joins["ann"].Data) == `"last"` {
			break
		}
	}
	// A round may lie on the edge of a tick; one that doesn't is not heard of.
	if frames > rounds {
		t.Errorf("%d frames of %d comings and goings", frames, rounds)
	}
}

// On a topic with many members counts take the place of diffs.
func TestManyMembersAreCounted(t *testing.T) {
	s := anyPresence(t, 2, 1)
	huge := unique("huge")
	nc := s.worker()
	p := newPeer(t, s.url(0), "eye")
	p.send(`{"op":"subscribe","id":2,"topic":"` + huge + `","presence":"watch"}`)
	p.hears(2)
	view := client.NewPresence()
	take := func() wire.ServerFrame {
		f := p.presence()
		view.Apply(&f)
		must(t, view.Err())
		return f
	}
	take()
	name := func(i int) string { return fmt.Sprintf("u%02d", i) }
	for i := range 40 {
		join(t, nc, huge, name(i), fmt.Sprint(i), "1m")
	}
	var counts []time.Time
	for view.Now().Count < 40 {
		f := take()
		switch {
		case f.Count != nil:
			counts = append(counts, time.Now())
			if *f.Count <= 10 || len(f.Sample) == 0 || len(f.Sample) > 20 {
				t.Errorf("a count of %d with %d members", *f.Count, len(f.Sample))
			}
			for user, m := range f.Sample {
				if want := user[1:]; len(m.Data) == 0 || fmt.Sprintf("%02s", m.Data) != want {
					t.Errorf("%s: data %s", user, m.Data)
				}
			}
		case len(counts) > 0:
			t.Errorf("got %s after a count", f.Raw)
		}
	}
	for i := range 20 { // changes all the time
		join(t, nc, huge, name(i), fmt.Sprint(i+100), "1m")
		join(t, nc, huge, "more", fmt.Sprint(i), "1m")
	}
	last := take()
	if last.Count == nil || *last.Count != 41 {
		t.Fatalf("got %s, want a count of 41", last.Raw)
	}
	counts = append(counts, time.Now())
	for i := 1; i < len(counts); i++ {
		// One that was read late makes the next one seem early; diffs are 50 ms apart.
		if gap := counts[i].Sub(counts[i-1]); gap < 500*time.Millisecond {
			t.Errorf("counts %s apart, want a second", gap)
		}
	}
	// Who begins to watch now is told who is there, and counts from then on.
	q := newPeer(t, s.url(1), "late")
	q.send(`{"op":"subscribe","id":2,"topic":"` + huge + `","presence":"watch"}`)
	q.hears(2)
	if f := q.presence(); len(f.State) != 41 {
		t.Errorf("got %s, want a state of 41", f.Raw)
	}
	for i := range 31 { // ten are left
		user := name(i)
		if i == 30 {
			user = "more"
		}
		if _, code := svc(t, nc, "leave", fmt.Sprintf(`{"topic":"`+huge+`","user":%q}`, user)); code != "" {
			t.Fatalf("leave: %s", code)
		}
	}
	for {
		f := take()
		if f.State != nil {
			if len(f.State) != 10 {
				t.Errorf("got %s, want the ten that are left", f.Raw)
			}
			break
		}
		if f.Count == nil || *f.Count <= 10 {
			t.Fatalf("got %s, want counts above ten or a state", f.Raw)
		}
	}
	join(t, nc, huge, "u39", `"new"`, "1m")
	if f := take(); string(f.Joins["u39"].Data) != `"new"` {
		t.Errorf("got %s, want a diff", f.Raw)
	}
}
