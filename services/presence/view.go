package presence

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// stored is a section with the revision that stored it.
type stored struct {
	wire.PresenceSection
	revision uint64
}

// there reports whether the section has connections.
func (s *stored) there() bool { return len(s.Conns) > 0 }

// order gives connections that are new in the section their order.
func (s *stored) order() {
	for i := range s.Conns {
		if s.Conns[i].Order == 0 {
			s.Conns[i].Order = s.revision
		}
	}
}

// newerThan reports whether s was said after other.
func (s *stored) newerThan(other *wire.PresenceSection) bool {
	return s.Epoch > other.Epoch || s.Epoch == other.Epoch && s.Version > other.Version
}

// view is what a bucket of sections holds, by topic and by gateway. It knows
// neither locks nor time. The registry's sections have the topic "".
type view struct {
	rev      uint64 // everything up to there is in it
	topics   map[string]*room
	gateways map[string]*holding
	seats    map[string]kv.Entry // seat entries, by key
	members  int                 // users on topics, once for each topic
}

// room is a topic with at least one section, be it an empty one.
type room struct {
	users   map[string][]*stored // sections by user
	members int                  // users of whom a connection counts
	digest  wire.PresenceDigest  // over revisions
	order   order                // of users
}

func newView() *view {
	return &view{topics: map[string]*room{}, gateways: map[string]*holding{}, seats: map[string]kv.Entry{}}
}

// seatPrefix begins the keys of seat entries: no topic begins with an underscore.
const seatPrefix = "_seats."

func seatKey(topic string) string { return seatPrefix + wire.EscapeTopic(topic) }

// apply takes an entry of the bucket, unless a newer one of its key was taken.
// A value that can't be read counts as absent.
func (v *view) apply(e kv.Entry) {
	if strings.HasPrefix(e.Key, seatPrefix) {
		switch {
		case v.seats[e.Key].Revision >= e.Revision:
		case e.Deleted:
			delete(v.seats, e.Key)
		default:
			v.seats[e.Key] = e
		}
		return
	}
	topic, user, gateway, err := parseKey(e.Key)
	if err != nil {
		return
	}
	if have := v.section(topic, user, gateway); have != nil && have.revision >= e.Revision {
		return // as a rule this replica wrote it
	}
	s := &stored{revision: e.Revision}
	if !e.Deleted && (!wire.ValidJSON(e.Value) || json.Unmarshal(e.Value, &s.PresenceSection) != nil || s.Topic != topic || s.User != user || s.Gateway != gateway) {
		e.Deleted = true
	}
	s.Topic, s.User, s.Gateway = topic, user, gateway
	v.put(s, e.Deleted)
}

// put takes a section in the place of the one that is there.
func (v *view) put(s *stored, deleted bool) {
	r := v.topics[s.Topic]
	if r == nil {
		if deleted {
			return
		}
		r = &room{users: map[string][]*stored{}}
		v.topics[s.Topic] = r
	}
	sections := r.users[s.User]
	at := slices.IndexFunc(sections, func(o *stored) bool { return o.Gateway == s.Gateway })
	if at >= 0 && sections[at].revision >= s.revision {
		return
	}
	s.order()
	was := present(sections)
	if at >= 0 {
		v.drop(r, sections[at])
		sections = slices.Delete(sections, at, at+1)
	}
	if !deleted {
		sections = append(sections, s)
		v.add(r, s)
	}
	if len(sections) == 0 {
		if _, there := r.users[s.User]; there {
			delete(r.users, s.User)
			r.order.leave(r.users)
		}
	} else {
		if _, there := r.users[s.User]; !there {
			r.order.come(s.User)
		}
		r.users[s.User] = sections
	}
	if is := present(sections); is != was {
		n := 1
		if was {
			n = -1
		}
		r.members += n
		v.members += n
	}
	if len(r.users) == 0 {
		delete(v.topics, s.Topic)
	}
}

func (v *view) add(r *room, s *stored) {
	h := v.gateways[s.Gateway]
	if h == nil {
		h = newHolding()
		v.gateways[s.Gateway] = h
	}
	h.add(s)
	if s.there() {
		r.digest.Add(wire.SectionHash(s.Topic, s.User, s.Gateway, s.revision))
	}
}

func (v *view) drop(r *room, s *stored) {
	h := v.gateways[s.Gateway]
	h.drop(s)
	if s.there() {
		r.digest.Remove(wire.SectionHash(s.Topic, s.User, s.Gateway, s.revision))
	}
	if h.count == 0 {
		delete(v.gateways, s.Gateway)
	}
}

// section returns what a gateway said of a user, nil for nothing.
func (v *view) section(topic, user, gateway string) *stored {
	if r := v.topics[topic]; r != nil {
		for _, s := range r.users[user] {
			if s.Gateway == gateway {
				return s
			}
		}
	}
	return nil
}

// user returns all sections of a user on a topic.
func (v *view) user(topic, user string) []*stored {
	if r := v.topics[topic]; r != nil {
		return r.users[user]
	}
	return nil
}

// fold returns the connection that speaks for a user, nil where none counts.
func fold(sections []*stored) *wire.PresenceConn {
	if len(sections) == 1 && len(sections[0].Conns) == 1 && !sections[0].Conns[0].Away {
		return &sections[0].Conns[0]
	}
	var conns []wire.PresenceConn
	left := uint64(0)
	for _, s := range sections {
		conns = append(conns, s.Conns...)
		left = max(left, s.Left)
	}
	if i := wire.NewestConn(conns, left); i >= 0 {
		return &conns[i]
	}
	return nil
}

func present(sections []*stored) bool { return fold(sections) != nil }

// page returns users after a cursor in order, at most limit of those that want
// says yes to, and the cursor of the next page.
func (r *room) page(cursor string, limit int, want func([]*stored) bool) (users []string, next string) {
	if r == nil {
		return nil, ""
	}
	r.order.of(r.users)
	for user := range r.order.after(cursor) {
		if !want(r.users[user]) {
			continue
		}
		if len(users) == limit {
			return users, users[limit-1]
		}
		users = append(users, user)
	}
	return users, ""
}

// anything reports whether a user has a section with connections, be they such
// that none of them counts.
func anything(sections []*stored) bool { return slices.ContainsFunc(sections, (*stored).there) }

// parseKey is the inverse of [wire.Namespace.PresenceKey].
func parseKey(key string) (topic, user, gateway string, err error) {
	tokens := strings.Split(key, ".")
	if len(tokens) < 2 {
		return "", "", "", fmt.Errorf("key %q: no section's", key)
	}
	for i, t := range tokens {
		if tokens[i], err = wire.UnescapeToken(t); err != nil || tokens[i] == "" {
			return "", "", "", fmt.Errorf("key %q: no section's", key)
		}
	}
	n := len(tokens) - 2
	return strings.Join(tokens[:n], "."), tokens[n], tokens[n+1], nil
}
