package gateway

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ids are the connections of a section, those that were lost in brackets.
func (s *section) ids() (all []string) {
	for _, c := range s.conns {
		id := c.Conn
		if c.Away {
			id = "(" + id + ")"
		}
		all = append(all, id)
	}
	return all
}

func expectConns(t *testing.T, s *section, what string, want ...string) {
	t.Helper()
	if got := s.ids(); !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// A connection that was lost stays until it is taken out, until the user is back,
// or until a newer one of theirs leaves cleanly.
func TestSectionOfAUser(t *testing.T) {
	s := &section{}
	conn := func(id string) wire.PresenceConn { return wire.PresenceConn{Conn: id} }
	s.join(conn("a"))
	s.ordered(s.conns, 10)
	s.join(wire.PresenceConn{Conn: "a", Data: []byte(`1`)})
	if s.conns[0].Order != 10 || string(s.conns[0].Data) != "1" {
		t.Errorf("new data made a new connection: %+v", s.conns[0])
	}
	expectConns(t, s, "joined twice", "a")
	if s.expire("a") || s.lose("b") || s.leave("b") {
		t.Error("what is not there, or is not lost, was taken out")
	}
	s.lose("a")
	expectConns(t, s, "lost", "(a)")
	s.join(conn("b"))
	expectConns(t, s, "on its way back", "(a)", "b")
	s.ordered(slices.Clone(s.conns), 20)
	expectConns(t, s, "back on another connection", "b")
	s.join(conn("c"))
	s.ordered(s.conns, 30)
	s.lose("b")
	s.leave("c")
	expectConns(t, s, "the newest left cleanly")
	if s.left != 30 {
		t.Errorf("left: got %d, want the order of the newest that left", s.left)
	}
	s.join(conn("d"))
	s.lose("d")
	s.join(conn("d")) // it said something again
	expectConns(t, s, "not lost after all", "d")
	s.lose("d")
	if !s.expire("d") {
		t.Error("the delay is over")
	}
	expectConns(t, s, "expired")
}

// An older connection that leaves cleanly says nothing of a newer one that was
// lost.
func TestLeavingDoesNotEndANewerOne(t *testing.T) {
	s := &section{}
	for i, id := range []string{"a", "b"} {
		s.join(wire.PresenceConn{Conn: id})
		s.ordered(s.conns, uint64(10*(i+1)))
	}
	s.lose("b")
	s.leave("a")
	expectConns(t, s, "the older one left", "(b)")
}

// What was refused is undone, unless it was stored before.
func TestSectionUndo(t *testing.T) {
	s := &section{}
	s.join(wire.PresenceConn{Conn: "a"})
	if !s.undo("a") || len(s.conns) != 0 || s.undo("a") {
		t.Error("a join that was refused is still there")
	}
	s.join(wire.PresenceConn{Conn: "a"})
	s.ordered(s.conns, 10)
	s.join(wire.PresenceConn{Conn: "a", Data: []byte(`2`)})
	if s.undo("a") {
		t.Error("a change that was refused took out the connection")
	}
}

// A return that is refused is none: who was lost counts until the delay is over.
func TestARefusedReturn(t *testing.T) {
	s := &section{}
	s.join(wire.PresenceConn{Conn: "a"})
	s.ordered(slices.Clone(s.conns), 10)
	s.lose("a")
	s.join(wire.PresenceConn{Conn: "b"})
	s.undo("b")
	expectConns(t, s, "the return was refused", "(a)")
	s.join(wire.PresenceConn{Conn: "b"})
	s.lose("b")
	sent := slices.Clone(s.conns)
	s.join(wire.PresenceConn{Conn: "c"})
	s.ordered(sent, 20)
	expectConns(t, s, "stored when it was lost again", "(b)", "c")
	s.undo("c")
	if !s.expire("b") {
		t.Error("the delay is over")
	}
	expectConns(t, s, "the delay is over")
}

// Who returns and leaves at once, before the return is stored, has left; one that
// came later and was lost has not.
func TestLeavingBeforeTheReturnIsStored(t *testing.T) {
	s := &section{}
	s.join(wire.PresenceConn{Conn: "a"})
	s.ordered(slices.Clone(s.conns), 10)
	s.lose("a")
	s.join(wire.PresenceConn{Conn: "b"})
	s.join(wire.PresenceConn{Conn: "c"})
	s.lose("c")
	s.leave("b")
	expectConns(t, s, "the return has left", "(c)")
}

// Random events against a list of who is there: a live connection is never lost
// by another's event, and nobody is twice in it.
func TestSectionModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &section{}
		live := map[string]bool{}
		revision := uint64(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			id := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "conn")
			switch rapid.IntRange(0, 5).Draw(t, "event") {
			case 0, 1:
				s.join(wire.PresenceConn{Conn: id})
				live[id] = true
			case 2:
				s.leave(id)
				delete(live, id)
			case 3:
				s.lose(id)
				delete(live, id)
			case 4:
				s.expire(id)
			case 5: // what there is was stored
				revision++
				s.ordered(slices.Clone(s.conns), revision)
			}
			seen := map[string]bool{}
			for _, c := range s.conns {
				if seen[c.Conn] || !c.Away != live[c.Conn] {
					t.Fatalf("got %v, live are %v", s.ids(), live)
				}
				seen[c.Conn] = true
			}
			for id := range live {
				if !seen[id] {
					t.Fatalf("%s is not in %v", id, s.ids())
				}
			}
			if i := wire.NewestConn(s.conns, s.left); len(live) > 0 && (i < 0) {
				t.Fatalf("nobody speaks for %v", s.ids())
			}
		}
	})
}

func TestSettled(t *testing.T) {
	for i, c := range []struct {
		s    section
		want bool
	}{
		{section{version: 3, stored: 3}, true},
		{section{version: 3, stored: 2}, false},
		{section{version: 3, stored: 3, queued: true}, false},
		{section{version: 3, stored: 3, flying: 3}, false},
		{section{version: 3, stored: 3, conns: []wire.PresenceConn{{Conn: "a"}}}, false},
	} {
		if got := c.s.settled(); got != c.want {
			t.Error(fmt.Sprint(i), got)
		}
	}
}
