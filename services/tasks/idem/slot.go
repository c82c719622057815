package idem

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// slot is what is kept of a key.
type slot struct {
	Token   string        `json:"token"`
	Hash    string        `json:"hash,omitempty"`
	Acquire time.Duration `json:"acquire"` // of the work
	TTL     time.Duration `json:"ttl"`     // of the result
	Done    bool          `json:"done,omitempty"`
	Result  []byte        `json:"-"`
	Expires time.Time     `json:"-"`
}

// taken returns the slot that one who finds none gets.
func taken(want Want, now time.Time) slot {
	return slot{Token: want.Token, Hash: want.Hash, Acquire: want.AcquireTTL, TTL: want.TTL, Expires: now.Add(want.AcquireTTL)}
}

// live reports whether the slot is there at all.
func (s *slot) live(now time.Time) bool { return s != nil && now.Before(s.Expires) }

// found says what somebody who wants a live slot is told.
func (s *slot) found(token string, now time.Time) Found {
	f := Found{State: wire.SlotPending, Hash: s.Hash, Left: s.Expires.Sub(now)}
	switch {
	case s.Done:
		f.State, f.Result = wire.SlotDone, s.Result
	case s.Token == token: // it is asked again: the answer was lost
		f.State = wire.SlotAcquired
	}
	return f
}

// commit stores the result of whoever has the token. done says that the same was
// committed before.
func (s *slot) commit(token string, result []byte, now time.Time) (done bool, err error) {
	switch {
	case !s.live(now) || s.Token != token:
		return false, ErrLost
	case s.Done:
		if !bytes.Equal(s.Result, result) {
			return false, ErrLost
		}
		return true, nil
	}
	s.Done, s.Result, s.Expires = true, bytes.Clone(result), now.Add(s.TTL)
	return false, nil
}

// abortable returns [ErrLost] unless the token may still give the slot back.
func (s *slot) abortable(token string, now time.Time) error {
	if !s.live(now) || s.Token != token || s.Done {
		return ErrLost
	}
	return nil
}

// encode writes a slot for a bucket: a line of JSON, then the result as it is.
func (s *slot) encode() ([]byte, error) {
	line, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode a slot: %w", err)
	}
	return append(append(line, '\n'), s.Result...), nil
}

var errNoSlot = errors.New("not a slot")

// decodeSlot reads what encode writes.
func decodeSlot(data []byte) (s slot, err error) {
	line, result, ok := bytes.Cut(data, []byte{'\n'})
	if !ok || json.Unmarshal(line, &s) != nil || s.Token == "" || s.TTL <= 0 {
		return slot{}, errNoSlot
	}
	if s.Done {
		s.Result = result
	}
	return s, nil
}
