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
	// sent the state; above it another state follows instead.
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
	by      uint64   // the newest attempt that wants it
	waits   uint64   // for the join of an attempt to be answered; 0: for none
	stated  bool     // it has been sent the whole state
	pages   [][]byte // that it is still to be sent
	pending [][]byte // diffs behind them
	again   bool     // another state follows the pages, in place of diffs
}

// anew has a whole state sent: behind the one under way, if there is one, which
// a slow link would else never have.
func (o *watcher) anew() {
	if len(o.pages) > 0 {
		o.again = true
	} else {
		o.stated = false
	}
	o.pending = nil
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

// watch makes a connection an observer of a topic, by an attempt of its own.
// waits keeps a new one from hearing anything before the attempt's release.
func (rs *rooms) watch(c *connection, topic string, attempt uint64, waits bool) *wire.Error {
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
	o := w.watchers[c]
	if o == nil {
		o = &watcher{}
		w.watchers[c] = o
		if waits {
			o.waits = attempt
		}
	}
	o.by = attempt
	if waits && o.waits != 0 {
		o.waits = attempt
	}
	w.mu.Unlock()
	rs.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	rs.load(w)
	rs.say(w)
	return nil
}

// release lets an observer hear what there is: its own join is answered. That of
// an older attempt releases nobody; 0 stands for any.
func (rs *rooms) release(c *connection, topic string, attempt uint64) {
	w := rs.of(topic)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.watchers[c]; o != nil && o.waits != 0 && (attempt == 0 || o.waits == attempt) {
		o.waits = 0
		rs.say(w)
	}
}

// unwatch ends the observing of a connection; no presence of the topic follows.
// An attempt ends none that a newer one wants; 0 ends any.
func (rs *rooms) unwatch(c *connection, topic string, attempt uint64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	w := rs.topics[topic]
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.watchers[c]; o == nil || attempt != 0 && o.by != attempt {
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
			o.anew()
		}
		w.unsaid = false
	case changed && len(joins)+len(leaves) > rs.pageBytes():
		for _, o := range w.watchers { // a diff can't be sent in parts
			o.anew()
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
	case !o.stated && o.pages == nil, o.again: // the state will have it
	case len(o.pending) >= heldDiffs:
		o.anew()
	case len(o.pages)+len(o.pending) > 0:
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

// pageBytes bounds a frame of a state.
func (rs *rooms) pageBytes() int { return min(statePage, rs.g.cfg.Limits.OutboundBytes/4) }

// catchUp sends an observer what is still owed of the state and of the diffs
// behind it, as far as the connection takes it, and reports whether more is.
func (rs *rooms) catchUp(w *watchedRoom, c *connection, o *watcher, now time.Time) (owed bool) {
	if o.waits != 0 {
		return false
	}
	if !o.stated && o.pages == nil {
		// Observers of a large room hear a sample a second: a state may be as old.
		if w.pages == nil || w.pagesRev != w.rev && (!w.large || now.Sub(w.pagesAt) >= sampleEvery) {
			w.pages, w.pagesRev, w.pagesAt = w.room.state(w.rev, rs.pageBytes()), w.rev, now
		}
		o.pages = w.pages
		w.unsaid = w.unsaid || w.large && w.pagesRev != w.rev // what it lacks follows with the next count
	}
	most := rs.g.cfg.Limits.OutboundBytes / 4
	for _, frames := range [...]*[][]byte{&o.pages, &o.pending} {
		for len(*frames) > 0 {
			if !c.out.Offer((*frames)[0], most) {
				return true
			}
			rs.g.metrics.presenceFrames.Add(1)
			*frames = (*frames)[1:]
		}
		*frames = nil
		o.stated = true
	}
	if o.again {
		o.again, o.stated = false, false
		return true
	}
	return false
}
