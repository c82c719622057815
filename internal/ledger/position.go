package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Refresh returns how often the position of a ledger is written, and read, for a
// stream that remembers ids for window: every second, more often where that is
// much of it.
func Refresh(window time.Duration) time.Duration {
	return max(min(time.Second, window/16), 10*time.Millisecond)
}

// Advance writes how far the ledger is. It never takes back what another
// replica has written of the same stream, and leaves it to that one where its
// word is new. It returns the position that is in the ledger now.
func (l *Ledger) Advance(ctx context.Context, p Position) (Position, error) {
	have, err := l.position(ctx)
	if err != nil {
		return p, err
	}
	if have != nil && have.Created == p.Created {
		if have.UpTo >= p.UpTo && p.At-have.At < Refresh(time.Duration(p.Window)*time.Millisecond).Milliseconds()/2 {
			return have.Position, nil
		}
		p.UpTo = max(p.UpTo, have.UpTo)
	}
	value, err := json.Marshal(p)
	if err != nil {
		return p, fmt.Errorf("write the position of a ledger: %w", err)
	}
	return p, l.store(ctx, &nats.Msg{Subject: subject(l.bucket, positionKey), Data: value})
}

// known is a position as a process has seen it.
type known struct {
	Position
	revision int64
	written  time.Time // by the server's clock
	since    time.Time // first seen
	looked   time.Time // last read
}

// age returns how much of the past may not be in the ledger. It believes the
// process's clock or the time that has gone by here since the position was
// first seen, whichever says more: a clock that is slow hides nothing for long.
func (k *known) age(now time.Time) time.Duration {
	return max(k.lag(now), k.lag(k.written)+now.Sub(k.since))
}

// position reads the ledger's position, nil where it has none.
func (l *Ledger) position(ctx context.Context) (*known, error) {
	msg, err := l.get(ctx, Stream(l.bucket), subject(l.bucket, positionKey), nil)
	if err != nil || msg == nil {
		return nil, err
	}
	k := &known{}
	if err := json.Unmarshal(msg.Data, &k.Position); err != nil {
		return nil, fmt.Errorf("read the position of a ledger: %w", err)
	}
	if k.revision, k.written, err = revision(msg); err != nil {
		return nil, fmt.Errorf("read the position of a ledger: %w", err)
	}
	return k, nil
}

// view is the position as it was read last.
type view struct {
	turn chan struct{} // held by the one who reads

	mu   sync.Mutex
	last *known
}

func (v *view) get() *known {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
}

// look returns the position, read again where it is old.
func (v *view) look(ctx context.Context, l *Ledger) (known, error) {
	fresh := func() *known {
		if k := v.get(); k != nil && time.Since(k.looked) < Refresh(time.Duration(k.Window)*time.Millisecond) {
			return k
		}
		return nil
	}
	if k := fresh(); k != nil {
		return *k, nil
	}
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return known{}, ctx.Err()
	}
	if k := fresh(); k != nil {
		return *k, nil
	}
	now := time.Now()
	k, err := l.position(ctx)
	last := v.get()
	switch {
	case err != nil:
		return known{}, err
	case k == nil:
		return known{}, wire.Errorf(wire.Unavailable, "nobody keeps the ledger of the topic's keys yet")
	}
	k.since, k.looked = now, now
	if last != nil && last.revision == k.revision {
		k.since = last.since
	} else {
		l.noted.Store(0)
	}
	v.mu.Lock()
	v.last = k
	v.mu.Unlock()
	return *k, nil
}

// admit reports why an id that the ledger does not have can't be stored now.
func (l *Ledger) admit(k *known, keys int, now time.Time) error {
	if have := k.Keys + l.noted.Load(); have >= int64(keys) {
		return (&wire.Error{Code: wire.ResourceExhausted, Message: "the topic's rule remembers as many keys as it may: `dedupeKeys`", RetryAfter: fullPause}).
			With("limit", keys).With("outcome", "none")
	}
	window := time.Duration(k.Window) * time.Millisecond
	if behind := k.age(now); behind > window/2 {
		return wire.Errorf(wire.Unavailable, "the ledger of the topic's keys is behind").
			With("behindMs", behind.Milliseconds()).With("outcome", "none")
	}
	return nil
}

// fullPause is what who finds the ledger full is asked to wait: ids expire one
// by one.
const fullPause = 5 * time.Second
