package presence

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// groupRounds of rapid's checks, 100 histories each.
const groupRounds = 50

// TestGroupModel plays random histories: gateways send joins and leaves, which
// arrive late, twice, in any order, or, joins only, not at all; two replicas
// decide them in batches on what they know, which may be old.
func TestGroupModel(t *testing.T) {
	for range groupRounds {
		rapid.Check(t, func(t *rapid.T) {
			if err := playGroup(t, func(*wire.GroupRequest, *groupState) {}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestGroupModelNotices shows that the model is no mirror.
func TestGroupModelNotices(t *testing.T) {
	for name, breaks := range map[string]func(*wire.GroupRequest, *groupState){
		"versions are not looked at": func(req *wire.GroupRequest, _ *groupState) { req.Version = 0 },
		"who left is forgotten":      func(_ *wire.GroupRequest, st *groupState) { clear(st.entry.Left) },
		"seats of the dead are kept": func(_ *wire.GroupRequest, st *groupState) { st.dead = nil },
		"a member is lost": func(req *wire.GroupRequest, st *groupState) {
			if len(st.entry.Members) > 1 {
				for conn := range st.entry.Members {
					delete(st.entry.Members, conn)
					return
				}
			}
		},
		"one more is let in": func(_ *wire.GroupRequest, st *groupState) {
			if len(st.entry.Members) == modelSeats {
				st.entry.Members["stranger"] = wire.GroupSeat{Gateway: "gw0"}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			histories := rapid.Custom(func(t *rapid.T) error { return playGroup(t, breaks) })
			const most = 5000
			for seed := range most {
				if err := histories.Example(seed); err != nil {
					t.Logf("history %d: %v", seed, err)
					return
				}
			}
			t.Errorf("not noticed in %d histories", most)
		})
	}
}

// modelSeats is how many the model's group takes.
const modelSeats = 3

// groupModel is what the group has to be.
type groupModel struct {
	breaks func(*wire.GroupRequest, *groupState)

	stored   []byte // the one entry; replicas may decide on older ones
	revision uint64
	known    [2]struct { // by replica
		stored   []byte
		revision uint64
	}
	now time.Time

	version map[string]uint64 // the last of each gateway
	wants   map[string]uint64 // the last join of a connection; 0: it left last
	kept    map[string]bool   // its last join was accepted
	dead    map[string]bool   // gateways
	flight  []groupTask       // sent and not decided
}

// playGroup plays one history and returns what went wrong.
func playGroup(t *rapid.T, breaks func(*wire.GroupRequest, *groupState)) error {
	m := &groupModel{
		breaks: breaks, now: groupNow, version: map[string]uint64{}, wants: map[string]uint64{},
		kept: map[string]bool{}, dead: map[string]bool{},
	}
	rule := groupRule(modelSeats)
	send := func(op groupOp) {
		i := rapid.IntRange(0, 5).Draw(t, "connection")
		conn, gateway := fmt.Sprint("c", i), fmt.Sprint("gw", i%2)
		if m.dead[gateway] {
			return
		}
		m.version[gateway]++
		req := &wire.GroupRequest{Group: "g", User: "u", Conn: conn, Gateway: gateway, Epoch: 1, Version: m.version[gateway]}
		m.kept[conn], m.wants[conn] = false, 0
		if op == groupJoin {
			m.wants[conn] = req.Version
		}
		m.flight = append(m.flight, groupTask{op, req, rule})
	}
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		switch rapid.IntRange(0, 9).Draw(t, "step") {
		case 0, 1, 2:
			send(groupJoin)
		case 3, 4:
			send(groupLeave)
		case 5:
			m.now = m.now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
		case 6:
			if rapid.IntRange(0, 5).Draw(t, "kill") == 0 {
				m.dead["gw1"] = true
			}
		default:
			if err := m.deliver(t, rapid.IntRange(0, 1).Draw(t, "replica"), true); err != nil {
				return err
			}
		}
	}
	for len(m.flight) > 0 {
		if err := m.deliver(t, rapid.IntRange(0, 1).Draw(t, "replica"), false); err != nil {
			return err
		}
	}
	return m.settled()
}

// deliver has a replica decide some of what is in flight.
func (m *groupModel) deliver(t *rapid.T, replica int, repeats bool) error {
	if len(m.flight) == 0 {
		return nil
	}
	var batch []groupTask
	for range rapid.IntRange(1, 3).Draw(t, "batch") {
		if len(m.flight) == 0 {
			break
		}
		i := rapid.IntRange(0, len(m.flight)-1).Draw(t, "message")
		task := m.flight[i]
		fate := rapid.IntRange(0, 5).Draw(t, "fate")
		if !repeats || fate > 0 { // else it comes once more
			m.flight = append(m.flight[:i:i], m.flight[i+1:]...)
		}
		if task.op == groupJoin && fate == 1 {
			continue // lost
		}
		batch = append(batch, task)
	}
	for try := 0; ; try++ {
		at := &m.known[replica]
		if try > 0 || rapid.Bool().Draw(t, "fresh") {
			at.stored, at.revision = m.stored, m.revision
		}
		entry := wire.GroupEntry{Group: "g"}
		if at.stored != nil {
			if err := json.Unmarshal(at.stored, &entry); err != nil {
				return err
			}
		}
		st := newGroupState(&entry, len(at.stored), m.now, func(gateway string, _ uint64) bool { return m.dead[gateway] })
		errs := make([]error, len(batch))
		for i, task := range batch {
			req := *task.req
			m.breaks(&req, st)
			errs[i] = st.apply(groupTask{task.op, &req, task.rule})
		}
		if at.revision != m.revision {
			continue // the write fails, or there is nothing to write and it has to be sure
		}
		if st.changed {
			value, _, err := st.encode()
			if err != nil {
				return err
			}
			m.stored, m.revision = value, m.revision+1
			at.stored, at.revision = m.stored, m.revision
		}
		return m.check(st, batch, errs)
	}
}

// check looks at a decision.
func (m *groupModel) check(st *groupState, batch []groupTask, errs []error) error {
	if n := len(st.entry.Members); n > modelSeats {
		return fmt.Errorf("%d members, with seats for %d", n, modelSeats)
	}
	live := 0
	for _, seat := range st.entry.Members {
		if !m.dead[seat.Gateway] {
			live++
		}
	}
	for i, task := range batch {
		conn := task.req.Conn
		if task.op == groupJoin && errs[i] == nil && m.wants[conn] == task.req.Version {
			m.kept[conn] = true
		}
		if task.op == groupJoin && wire.CodeOf(errs[i]) == wire.ResourceExhausted && i == len(batch)-1 && live < modelSeats {
			return fmt.Errorf("%s was refused with %d of %d seats taken", conn, live, modelSeats)
		}
	}
	return nil
}

// settled looks at the end, when everything has arrived.
func (m *groupModel) settled() error {
	entry := wire.GroupEntry{}
	if m.stored != nil {
		if err := json.Unmarshal(m.stored, &entry); err != nil {
			return err
		}
	}
	for conn, want := range m.wants {
		seat, here := entry.Members[conn]
		gone := m.dead[fmt.Sprint("gw", int(conn[1]-'0')%2)]
		switch {
		case want == 0 && here:
			return fmt.Errorf("%s left last and is there, by version %d", conn, seat.Version)
		case m.kept[conn] && !here && !gone:
			return fmt.Errorf("%s joined last, by version %d, and is not there", conn, want)
		case here && seat.Version > want:
			return fmt.Errorf("%s is there by version %d, which it never sent", conn, seat.Version)
		}
	}
	return nil
}
