package gateway

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// putAtOnce is the most sections of one request, putsAtOnce the requests
	// under way. What changes meanwhile waits, and goes together.
	putAtOnce  = 256
	putsAtOnce = 4
	// putBytes bounds the payload of one request, unless it is one section.
	putBytes = 256 << 10
	// joinWait is how long a join may take, and putTry how long one replica has
	// for a request while there may be another: one that dies takes what it had
	// with it.
	joinWait = 5 * time.Second
	putTry   = 2 * time.Second
	// putRetry and putRetryMost are the pauses after which what could not be
	// stored is tried again.
	putRetry     = 50 * time.Millisecond
	putRetryMost = 2 * time.Second
	// auditPart is how many sections one request of an audit lists.
	auditPart = 400
	// auditParts is the most requests of an audit: the service takes no more.
	auditParts = 256
)

// roster is what the gateway says of its users: which of its connections are on
// which topic, and which connections it has. It sends state, not events: of each
// section one request is under way at a time, later changes fold into the next,
// and each has a greater version, so that no request that comes late undoes a
// newer one.
type roster struct {
	g *Service

	mu       sync.Mutex
	sections map[sectionKey]*section
	asked    []*section // that somebody waits for: they go first, and may be in queue too
	queue    []*section // of topics
	registry []*section // which connections a user has
	version  uint64
	puts     int           // requests under way
	pause    time.Duration // after a failure
	resting  bool          // until the pause is over
	presence wire.PresenceDigest
	online   wire.PresenceDigest
	auditing bool
	idle     chan struct{} // closed when nothing is left to be stored; nil: nobody waits
}

type sectionKey struct{ topic, user string }

func newRoster(g *Service) *roster {
	return &roster{g: g, sections: map[sectionKey]*section{}}
}

// change applies fn to a section, which is made if it is missing, and stores the
// outcome unless fn says that nothing changed. done, which may be nil, hears when
// that is stored, or can't be; conn is the connection whose join is undone then.
func (r *roster) change(topic, user string, fn func(*section) bool, conn string, done func(uint64, *wire.Error)) {
	r.mu.Lock()
	key := sectionKey{topic, user}
	s := r.sections[key]
	if s == nil {
		s = &section{topic: topic, user: user}
	}
	if !fn(s) {
		r.mu.Unlock()
		if done != nil {
			done(0, nil)
		}
		return
	}
	r.sections[key] = s
	r.touch(s)
	if done != nil {
		s.waiting = append(s.waiting, waiter{s.version, time.Now(), conn, done})
		r.hurry(s)
	}
	r.settle(s)
	r.flush()
	if done != nil && r.resting && !r.g.dependencies.presence.healthy() {
		r.giveUp(time.Now())
	}
	r.mu.Unlock()
}

// settle drops a section of which nothing is left; mu is held.
func (r *roster) settle(s *section) {
	if s.settled() {
		s.dropped = true
		delete(r.sections, sectionKey{s.topic, s.user})
	}
}

// touch makes a section wait for its turn under a new version; mu is held.
func (r *roster) touch(s *section) {
	r.version++
	s.version = r.version
	if s.queued || s.flying != 0 {
		return
	}
	r.requeue(s)
}

// nextVersion returns a version greater than every one before.
func (g *Service) nextVersion() uint64 {
	g.roster.mu.Lock()
	defer g.roster.mu.Unlock()
	g.roster.version++
	return g.roster.version
}

// flush sends what waits, as far as requests are free; mu is held.
func (r *roster) flush() {
	for !r.resting && r.puts < putsAtOnce && len(r.asked)+len(r.queue)+len(r.registry) > 0 {
		epoch := r.g.lease.current()
		if epoch == 0 { // there is no lease to say it under
			for _, q := range [...]*[]*section{&r.asked, &r.queue, &r.registry} {
				*q = slices.DeleteFunc(*q, func(s *section) bool { return s.dropped })
			}
			r.rest(putRetry)
			return
		}
		batch := r.next()
		if len(batch) == 0 {
			break
		}
		req := wire.PresencePut{Sections: make([]wire.PresenceSection, len(batch))}
		for i, s := range batch {
			req.Sections[i] = wire.PresenceSection{
				Topic: s.topic, User: s.user, Gateway: r.g.id, Epoch: epoch, Version: s.version,
				Conns: s.told(), Left: s.left,
			}
		}
		r.puts++
		if !r.g.mender.spawn(func(ctx context.Context) { r.put(ctx, batch, req) }) {
			r.puts--
			return // the gateway has stopped
		}
	}
	r.tellIdle()
}

// next takes the sections of one request out of the queues; mu is held.
func (r *roster) next() (batch []*section) {
	size := 0
	for _, q := range [...]*[]*section{&r.asked, &r.queue, &r.registry} {
		if q == &r.registry && len(batch) > 0 {
			break // it goes by itself: it has less hurry
		}
		for len(*q) > 0 && len(batch) < putAtOnce {
			s := (*q)[0]
			if s.queued && !s.dropped {
				if size += s.size(); size > putBytes && len(batch) > 0 {
					return batch
				}
				s.flying = s.version
				batch = append(batch, s)
			}
			if q == &r.asked {
				s.urgent = false
			}
			s.queued = false
			(*q)[0] = nil
			*q = (*q)[1:]
		}
	}
	return batch
}

// giveUp tells who has waited for their section's turn for too long, which is at
// all while the service does not answer; mu is held.
func (r *roster) giveUp(now time.Time) {
	wait, why := joinWait, unavailable("too much is to be stored, or JetStream is away")
	if d := r.g.dependencies.presence; !d.healthy() {
		wait, why = 0, d.breaker.Refusal()
	}
	for _, s := range r.asked {
		if !s.queued || len(s.waiting) == 0 || now.Sub(s.waiting[0].since) < wait {
			continue
		}
		for _, tell := range r.refused(s, s.version, why) {
			r.g.mender.spawn(func(context.Context) { tell() }) // not under the lock
		}
		r.settle(s)
	}
}

// put sends one request and notes what became of it.
func (r *roster) put(ctx context.Context, batch []*section, req wire.PresencePut) {
	ctx, cancel := context.WithTimeout(ctx, putTry)
	defer cancel()
	reply, err := callService[wire.PresencePut, wire.PresencePutReply](ctx, r.g.dependencies.presence, r.g.requests, "put", req)
	if err == nil && len(reply.Results) != len(batch) {
		err = wire.Errorf(wire.Internal, "an answer of the presence service with %d results for %d sections", len(reply.Results), len(batch))
	}
	var tell []func()
	var stored []ownSection
	r.mu.Lock()
	failed := false
	for i, s := range batch {
		var result wire.PresenceRevised
		var refused *wire.Error
		switch {
		case err != nil:
			refused = wire.AsError(err)
		default:
			result = reply.Results[i]
			if len(result.Error) > 0 {
				refused = wire.DecodeError(result.Error)
			}
		}
		sent := s.flying
		s.flying = 0
		if refused == nil && result.Stale {
			// Something newer is stored under the gateway's name, which it does
			// not know of: it says it again, louder. That is heard, or else there
			// is no hurry.
			failed = failed || s.unheard
			s.unheard = true
			r.version = max(r.version, result.Version)
			r.touch(s)
			continue
		}
		if refused == nil {
			if s.topic != "" {
				stored = append(stored, ownSection{&req.Sections[i], result.Revision})
			}
			tell = append(tell, r.noted(s, sent, req.Sections[i].Conns, result.Revision)...)
		} else {
			s.maybe = s.maybe || transient(refused) && refused.Details["outcome"] != "none"
			failed = failed || transient(refused)
			tell = append(tell, r.refused(s, sent, refused)...)
		}
		r.settle(s)
	}
	r.puts--
	r.giveUp(time.Now())
	if failed {
		r.pause = min(max(2*r.pause, putRetry), putRetryMost)
		r.rest(r.pause)
	} else {
		r.pause = 0
	}
	r.flush()
	r.mu.Unlock()
	for _, own := range stored { // first: who joined finds itself there
		r.g.rooms.own(own.Topic, own.PresenceSection, own.revision)
	}
	for _, fn := range tell {
		fn()
	}
}

// ownSection is a section of this gateway as it was stored.
type ownSection struct {
	*wire.PresenceSection
	revision uint64
}

// transient reports whether the same request may succeed later.
func transient(err *wire.Error) bool {
	switch err.Code {
	case wire.Unavailable, wire.DeadlineExceeded, wire.Aborted, wire.Internal, wire.Cancelled:
		return true
	case wire.ResourceExhausted: // too many requests at once, or a topic that is full
		return err.Details["limit"] == nil
	}
	return false
}

// noted takes that a version was stored; mu is held.
func (r *roster) noted(s *section, version uint64, conns []wire.PresenceConn, revision uint64) (tell []func()) {
	d := &r.presence
	if s.topic == "" {
		d = &r.online
	}
	if s.counted != 0 {
		d.Remove(wire.SectionHash(s.topic, s.user, r.g.id, s.counted))
	}
	s.unheard = false
	if s.stored, s.counted = version, 0; len(conns) > 0 {
		s.counted = version
		d.Add(wire.SectionHash(s.topic, s.user, r.g.id, version))
	}
	s.ordered(conns, revision)
	kept := s.waiting[:0]
	for _, w := range s.waiting {
		if w.version > version {
			kept = append(kept, w)
			continue
		}
		tell = append(tell, func() { w.done(revision, nil) })
	}
	clear(s.waiting[len(kept):])
	s.waiting = kept
	if s.version > version {
		r.requeue(s)
	}
	return tell
}

// refused takes that a version was not stored, or is not known to be; mu is
// held. Whoever waits for it hears so, and what they wanted is undone under a
// newer version: that is tried until it is stored. Where nobody answered, and
// there is time, it is asked again first.
func (r *roster) refused(s *section, version uint64, err *wire.Error) (tell []func()) {
	patient := func(w waiter) bool {
		return err.Code == wire.DeadlineExceeded && time.Since(w.since) < joinWait-putTry
	}
	for _, w := range s.waiting {
		if patient(w) {
			continue
		}
		again := slices.ContainsFunc(s.waiting, func(o waiter) bool { return o.conn == w.conn && o.version > version })
		if w.version <= version && w.conn != "" && !again && s.undo(w.conn) { // a later wish of the connection has its own answer
			r.touch(s)
		}
	}
	kept := s.waiting[:0]
	for _, w := range s.waiting {
		// Who left together with a join that is refused for good has left with
		// the next version.
		if w.version > version || patient(w) || w.conn == "" && !transient(err) && s.version > version {
			kept = append(kept, w)
			continue
		}
		tell = append(tell, func() { w.done(0, err) })
	}
	clear(s.waiting[len(kept):])
	s.waiting = kept
	if !transient(err) && s.version == version {
		// It never will be: what is there stays until somebody changes it.
		s.stored = version
		return tell
	}
	r.requeue(s)
	return tell
}

func (r *roster) requeue(s *section) {
	if s.queued {
		return
	}
	s.queued = true
	if s.topic == "" {
		r.registry = append(r.registry, s)
	} else {
		r.queue = append(r.queue, s)
	}
	r.hurry(s)
}

// hurry puts a section that waits for its turn before those that nobody waits
// for; mu is held.
func (r *roster) hurry(s *section) {
	if s.queued && !s.urgent && len(s.waiting) > 0 {
		s.urgent = true
		r.asked = append(r.asked, s)
	}
}

// rest holds everything back for a while; mu is held.
func (r *roster) rest(d time.Duration) {
	if r.resting {
		return
	}
	r.resting = true
	time.AfterFunc(d, func() { // after the end of the gateway it finds nobody to send by
		r.mu.Lock()
		defer r.mu.Unlock()
		r.resting = false
		r.giveUp(time.Now())
		r.flush()
	})
}

// repeat says everything again: the lease has a new epoch.
func (r *roster) repeat() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sections {
		r.touch(s)
	}
	r.flush()
}

// digests are those of what is known to be stored.
func (r *roster) digests() (presence, registry wire.PresenceDigest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.presence, r.online
}

// wait returns when everything is stored, or ctx is done.
func (r *roster) wait(ctx context.Context) {
	r.mu.Lock()
	if r.idle == nil {
		r.idle = make(chan struct{})
	}
	idle := r.idle
	r.tellIdle()
	r.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// tellIdle tells who waits that nothing is left to be stored; mu is held.
func (r *roster) tellIdle() {
	if r.idle != nil && r.puts == 0 && len(r.asked)+len(r.queue)+len(r.registry) == 0 {
		close(r.idle)
		r.idle = nil
	}
}

// topics returns those on which the gateway has anybody.
func (r *roster) topics() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]struct{}{}
	for key, s := range r.sections {
		if len(s.conns) > 0 && key.topic != "" {
			seen[key.topic] = struct{}{}
		}
	}
	return slices.Collect(maps.Keys(seen))
}

// stored reports whether a connection is known to be stored on a topic.
func (r *roster) stored(topic, user, conn string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sections[sectionKey{topic, user}]
	if s == nil {
		return false
	}
	i := s.index(conn)
	return i >= 0 && s.conns[i].Order != 0
}

// size returns how many users are on topics here, once for each topic.
func (r *roster) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.presence.Count
}
