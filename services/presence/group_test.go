package presence

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

var groupNow = time.UnixMilli(1_800_000_000_000)

func groupRule(most int) *rules.Group {
	return &rules.Group{Match: "g", MaxMembers: most, Roles: []string{"member", "admin"}, Meta: []string{"admin"}}
}

func joinOf(conn string, version uint64) *wire.GroupRequest {
	return &wire.GroupRequest{Group: "g", User: "u-" + conn, Conn: conn, Gateway: "gw", Epoch: 7, Version: version}
}

// newGroup returns the state of a group that the tasks have made.
func newGroup(t *testing.T, dead func(string, uint64) bool, tasks ...groupTask) *groupState {
	t.Helper()
	st := newGroupState(&wire.GroupEntry{Group: "g"}, 0, groupNow, dead)
	for i, task := range tasks {
		if err := st.apply(task); err != nil {
			t.Fatalf("task %d: %v", i, err)
		}
	}
	st.changed, st.events = false, nil
	return st
}

func TestGroupJoin(t *testing.T) {
	rule := groupRule(2)
	join := func(conn string, version uint64) groupTask {
		return groupTask{groupJoin, joinOf(conn, version), rule}
	}
	leave := func(conn string, version uint64) groupTask {
		return groupTask{groupLeave, joinOf(conn, version), rule}
	}
	as := func(task groupTask, role string) groupTask { task.req.Role = role; return task }
	worker := func(role string) groupTask {
		return groupTask{groupJoin, &wire.GroupRequest{Group: "g", User: "bot", Conn: "bot", Role: role}, nil}
	}
	for name, c := range map[string]struct {
		before  []groupTask
		task    groupTask
		code    wire.Code // "": none
		changed bool
		members int
		role    string // of the connection that asks
	}{
		"the first":                         {nil, join("a", 1), "", true, 1, "member"},
		"with a role":                       {nil, as(join("a", 1), "admin"), "", true, 1, "admin"},
		"with a role that the rule lacks":   {nil, as(join("a", 1), "king"), wire.InvalidArgument, false, 0, ""},
		"where no rule is":                  {nil, groupTask{groupJoin, joinOf("a", 1), nil}, wire.PermissionDenied, false, 0, ""},
		"of a worker where no rule is":      {nil, worker(""), "", true, 1, "member"},
		"of a worker with a role":           {nil, worker("king"), "", true, 1, "king"},
		"the same once more":                {[]groupTask{join("a", 1)}, join("a", 1), "", false, 1, "member"},
		"again":                             {[]groupTask{join("a", 1)}, as(join("a", 2), "admin"), "", true, 1, "admin"},
		"again, of which the first is late": {[]groupTask{as(join("a", 2), "admin")}, join("a", 1), "", false, 1, "admin"},
		"behind a leave that came later":    {[]groupTask{leave("a", 2)}, join("a", 1), wire.Aborted, false, 0, ""},
		"behind its own leave":              {[]groupTask{join("a", 1), leave("a", 2)}, join("a", 1), wire.Aborted, false, 0, ""},
		"after a leave":                     {[]groupTask{join("a", 1), leave("a", 2)}, join("a", 3), "", true, 1, "member"},
		"of a full group":                   {[]groupTask{join("a", 1), join("b", 2)}, join("c", 3), wire.ResourceExhausted, false, 2, ""},
		"again in a full group":             {[]groupTask{join("a", 1), join("b", 2)}, as(join("b", 3), "admin"), "", true, 2, "admin"},
		"below create's maxMembers": {[]groupTask{{groupCreate, &wire.GroupRequest{Group: "g", MaxMembers: 1}, rule}, join("a", 1)},
			join("b", 2), wire.ResourceExhausted, false, 1, ""},
		"of a closed group": {[]groupTask{join("b", 1), {groupClose, joinOf("", 0), rule}}, join("a", 2), wire.FailedPrecondition, false, 0, ""},
		"of one opened again": {[]groupTask{{groupClose, joinOf("", 0), rule}, {groupCreate, &wire.GroupRequest{Group: "g"}, rule}},
			join("a", 2), "", true, 1, "member"},
	} {
		t.Run(name, func(t *testing.T) {
			st := newGroup(t, nil, c.before...)
			err := st.apply(c.task)
			if c.code == "" && err != nil || c.code != "" && wire.CodeOf(err) != c.code {
				t.Errorf("got error %v, want code %q", err, c.code)
			}
			if st.changed != c.changed || len(st.entry.Members) != c.members || st.entry.Members[c.task.req.Conn].Role != c.role {
				t.Errorf("got changed %v, members %v; want %v and %d, role %q", st.changed, st.entry.Members, c.changed, c.members, c.role)
			}
		})
	}
}

func TestGroupFullSaysTheLimit(t *testing.T) {
	rule := groupRule(1)
	st := newGroup(t, nil, groupTask{groupJoin, joinOf("a", 1), rule})
	err := wire.AsError(st.apply(groupTask{groupJoin, joinOf("b", 2), rule}))
	if err.Details["limit"] != 1 {
		t.Errorf("got %v, want the limit 1 in the details", err.Details)
	}
	if len(st.events) != 1 || st.events[0].what != "full" || st.events[0].conn != "b" {
		t.Errorf("got events %v, want one that says that b found it full", st.events)
	}
}

func TestGroupSeatsOfDeadGatewaysAreFree(t *testing.T) {
	rule := groupRule(2)
	gone := func(gateway string, epoch uint64) bool { return gateway == "gw" && epoch == 7 }
	st := newGroup(t, nil, groupTask{groupJoin, joinOf("a", 1), rule}, groupTask{groupJoin, joinOf("b", 2), rule})
	st.dead = gone
	other := joinOf("c", 1)
	other.Gateway = "other"
	if err := st.apply(groupTask{groupJoin, other, rule}); err != nil {
		t.Fatal(err)
	}
	if len(st.entry.Members) != 1 || !st.has("c") {
		t.Errorf("got %v, want c alone", st.entry.Members)
	}
	if err := st.apply(groupTask{groupJoin, joinOf("d", 3), rule}); wire.CodeOf(err) != wire.Unavailable || st.has("d") {
		t.Errorf("a join under a dead epoch: got %v, members %v", err, st.entry.Members)
	}
	// One that took a new epoch is alive.
	st = newGroup(t, nil, groupTask{groupJoin, joinOf("a", 1), rule})
	st.dead = gone
	again := joinOf("a", 5)
	again.Epoch = 9
	if err := errors.Join(st.apply(groupTask{groupJoin, again, rule}), st.apply(groupTask{op: groupSweep})); err != nil {
		t.Fatal(err)
	}
	if !st.has("a") {
		t.Error("the sweep of a dead epoch took a seat of the next one")
	}
}

func TestGroupLeave(t *testing.T) {
	rule := groupRule(0)
	joined := groupTask{groupJoin, joinOf("a", 5), rule}
	for name, c := range map[string]struct {
		version uint64
		changed bool
		here    bool
	}{
		"of a gateway":                    {6, true, false},
		"that came behind the next join":  {4, false, true},
		"of a worker, who has no version": {0, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			st := newGroup(t, nil, joined)
			if err := st.apply(groupTask{groupLeave, joinOf("a", c.version), rule}); err != nil {
				t.Fatal(err)
			}
			if st.changed != c.changed || st.has("a") != c.here {
				t.Errorf("got changed %v, here %v; want %v, %v", st.changed, st.has("a"), c.changed, c.here)
			}
		})
	}
	st := newGroup(t, nil)
	for range 2 {
		if err := st.apply(groupTask{groupLeave, joinOf("a", 3), rule}); err != nil {
			t.Fatal(err)
		}
	}
	if !st.changed || st.entry.Left["a"].Version != 3 || len(st.events) != 0 {
		t.Errorf("a leave of who is not there: got changed %v, left %v, events %v", st.changed, st.entry.Left, st.events)
	}
}

func TestGroupForgetsWhoLeft(t *testing.T) {
	st := newGroup(t, nil)
	for i := range maxLeft + 10 {
		st.now = groupNow.Add(time.Duration(i) * time.Millisecond)
		st.leave(joinOf(fmt.Sprint("c", i), 1))
	}
	st.prune()
	if _, ok := st.entry.Left["c9"]; ok || len(st.entry.Left) != maxLeft {
		t.Errorf("got %d that left, the tenth among them: %v; want the newest %d", len(st.entry.Left), ok, maxLeft)
	}
	st.now = groupNow.Add(leftFor + time.Minute)
	if st.prune(); len(st.entry.Left) != 0 || st.size != 0 {
		t.Errorf("got %d that left and %d bytes, want nothing", len(st.entry.Left), st.size)
	}
}

func TestGroupMeta(t *testing.T) {
	create := func(meta string) groupTask {
		return groupTask{groupCreate, &wire.GroupRequest{Group: "g", Meta: json.RawMessage(meta)}, nil}
	}
	set := func(conn, meta string) groupTask {
		return groupTask{groupSetMeta, &wire.GroupRequest{Group: "g", Conn: conn, Meta: json.RawMessage(meta)}, nil}
	}
	st := newGroup(t, nil, create(`1`), set("", `2`))
	if err := st.apply(create(`3`)); err != nil || string(st.entry.Meta) != "2" || st.changed {
		t.Errorf("create once more: got %s, %v; want what was set meanwhile", st.entry.Meta, err)
	}
	if err := st.apply(set("nobody", `4`)); wire.CodeOf(err) != wire.FailedPrecondition {
		t.Errorf("set by a stranger: got %v", err)
	}
	if err := st.apply(set("", `null`)); err != nil || st.entry.Meta != nil {
		t.Errorf("set to null: got %s, %v", st.entry.Meta, err)
	}
	st.close()
	if err := st.apply(set("", `4`)); wire.CodeOf(err) != wire.FailedPrecondition {
		t.Errorf("set in a closed group: got %v", err)
	}
}

func TestGroupCloseTwice(t *testing.T) {
	st := newGroup(t, nil, groupTask{groupJoin, joinOf("a", 1), groupRule(0)})
	for range 2 {
		st.changed, st.events = false, nil
		st.close()
		if !st.changed || !st.entry.Closed || len(st.entry.Members) != 0 || len(st.events) != 1 {
			t.Errorf("got %+v, changed %v, events %v", st.entry, st.changed, st.events)
		}
	}
	if err := st.apply(groupTask{groupLeave, joinOf("a", 2), nil}); err != nil || !st.entry.Closed {
		t.Errorf("leave: got %v, closed %v", err, st.entry.Closed)
	}
}

// TestGroupBounds keeps the account of bytes equal to what is stored.
func TestGroupBounds(t *testing.T) {
	rule := groupRule(0)
	st := newGroup(t, nil)
	data := json.RawMessage(`"` + strings.Repeat("<", 4000) + `"`)
	n := 0
	for ; ; n++ {
		req := joinOf(fmt.Sprint("c", n), 1)
		req.Data = data
		err := st.apply(groupTask{groupJoin, req, rule})
		if err != nil {
			if e := wire.AsError(err); e.Code != wire.ResourceExhausted || e.Details["limit"] != maxGroupBytes {
				t.Fatal(err)
			}
			break
		}
	}
	value, _, err := st.encode()
	if err != nil || len(value) > maxGroupBytes+1024 || len(value) < maxGroupBytes-2*4096 {
		t.Errorf("%d members: got %d bytes, %v; want about %d", n, len(value), err, maxGroupBytes)
	}
	for i := range n {
		st.leave(joinOf(fmt.Sprint("c", i), 2))
	}
	st.now = st.now.Add(leftFor + time.Minute)
	if st.prune(); st.size != 0 {
		t.Errorf("an empty group: got %d bytes", st.size)
	}
	for i := range maxGroupMembers {
		if err := st.apply(groupTask{groupJoin, joinOf(fmt.Sprint("d", i), 1), rule}); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.apply(groupTask{groupJoin, joinOf("late", 1), rule}); wire.AsError(err).Details["limit"] != maxGroupMembers {
		t.Errorf("one too many: got %v", err)
	}
}

func TestGroupTTL(t *testing.T) {
	create := groupTask{groupCreate, &wire.GroupRequest{Group: "g"}, nil}
	join := groupTask{groupJoin, joinOf("a", 1), groupRule(0)}
	for name, c := range map[string]struct {
		tasks []groupTask
		want  time.Duration
	}{
		"with members":                {[]groupTask{join}, 0},
		"whose last member left":      {[]groupTask{join, {groupLeave, joinOf("a", 2), nil}}, forgetAfter},
		"that was created":            {[]groupTask{create}, 0},
		"that was created and closed": {[]groupTask{create, {op: groupClose}}, rememberClosed},
	} {
		if _, ttl, err := newGroup(t, nil, c.tasks...).encode(); err != nil || ttl != c.want {
			t.Errorf("%s: got %v, %v, want %v", name, ttl, err, c.want)
		}
	}
}

// TestGroupFitsWhatNATSTakes fills a group below the usual bound, with what is
// longer in JSON than in memory, and has more leave than there is room to note.
func TestGroupFitsWhatNATSTakes(t *testing.T) {
	const most = 16 << 10
	rule := groupRule(0)
	st := newGroup(t, nil)
	st.most = most
	name := func(i int) string { return fmt.Sprint(strings.Repeat(`"\`, 20), i) }
	n := 0
	for ; ; n++ {
		req := joinOf(name(n), 1)
		req.Data = json.RawMessage(`"` + strings.Repeat("<", 100) + `"`)
		if err := st.apply(groupTask{groupJoin, req, rule}); err != nil {
			if e := wire.AsError(err); e.Code != wire.ResourceExhausted || e.Details["limit"] != most {
				t.Fatal(err)
			}
			break
		}
	}
	const frame = len(`{"group":"g","members":{},"left":{}}`) // which isn't counted
	value, _, err := st.encode()
	if err != nil || len(value) > most+frame || len(value) < most-500 {
		t.Errorf("%d members: got %d bytes, %v; want about %d", n, len(value), err, most)
	}
	if strings.Contains(string(value), `\u003c`) {
		t.Error("what members say of themselves is escaped for HTML")
	}
	for i := range maxLeft {
		st.now = groupNow.Add(time.Duration(i) * time.Millisecond)
		st.leave(joinOf(name(n+i), 1))
	}
	value, _, err = st.encode()
	if _, newest := st.entry.Left[name(n+maxLeft-1)]; err != nil || len(value) > most+frame || len(st.entry.Members) != n || !newest && len(st.entry.Left) > 0 {
		t.Errorf("got %d bytes, %d members and %d that left, %v", len(value), len(st.entry.Members), len(st.entry.Left), err)
	}
	st.leave(joinOf(name(0), 2)) // which frees more than its note takes
	if _, _, err = st.encode(); err != nil || st.entry.Left[name(0)].Version != 2 || len(st.entry.Left) > 5 {
		t.Errorf("got %d that left, %v; want the last of them noted, and few more", len(st.entry.Left), err)
	}
}
