package presence

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// sessions are what HTTP servers keep of their visitors. The bucket is their
// only state: any replica answers for any session, with one read and one write
// at most unless a race is lost. Tokens are in no key, value, log line or error.
type sessions struct {
	store Store
	now   func() time.Time

	sets                   atomic.Int64
	gets, touches, deletes hits
}

// hits count how often there was such a session, and how often not.
type hits struct{ hit, miss atomic.Int64 }

func (h *hits) count(found bool) {
	if found {
		h.hit.Add(1)
	} else {
		h.miss.Add(1)
	}
}

func (h *hits) observe(observe func(result string, n int64)) {
	observe("hit", h.hit.Load())
	observe("miss", h.miss.Load())
}

const (
	// sessionRounds is how often a change is decided anew since another one was
	// faster.
	sessionRounds = 16
	// deletedSession is how long the bucket remembers that a session was
	// deleted; nobody asks it.
	deletedSession = time.Second
)

func newSessions(store Store, now func() time.Time) *sessions {
	return &sessions{store: store, now: now}
}

// endpoints are what the service answers about sessions.
func (s *sessions) endpoints(at func(string) string) []bus.Endpoint {
	return []bus.Endpoint{
		bus.Handle("session.set", at("session.set"), s.set),
		bus.Handle("session.get", at("session.get"), s.get),
		bus.Handle("session.touch", at("session.touch"), s.touch),
		bus.Handle("session.delete", at("session.delete"), s.delete),
		bus.Handle("session.clear", at("session.clear"), s.clear),
	}
}

// set makes a session or replaces what it holds.
func (s *sessions) set(ctx context.Context, req wire.SessionRequest) (struct{}, error) {
	if err := checkToken(req.Token); err != nil {
		return struct{}{}, err
	}
	ttl, err := sessionTTL(req.TTL, defaultSessionTTL)
	if err != nil {
		return struct{}{}, err
	}
	if len(req.Data) == 0 || len(req.Data) > wire.MaxSessionData || !wire.ValidJSON(req.Data) {
		return struct{}{}, wire.InvalidField("data", "JSON of at most 65536 bytes")
	}
	write := func(now time.Time) kv.Write {
		return kv.Write{Value: newSession(req.Data, ttl, now).encode(), TTL: ttl}
	}
	if req.Existing {
		found, err := s.change(ctx, req.Token, func(_ session, now time.Time) kv.Write { return write(now) })
		if err != nil {
			return struct{}{}, err
		}
		if !found {
			return struct{}{}, errNoSession()
		}
	} else {
		w := write(s.now())
		w.Key, w.Expect = sessionKey(req.Token), kv.AnyRevision
		if _, err := s.store.Put(ctx, w); err != nil {
			return struct{}{}, unavailable(err)
		}
	}
	s.sets.Add(1)
	return struct{}{}, nil
}

// get answers what a session holds, and thereby keeps it alive.
func (s *sessions) get(ctx context.Context, req wire.SessionRequest) (wire.SessionData, error) {
	if err := checkToken(req.Token); err != nil {
		return wire.SessionData{}, err
	}
	revision, current, err := s.read(ctx, req.Token)
	if err != nil {
		return wire.SessionData{}, err
	}
	if revision == 0 {
		s.gets.count(false)
		return wire.SessionData{}, errNoSession()
	}
	if used, stale := current.used(s.now()); stale && !req.Keep {
		_, err := s.store.Put(ctx, kv.Write{Key: sessionKey(req.Token), Value: used.encode(), Expect: revision, TTL: used.ttl()})
		// Whoever was faster has used, replaced or deleted it: that counts.
		if err != nil && !errors.Is(err, kv.ErrConflict) {
			return wire.SessionData{}, unavailable(err)
		}
	}
	s.gets.count(true)
	return wire.SessionData{Data: current.Data}, nil
}

// touch keeps a session alive, with another TTL where the request has one.
func (s *sessions) touch(ctx context.Context, req wire.SessionRequest) (wire.SessionOK, error) {
	if err := checkToken(req.Token); err != nil {
		return wire.SessionOK{}, err
	}
	asked, err := sessionTTL(req.TTL, 0)
	if err != nil {
		return wire.SessionOK{}, err
	}
	found, err := s.change(ctx, req.Token, func(current session, now time.Time) kv.Write {
		ttl := asked
		if ttl == 0 {
			ttl = current.ttl()
		}
		return kv.Write{Value: newSession(current.Data, ttl, now).encode(), TTL: ttl}
	})
	if err != nil {
		return wire.SessionOK{}, err
	}
	s.touches.count(found)
	return wire.SessionOK{OK: found}, nil
}

// delete ends a session. Of several that delete the same one, one hears that it
// was there.
func (s *sessions) delete(ctx context.Context, req wire.SessionRequest) (wire.SessionOK, error) {
	if err := checkToken(req.Token); err != nil {
		return wire.SessionOK{}, err
	}
	found, err := s.change(ctx, req.Token, func(session, time.Time) kv.Write {
		return kv.Write{Delete: true, TTL: deletedSession}
	})
	if err != nil {
		return wire.SessionOK{}, err
	}
	s.deletes.count(found)
	return wire.SessionOK{OK: found}, nil
}

// clear ends all sessions.
func (s *sessions) clear(ctx context.Context, _ struct{}) (wire.SessionCount, error) {
	purged, err := s.store.Purge(ctx)
	if err != nil {
		return wire.SessionCount{}, unavailable(err)
	}
	return wire.SessionCount{Count: purged}, nil
}

// change writes what decide makes of a session that is there. Where another
// change was faster, it decides again about what is there then.
func (s *sessions) change(ctx context.Context, token string, decide func(current session, now time.Time) kv.Write) (found bool, err error) {
	for range sessionRounds {
		revision, current, err := s.read(ctx, token)
		if err != nil || revision == 0 {
			return false, err
		}
		w := decide(current, s.now())
		w.Key, w.Expect = sessionKey(token), revision
		switch _, err := s.store.Put(ctx, w); {
		case err == nil:
			return true, nil
		case !errors.Is(err, kv.ErrConflict):
			return false, unavailable(err)
		}
	}
	return false, wire.Errorf(wire.Aborted, "the session was changed at the same time: try again").With("outcome", "none")
}

// read returns a session and the revision it has; 0 where there is none, it has
// ended, or what the bucket holds is no session.
func (s *sessions) read(ctx context.Context, token string) (revision uint64, current session, err error) {
	e, err := s.store.Get(ctx, sessionKey(token))
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return 0, session{}, nil
	case err != nil:
		return 0, session{}, unavailable(err)
	}
	current, ok := parseSession(e.Value)
	if e.Deleted || !ok || current.over(s.now()) {
		return 0, session{}, nil
	}
	return e.Revision, current, nil
}

func errNoSession() error { return wire.Errorf(wire.NotFound, "no such session") }
