package ratelimit

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// attempt bounds one read or write. One that takes longer is made again: a
	// write on the same condition, so that it is stored once at most.
	attempt = 500 * time.Millisecond
	// patience bounds all of them together.
	patience   = 5 * time.Second
	firstPause = 5 * time.Millisecond
	longPause  = 100 * time.Millisecond
)

// fate is what became of a write.
type fate uint8

const (
	stored   fate = iota
	found         // stored by an earlier attempt: the cells' states were read since
	refused       // not stored, and never will be: the cells' states are newer
	doubtful      // refused, but what an earlier attempt became is not sure
	unclear       // there is an error, which says what is known
)

// writing is what one write holds: of several cells all or none.
type writing struct {
	cells  []*cell // of which the turn is held
	writes []kv.Write
	by     batch
	waits  func() bool
}

// store writes, until it is known what became of it or nobody waits.
//
// A write of which it is not known whether it was stored is made again as it was.
// If then its condition does not hold, either somebody else was quicker, or it was
// stored: the entry names its last writers. Where the entry still is the one on
// which it was decided, an earlier attempt is under way: what is decided anew would
// meet it, and be decided on tokens that were taken for the same callers.
func (k *keeper) store(ctx context.Context, w *writing, conflicts *int) (revision uint64, _ fate, err error) {
	began := time.Now()
	for unsure := false; ; {
		again, err := k.insist(ctx, w.waits, func(ctx context.Context) (err error) {
			revision, err = k.cfg.Store.PutAll(ctx, w.writes)
			return err
		})
		unsure = unsure || again
		switch {
		case err == nil:
			return revision, stored, nil
		case !errors.Is(err, kv.ErrConflict):
			return 0, unclear, away(err, true)
		}
		k.metrics.conflicts.Add(1)
		if *conflicts++; *conflicts > 1 {
			yieldTo(ctx, *conflicts)
		}
		ours, same := false, true
		for i, c := range w.cells {
			if err := k.read(ctx, c, w.waits); err != nil {
				if unsure {
					err = errUnknown
				}
				return 0, unclear, err
			}
			ours = ours || c.state.entry.has(w.by)
			same = same && c.state.revision == w.writes[i].Expect
		}
		switch {
		case !unsure:
			return 0, refused, nil
		case ours: // all of them were stored, or none
			return 0, found, nil
		case !same:
			return 0, doubtful, nil
		case !w.waits() || ctx.Err() != nil || time.Since(began) > patience:
			return 0, unclear, errUnknown
		}
	}
}

// insist does something until it is known what came of it, or nobody waits for it.
// It is unsure where an earlier attempt may have been done too.
func (k *keeper) insist(ctx context.Context, waits func() bool, do func(context.Context) error) (unsure bool, err error) {
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		bounded, cancel := context.WithTimeout(ctx, attempt)
		err = do(bounded)
		cancel()
		var large *kv.TooLargeError
		if err == nil || errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrNotFound) || errors.As(err, &large) {
			return unsure, err
		}
		unsure = true
		if time.Since(began) > patience || !waits() || clock.Sleep(ctx, pause) != nil || !waits() {
			return unsure, err
		}
	}
}

// yieldTo lets others who write the same key get on, the longer the oftener.
func yieldTo(ctx context.Context, conflicts int) {
	most := time.Millisecond << min(conflicts, 4)
	_ = clock.Sleep(ctx, rand.N(most)) // ends with ctx
}

// away is what is answered where the store did not do what it should.
func away(err error, written bool) error {
	var large *kv.TooLargeError
	switch {
	case errors.As(err, &large):
		return &wire.Error{Code: wire.ResourceExhausted, Message: "too much is stored of the key", Details: map[string]any{"outcome": "none"}}
	case written:
		return errUnknown
	}
	return errAway
}

// doubts are the writes of a round that were refused, and of which an earlier
// attempt may show up as stored still: a leader that is none any more shows what
// was before.
type doubts []doubt

type doubt struct {
	by      batch
	on      uint64             // the revision that it was decided on
	answers map[*waiter]answer // of one key
	parts   []answer           // of several
}

// stored returns the write that an entry is of, nil where it is of none of them.
func (d doubts) stored(e *entry) *doubt {
	for i := range d {
		if e.has(d[i].by) {
			return &d[i]
		}
	}
	return nil
}

// failure is what is answered for an error, which is about what was done since.
func (d doubts) failure(err error) error {
	if len(d) > 0 {
		return errUnknown
	}
	return err
}
