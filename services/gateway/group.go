package gateway

import (
	"encoding/json"
	"maps"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// group is one group that connections of this gateway are in, or are about to
// be. It has the group's entry as it was heard last, and tells its seats what
// changes in it.
type group struct {
	in       *groups
	name     string
	messages *interest // what is published to the group
	entries  *interest // its entry, whenever it changes
	refs     int       // seats, and those about to become one; guarded by groups.mu

	mu       sync.Mutex
	known    bool // there is an entry below; guarded by mu, like all of them
	revision uint64
	view     groupView
	seats    map[*connection]*groupSeat // those who hear
	looking  bool                       // somebody looks for seats that are nobody's
	stale    bool                       // the entry is to be read again
	reading  bool                       // somebody does so
}

// groupView is what members may know of a group.
type groupView struct {
	members map[string]wire.GroupMember // by connection
	meta    json.RawMessage
	closed  bool
	left    map[string]wire.GroupLeft // who left of late, or was taken out
	own     map[string]string         // users of the members under this gateway's id, by connection
}

// viewOf returns what a gateway makes of a group's entry.
func viewOf(e *wire.GroupEntry, gateway string) groupView {
	v := groupView{
		members: make(map[string]wire.GroupMember, len(e.Members)), meta: e.Meta, closed: e.Closed, left: e.Left,
		own: map[string]string{},
	}
	for conn, seat := range e.Members {
		v.members[conn] = seat.GroupMember
		if seat.Gateway == gateway {
			v.own[conn] = seat.User
		}
	}
	return v
}

// since says what became of a group between two views.
func (v *groupView) since(before *groupView, name string) wire.GroupFrame {
	f := wire.GroupFrame{Group: name, Closed: v.closed}
	for id, m := range v.members {
		if old, ok := before.members[id]; !ok || !sameMember(old, m) {
			if f.Joined == nil {
				f.Joined = map[string]wire.GroupMember{}
			}
			f.Joined[id] = m
		}
	}
	for id, m := range before.members {
		if _, ok := v.members[id]; !ok {
			if f.Left == nil {
				f.Left = map[string]wire.GroupMember{}
			}
			f.Left[id] = m
		}
	}
	if v.closed { // which says it all
		f.Left = nil
		return f
	}
	if string(v.meta) != string(before.meta) {
		f.Meta, f.MetaSet = v.meta, true
	}
	return f
}

func sameMember(a, b wire.GroupMember) bool {
	return a.Role == b.Role && string(a.Data) == string(b.Data)
}

// amiss is in what a group's entry and the seats here differ.
type amiss struct {
	gone    []*groupSeat // not in the entry; they were told so
	lost    []*groupSeat // not in the entry; they are to be had again, if that can be
	crowded bool         // the entry may have seats that are nobody's
}

// see has done what is to be done about it. No lock is held.
func (a amiss) see(gr *group) {
	for _, s := range a.gone {
		s.drop(gr)
	}
	for _, s := range a.lost {
		s.sayAgain()
	}
	if a.crowded {
		gr.in.lookForStrangers(gr)
	}
}

// take takes an entry of a group and tells the seats what changed. What is not
// newer changes nothing.
func (gr *group) take(revision uint64, view groupView) amiss {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	if gr.known && revision <= gr.revision {
		return amiss{}
	}
	return gr.replace(revision, view)
}

// replace is [group.take] whatever the revision; mu is held.
func (gr *group) replace(revision uint64, view groupView) (a amiss) {
	before, known := gr.view, gr.known
	gr.view, gr.revision, gr.known = view, revision, true
	a.crowded = gr.crowded()
	if !known || len(gr.seats) == 0 {
		return a
	}
	f := view.since(&before, gr.name)
	var shared []byte
	for c, s := range gr.seats {
		if revision <= s.since {
			continue // its own join has told it
		}
		switch {
		case gr.ended(s):
			delete(gr.seats, c)
			a.gone = append(a.gone, s)
		case !gr.has(s) && !s.again:
			s.again = true
			a.lost = append(a.lost, s)
		}
		if own, is := gr.frameFor(s, &f); is {
			if !own.Empty() {
				c.out.Send(wire.AppendGroup(nil, &own))
			}
			continue
		}
		if f.Empty() {
			continue
		}
		if shared == nil {
			shared = wire.AppendGroup(nil, &f)
		}
		c.out.Send(shared)
	}
	return a
}

// has reports whether the view has a seat; mu is held.
func (gr *group) has(s *groupSeat) bool {
	_, here := gr.view.members[s.conn.id]
	return here
}

// ended reports whether a seat is gone for good: the group was closed, or the
// entry says that the seat was given back. One that is missing without a word
// was lost, as those of a gateway are that was taken for dead. mu is held.
func (gr *group) ended(s *groupSeat) bool {
	return gr.view.closed || !gr.has(s) && gr.view.left[s.conn.id].Version >= s.version
}

// frameFor returns the frame for one seat where that is not the one for all: its
// own join is no news to it, its own end is, unless it is to come back. mu is
// held.
func (gr *group) frameFor(s *groupSeat, f *wire.GroupFrame) (own wire.GroupFrame, is bool) {
	id := s.conn.id
	_, joined := f.Joined[id]
	_, left := f.Left[id]
	ended := gr.ended(s)
	if f.Closed || !joined && left == ended {
		return own, false
	}
	own = *f
	own.Joined, own.Left = maps.Clone(f.Joined), maps.Clone(f.Left)
	delete(own.Joined, id)
	delete(own.Left, id)
	if ended {
		if own.Left == nil {
			own.Left = map[string]wire.GroupMember{}
		}
		own.Left[id] = wire.GroupMember{Role: s.role, Data: s.data}
	}
	return own, true
}

// reset takes an entry that is older than the one that is known: the bucket was
// made anew. mu is held.
func (gr *group) reset(revision uint64, view groupView) amiss {
	for _, s := range gr.seats {
		s.since = 0
	}
	return gr.replace(revision, view)
}

// admit answers a join and lets the seat hear what comes. It returns false
// where the seat is gone already: it was told so, behind the answer. lost says
// that what is known of the group lacks it without a word.
func (gr *group) admit(s *groupSeat, id int64, req *wire.GroupRequest, joined *wire.GroupJoined) (here, lost bool) {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	reply := *joined
	newer := gr.known && gr.revision > joined.Revision
	if newer {
		reply.Count, reply.Meta = len(gr.view.members), gr.view.meta
	}
	s.conn.ok(id, wire.AppendGroupJoined(nil, &reply))
	s.conn.out.Fence()
	s.since, s.version, s.epoch, s.again = joined.Revision, req.Version, req.Epoch, false
	if newer && gr.ended(s) {
		f := wire.GroupFrame{Group: gr.name, Closed: gr.view.closed}
		if !f.Closed {
			f.Left = map[string]wire.GroupMember{s.conn.id: {Role: s.role, Data: s.data}}
		}
		s.conn.out.Send(wire.AppendGroup(nil, &f))
		delete(gr.seats, s.conn)
		return false, false
	}
	gr.seats[s.conn] = s
	s.again = newer && !gr.has(s)
	return true, s.again
}

// evict tells a seat that it is gone, unless it knows.
func (gr *group) evict(s *groupSeat) {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	if gr.seats[s.conn] != s {
		return
	}
	delete(gr.seats, s.conn)
	f := wire.GroupFrame{Group: gr.name, Left: map[string]wire.GroupMember{s.conn.id: {Role: s.role, Data: s.data}}}
	s.conn.out.Send(wire.AppendGroup(nil, &f))
}

// silence takes a seat out of those who hear. No frame of the group follows.
func (gr *group) silence(s *groupSeat) {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	if gr.seats[s.conn] == s {
		delete(gr.seats, s.conn)
	}
}

// hears reports whether a seat is in the group, as far as the gateway knows.
func (gr *group) hears(s *groupSeat) bool {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	return gr.seats[s.conn] == s
}

// current calls fn with the view, unless that is older than a seat's join: then
// it returns false, and the revision that the view has to have.
func (gr *group) current(s *groupSeat, fn func(*groupView)) (ok bool, since uint64) {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	if !gr.known || gr.revision < s.since {
		return false, s.since
	}
	fn(&gr.view)
	return true, s.since
}

// deliverGroup hands a message of a group to its members here. It runs on a
// shard's goroutine.
func (g *Service) deliverGroup(in *interest, msg *nats.Msg) {
	gr := g.groups.of(in.topic)
	if gr == nil {
		return
	}
	meta := wire.ParseMeta(msg.Header)
	role, member := wire.HeaderValue(msg.Header, wire.HeaderRole), wire.HeaderValue(msg.Header, wire.HeaderMember)
	m := wire.Message{Group: gr.name, From: meta.User}
	if g.tracer.On() {
		defer g.trace("deliver group", msg.Header)()
	}
	p, err := g.pack(&m, &meta, msg, nil)
	if err != nil {
		return
	}
	g.metrics.messages.Add(1)
	n := 0
	gr.mu.Lock()
	defer gr.mu.Unlock()
	for c, s := range gr.seats {
		if role != "" && s.role != role || member != "" && c.id != member || c.id == meta.Exclude {
			continue
		}
		p.to(c)
		n++
	}
	g.metrics.deliveries.Add(int64(n * p.size()))
}

// deliverGroupEntry takes a group's entry. It runs on a shard's goroutine.
func (g *Service) deliverGroupEntry(in *interest, msg *nats.Msg) {
	gr := g.groups.of(in.topic)
	if gr == nil {
		return
	}
	e, ok := kv.Republished(string(g.cfg.Namespace)+".groups.", msg)
	if !ok {
		g.metrics.malformed.Add(1)
		return
	}
	var entry wire.GroupEntry // that of a group which was deleted
	if !e.Deleted {
		if err := json.Unmarshal(e.Value, &entry); err != nil {
			g.metrics.malformed.Add(1)
			return
		}
	}
	gr.take(e.Revision, viewOf(&entry, g.id)).see(gr)
}
