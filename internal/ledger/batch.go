package ledger

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// findAtOnce bounds the lookups of one batch under way.
	findAtOnce = 32
	// resolvePause is between two looks for what a batch has stored.
	resolvePause = 25 * time.Millisecond
	// resolveWait bounds how long a batch that was refused is looked for.
	resolveWait = 2 * time.Second
)

// CheckAll is [Ledger.Check] for an atomic batch, whose messages without a key
// have the id "". It returns nil where the batch may be stored, and the
// messages of all ids where it was stored before. Some of each can't be stored
// as one: ALREADY_EXISTS, with the first of them in details.message; so is an id
// that comes twice.
func (l *Ledger) CheckAll(ctx context.Context, ids []string, keys int) ([]*Found, error) {
	if i := repeated(ids); i > 0 {
		return nil, wire.Errorf(wire.AlreadyExists, "a key is in the batch twice").With("message", i).With("outcome", "none")
	}
	bounded, cancel := context.WithTimeout(ctx, lookupWait)
	defer cancel()
	p, err := l.seen.look(bounded, l)
	if err != nil {
		return nil, refuse(err)
	}
	found, n, err := l.findAll(bounded, ids, &p.Position)
	switch {
	case err != nil:
		return nil, refuse(err)
	case n == len(ids):
		return found, nil
	case n > 0 && slices.Contains(ids, ""):
		return nil, some(found)
	case n > 0: // the filler may be in the middle of the batch
		return l.Resolve(ctx, ids)
	}
	return nil, l.admit(&p, keys, time.Now())
}

// Resolve finds the messages of an atomic batch of which JetStream says, or
// which it may have said unheard, that it is stored already. It waits for the
// filler, for a while. Its error is ALREADY_EXISTS where not all are there, and
// UNAVAILABLE where that is not known yet.
func (l *Ledger) Resolve(ctx context.Context, ids []string) ([]*Found, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveWait)
	defer cancel()
	for {
		p, err := l.seen.look(ctx, l)
		if err == nil {
			var found []*Found
			n := 0
			found, n, err = l.findAll(ctx, ids, &p.Position)
			switch {
			case err == nil && n == len(ids):
				return found, nil
			case err == nil && n > 0 && p.UpTo > newest(found)+batchSpread.Milliseconds():
				return nil, some(found)
			}
		}
		pause := time.NewTimer(resolvePause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, wire.Errorf(wire.Unavailable, "the ledger of the topic's keys has not come to an earlier batch yet").With("outcome", "none")
		}
	}
}

// repeated returns the place of the first id that came before; 0: there is none.
func repeated(ids []string) int {
	seen := make(map[string]bool, len(ids))
	for i, id := range ids {
		if id != "" && seen[id] {
			return i
		}
		seen[id] = true
	}
	return 0
}

// batchSpread is more than the messages of one batch are apart in time: once the
// ledger is so far behind one of them, the others of the batch are in it too.
const batchSpread = time.Second

// newest returns when the last of the messages that were found was stored.
func newest(found []*Found) (ts int64) {
	for _, f := range found {
		if f != nil {
			ts = max(ts, f.at)
		}
	}
	return ts
}

// NoteAll notes a batch that was stored, whose last message is at seq.
func (l *Ledger) NoteAll(ids []string, seq int64) error {
	for i, id := range ids {
		if id == "" {
			continue
		}
		if err := l.Note(id, seq-int64(len(ids)-1-i)); err != nil {
			return err
		}
	}
	return nil
}

// findAll looks for all ids, and says how many it found.
func (l *Ledger) findAll(ctx context.Context, ids []string, p *Position) (found []*Found, n int, err error) {
	found = make([]*Found, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(findAtOnce)
	for i, id := range ids {
		if id != "" {
			group.Go(func() (err error) {
				found[i], err = l.find(ctx, id, p)
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, 0, err
	}
	for _, f := range found {
		if f != nil {
			n++
		}
	}
	return found, n, nil
}

// some says that a message of a batch was stored before, and the batch was not.
func some(found []*Found) error {
	e := wire.Errorf(wire.AlreadyExists, "a message of the batch was stored before under its key").With("outcome", "none")
	for i, f := range found {
		if f != nil {
			return e.With("message", i).With("seq", f.Seq)
		}
	}
	return e
}
