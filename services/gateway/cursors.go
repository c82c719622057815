package gateway

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// cursors holds the cursors of the topics that a connection of this gateway
// sees or has one on.
type cursors struct {
	g *Service

	mu     sync.RWMutex // taken before a topic's
	topics map[string]*cursorTopic
	closed bool
	held   atomic.Int64 // topics

	timers sync.WaitGroup // those that are set, and what they run

	saying sync.Mutex // held while something is published: messages keep their order
	dueMu  sync.Mutex // taken behind a topic's
	due    []*cursorTopic
	wake   chan struct{}
}

// cursorTopic is one topic's cursors and who sees them.
type cursorTopic struct {
	topic string
	in    *interest

	mu       sync.Mutex
	board    *cursorBoard // guarded by mu, like all below
	watchers map[*connection]*cursorWatcher
	behind   map[*cursorWatcher]struct{} // those who are to be told by themselves
	window   time.Duration
	patience int // bytes that may be queued for a watcher who is to get more
	closed   bool

	shown    uint64    // the version up to which watchers were told together
	shownAt  time.Time // when
	caughtAt time.Time // when those behind were last looked at

	toldAt   time.Time // when other gateways were last told of moves
	ask      bool      // other gateways are to be asked
	roll     bool      // all are, this one too, and everybody is to hear the answers
	rollAt   time.Time // when they are the next time
	whole    bool      // others are to be told all there is
	answers  []string  // reply subjects of those who asked
	due      bool      // in the list of those that have something to publish
	failed   bool      // something could not be published: all is to be told again
	gathered bool      // others have had the time to answer
	gatherBy time.Time // when they have; zero: they were not asked yet
	againAt  time.Time // when they are asked again
	dropAt   time.Time // when who has not answered is forgotten

	timer *time.Timer // nil: none is set
	at    time.Time   // when it ends
	set   uint64      // which it is
}

func newCursors(g *Service) *cursors {
	return &cursors{g: g, topics: map[string]*cursorTopic{}, wake: make(chan struct{}, 1)}
}

// cursor is op `cursor`.
func (c *connection) cursor(f *wire.Frame) *wire.Error {
	if c.topics.of(f.Topic) == nil {
		return wire.Errorf(wire.FailedPrecondition, "subscribe to the topic first")
	}
	if len(f.Data) == 0 || string(f.Data) == "null" {
		c.g.cursors.remove(c, f.Topic)
	} else if err := c.g.cursors.move(c, f.Topic, slices.Clone(f.Data)); err != nil {
		return err
	}
	c.ok(f.ID, nil)
	return nil
}

// mayWatchCursors returns the error that answers a subscribe whose cursors the
// rules or the token refuse.
func (c *connection) mayWatchCursors(f *wire.Frame) *wire.Error {
	if !f.Cursors {
		return nil
	}
	if wire.IsPattern(f.Topic) {
		return wire.InvalidField("cursors", "not together with a wildcard")
	}
	ask := wire.Frame{Op: wire.OpCursor, Topic: f.Topic}
	if err := c.g.authorizer.Authorize(context.Background(), c.identity.Load(), &ask); err != nil {
		return wire.AsError(err)
	}
	return nil
}

// of returns a topic's cursors, nil where nobody here has to do with them.
func (cs *cursors) of(topic string) *cursorTopic {
	if cs.held.Load() == 0 {
		return nil
	}
	cs.mu.RLock()
	defer cs.mu.RUnlock()
	return cs.topics[topic]
}

// all returns every topic that is held.
func (cs *cursors) all() []*cursorTopic {
	cs.mu.RLock()
	defer cs.mu.RUnlock()
	topics := make([]*cursorTopic, 0, len(cs.topics))
	for _, t := range cs.topics {
		topics = append(topics, t)
	}
	return topics
}

// hold returns a topic with its mutex held. A new one asks the other gateways.
func (cs *cursors) hold(topic string) (*cursorTopic, *wire.Error) {
	if t := cs.of(topic); t != nil {
		t.mu.Lock()
		if !t.closed {
			return t, nil
		}
		t.mu.Unlock()
	}
	subject, err := cs.g.cfg.Namespace.Cursor(topic)
	if err != nil {
		return nil, wire.AsError(err)
	}
	in, err := cs.g.fanout.acquire(kindCursor, subject, topic) // may wait for the socket
	if err != nil {
		cs.g.log.Warn("subscribe", "err", err)
		return nil, unavailable("NATS did not take the subscription")
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if t := cs.topics[topic]; t != nil {
		cs.g.fanout.release(in) // t has it too
		t.mu.Lock()
		return t, nil
	}
	if cs.closed {
		cs.g.fanout.release(in)
		return nil, unavailable("the gateway stops")
	}
	t := &cursorTopic{
		topic: topic, in: in, board: newCursorBoard(cs.g.id, cursorsMost), rollAt: time.Now().Add(cursorRoll),
		watchers: map[*connection]*cursorWatcher{}, behind: map[*cursorWatcher]struct{}{},
	}
	cs.topics[topic] = t
	cs.held.Add(1)
	t.mu.Lock()
	cs.meet(t)
	return t, nil
}

// retire forgets a topic with which nobody here has to do any more.
func (cs *cursors) retire(t *cursorTopic) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || !t.idle() {
		return
	}
	t.closed = true
	cs.disarm(t)
	delete(cs.topics, t.topic)
	cs.held.Add(-1)
	cs.g.fanout.release(t.in)
}

// idle reports whether nobody needs the topic; t.mu is held.
func (t *cursorTopic) idle() bool {
	return len(t.watchers) == 0 && t.board.own == 0 && len(t.board.untold) == 0 && !t.whole && !t.roll && !t.failed && !t.due
}

// with runs fn on a topic and then does what is due; fn is called with its
// mutex held. It does nothing for a topic that nobody holds.
func (cs *cursors) with(t *cursorTopic, fn func(now time.Time)) {
	if t == nil {
		return
	}
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	now := time.Now()
	fn(now)
	cs.pass(t, now)
	idle := t.idle()
	t.mu.Unlock()
	if idle {
		cs.retire(t)
	}
}

// move takes a user's move.
func (cs *cursors) move(c *connection, topic string, data []byte) *wire.Error {
	t, err := cs.hold(topic)
	if err != nil {
		return err
	}
	now := time.Now()
	cs.govern(t, now)
	moved := t.board.move(c.user(), c, data, now)
	if moved {
		cs.pass(t, now)
	}
	idle := t.idle()
	t.mu.Unlock()
	if idle {
		cs.retire(t)
	}
	if !moved {
		cs.g.metrics.cursorRefusals.Add(1)
		return (&wire.Error{Code: wire.ResourceExhausted, Message: "too many cursors on the topic"}).With("limit", cursorsMost)
	}
	cs.g.metrics.cursorMoves.Add(1)
	return nil
}

// remove takes away a user's cursor, if that connection moved it last.
func (cs *cursors) remove(c *connection, topic string) {
	t := cs.of(topic)
	cs.with(t, func(now time.Time) { t.board.leave(c.user(), c, now) })
}

// leave ends all that a connection has to do with the cursors of a topic.
func (cs *cursors) leave(c *connection, topic string) {
	t := cs.of(topic)
	cs.with(t, func(now time.Time) {
		if o := t.watchers[c]; o != nil {
			delete(t.watchers, c)
			delete(t.behind, o)
		}
		t.board.leave(c.user(), c, now)
	})
}

// govern gives a topic what its rule says; t.mu is held. Without cursors in the
// rule there are none.
func (cs *cursors) govern(t *cursorTopic, now time.Time) {
	var life time.Duration
	t.window, t.patience = 0, cs.g.cfg.Limits.OutboundBytes/4
	if rule := cs.g.rules.Current().Topic(t.topic); rule != nil && rule.Cursors != nil {
		t.window, life = rule.Cursors.Throttle, rule.Cursors.TTL
		if rule.Slow == rules.Conflate { // the latest only: hardly anything waits
			t.patience = cs.g.cfg.Limits.OutboundBytes / 64
		}
	}
	t.board.live(life, now)
}

// pass does what is due on a topic, and sets the timer for what comes next;
// t.mu is held.
func (cs *cursors) pass(t *cursorTopic, now time.Time) {
	cs.govern(t, now)
	t.board.expire(now)
	if !t.gathered && !t.gatherBy.IsZero() && !now.Before(t.gatherBy) {
		t.all()
	}
	if !t.dropAt.IsZero() && !now.Before(t.dropAt) {
		t.dropAt = time.Time{}
		if cs.g.link.up() {
			t.board.unanswered(now)
		}
	}
	if !t.againAt.IsZero() && !now.Before(t.againAt) {
		t.againAt, t.ask, t.whole, t.failed = time.Time{}, true, t.whole || t.failed, false
	}
	if t.board.unsaid {
		t.board.unsaid, t.whole = false, true
	}
	if !cs.g.link.away.Load() && (t.ask || t.roll || t.whole || len(t.answers) > 0 || cs.tells(t) && !now.Before(t.toldAt.Add(t.window))) {
		cs.say(t)
	}
	cs.show(t, now)
	cs.arm(t, now)
}

// tells reports whether there is something to tell other gateways, and a way.
func (cs *cursors) tells(t *cursorTopic) bool {
	return len(t.board.untold) > 0 && !cs.g.link.away.Load()
}

// arm sets the timer to when something is due next; t.mu is held.
func (cs *cursors) arm(t *cursorTopic, now time.Time) {
	next := t.board.sweepAt
	soonest := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if !t.gathered {
		soonest(t.gatherBy)
	}
	soonest(t.dropAt)
	soonest(t.againAt)
	if cs.tells(t) && !t.due {
		soonest(t.toldAt.Add(t.window))
	}
	if t.shown < t.board.version {
		soonest(t.shownAt.Add(t.window))
	}
	if cs.owes(t) {
		soonest(t.caughtAt.Add(cursorCatchUp))
	}
	switch {
	case next.IsZero():
		cs.disarm(t)
		return
	case t.timer != nil && !next.Before(t.at):
		return // what is due is looked at again then
	}
	cs.disarm(t)
	t.set++
	set := t.set
	cs.timers.Add(1)
	t.at = next
	t.timer = time.AfterFunc(next.Sub(now), func() {
		defer cs.timers.Done()
		cs.with(t, func(time.Time) {
			if t.set == set {
				t.timer = nil
			}
		})
	})
}

// disarm ends the timer; t.mu is held.
func (cs *cursors) disarm(t *cursorTopic) {
	if t.timer != nil && t.timer.Stop() {
		cs.timers.Done()
	}
	t.timer = nil
}

// rulesChanged gives every topic its new rule.
func (cs *cursors) rulesChanged() {
	for _, t := range cs.all() {
		cs.with(t, func(time.Time) {})
	}
}

// size returns how many topics are held, and how many cursors are on them.
func (cs *cursors) size() (topics, there int64) {
	for _, t := range cs.all() {
		t.mu.Lock()
		topics++
		there += int64(t.board.there)
		t.mu.Unlock()
	}
	return topics, there
}
