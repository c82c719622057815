package integration

import (
	"encoding/json"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Who joins finds itself in the state; who watches hears of it, on every
// gateway, and is not counted.
func TestPresenceAcrossGateways(t *testing.T) {
	s := anyPresence(t, 2, 2)
	room := unique("room")
	eye := watching(t, s.as(1, "eye"), room)
	eye.sees()
	ann := joining(t, s.as(0, "ann"), room, `{"mood":"fine","password":"x","deep":[{"Token":"y","author":"z"}]}`)
	ann.sees("ann")
	eye.sees("ann")
	eye.says("ann", `{"mood":"fine","deep":[{"author":"z"}]}`)
	bob := joining(t, s.as(1, "bob"), room, "")
	for _, o := range []*observer{eye, ann, bob} {
		o.sees("ann", "bob")
	}
	nc := s.worker()
	if got, _ := svc(t, nc, "count", `{"topic":"`+room+`"}`); got != `{"count":2}` {
		t.Errorf("count: got %s", got)
	}
	var list wire.PresenceList
	got, _ := svc(t, nc, "list", `{"topic":"`+room+`"}`)
	if err := json.Unmarshal([]byte(got), &list); err != nil || list.Count != 2 || len(list.Users) != 2 || string(list.Users["ann"].Data) != `{"mood":"fine","deep":[{"author":"z"}]}` {
		t.Errorf("list: got %s", got)
	}
	// A clean leave is heard at once, though the rule leaves time for a return.
	must(t, ann.sub.Unsubscribe(within(t)))
	eye.sees("bob")
	bob.Close(wire.CloseNormal)
	eye.sees()
}

// A user's connections are one member: the newest speaks, and when it goes the
// one before it does again.
func TestSeveralConnectionsAreOneMember(t *testing.T) {
	s := anyPresence(t, 2, 1)
	now := unique("now")
	eye := watching(t, s.as(0, "eye"), now)
	eye.sees()
	first := joining(t, s.as(0, "ann"), now, `{"tab":1}`)
	eye.says("ann", `{"tab":1}`)
	second := joining(t, s.as(1, "ann"), now, `{"tab":2}`)
	eye.says("ann", `{"tab":2}`)
	third := joining(t, s.as(0, "ann"), now, `{"tab":3}`)
	eye.says("ann", `{"tab":3}`)
	revs := eye.view.Now().Rev
	second.Close(wire.CloseNormal) // nobody sees it
	third.Close(wire.CloseNormal)
	eye.says("ann", `{"tab":1}`)
	if now := eye.view.Now(); now.Rev != revs+1 {
		t.Errorf("%d frames for two connections of which one spoke, want 1", now.Rev-revs)
	}
	first.Abort() // abruptly: without a leave delay that is a leave too
	eye.sees()
}

// An abrupt loss waits for a return, which nobody sees.
func TestLeaveDelay(t *testing.T) {
	s := anyPresence(t, 2, 1)
	long := unique("long")
	room := unique("room")
	eye := watching(t, s.as(0, "eye"), long)
	short := watching(t, s.as(0, "eye"), room)
	eye.sees()
	short.sees()
	ann := joining(t, s.as(0, "ann"), long, `1`)
	bob := joining(t, s.as(0, "bob"), room, ``)
	eye.sees("ann")
	short.sees("bob")
	rev := eye.view.Now().Rev
	ann.Abort()
	bob.Abort()
	short.sees() // after a second
	ann = joining(t, s.as(1, "ann"), long, `1`)
	ann.sees("ann")
	if now := eye.view.Now(); now.Rev != rev || !now.Has("ann") {
		t.Errorf("the return was seen: rev %d, was %d", now.Rev, rev)
	}
	// The return counts: a clean leave now is one, although the first connection
	// was lost a moment ago.
	ann.Close(wire.CloseNormal)
	eye.until("ann is gone long before the delay is over", func(m client.Members) bool { return !m.Has("ann") })
}
