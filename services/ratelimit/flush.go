package ratelimit

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
)

// flusher decides for one key at a time.
type flusher struct {
	*keeper
	value  []byte // room for what is written
	writes [1]kv.Write
	cells  [1]*cell
}

// flush decides for those who wait for a key, round after round until nobody does
// or it is another key's turn.
func (f *flusher) flush(ctx context.Context, c *cell) {
	for c.turn.try() { // else it is in line again when it may
		all := c.takeWaiting()
		f.metrics.waiting.Add(-int64(len(all)))
		f.round(ctx, c, all)
		c.used.Store(int64(time.Since(f.began)))
		f.leave(c)
		if !c.finished(all) || !f.line.empty() && f.line.push(c) {
			return
		}
	}
}

// round decides for all who wait, and answers them.
//
// What changes the entry is written on condition that nobody else has written
// since: a state that was not the newest is noticed, read again from the leader,
// and everything is decided again. What changes nothing is answered from a state
// that is fresh. See [keeper.store] for a write of which it is not known whether
// it was stored.
func (f *flusher) round(ctx context.Context, c *cell, all []*waiter) {
	began := time.Now()
	var before doubts
	for conflicts := 0; ; {
		if all = f.present(all); len(all) == 0 {
			return
		}
		waits := func() bool { return waiting(all) }
		if d := before.stored(&c.state.entry); d != nil {
			for _, w := range all {
				w.answer = d.answers[w]
			}
			f.recognised(c, all, d.on)
			return
		}
		if conflicts > 0 && time.Since(began) > patience {
			fail(all, before.failure(errContended))
			return
		}
		current := f.look(c)
		if !current && c.state.revision > 0 {
			if err := f.read(ctx, c, waits); err != nil {
				fail(all, before.failure(err))
				return
			}
			continue
		}
		// Where nothing is known of a key it is likely that nobody took from it: the
		// write tells.
		work := c.state.entry.clone()
		now := f.cfg.Now()
		changed, since := decideAll(&work, all, now)
		if !changed {
			if current && !c.state.asked.Before(since) && time.Since(c.state.asked) <= fresh {
				f.answer(all, c.state.revision, c.state.revision)
				return
			}
			if err := f.read(ctx, c, waits); err != nil {
				fail(all, before.failure(err))
				return
			}
			continue
		}
		by, on := f.batch(), c.state.revision
		next := f.state(work, by, now)
		f.value = next.entry.append(f.value[:0])
		f.writes[0] = kv.Write{Key: c.key, Value: f.value, Expect: on, TTL: next.entry.life(now)}
		f.cells[0] = c
		revision, fate, err := f.store(ctx, &writing{cells: f.cells[:], writes: f.writes[:], by: by, waits: waits}, &conflicts)
		switch fate {
		case stored:
			next.revision = revision
			c.state = next
			f.metrics.writes.Add(1)
			f.metrics.decided.Add(int64(len(all)))
			f.answer(all, on, revision)
			return
		case found:
			f.recognised(c, all, on)
			return
		case unclear:
			fail(all, before.failure(err))
			return
		case doubtful:
			d := doubt{by: by, on: on, answers: make(map[*waiter]answer, len(all))}
			for _, w := range all {
				d.answers[w] = w.answer
			}
			before = append(before, d)
		case refused: // decided again
		}
	}
}

// decideAll decides for all in order, and reports whether anything changed. Where
// nothing did, the state must not be older than since: who looks is to see what was
// taken before by whomever.
func decideAll(work *entry, all []*waiter, now time.Time) (changed bool, since time.Time) {
	mended := work.settle(now)
	for _, w := range all {
		w.answer = work.decide(&w.request, now)
		changed = changed || w.answer.changed || mended && w.action != peeking
		if w.came.After(since) {
			since = w.came
		}
	}
	return changed, since
}

// recognised answers what was decided in a write that was stored without its
// acknowledgement: some time after the revision that it was decided on, and others
// may have written since.
func (f *flusher) recognised(c *cell, all []*waiter, on uint64) {
	f.metrics.recognised.Add(1)
	f.metrics.writes.Add(1)
	f.metrics.decided.Add(int64(len(all)))
	f.answer(all, on, c.state.revision)
}

// present answers those who have given up, which costs them nothing, and returns
// the others.
func (k *keeper) present(all []*waiter) []*waiter {
	now := time.Now()
	here := all[:0]
	for _, w := range all {
		if !w.over(now) {
			here = append(here, w)
			continue
		}
		k.metrics.expired.Add(1)
		w.answer = answer{err: context.DeadlineExceeded}
		w.finish()
	}
	return here
}

func waiting(all []*waiter) bool {
	now := time.Now()
	for _, w := range all {
		if !w.over(now) {
			return true
		}
	}
	return false
}

// answer answers what was decided: takes with the revision that they were decided
// on, so that every change after them is newer, changes with one that is not older
// than they are.
func (k *keeper) answer(all []*waiter, decided, changed uint64) {
	var allowed, denied, banned, shadowed, bans int64
	for _, w := range all {
		a := &w.answer
		a.revision = changed
		for i := range a.verdicts {
			v := &a.verdicts[i]
			v.Revision = decided
			if w.action != consuming {
				continue
			}
			allowed += a.granted
			switch {
			case v.Allowed:
			case v.Banned:
				banned += w.n - a.granted
			default:
				denied += w.n - a.granted
			}
		}
		shadowed += a.shadowed
		bans += a.bans
		w.finish()
	}
	k.metrics.count(allowed-shadowed, denied, banned, shadowed, bans)
}

// count adds decisions.
func (m *metrics) count(allowed, denied, banned, shadowed, bans int64) {
	m.allowed.Add(allowed)
	m.denied.Add(denied)
	m.banned.Add(banned)
	m.shadowed.Add(shadowed)
	m.bans.Add(bans)
}

// fail answers everybody with an error.
func fail(all []*waiter, err error) {
	for _, w := range all {
		w.answer = answer{err: err}
		w.finish()
	}
}

// batch returns the name of the next write.
func (k *keeper) batch() batch { return batch{k.cfg.ID, k.number.Add(1)} }

// state is what a cell knows when an entry that was decided now is stored.
func (k *keeper) state(e entry, by batch, now time.Time) state {
	e.wrote(by, now)
	asked := time.Now()
	return state{entry: e, known: true, asked: asked, ends: asked.Add(e.life(now)), epoch: k.epoch.Load()}
}

// look reports whether the state of a cell is one that counts, and forgets one
// that ended. Whoever calls it has the turn.
func (k *keeper) look(c *cell) bool {
	s := &c.state
	if !s.ends.IsZero() && time.Now().After(s.ends) {
		*s = state{} // it said nothing any more for a while before
	}
	c.mu.Lock()
	void := s.revision < c.floor
	c.mu.Unlock()
	if void || s.epoch != k.epoch.Load() && s.revision < k.forgotten.Load() {
		s.known = false
	}
	if !s.known {
		s.entry = entry{}
	}
	return s.known
}

// read reads the state of a cell from the leader. Whoever calls it has the turn,
// and looks at the state again: something newer may be heard of meanwhile.
func (k *keeper) read(ctx context.Context, c *cell, waits func() bool) error {
	c.mu.Lock()
	floor := c.floor
	c.mu.Unlock()
	next := state{known: true, epoch: k.epoch.Load()}
	var got kv.Entry
	_, err := k.insist(ctx, waits, func(ctx context.Context) (err error) {
		next.asked = time.Now()
		got, err = k.cfg.Store.Get(ctx, c.key)
		return err
	})
	k.metrics.reads.Add(1)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		got = kv.Entry{}
	case err != nil:
		return away(err, false)
	}
	next.revision = got.Revision
	if got.Revision > 0 && !got.Deleted {
		next.entry = decodeEntry(got.Value)
		switch {
		case next.entry.broken == nil:
			next.ends = next.asked.Add(next.entry.life(k.cfg.Now()))
		case c.state.entry.broken == nil || c.state.revision != got.Revision: // not said yet
			k.cfg.Log.Error("a key's entry can't be read: everything is denied until it is reset or ends", "entry", c.key, "err", next.entry.broken)
		}
	}
	c.state = next
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.floor == floor {
		c.floor = 0 // it was read since
	}
	return nil
}
