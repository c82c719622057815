package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// presenceTick is the least time between two diffs of a topic.
	presenceTick = 50 * time.Millisecond
	// sampleEvery is the least time between two counts of a topic with too many
	// members for diffs, and sampleSize how many of them are shown.
	sampleEvery = time.Second
	sampleSize  = 20
	// statePage bounds a frame of a state.
	statePage = 256 << 10
	// heldDiffs is how many diffs may wait for a connection that is still being
	// sent the state; above it the state is sent anew.
	heldDiffs = 64
)

// watchedRoom is a room with local observers.
type watchedRoom struct {
	in *interest

	mu       sync.Mutex
	room     *room // guarded by mu, like all below
	rev      int64 // grows with every frame that says something new
	loaded   bool  // what is stored was read
	loading  bool
	due      bool // in the list of those that have something to say
	watchers map[*connection]*watcher
	pages    [][]byte // the state, as of pagesRev
	pagesRev int64
	pagesAt  time.Time
	large    bool      // too many for diffs
	sampled  time.Time // when counts were last sent
	unsaid   bool      // something changed since
	lookAt   time.Time // when to compare with what is stored
	suspect  bool      // the last comparison found a difference
	ahead    int       // comparisons in a row with a replica that knows less
	newestAt time.Time // when the greatest revision that was heard was stored
	doubt    time.Time // until then it is compared often: the bucket may be another one
	closed   bool
}

// watcher is one connection that observes a room.
type watcher struct {
	waits   bool     // for its own join to be stored
	stated  bool     // it has been sent the whole state
	pages   [][]byte // that it is still to be sent
	pending [][]byte // diffs behind them
}

// rooms holds the rooms with observers, by topic.
type rooms struct {
	g     *Service
	loads chan struct{}

	mu     sync.Mutex // taken before a room's
	topics map[string]*watchedRoom

	dueMu sync.Mutex // taken behind a room's
	due   []*watchedRoom
	wake  chan struct{}
}

func newRooms(g *Service) *rooms {
	return &rooms{g: g, topics: map[string]*watchedRoom{}, loads: make(chan struct{}, loadsAtOnce), wake: make(chan struct{}, 1)}
}

// watch makes a connection an observer of a topic. waits keeps it from hearing
// anything before release.
func (rs *rooms) watch(c *connection, topic string, waits bool) *wire.Error {
	subject, err := rs.g.cfg.Namespace.PresenceTopic(topic)
	if err != nil {
		return wire.AsError(err)
	}
	rs.mu.Lock()
	w := rs.topics[topic]
	if w == nil {
		in, err := rs.g.fanout.acquire(kindPresence, subject, topic)
		if err != nil {
			rs.mu.Unlock()
			return unavailable("NATS did not take the subscription")
		}
		w = &watchedRoom{in: in, room: newRoom(topic), watchers: map[*connection]*watcher{}, rev: 1}
		rs.topics[topic] = w
	}
	w.mu.Lock()
	if w.watchers[c] == nil {
		w.watchers[c] = &watcher{waits: waits}
	}
	w.mu.Unlock()
	rs.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	rs.load(w)
	rs.say(w)
	return nil
}

// release lets an observer hear what there is: its own join is stored.
func (rs *rooms) release(c *connection, topic string) {
	w := rs.of(topic)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.watchers[c]; o != nil && o.waits {
		o.waits = false
		rs.say(w)
	}
}

// unwatch ends the observing of a connection; no presence of the topic follows.
func (rs *rooms) unwatch(c *connection, topic string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	w := rs.topics[topic]
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watchers[c] == nil {
		return
	}
	delete(w.watchers, c)
	if len(w.watchers) == 0 {
		w.closed = true
		delete(rs.topics, topic)
		rs.g.fanout.release(w.in)
	}
}

func (rs *rooms) of(topic string) *watchedRoom {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.topics[topic]
}

func (rs *rooms) size() int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return len(rs.topics)
}

// own takes what this gateway has just had stored, so that a connection finds
// itself in the state that answers its join.
func (rs *rooms) own(topic string, p *wire.PresenceSection, revision uint64) {
	w := rs.of(topic)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.room.put(&heardSection{*p, revision})
	rs.say(w)
}

// deliverPresence takes a change of a topic's presence. It runs on a shard's
// goroutine.
func (g *Service) deliverPresence(in *interest, msg *nats.Msg) {
	w := g.rooms.of(in.topic)
	if w == nil {
		return
	}
	e, ok := kv.Republished(string(g.cfg.Namespace)+".presence.", msg)
	if !ok {
		g.metrics.malformed.Add(1)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case e.Revision >= w.room.newest:
		w.newestAt = e.At
	case e.At.After(w.newestAt): // a lower revision that was stored later
		w.question(time.Now())
	}
	if !w.room.take(e) {
		g.metrics.malformed.Add(1)
		return
	}
	g.rooms.say(w)
}

// question has a room compared often for a while; w.mu is held.
func (w *watchedRoom) question(now time.Time) {
	w.doubt, w.lookAt = now.Add(doubtFor), now
}

// say makes a room tell its observers what changed, a tick from now; w.mu is
// held.
func (rs *rooms) say(w *watchedRoom) {
	if w.due || !w.loaded || w.closed {
		return
	}
	w.due = true
	rs.dueMu.Lock()
	rs.due = append(rs.due, w)
	rs.dueMu.Unlock()
	select {
	case rs.wake <- struct{}{}:
	default:
	}
}

// run tells observers what changed until ctx is done: the rooms that have
// something to say wait for a tick, and then speak once.
func (rs *rooms) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rs.wake:
		}
		timer.Reset(presenceTick)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		rs.dueMu.Lock()
		due := rs.due
		rs.due = nil
		rs.dueMu.Unlock()
		for _, w := range due {
			rs.speak(w, time.Now())
		}
	}
}

// speak tells the observers of a room what changed since it last spoke.
func (rs *rooms) speak(w *watchedRoom, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due = false
	if w.closed || !w.loaded {
		return
	}
	joins, leaves := w.room.diff()
	changed := len(joins)+len(leaves) > 0
	rule := rs.g.rules.Current().Topic(w.room.topic)
	was := w.large
	w.large = rule != nil && rule.Presence != nil && rule.Presence.MaxDiffMembers > 0 && len(w.room.shown) > rule.Presence.MaxDiffMembers
	if changed {
		w.rev++
		w.unsaid = true
	}
	switch {
	case w.large:
		rs.count(w, now)
	case was: // what they were told was a sample
		for _, o := range w.watchers {
			o.stated, o.pages, o.pending = false, nil, nil
		}
		w.unsaid = false
	case changed && len(joins)+len(leaves) > statePage:
		for _, o := range w.watchers { // what is owed is paced, and a diff can't be
			o.stated, o.pages, o.pending = false, nil, nil
		}
	case changed:
		w.unsaid = false
		frame := wire.AppendPresenceDiff(nil, w.room.topic, w.rev, joins, leaves)
		for c, o := range w.watchers {
			rs.tell(c, o, frame)
		}
	}
	owed := false
	for c, o := range w.watchers {
		owed = rs.catchUp(w, c, o, now) || owed
	}
	if owed || w.large && w.unsaid {
		rs.say(w)
	}
}

// tell sends a frame to an observer who has the state, or keeps it until they
// have.
func (rs *rooms) tell(c *connection, o *watcher, frame []byte) {
	switch {
	case !o.stated && o.pages == nil: // the state will have it
	case len(o.pages) > 0 && len(o.pending) >= heldDiffs:
		o.stated, o.pages, o.pending = false, nil, nil // the whole state again
	case len(o.pages) > 0:
		o.pending = append(o.pending, frame)
	default:
		rs.g.metrics.presenceFrames.Add(1)
		c.out.Send(frame)
	}
}

// count tells the observers of a large room how many are there, not too often.
func (rs *rooms) count(w *watchedRoom, now time.Time) {
	if !w.unsaid || now.Sub(w.sampled) < sampleEvery {
		return
	}
	w.sampled, w.unsaid = now, false
	w.rev++
	frame := w.room.sample(w.rev, sampleSize)
	for c, o := range w.watchers {
		rs.tell(c, o, frame)
	}
}

// catchUp sends an observer what is still owed of the state, as far as the
// connection takes it, and reports whether more is.
func (rs *rooms) catchUp(w *watchedRoom, c *connection, o *watcher, now time.Time) (owed bool) {
	switch {
	case o.waits:
		return false
	case !o.stated && o.pages == nil:
		// Observers of a large room hear a sample a second: a state may be as old.
		if w.pages == nil || w.pagesRev != w.rev && (!w.large || now.Sub(w.pagesAt) >= sampleEvery) {
			w.pages, w.pagesRev, w.pagesAt = w.room.state(w.rev, min(statePage, rs.g.cfg.Limits.OutboundBytes/4)), w.rev, now
		}
		o.pages = w.pages
		w.unsaid = w.unsaid || w.large && w.pagesRev != w.rev // what it lacks follows with the next count
	}
	most := rs.g.cfg.Limits.OutboundBytes / 4
	for len(o.pages) > 0 && c.out.Queued() <= most {
		rs.g.metrics.presenceFrames.Add(1)
		c.out.Send(o.pages[0])
		o.pages = o.pages[1:]
	}
	if len(o.pages) > 0 {
		return true
	}
	o.stated, o.pages = true, nil
	for _, frame := range o.pending {
		c.out.Send(frame)
	}
	o.pending = nil
	return false
}
