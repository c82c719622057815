package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Errors beside those of the service, which are *wire.Error: UNAVAILABLE and
// DEADLINE_EXCEEDED where it is away, INVALID_ARGUMENT for more than 64 KiB.
var (
	// ErrEnded says that the session was ended while this request went on: by a
	// logout in another one, say. What was to be set is not stored.
	ErrEnded = errors.New("session: it was ended meanwhile")
	// ErrHeadersSent says that the visitor needs a cookie and the response is on
	// its way already. Nothing is stored.
	ErrHeadersSent = errors.New("session: too late for a cookie: the response has begun")
	// ErrNoMiddleware says that the request did not come through
	// [Sessions.Middleware].
	ErrNoMiddleware = errors.New("session: no middleware on the way of this request")
)

// Session is what one request knows of its visitor. Its methods may be called
// concurrently, one waits for the other.
type Session struct {
	sessions *Sessions
	response *response

	mu     sync.Mutex
	token  string // of the cookie, until it is known that there is no such session
	loaded bool   // the service was asked: token and data are what there is
	data   json.RawMessage
	old    string // a token that has been replaced and is not deleted yet
}

// From returns the session of a request, by its context. It is never nil; without
// a middleware its methods return [ErrNoMiddleware].
func From(ctx context.Context) *Session {
	if s, ok := ctx.Value(contextKey{}).(*Session); ok {
		return s
	}
	return &Session{}
}

// Get returns what the session of a request holds; ok is false for a visitor
// without a session.
func Get[T any](ctx context.Context) (v T, ok bool, err error) {
	ok, err = From(ctx).Get(ctx, &v)
	return v, ok, err
}

// Get reads what the session holds into v, as json.Unmarshal does; ok is false
// for a visitor without a session. It asks the service once per request, and
// thereby keeps the session alive for another TTL.
func (s *Session) Get(ctx context.Context, v any) (ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil || s.token == "" {
		return false, err
	}
	if err := json.Unmarshal(s.data, v); err != nil {
		return false, fmt.Errorf("session: what it holds is no %T: %w", v, err)
	}
	return true, nil
}

// Set makes v, as json.Marshal writes it, what the session holds, in place of
// what it held. It returns when it is stored. A visitor without a session gets
// one, and a cookie: before the response begins, else it is [ErrHeadersSent].
// What the session holds already is not written again. Of two requests that set
// at the same time the later one counts.
func (s *Session) Set(ctx context.Context, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return err
	}
	if s.token == "" {
		token, err := s.store(ctx, data)
		if err == nil {
			s.adopt(token, data)
		}
		return err
	}
	if bytes.Equal(data, s.data) {
		return nil
	}
	err = s.call(ctx, "set", wire.SessionRequest{Token: s.token, Data: data, Existing: true}, nil)
	if errors.Is(err, wire.ErrNotFound) {
		return ErrEnded
	}
	if err != nil {
		s.loaded = false // it may be stored
		return err
	}
	s.data = data
	return nil
}

// Delete ends the session and takes the cookie away, for a logout. It is no
// error where there is none. A Set of another request that is under way does not
// bring it back.
func (s *Session) Delete(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions == nil {
		return ErrNoMiddleware
	}
	for _, token := range []string{s.old, s.token} {
		if token == "" {
			continue
		}
		if _, err := s.remove(ctx, token); err != nil {
			return err
		}
	}
	if s.token != "" && !s.response.sent.Load() {
		s.sessions.setCookie(s.response.Header(), "")
	}
	s.token, s.old, s.data, s.loaded = "", "", nil, true
	return nil
}

// Renew gives the session another token and makes the old one worthless: after a
// login, since whoever planted a token in the visitor's browser would be logged
// in too. A visitor without a session needs none: the next Set begins one. After
// an error the old token may still be good; Renew may be called again.
func (s *Session) Renew(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return err
	}
	if s.old != "" { // left over from the last time
		if _, err := s.remove(ctx, s.old); err != nil {
			return err
		}
		s.old = ""
		return nil
	}
	if s.token == "" {
		return nil
	}
	old, data := s.token, s.data
	token, err := s.store(ctx, data)
	if err != nil {
		return err
	}
	switch ended, err := s.remove(ctx, old); {
	case err != nil:
		s.adopt(token, data)
		s.old = old
		return err
	case ended: // by somebody else: it has to stay so
		_, err := s.remove(ctx, token) // nobody knows it, but it would last for the TTL
		return errors.Join(ErrEnded, err)
	}
	s.adopt(token, data)
	return nil
}

// store makes a session under a new token, which the visitor does not have yet.
func (s *Session) store(ctx context.Context, data json.RawMessage) (token string, err error) {
	if s.response.sent.Load() {
		return "", ErrHeadersSent
	}
	token = newToken()
	return token, s.call(ctx, "set", wire.SessionRequest{Token: token, Data: data}, nil)
}

// adopt gives the visitor a token that the service knows.
func (s *Session) adopt(token string, data json.RawMessage) {
	s.sessions.setCookie(s.response.Header(), token)
	s.token, s.data = token, data
}

// remove deletes a session. ended says that there was none any more.
func (s *Session) remove(ctx context.Context, token string) (ended bool, err error) {
	var reply wire.SessionOK
	err = s.call(ctx, "delete", wire.SessionRequest{Token: token}, &reply)
	return !reply.OK, err
}

// load asks for the session once. A token that the service does not know is not
// taken over: somebody else may have made it up.
func (s *Session) load(ctx context.Context) error {
	if s.sessions == nil {
		return ErrNoMiddleware
	}
	if s.loaded {
		return nil
	}
	if s.token == "" {
		s.loaded = true
		return nil
	}
	var reply wire.SessionData
	err := s.call(ctx, "get", wire.SessionRequest{Token: s.token}, &reply)
	switch {
	case errors.Is(err, wire.ErrNotFound):
		s.token, s.data = "", nil
	case err != nil:
		return err
	default:
		s.data = reply.Data
	}
	s.loaded = true
	return nil
}

func (s *Session) call(ctx context.Context, endpoint string, req wire.SessionRequest, reply any) error {
	if endpoint == "set" {
		req.TTL = s.sessions.opts.TTL.String()
	}
	return s.sessions.call(ctx, endpoint, req, reply)
}
