package gateway

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// room is the gateway's own view of who is on a topic: the fold of the sections
// of all gateways, as the bucket's changes bring them. It is pure state, guarded
// by whoever has it.
type room struct {
	topic string
	users map[string][]*heardSection // sections by user
	shown map[string]shown           // what observers were told
	// changed are users who may be other than shown, and next what they are now,
	// where somebody asked since.
	changed map[string]struct{}
	next    *ahead
	order   order
	newest  uint64 // greatest revision that was seen
	// floor is up to where it may be forgotten who was there and is not: a
	// listing that is older could bring them back.
	floor uint64
	// What is heard that is not newer than settled, or than the last listing, is
	// known or over.
	settled uint64
	listed  []listing
	digest  wire.PresenceDigest
}

// heardSection is the newest that is known of a section. One without connections
// remembers its revision, so that nothing older takes its place.
type heardSection struct {
	wire.PresenceSection
	revision uint64
}

// shown is a member as observers know them: their object on the wire.
type shown []byte

func newRoom(topic string) *room {
	return &room{topic: topic, users: map[string][]*heardSection{}, shown: map[string]shown{}, changed: map[string]struct{}{}}
}

// take takes a republished entry of the topic.
func (r *room) take(e kv.Entry) bool {
	tokens := strings.Split(e.Key, ".")
	if len(tokens) < 3 {
		return false
	}
	user, err := wire.UnescapeToken(tokens[len(tokens)-2])
	if err != nil {
		return false
	}
	gateway, err := wire.UnescapeToken(tokens[len(tokens)-1])
	if err != nil {
		return false
	}
	p := wire.PresenceSection{}
	if !e.Deleted && (!wire.ValidJSON(e.Value) || json.Unmarshal(e.Value, &p) != nil || p.Topic != r.topic || p.User != user || p.Gateway != gateway) {
		return false
	}
	p.Topic, p.User, p.Gateway = r.topic, user, gateway
	r.put(&heardSection{p, e.Revision})
	return true
}

// put takes a section that was heard, unless a newer one was taken.
func (r *room) put(h *heardSection) {
	r.newest = max(r.newest, h.revision)
	if h.revision > max(r.settled, upTo(r.listed, h.User)) {
		r.set(h)
	}
}

// set puts a section in the place of an older one.
func (r *room) set(h *heardSection) {
	r.newest = max(r.newest, h.revision)
	sections := r.users[h.User]
	at := slices.IndexFunc(sections, func(o *heardSection) bool { return o.Gateway == h.Gateway })
	if at >= 0 && sections[at].revision >= h.revision {
		return
	}
	for i := range h.Conns {
		if h.Conns[i].Order == 0 {
			h.Conns[i].Order = h.revision
		}
	}
	if at < 0 {
		r.users[h.User] = append(sections, h)
	} else {
		r.count(sections[at], -1)
		sections[at] = h
	}
	r.count(h, 1)
	r.change(h.User)
}

// change takes that a user may be other than shown.
func (r *room) change(user string) {
	r.changed[user] = struct{}{}
	r.next = nil
}

func (r *room) count(h *heardSection, n int) {
	if len(h.Conns) == 0 {
		return
	}
	hash := wire.SectionHash(r.topic, h.User, h.Gateway, h.revision)
	if n > 0 {
		r.digest.Add(hash)
	} else {
		r.digest.Remove(hash)
	}
}

// listing is a part of a listing: users up to and including last, as they were at a
// revision. last is "" in the final one.
type listing struct {
	last string
	rev  uint64
}

// reconcile takes a whole listing: what it does not have, and is not newer than
// it, is gone. It returns false for a listing that is too old to be taken.
func (r *room) reconcile(listed []wire.PresenceStored, listings []listing) bool {
	for _, s := range listings {
		if s.rev < r.floor {
			return false
		}
	}
	type key struct{ user, gateway string }
	there := make(map[key]struct{}, len(listed))
	for i := range listed {
		p := &listed[i]
		if p.Topic != r.topic {
			continue
		}
		there[key{p.User, p.Gateway}] = struct{}{}
		r.set(&heardSection{p.PresenceSection, p.Revision})
	}
	for _, s := range listings {
		r.floor = max(r.floor, s.rev)
	}
	r.listed = listings
	for user, sections := range r.users {
		known := upTo(listings, user)
		kept := sections[:0]
		for _, h := range sections {
			if _, ok := there[key{user, h.Gateway}]; ok || h.revision > known {
				kept = append(kept, h)
				continue
			}
			r.count(h, -1)
			r.change(user)
		}
		clear(sections[len(kept):])
		if len(kept) == 0 {
			delete(r.users, user)
		} else {
			r.users[user] = kept
		}
	}
	return true
}

// upTo returns what a listing knew when it listed a user.
func upTo(listings []listing, user string) uint64 {
	for _, s := range listings {
		if s.last == "" || user <= s.last {
			return s.rev
		}
	}
	return 0
}

// forget drops what is remembered of empty sections up to a revision: whoever
// lists the topic knows as much. Who left last stays known while the user has a
// connection that it may speak against.
func (r *room) forget(rev uint64) {
	r.floor, r.settled = max(r.floor, rev), max(r.settled, rev)
	for user, sections := range r.users {
		there := slices.ContainsFunc(sections, func(h *heardSection) bool { return len(h.Conns) > 0 })
		kept := slices.DeleteFunc(sections, func(h *heardSection) bool {
			return len(h.Conns) == 0 && h.revision <= rev && (h.Left == 0 || !there)
		})
		if len(kept) == 0 {
			delete(r.users, user)
		} else {
			r.users[user] = kept
		}
	}
}

// restart forgets all that was heard, but not what is shown: the bucket was made
// anew, and its revisions begin again.
func (r *room) restart() {
	r.users = map[string][]*heardSection{}
	r.newest, r.floor, r.settled, r.listed, r.digest = 0, 0, 0, nil, wire.PresenceDigest{}
	for user := range r.shown {
		r.change(user)
	}
}

// member returns a user as everybody may see them; false if they are not there.
func (r *room) member(user string) (shown, bool) {
	sections := r.users[user]
	var conns []wire.PresenceConn
	left := uint64(0)
	if len(sections) == 1 {
		conns, left = sections[0].Conns, sections[0].Left
	} else {
		for _, h := range sections {
			conns = append(conns, h.Conns...)
			left = max(left, h.Left)
		}
	}
	i := wire.NewestConn(conns, left)
	if i < 0 {
		return nil, false
	}
	return wire.AppendMember(nil, conns[i].Info, conns[i].Data), true
}

// diff brings what is shown up to date, and returns what observers have not been
// told: the insides of the two objects of a frame.
func (r *room) diff() (joins, leaves []byte) {
	for user := range r.changed {
		now, there := r.member(user)
		before, was := r.shown[user]
		switch {
		case there && (!was || !wire.EqualJSON(before, now)):
			joins = appendEntry(joins, user, now)
			r.shown[user] = now
			if !was {
				r.order.note(user)
			}
		case !there && was:
			leaves = appendEntry(leaves, user, before)
			delete(r.shown, user)
			r.order.note(user)
		}
	}
	clear(r.changed)
	r.next = nil
	return joins, leaves
}

// appendEntry appends a member to the inside of an object.
func appendEntry(dst []byte, user string, m shown) []byte {
	if len(dst) > 0 {
		dst = append(dst, ',')
	}
	dst = append(wire.AppendString(dst, user), ':')
	return append(dst, m...)
}

// state returns the frames that say who is shown, each of at most bytes unless
// it is one member.
func (r *room) state(rev int64, bytes int) (frames [][]byte) {
	var inside []byte
	for user, m := range r.shown {
		if len(inside)+len(user)+len(m)+8 > bytes && len(inside) > 0 {
			frames = append(frames, wire.AppendPresenceState(nil, r.topic, rev, inside, true))
			inside = inside[:0]
		}
		inside = appendEntry(inside, user, m)
	}
	return append(frames, wire.AppendPresenceState(nil, r.topic, rev, inside, false))
}

// sample returns the frame that says how many are there, with a few of them.
func (r *room) sample(rev int64, most int) []byte {
	var inside []byte
	for user, m := range r.shown {
		if most--; most < 0 {
			break
		}
		inside = appendEntry(inside, user, m)
	}
	return wire.AppendPresenceCount(nil, r.topic, rev, len(r.shown), inside)
}
