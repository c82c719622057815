package gateway

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// kind says what an interest's subject stands for.
type kind uint8

const (
	kindTopic      kind = iota // a topic
	kindPattern                // a wildcard over topics
	kindUser                   // direct messages to a user
	kindConn                   // direct messages and requests to one connection
	kindPresence               // changes of a topic's presence
	kindGroup                  // messages of a group
	kindGroupEntry             // changes of a group
	kindCursor                 // how a topic's cursors moved on other gateways
)

// interest is one NATS subject with local listeners, or one that had some a
// moment ago.
type interest struct {
	kind    kind
	subject string
	topic   string // of kindTopic, kindPattern, kindPresence and kindCursor; the group of kindGroup and kindGroupEntry
	shard   int
	alias   string // the subject it is subscribed by, where that is another; guarded by the shard's mutex

	setup sync.Mutex // held until subscribing has been tried
	err   error      // its outcome; guarded by setup
	// sub is the subscription whose messages count; a message that came over
	// an older one of the same subject is stale.
	sub atomic.Pointer[subscription]
	// log is that of a wildcard's replayed topics.
	log  atomic.Pointer[subscription]
	live atomic.Bool // the server is known to have it

	replays atomic.Bool // what it is subscribed by is the log of a replayed topic
	flip    sync.Mutex  // one change between log and plain subject at a time

	rule atomic.Pointer[rules.Topic] // of kindTopic
	// source is replaced when the rule's slow policy changes; nil disconnects.
	source atomic.Pointer[outbox.Source]

	// refs counts members and those on their way to become one. Guarded by the
	// shard's mutex, like idleSince, which counts while refs is 0.
	refs      int
	idleSince time.Time
	listed    bool // in its shard's idle list

	subscribed *atomic.Int64 // counts the members of all topics and patterns; nil for other kinds

	mu      sync.Mutex
	members []*member      // guarded by mu, like the two below
	trail   *trail         // nil: the topic is not replayed
	tracks  []*streamTrail // of kindPattern: one for each stream of its rules
	skipped []*member      // with a skip that is not sent yet
	closed  bool           // nobody will listen any more
}

// member is one connection's place in an interest. What is below conn and in is
// guarded by in.mu.
type member struct {
	conn *connection
	in   *interest

	index int           // in in.members; -1: not there, or not yet
	left  bool          // it will not be there any more
	ahead wire.Position // on a replayed topic: it has had everything up to there
	skip  *skip         // messages withheld from it since the last one
	catch *catchUp      // what it has to make up for, until it has arrived
}

// memberships are what one connection listens to: few as a rule, so that
// looking through them costs less than a map in every idle connection.
type memberships []*member

// of returns the membership of a topic or pattern, or nil.
func (ms memberships) of(topic string) *member {
	for _, m := range ms {
		if m.in.topic == topic {
			return m
		}
	}
	return nil
}

// remove takes the membership of a topic or pattern out and returns it, or nil.
func (ms *memberships) remove(topic string) *member {
	for i, m := range *ms {
		if m.in.topic == topic {
			last := len(*ms) - 1
			(*ms)[i], (*ms)[last] = (*ms)[last], nil
			*ms = (*ms)[:last]
			return m
		}
	}
	return nil
}

// join adds a connection. first runs before any message can reach it, while
// none is being delivered: an answer sent there precedes every message.
func (in *interest) join(c *connection, first func()) *member {
	m := &member{conn: c, in: in}
	in.mu.Lock()
	defer in.mu.Unlock()
	if first != nil {
		first()
	}
	in.enter(m)
	return m
}

// enter makes m a member; in.mu is held.
func (in *interest) enter(m *member) {
	m.index = len(in.members)
	in.members = append(in.members, m)
	if in.subscribed != nil {
		in.subscribed.Add(1)
	}
}

// joinAll is [interest.join] for several interests, each there once: first runs
// when none of them can deliver, and whatever comes to one behind it arrives.
func joinAll(interests []*interest, c *connection, first func()) []*member {
	ordered := slices.SortedFunc(slices.Values(interests), func(a, b *interest) int {
		return strings.Compare(a.subject, b.subject) // the one order of locks
	})
	for _, in := range ordered {
		in.mu.Lock()
		defer in.mu.Unlock()
	}
	first()
	members := make([]*member, len(interests))
	for i, in := range interests {
		members[i] = &member{conn: c, in: in}
		in.enter(members[i])
	}
	return members
}

// leave removes a member; no message reaches it afterwards.
func (in *interest) leave(m *member) {
	in.mu.Lock()
	defer in.mu.Unlock()
	m.left, m.skip = true, nil
	if m.index >= 0 {
		in.exit(m)
	}
}

// exit takes m out of the members; in.mu is held.
func (in *interest) exit(m *member) {
	last := len(in.members) - 1
	moved := in.members[last]
	in.members[m.index] = moved
	moved.index = m.index
	in.members[last] = nil
	in.members = in.members[:last]
	m.index = -1
	if in.subscribed != nil {
		in.subscribed.Add(-1)
	}
}

// each calls fn for every member. fn must not block and must not join or leave.
func (in *interest) each(fn func(*connection)) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, m := range in.members {
		fn(m.conn)
	}
	return len(in.members)
}

// count returns how many connections listen.
func (in *interest) count() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.members)
}

// hub holds the interests, parted into shards by subject. It knows neither
// sockets nor NATS.
type hub struct {
	seed   maphash.Seed
	shards []*shardIndex

	subscriptions atomic.Int64 // of connections to topics and patterns
}

type shardIndex struct {
	mu        sync.Mutex
	interests map[string]*interest // by subject
	idle      []*interest          // may hold some that are wanted again
}

func newHub(shards int) *hub {
	h := &hub{seed: maphash.MakeSeed(), shards: make([]*shardIndex, shards)}
	for i := range h.shards {
		h.shards[i] = &shardIndex{interests: map[string]*interest{}}
	}
	return h
}

// shard returns the number of the shard that a subject belongs to.
func (h *hub) shard(subject string) int {
	return int(maphash.String(h.seed, subject) % uint64(len(h.shards)))
}

// acquire returns the interest of a subject, which stays until as many
// releases. made is true for the caller that has to subscribe and store the
// outcome: it holds setup, for which the others wait.
func (h *hub) acquire(k kind, subject, topic string) (in *interest, made bool) {
	s := h.shards[h.shard(subject)]
	s.mu.Lock()
	defer s.mu.Unlock()
	in = s.interests[subject]
	if in == nil {
		in = &interest{kind: k, subject: subject, topic: topic, shard: h.shard(subject)}
		if k == kindTopic || k == kindPattern {
			in.subscribed = &h.subscriptions
		}
		in.setup.Lock()
		s.interests[subject] = in
		made = true
	}
	in.refs++
	return in, made
}

// release gives an interest back. The last release starts its linger; or ends
// it, which the caller has to do to its subscription too: a user who is gone must
// have no responders at once. The interest of a connection that is gone lingers
// to say so itself: a request that is on its way when the subscription ends would
// find nobody, and nobody would say so.
func (h *hub) release(in *interest, now time.Time) (ended bool) {
	s := h.shards[in.shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.refs--; in.refs > 0 {
		return false
	}
	if in.kind == kindUser {
		s.forget(in)
		return true
	}
	in.idleSince = now
	if !in.listed {
		in.listed = true
		s.idle = append(s.idle, in)
	}
	return false
}

// drop forgets an interest whose subscription failed, so that the next acquire
// tries again. Its holders still release it.
func (h *hub) drop(in *interest) {
	s := h.shards[in.shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(in)
}

// listen makes an interest found by another subject than its own, in place of
// the one before; "" for none.
func (h *hub) listen(in *interest, alias string) {
	s := h.shards[in.shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.interests[in.subject] != in {
		return
	}
	if in.alias != "" {
		delete(s.interests, in.alias)
	}
	if in.alias = alias; alias != "" {
		s.interests[alias] = in
	}
}

// forget takes an interest out of the shard; its mutex is held.
func (s *shardIndex) forget(in *interest) {
	if s.interests[in.subject] != in {
		return
	}
	delete(s.interests, in.subject)
	if in.alias != "" {
		delete(s.interests, in.alias)
	}
}

// sweep forgets the interests that nobody has wanted for the linger, and
// returns them for their subscriptions to be ended.
func (h *hub) sweep(now time.Time, linger time.Duration) (gone []*interest) {
	for _, s := range h.shards {
		s.mu.Lock()
		kept := s.idle[:0]
		for _, in := range s.idle {
			switch {
			case in.refs > 0 || s.interests[in.subject] != in:
				in.listed = false
			case now.Sub(in.idleSince) < linger:
				kept = append(kept, in)
			default:
				s.forget(in)
				gone = append(gone, in)
			}
		}
		clear(s.idle[len(kept):])
		s.idle = kept
		s.mu.Unlock()
	}
	return gone
}

// find returns the interest of a subject in a shard, or nil.
func (h *hub) find(shard int, subject string) *interest {
	s := h.shards[shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.interests[subject]
}

// all calls fn for every interest.
func (h *hub) all(fn func(*interest)) {
	for _, s := range h.shards {
		s.mu.Lock()
		interests := make([]*interest, 0, len(s.interests))
		for subject, in := range s.interests {
			if subject == in.subject {
				interests = append(interests, in)
			}
		}
		s.mu.Unlock()
		for _, in := range interests {
			fn(in)
		}
	}
}

// size returns how many interests there are.
func (h *hub) size() (n int) {
	for _, s := range h.shards {
		s.mu.Lock()
		for subject, in := range s.interests {
			if subject == in.subject {
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}
