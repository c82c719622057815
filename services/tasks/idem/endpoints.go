package idem

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	defaultAcquireTTL, maxAcquireTTL = time.Minute, 24 * time.Hour
	defaultTTL, maxTTL               = 48 * time.Hour, 8760 * time.Hour
	minTTL                           = time.Second // of both

	// minRetry and maxRetry bound what others are told to wait: whoever works may be
	// done long before its time is over.
	minRetry, maxRetry = 50 * time.Millisecond, time.Second

	maxID = 128

	workers = 1024 // requests at a time: they wait for the store
)

// Endpoints are what the slots answer; at gives the subject of a name.
func (s *Service) Endpoints(at func(name string) string) []bus.Endpoint {
	acquire := bus.Handle("idem.acquire", at("idem.acquire"), s.Acquire)
	commit := bus.Handle("idem.commit", at("idem.commit"), s.Commit)
	abort := bus.Handle("idem.abort", at("idem.abort"), s.Abort)
	for _, e := range []*bus.Endpoint{&acquire, &commit, &abort} {
		e.Workers = workers
	}
	wipe := bus.Handle("idem.clear", at("idem.clear"), s.Clear)
	wipe.Workers, wipe.Timeout = 4, clearWait
	return []bus.Endpoint{acquire, commit, abort, bus.Handle("idem.purge", at("idem.purge"), s.Purge), wipe}
}

// Acquire says whether to do the work of a key: acquired to one caller, pending to
// the others, done with the result to those who come later. The id of a request makes
// it the same one when it is asked again.
func (s *Service) Acquire(ctx context.Context, req wire.IdemAcquire) (wire.IdemAcquired, error) {
	want := Want{Token: tokenOf(req.Key, cmp.Or(req.ID, rand.Text())), Hash: req.Hash}
	err := checkKey(req.Key)
	if err == nil {
		want.AcquireTTL, err = checkTTL("acquireTTL", req.AcquireTTL, defaultAcquireTTL, maxAcquireTTL)
	}
	if err == nil {
		want.TTL, err = checkTTL("ttl", req.TTL, defaultTTL, maxTTL)
	}
	if err == nil && len(req.ID) > maxID {
		err = wire.InvalidField("id", fmt.Sprintf("at most %d bytes", maxID))
	}
	if err == nil && (len(req.Hash) > wire.MaxIdemHash || !storable(req.Hash)) {
		err = wire.InvalidField("hash", fmt.Sprintf("at most %d bytes", wire.MaxIdemHash))
	}
	if err != nil {
		return wire.IdemAcquired{}, err
	}
	var f Found
	if err := s.asking(ctx, func(ctx context.Context) (err error) {
		f, err = s.store.Acquire(ctx, req.Key, want)
		return err
	}); err != nil {
		return wire.IdemAcquired{}, err
	}
	if f.State != wire.SlotAcquired && f.Hash != "" && req.Hash != "" && f.Hash != req.Hash {
		s.metrics.mismatches.Add(1)
		return wire.IdemAcquired{}, wire.Errorf(wire.FailedPrecondition, "the key was used for another request").With("reason", "hash")
	}
	out := wire.IdemAcquired{State: f.State}
	switch f.State {
	case wire.SlotAcquired:
		s.metrics.acquired.Add(1)
		out.Token = want.Token
	case wire.SlotPending:
		s.metrics.pending.Add(1)
		out.RetryAfterMs = min(max(f.Left, minRetry), maxRetry).Milliseconds()
	case wire.SlotDone:
		s.metrics.hits.Add(1)
		out.Result = f.Result
	}
	return out, nil
}

// tokenOf is the token of a request: it does not give the id away, nor is it that of
// another key.
func tokenOf(key, id string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(key), key, id))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// Commit stores the result of the work. The same again is no error; the token of
// a slot that is another's by now, or nobody's, is FAILED_PRECONDITION.
func (s *Service) Commit(ctx context.Context, req wire.IdemCommit) (struct{}, error) {
	if err := checkRight(req.Key, req.Token); err != nil {
		return struct{}{}, err
	}
	result := bytes.TrimSpace(req.Result)
	switch {
	case len(result) == 0:
		result = []byte("null")
	case len(result) > wire.MaxIdemResult: // nothing is written: the slot stays pending
		return struct{}{}, wire.InvalidField("result", fmt.Sprintf("at most %d bytes of JSON", wire.MaxIdemResult)).
			With("bytes", len(result)).With("maxBytes", wire.MaxIdemResult)
	case !json.Valid(result):
		return struct{}{}, wire.InvalidField("result", "JSON")
	}
	err := s.asking(ctx, func(ctx context.Context) error { return s.store.Commit(ctx, req.Key, req.Token, result) })
	return struct{}{}, s.ended(err, &s.metrics.commits)
}

// Abort gives the slot back; FAILED_PRECONDITION as with Commit.
func (s *Service) Abort(ctx context.Context, req wire.IdemAbort) (struct{}, error) {
	if err := checkRight(req.Key, req.Token); err != nil {
		return struct{}{}, err
	}
	err := s.asking(ctx, func(ctx context.Context) error { return s.store.Abort(ctx, req.Key, req.Token) })
	return struct{}{}, s.ended(err, &s.metrics.aborts)
}

// Purge removes the slot of a key, whoever has it.
func (s *Service) Purge(ctx context.Context, req wire.IdemKey) (out wire.IdemCount, err error) {
	if err := checkKey(req.Key); err != nil {
		return out, err
	}
	err = s.asking(ctx, func(ctx context.Context) (err error) {
		out.Count, err = s.store.Purge(ctx, req.Key)
		return err
	})
	return out, err
}

// Clear removes all slots.
func (s *Service) Clear(ctx context.Context, _ struct{}) (out wire.IdemCount, err error) {
	err = s.ask(ctx, clearWait, func(ctx context.Context) (err error) {
		out.Count, err = s.store.Clear(ctx)
		return err
	})
	return out, err
}

func (s *Service) asking(ctx context.Context, fn func(context.Context) error) error {
	// That the slot is lost is an answer, not a failure of whoever keeps it.
	var lost error
	err := s.ask(ctx, askWait, func(ctx context.Context) error {
		err := fn(ctx)
		if errors.Is(err, ErrLost) {
			lost = err
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	return lost
}

// ended counts the end of a slot, and gives [ErrLost] its code.
func (s *Service) ended(err error, count interface{ Add(int64) int64 }) error {
	switch {
	case errors.Is(err, ErrLost):
		s.metrics.lost.Add(1)
		return wire.Errorf(wire.FailedPrecondition, "the slot is not the caller's any more").With("reason", "lost")
	case err == nil:
		count.Add(1)
	}
	return err
}

func checkRight(key, token string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if token == "" || len(token) > 64 || !storable(token) {
		return wire.InvalidField("token", "what acquire has answered")
	}
	return nil
}

func checkKey(key string) error {
	if key == "" || len(key) > wire.MaxIdemKey || !storable(key) {
		return wire.InvalidField("key", fmt.Sprintf("from 1 to %d bytes, without a NUL", wire.MaxIdemKey))
	}
	return nil
}

// storable reports whether Postgres takes s for text.
func storable(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

func checkTTL(field, text string, otherwise, most time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < minTTL || d > most {
		return 0, wire.InvalidField(field, fmt.Sprintf("a duration such as 90s, from 1s to %.0fh", most.Hours()))
	}
	return d, nil
}
