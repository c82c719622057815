package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// loadsAtOnce bounds the rooms that are read at a time.
	loadsAtOnce = 8
	loadPage    = 1000
	loadWait    = 5 * time.Second
	loadRetry   = 100 * time.Millisecond
	loadLongest = 2 * time.Second
	// lookEvery is how often a room is compared with what is stored although
	// nothing can have cost a change; followUpLook how long after it was read
	// for the first time it is looked at again: in a cluster interest takes a
	// moment to spread.
	lookEvery    = time.Minute
	followUpLook = 2 * time.Second
	digestsMost  = 256
	// aheadMost is how often in a row a room may know more than the service.
	aheadMost = 20
	// doubtFor is how long a room is compared often where the bucket may have
	// been made anew: replicas notice within seconds.
	doubtFor   = 30 * time.Second
	doubtEvery = time.Second
)

var errOldListing = errors.New("a listing that is older than what was read before")

// load reads who is on a topic, until it is known; w.mu is held.
func (rs *rooms) load(w *watchedRoom) {
	if w.loaded || w.loading || w.closed {
		return
	}
	w.loading = rs.g.mender.spawn(func(ctx context.Context) {
		for wait := loadRetry; ; wait = min(2*wait, loadLongest) {
			err := rs.read(ctx, w)
			w.mu.Lock()
			if err == nil || w.closed {
				w.loading = false
				w.mu.Unlock()
				return
			}
			w.mu.Unlock()
			if clock.Sleep(ctx, wait) != nil {
				return
			}
		}
	})
}

// read makes a room what is stored.
func (rs *rooms) read(ctx context.Context, w *watchedRoom) error {
	select {
	case rs.loads <- struct{}{}:
		defer func() { <-rs.loads }()
	case <-ctx.Done():
		return ctx.Err()
	}
	live, cancel := context.WithTimeout(ctx, loadWait)
	defer cancel()
	// What changes from here on is heard.
	if err := rs.g.fanout.waitLive(live, w.in); err != nil {
		return err
	}
	w.mu.Lock()
	req := wire.PresenceListRequest{Topic: w.room.topic, Limit: loadPage, MinRev: max(w.room.newest, w.room.floor)}
	w.mu.Unlock()
	var listed []wire.PresenceStored
	var listings []listing
	for {
		page, err := rs.readPage(ctx, req)
		if err != nil {
			return err
		}
		listed = append(listed, page.Sections...)
		listings = append(listings, listing{page.Cursor, page.Rev})
		if page.Cursor == "" {
			break
		}
		req.Cursor = page.Cursor
	}
	rs.g.metrics.presenceLoads.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.room.reconcile(listed, listings) {
		return errOldListing
	}
	w.suspect = false
	next := lookEvery + rand.N(lookEvery)
	if !w.loaded {
		w.loaded, next = true, followUpLook
	}
	w.lookAt = time.Now().Add(next)
	rs.say(w)
	return nil
}

// readPage reads a page of what is stored. Each has its own time: a large room
// takes as long as it takes.
func (rs *rooms) readPage(ctx context.Context, req wire.PresenceListRequest) (wire.PresenceSections, error) {
	ctx, cancel := context.WithTimeout(ctx, loadWait)
	defer cancel()
	return callService[wire.PresenceListRequest, wire.PresenceSections](ctx, rs.g.dependencies.presence, rs.g.reads, "sections", req)
}

// questionAll has every room compared often for a while.
func (rs *rooms) questionAll() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	now := time.Now()
	for _, w := range rs.topics {
		w.mu.Lock()
		w.question(now)
		w.mu.Unlock()
	}
}

// lookAll makes every room due to be compared with what is stored, within
// spread.
func (rs *rooms) lookAll(spread time.Duration) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	now := time.Now()
	for _, w := range rs.topics {
		at := now
		if spread > 0 {
			at = at.Add(rand.N(spread))
		}
		w.mu.Lock()
		if w.loaded && at.Before(w.lookAt) {
			w.lookAt = at
		}
		w.mu.Unlock()
	}
}

// look compares rooms with what is stored until ctx is done. A change that
// JetStream did not republish, or that did not arrive, leaves no other trace.
func (rs *rooms) look(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if !rs.g.link.up() || !rs.g.dependencies.presence.healthy() {
				continue
			}
			due := rs.toLook(now)
			for len(due) > 0 && ctx.Err() == nil {
				some := due[:min(len(due), digestsMost)]
				due = due[len(some):]
				rs.compare(ctx, some)
			}
		}
	}
}

func (rs *rooms) toLook(now time.Time) (due []*watchedRoom) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, w := range rs.topics {
		w.mu.Lock()
		if w.loaded && !now.Before(w.lookAt) {
			due = append(due, w)
			w.lookAt = now.Add(lookEvery + rand.N(lookEvery))
		}
		w.mu.Unlock()
	}
	return due
}

// compare asks for the digests of rooms and reads those again that differ twice:
// the first time a change may be on its way.
func (rs *rooms) compare(ctx context.Context, some []*watchedRoom) {
	req := wire.PresenceDigestsRequest{Topics: make([]string, len(some))}
	for i, w := range some {
		req.Topics[i] = w.room.topic
	}
	bounded, cancel := context.WithTimeout(ctx, loadWait)
	defer cancel()
	reply, err := callService[wire.PresenceDigestsRequest, wire.PresenceDigests](bounded, rs.g.dependencies.presence, rs.g.reads, "digests", req)
	again := time.Now().Add(checkEvery)
	for i, w := range some {
		w.mu.Lock()
		switch {
		case err != nil || len(reply.Digests) != len(some):
			w.lookAt = again.Add(checkEvery)
		case reply.Rev < max(w.room.newest, w.room.floor):
			w.lookAt = again.Add(checkEvery)
			if w.ahead++; w.ahead < aheadMost {
				break
			}
			// Nobody lags for so long: the bucket is another one.
			w.ahead = 0
			w.room.restart()
			w.loaded = false
			rs.load(w)
		case reply.Digests[i] == w.room.digest:
			w.suspect, w.ahead = false, 0
			w.room.forget(reply.Rev)
			if now := time.Now(); now.Before(w.doubt) {
				w.lookAt = now.Add(doubtEvery)
			}
		case !w.suspect:
			w.suspect, w.lookAt = true, again
		default:
			w.suspect = false
			rs.g.metrics.presenceRepairs.Add(1)
			if !rs.g.mender.spawn(func(ctx context.Context) {
				if rs.read(ctx, w) != nil {
					w.mu.Lock()
					w.lookAt = time.Now()
					w.mu.Unlock()
				}
			}) {
				w.mu.Unlock()
				return
			}
		}
		w.mu.Unlock()
	}
}
