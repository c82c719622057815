package presence

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// maxGroupMembers and maxGroupBytes bound a group, which is one entry; where
	// NATS takes less than that, less.
	maxGroupMembers = 1000
	maxGroupBytes   = 256 << 10
	// leftFor is how long a group remembers who left, for joins that come late,
	// and maxLeft how many.
	leftFor = 5 * time.Minute
	maxLeft = 1000
	// forgetAfter is how long a group that nobody created stays when its last
	// member is gone, and rememberClosed how long it is known that it was closed.
	forgetAfter    = 5 * time.Minute
	rememberClosed = 7 * 24 * time.Hour
	// defaultRole is that of a worker's member where no rule names one.
	defaultRole = "member"
	// fullBackoff is when a full group may be tried again.
	fullBackoff = time.Second
)

// groupOp is what a request does with a group's entry.
type groupOp uint8

const (
	groupCreate groupOp = iota
	groupJoin
	groupLeave
	groupSetMeta
	groupClose
	groupSweep // takes the seats of dead gateways out
)

// groupTask is one change of a group.
type groupTask struct {
	op   groupOp
	req  *wire.GroupRequest
	rule *rules.Group // nil where none governs the group
}

// groupEvent is something that happened to a group, for who wants to know.
type groupEvent struct {
	what string // joined, left, full, closed
	conn string
	seat wire.GroupSeat
}

// groupState is a group's entry while changes to it are decided. It is pure:
// what it decides counts when the entry was stored.
type groupState struct {
	entry   wire.GroupEntry // the maps are the state's own
	size    int             // of the entry in the bucket, about
	most    int             // bytes that it may have
	changed bool
	events  []groupEvent
	now     time.Time
	dead    func(gateway string, epoch uint64) bool
}

// newGroupState begins with a copy of an entry of so many bytes; dead says
// whose seats are free.
func newGroupState(entry *wire.GroupEntry, size int, now time.Time, dead func(string, uint64) bool) *groupState {
	st := &groupState{entry: *entry, size: size, most: maxGroupBytes, now: now, dead: dead}
	st.entry.Members = maps.Clone(entry.Members)
	st.entry.Left = maps.Clone(entry.Left)
	if st.entry.Members == nil {
		st.entry.Members = map[string]wire.GroupSeat{}
	}
	return st
}

// apply decides one change. Its error, a *wire.Error, answers the request;
// whatever it did before the error is part of the entry nevertheless.
func (st *groupState) apply(t groupTask) error {
	switch t.op {
	case groupCreate:
		return st.create(t.req)
	case groupJoin:
		return st.join(t.req, t.rule)
	case groupLeave:
		st.leave(t.req)
	case groupSetMeta:
		return st.setMeta(t.req)
	case groupClose:
		st.close()
	case groupSweep:
		st.sweep()
	}
	return nil
}

// create makes a group that stays without members, and opens a closed one
// again. What its members have set meanwhile stays.
func (st *groupState) create(req *wire.GroupRequest) error {
	e := &st.entry
	meta := e.Meta
	if e.Closed {
		meta = nil
	}
	if meta == nil {
		meta = given(req.Meta)
	}
	grown := len(meta) - len(e.Meta)
	if err := st.fits(grown); err != nil {
		return err
	}
	most := e.MaxMembers
	if req.MaxMembers > 0 {
		most = req.MaxMembers
	}
	if !e.Created || e.Closed || most != e.MaxMembers || string(meta) != string(e.Meta) {
		e.Created, e.Closed, e.MaxMembers, e.Meta = true, false, most, meta
		st.size += grown
		st.changed = true
	}
	return nil
}

// join gives a connection a seat. Of two requests about one connection the
// later one of its gateway counts.
func (st *groupState) join(req *wire.GroupRequest, rule *rules.Group) error {
	e := &st.entry
	role, err := roleOf(req, rule)
	if err != nil {
		return err
	}
	switch {
	case e.Closed:
		return wire.Errorf(wire.FailedPrecondition, "the group is closed")
	case req.Gateway != "" && st.dead != nil && st.dead(req.Gateway, req.Epoch):
		return wire.Errorf(wire.Unavailable, "the gateway's lease ran out: it takes another").With("outcome", "none")
	}
	seat := wire.GroupSeat{
		GroupMember: wire.GroupMember{Role: role, Data: given(req.Data)},
		User:        req.User, Gateway: req.Gateway, Epoch: req.Epoch, Version: req.Version,
	}
	have, here := e.Members[req.Conn]
	if late(req, have, e.Left[req.Conn]) {
		if here {
			return nil // a later join of it has been here
		}
		return wire.Errorf(wire.Aborted, "the connection left meanwhile")
	}
	if here && sameSeat(have, seat) {
		return nil
	}
	if !here {
		if err := st.room(rule, req, seat); err != nil {
			return err
		}
	}
	before := 0
	if here {
		before = seatSize(req.Conn, have)
	}
	if err := st.fits(seatSize(req.Conn, seat) - before); err != nil {
		return err
	}
	st.size += seatSize(req.Conn, seat) - before
	e.Members[req.Conn] = seat
	st.forgetLeft(req.Conn)
	st.changed = true
	if !here {
		st.events = append(st.events, groupEvent{"joined", req.Conn, seat})
	}
	return nil
}

// roleOf returns the role that a join asks for.
func roleOf(req *wire.GroupRequest, rule *rules.Group) (string, error) {
	switch {
	case rule == nil && req.Gateway != "":
		return "", wire.Errorf(wire.PermissionDenied, "no rule matches the group")
	case rule == nil && req.Role == "":
		return defaultRole, nil
	case rule == nil:
		return req.Role, nil
	case req.Role == "":
		return rule.Roles[0], nil
	case !slices.Contains(rule.Roles, req.Role):
		return "", wire.InvalidField("role", "one of the roles of the group's rule")
	}
	return req.Role, nil
}

// late reports whether a join was sent before what is known of the connection.
// A request without a version is a worker's and always counts.
func late(req *wire.GroupRequest, have wire.GroupSeat, left wire.GroupLeft) bool {
	return req.Version > 0 && (req.Version < have.Version || req.Version <= left.Version)
}

func sameSeat(a, b wire.GroupSeat) bool {
	return a.Role == b.Role && a.User == b.User && a.Gateway == b.Gateway && a.Epoch == b.Epoch &&
		a.Version == b.Version && string(a.Data) == string(b.Data)
}

// room makes sure that one more fits: the seats of dead gateways are free.
func (st *groupState) room(rule *rules.Group, req *wire.GroupRequest, seat wire.GroupSeat) error {
	most := maxGroupMembers
	if m := st.entry.MaxMembers; m > 0 {
		most = min(most, m)
	}
	if rule != nil && rule.MaxMembers > 0 {
		most = min(most, rule.MaxMembers)
	}
	if len(st.entry.Members) < most {
		return nil
	}
	if st.sweep(); len(st.entry.Members) < most {
		return nil
	}
	st.events = append(st.events, groupEvent{"full", req.Conn, seat})
	full := &wire.Error{Code: wire.ResourceExhausted, Message: "the group is full", RetryAfter: fullBackoff}
	return full.With("limit", most)
}

// leave takes a connection out. A leave of a gateway's is noted even where there
// is nobody to take out: a join that was sent before may come behind it.
func (st *groupState) leave(req *wire.GroupRequest) {
	e := &st.entry
	have, here := e.Members[req.Conn]
	if req.Version > 0 && req.Version < have.Version {
		return // it has joined again since
	}
	if here {
		st.takeOut(req.Conn)
	}
	if version := max(req.Version, have.Version); version > e.Left[req.Conn].Version && !e.Closed {
		if e.Left == nil {
			e.Left = map[string]wire.GroupLeft{}
		}
		st.forgetLeft(req.Conn)
		left := wire.GroupLeft{Version: version, At: st.now.UnixMilli()}
		e.Left[req.Conn] = left
		st.size += leftSize(req.Conn, left)
		st.changed = true
	}
}

// setMeta replaces the group's meta; null takes it away.
func (st *groupState) setMeta(req *wire.GroupRequest) error {
	e := &st.entry
	meta := given(req.Meta)
	switch {
	case e.Closed:
		return wire.Errorf(wire.FailedPrecondition, "the group is closed")
	case req.Conn != "" && !st.has(req.Conn):
		return errNotMember
	case string(meta) == string(e.Meta):
		return nil
	}
	grown := len(meta) - len(e.Meta)
	if err := st.fits(grown); err != nil {
		return err
	}
	e.Meta = meta
	st.size += grown
	st.changed = true
	return nil
}

// close empties the group for good. Closing it again announces it again:
// somebody may have missed the first time.
func (st *groupState) close() {
	st.entry = wire.GroupEntry{Group: st.entry.Group, Closed: true, Members: map[string]wire.GroupSeat{}}
	st.size = len(st.entry.Group)
	st.changed = true
	st.events = append(st.events, groupEvent{what: "closed"})
}

// sweep takes the seats of dead gateways out.
func (st *groupState) sweep() {
	if st.dead == nil {
		return
	}
	for conn, seat := range st.entry.Members {
		if seat.Gateway != "" && st.dead(seat.Gateway, seat.Epoch) {
			st.takeOut(conn)
		}
	}
}

func (st *groupState) takeOut(conn string) {
	seat := st.entry.Members[conn]
	delete(st.entry.Members, conn)
	st.size -= seatSize(conn, seat)
	st.changed = true
	st.events = append(st.events, groupEvent{"left", conn, seat})
}

func (st *groupState) has(conn string) bool {
	_, ok := st.entry.Members[conn]
	return ok
}

// fits refuses what would make the entry too large.
func (st *groupState) fits(more int) error {
	if more <= 0 || st.size+more <= st.most {
		return nil
	}
	full := &wire.Error{Code: wire.ResourceExhausted, Message: "the group's members and meta are too large together", RetryAfter: fullBackoff}
	return full.With("limit", st.most)
}

// prune forgets who left long ago, and the first of too many: of more than are
// counted, or than there is room for.
func (st *groupState) prune() {
	left := st.entry.Left
	for conn, l := range left {
		if st.now.UnixMilli()-l.At > leftFor.Milliseconds() {
			st.forgetLeft(conn)
		}
	}
	if len(left) <= maxLeft && st.size <= st.most {
		return
	}
	byAge := slices.SortedFunc(maps.Keys(left), func(a, b string) int { return cmp.Compare(left[a].At, left[b].At) })
	for _, conn := range byAge {
		if len(left) <= maxLeft && st.size <= st.most {
			return
		}
		st.forgetLeft(conn)
	}
}

func (st *groupState) forgetLeft(conn string) {
	if l, ok := st.entry.Left[conn]; ok {
		delete(st.entry.Left, conn)
		st.size -= leftSize(conn, l)
	}
}

// encode returns the entry as the bucket keeps it, and for how long: 0 for as
// long as nobody changes it.
func (st *groupState) encode() (value []byte, ttl time.Duration, err error) {
	st.prune()
	if value, err = plainJSON(&st.entry); err != nil {
		return nil, 0, fmt.Errorf("write the entry of a group: %w", err)
	}
	switch e := &st.entry; {
	case e.Closed:
		ttl = rememberClosed
	case len(e.Members) == 0 && !e.Created:
		ttl = forgetAfter
	}
	return value, ttl, nil
}

// given returns raw JSON, nil for null.
func given(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// seatSize and leftSize are what a seat and a note of a leave add to the entry.
func seatSize(conn string, seat wire.GroupSeat) int { return memberSize(conn, seat) }
func leftSize(conn string, left wire.GroupLeft) int { return memberSize(conn, left) }

func memberSize(conn string, v any) int {
	key, _ := plainJSON(conn) // which may have escapes; a string never fails
	b, err := plainJSON(v)
	if err != nil {
		return maxGroupBytes // of data that is no JSON: it never fits
	}
	return len(key) + len(`:,`) + len(b)
}

// plainJSON is json.Marshal without escapes for HTML: what members say of
// themselves stays as it is.
func plainJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

var errNotMember = wire.Errorf(wire.FailedPrecondition, "not a member of the group")
