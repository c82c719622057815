package gateway

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// ackWait is how long a publish waits for JetStream's acknowledgement.
	ackWait = 5 * time.Second
	// ackTry is the silence after which a keyed publish is sent again.
	ackTry   = time.Second
	ackTick  = 50 * time.Millisecond
	acksMost = 1 << 16
)

// acks matches JetStream's acknowledgements with the publishes that wait.
type acks struct {
	prefix string
	ch     chan *nats.Msg

	mu      sync.Mutex
	next    uint64
	pending map[string]*storing
	queue   []looking // by the time of the look
	// again holds what is to be sent again, by topic and in the order of the
	// publishes: what comes behind it waits there too.
	again   map[string][]*storing
	waiting int // of all topics
}

// looking is when a publish is looked at, if it waits under the same token still.
type looking struct {
	at    time.Time
	token string
	s     *storing
}

// storing is a publish that waits to be stored. Once taken it belongs to who
// took it.
type storing struct {
	msg    *nats.Msg
	topic  string
	number uint64 // its place in the order of publishes
	keyed  bool
	tries  int
	until  time.Time
	unsure bool // a try may have been stored
	done   func(streams.Ack, *wire.Error)
}

func newAcks() *acks {
	return &acks{ch: make(chan *nats.Msg, acksMost), pending: map[string]*storing{}, again: map[string][]*storing{}}
}

func (a *acks) subscribe(nc *nats.Conn) error {
	a.prefix = bus.NewInbox(nc) + "."
	_, err := nc.ChanSubscribe(a.prefix+"*", a.ch)
	return err
}

// add registers a publish, to be looked at then, or returns false where too many
// wait. From here on it belongs to who takes it by the token.
func (a *acks) add(s *storing, look time.Time) (token string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pending)+a.waiting >= acksMost {
		return "", false
	}
	a.next++
	token = strconv.FormatUint(a.next, 36)
	a.pending[token] = s
	a.queue = append(a.queue, looking{look, token, s})
	return token, true
}

// take ends the wait of a publish; nil where nobody waits any more.
func (a *acks) take(token string) *storing {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.pending[token]
	delete(a.pending, token)
	return s
}

// due returns the publishes to look at again.
func (a *acks) due(now time.Time) (all []*storing) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.queue) > 0 && !a.queue[0].at.After(now) {
		l := a.queue[0]
		a.queue[0] = looking{}
		a.queue = a.queue[1:]
		s := l.s
		if a.pending[l.token] != s {
			continue // it was answered
		}
		if !s.keyed && now.Before(s.until) {
			l.at = now.Add(ackTry)
			a.queue = append(a.queue, l)
			continue
		}
		delete(a.pending, l.token)
		all = append(all, s)
	}
	return all
}

// run answers publishes until ctx is done; who still waits then is told.
func (a *acks) run(ctx context.Context, g *Service) {
	tick := time.NewTicker(ackTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			a.mu.Lock()
			left := a.pending
			a.pending = map[string]*storing{}
			a.mu.Unlock()
			for _, s := range left {
				s.done(streams.Ack{}, wire.Errorf(wire.Unavailable, "the gateway is stopping").With("outcome", "unknown"))
			}
			return
		case msg := <-a.ch:
			if s := a.take(strings.TrimPrefix(msg.Subject, a.prefix)); s != nil {
				g.acknowledged(s, msg)
			}
		case now := <-tick.C:
			for _, s := range a.due(now) {
				g.unanswered(s, now)
			}
		}
	}
}

// put publishes into the stream of a topic. done is called once, with the
// acknowledgement or the error that says what is known.
func (g *Service) put(msg *nats.Msg, topic string, keyed bool, done func(streams.Ack, *wire.Error)) {
	now := time.Now()
	s := &storing{msg: msg, topic: topic, keyed: keyed, until: now.Add(ackWait), done: done}
	if !g.acks.behind(s) {
		g.try(s, now)
	}
}

// behind numbers a publish, and lets it wait where others of its topic are to be
// sent again first.
func (a *acks) behind(s *storing) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next++
	s.number = a.next
	waiting, busy := a.again[s.topic]
	if !busy || len(a.pending)+a.waiting >= acksMost {
		return false // in the second case it is refused
	}
	a.again[s.topic] = append(waiting, s)
	a.waiting++
	return true
}

// repeat keeps a publish to be sent again, and reports whether it is the first
// of its topic: who is told so sends them all.
func (a *acks) repeat(s *storing) (first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	waiting, busy := a.again[s.topic]
	i, _ := slices.BinarySearchFunc(waiting, s.number, func(w *storing, n uint64) int { return cmp.Compare(w.number, n) })
	a.again[s.topic] = slices.Insert(waiting, i, s)
	a.waiting++
	return !busy
}

// following returns the next publish of a topic that is to be sent again.
func (a *acks) following(topic string) *storing {
	a.mu.Lock()
	defer a.mu.Unlock()
	waiting := a.again[topic]
	if len(waiting) == 0 {
		delete(a.again, topic)
		return nil
	}
	a.again[topic] = waiting[1:]
	a.waiting--
	return waiting[0]
}

// sendAgain sends the publishes of a topic that were refused, and those that
// came behind them, a moment later and in order.
func (g *Service) sendAgain(ctx context.Context, topic string, why error) {
	g.ensure(ctx, topic)
	stopped := clock.Sleep(ctx, ackTick) != nil
	for s := g.acks.following(topic); s != nil; s = g.acks.following(topic) {
		if now := time.Now(); !stopped && now.Before(s.until) {
			g.try(s, now)
			continue
		}
		g.metrics.publishErrors.Add(1)
		s.done(streams.Ack{}, wire.AsError(why).With("outcome", s.outcome()))
	}
}

func (g *Service) try(s *storing, now time.Time) {
	s.tries++
	outcome, msg := s.outcome(), *s.msg         // a connection that is stuck may hold the try before still
	token, ok := g.acks.add(s, now.Add(ackTry)) // as far ahead for all: the queue is in this order
	if !ok {
		s.done(streams.Ack{}, wire.Errorf(wire.ResourceExhausted, "too many publishes wait for JetStream").With("outcome", outcome))
		return
	}
	msg.Reply = g.acks.prefix + token
	if err := g.send(&msg); err != nil {
		if g.acks.take(token) != nil {
			s.done(streams.Ack{}, wire.AsError(err).With("outcome", outcome))
		}
	}
}

func (s *storing) outcome() string {
	if s.unsure {
		return "unknown"
	}
	return "none"
}

// acknowledged takes JetStream's answer.
func (g *Service) acknowledged(s *storing, msg *nats.Msg) {
	ack, retry, err := streams.ParseAck(msg)
	if err == nil {
		g.metrics.stored.Add(1)
		if ack.Duplicate {
			g.metrics.duplicates.Add(1)
			if s.tries > 1 {
				g.hint(s.topic, ack.Seq)
			}
		}
		s.done(ack, nil)
		return
	}
	now := time.Now()
	if retry && now.Add(ackTick).Before(s.until) {
		// Nothing was stored: it is sent again a moment later.
		if wire.AsError(err).Details["outcome"] == "unknown" {
			s.unsure = true // an earlier one of this id is on its way
		}
		if !g.acks.repeat(s) || g.mender.spawn(func(ctx context.Context) { g.sendAgain(ctx, s.topic, err) }) {
			return
		}
		stopped, stop := context.WithCancel(context.Background())
		stop()
		g.sendAgain(stopped, s.topic, err)
		return
	}
	e := wire.AsError(err)
	if s.unsure {
		e = e.With("outcome", "unknown")
	}
	g.metrics.publishErrors.Add(1)
	s.done(streams.Ack{}, e)
}

// unanswered sends a keyed publish again; any other could be stored twice.
func (g *Service) unanswered(s *storing, now time.Time) {
	s.unsure = true
	if s.keyed && now.Before(s.until) {
		g.try(s, now)
		return
	}
	g.metrics.publishErrors.Add(1)
	s.done(streams.Ack{}, wire.Errorf(wire.DeadlineExceeded, "JetStream did not acknowledge within %s", ackWait).With("outcome", "unknown"))
}

// hint tells every gateway that a topic has a message which may never have
// been republished.
func (g *Service) hint(topic string, seq int64) {
	subject, err := g.cfg.Namespace.Seq(topic)
	if err != nil {
		return
	}
	if err := g.requests.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{wire.HeaderHead: {strconv.FormatInt(seq, 10)}}}); err != nil {
		g.metrics.publishErrors.Add(1)
	}
}

// ensure makes the stream of a topic if it is missing.
func (g *Service) ensure(ctx context.Context, topic string) {
	rule := g.rules.Current().Topic(topic)
	if rule == nil || rule.Replay == nil {
		return
	}
	if err := g.streams.Ensure(ctx, rule); err != nil && ctx.Err() == nil {
		g.log.Warn("stream is not there", "err", err)
	}
}

// keepStreams makes the streams of the rules that are missing, at the start,
// whenever the rules change, and when one was deleted. Changing one is the replay service's.
func (g *Service) keepStreams(ctx context.Context) {
	for ctx.Err() == nil {
		changed := g.rules.Changed()
		select {
		case <-g.lost: // all of them are looked for
		default:
		}
		select {
		case <-g.rules.Loaded():
		case <-ctx.Done():
			return
		}
		var wait <-chan time.Time
		if !g.ensureAll(ctx, g.rules.Current()) {
			wait = time.After(time.Second)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-g.lost:
		case <-wait:
		}
	}
}

func (g *Service) ensureAll(ctx context.Context, set *rules.Set) bool {
	all := true
	for _, rule := range set.Topics {
		if rule.Replay != nil {
			if err := g.streams.Ensure(ctx, rule); err != nil {
				all = false
				g.log.Debug("stream is not there", "err", err)
			}
		}
	}
	return all
}

// listenTo subscribes a new interest: by its topic's log, if that is replayed.
func (g *Service) listenTo(in *interest) error {
	switch in.kind {
	case kindUser, kindConn, kindPresence, kindGroup, kindGroupEntry, kindCursor:
		_, err := g.fanout.listen(in, "")
		return err
	case kindPattern:
		governing, covered := g.rules.Current().Overlapping(in.topic)
		return g.followWildcard(in, governing, covered)
	}
	g.follow(in, g.rules.Current().Topic(in.topic))
	if in.sub.Load() == nil {
		return errNotSubscribed
	}
	return nil
}

var errNotSubscribed = errors.New("NATS did not take the subscription")
