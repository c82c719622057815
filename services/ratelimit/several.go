package ratelimit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// keyed is a take of a key.
type keyed struct {
	key string
	take
}

// part is what several takes want of one of their keys.
type part struct {
	key     string
	cell    *cell
	request request
	items   []int // which takes
	work    entry
	mended  bool // work is written whatever becomes of the takes
	answer  answer
	written bool
	next    state
}

// consumeAll wants takes of several keys, all or none, and returns what became of
// each: where one is denied, what it would have been by itself, so that nobody is
// banned. The keys are held in the order of their names, and written in one atomic
// write.
func (k *keeper) consumeAll(ctx context.Context, items []keyed) ([]wire.LimitVerdict, bool, error) {
	parts := split(items)
	if len(parts) == 1 {
		out, err := k.consume(ctx, parts[0].key, parts[0].request.takes, 1, false)
		return out.verdicts, out.granted == 1, err
	}
	for i := range parts {
		parts[i].request.changes = k.changes()
		c, err := k.hold(ctx, parts[i].key)
		if err != nil {
			return nil, false, err
		}
		defer k.leave(c)
		parts[i].cell = c
	}
	granted, err := k.decideParts(ctx, parts)
	if err != nil {
		return nil, false, err
	}
	verdicts := make([]wire.LimitVerdict, len(items))
	var allowed, denied, banned, shadowed int64
	for i := range parts {
		p := &parts[i]
		p.cell.used.Store(int64(time.Since(k.began)))
		for j, item := range p.items {
			v := &verdicts[item]
			*v = p.answer.verdicts[j]
			switch {
			case v.Banned && !v.Allowed:
				banned++
			case !v.Allowed:
				denied++
			case granted && v.Shadowed:
				shadowed++
			case granted:
				allowed++
			}
		}
	}
	k.metrics.count(allowed, denied, banned, shadowed, 0)
	return verdicts, granted, nil
}

// split groups takes by their keys, which are sorted.
func split(items []keyed) (parts []part) {
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(items[a].key, items[b].key) })
	for _, i := range order {
		if len(parts) == 0 || parts[len(parts)-1].key != items[i].key {
			parts = append(parts, part{key: items[i].key, request: request{n: 1}})
		}
		p := &parts[len(parts)-1]
		p.items = append(p.items, i)
		p.request.takes = append(p.request.takes, items[i].take)
	}
	return parts
}

// hold waits for the turn of a key.
func (k *keeper) hold(ctx context.Context, key string) (*cell, error) {
	for {
		c, err := k.cell(key)
		if err != nil {
			return nil, err
		}
		if mine := c.turn.ask(); mine != nil {
			select {
			case <-mine:
			case <-ctx.Done():
				if !c.turn.withdraw(mine) {
					k.leave(c)
				}
				return nil, fmt.Errorf("wait for a decision: %w", ctx.Err())
			}
		}
		if !c.wasEvicted() {
			return c, nil
		}
		k.leave(c)
	}
}

// decideParts decides and writes the parts, whose turns are held, and reports
// whether everything was given. As for one key, what is written has to be the
// newest, and what is not written is answered from a fresh state.
func (k *keeper) decideParts(ctx context.Context, parts []part) (granted bool, err error) {
	waits := func() bool { return ctx.Err() == nil }
	began := time.Now()
	var before doubts
	for conflicts := 0; ; {
		switch {
		case ctx.Err() != nil:
			return false, fmt.Errorf("wait for a decision: %w", ctx.Err())
		case conflicts > 0 && time.Since(began) > patience:
			return false, before.failure(errContended)
		}
		for i := range parts {
			if c := parts[i].cell; !k.look(c) && c.state.revision > 0 {
				if err := k.read(ctx, c, waits); err != nil {
					return false, before.failure(err)
				}
			}
		}
		if d := storedOf(before, parts); d != nil {
			for i := range parts {
				parts[i].answer = d.parts[i]
			}
			k.recognised(parts)
			return true, nil
		}
		now, granted := k.try(parts, consuming)
		if !granted {
			k.try(parts, peeking)
		}
		w := writing{by: k.batch(), waits: waits}
		read := false
		for i := range parts {
			p := &parts[i]
			if p.written = p.mended || granted && p.answer.changed; p.written {
				p.next = k.state(p.work, w.by, now)
				w.writes = append(w.writes, kv.Write{Key: p.cell.key, Value: p.next.entry.append(nil), Expect: p.cell.state.revision, TTL: p.next.entry.life(now)})
				w.cells = append(w.cells, p.cell)
				continue
			}
			if !p.cell.state.known || time.Since(p.cell.state.asked) > fresh {
				if err := k.read(ctx, p.cell, waits); err != nil {
					return false, before.failure(err)
				}
				read = true
			}
		}
		if read {
			continue
		}
		for i := range parts {
			p := &parts[i]
			if p.answer.err != nil {
				return false, before.failure(p.answer.err)
			}
			for j := range p.answer.verdicts {
				p.answer.verdicts[j].Revision = p.cell.state.revision
			}
		}
		if len(w.writes) == 0 {
			return granted, nil
		}
		last, fate, err := k.store(ctx, &w, &conflicts)
		switch fate {
		case stored:
			first := last - uint64(len(w.writes)-1)
			for i := range parts {
				if p := &parts[i]; p.written {
					p.next.revision = first
					p.cell.state = p.next
					first++
				}
			}
			k.metrics.writes.Add(int64(len(w.writes)))
			k.metrics.decided.Add(int64(len(w.writes)))
			return granted, nil
		case found:
			k.recognised(parts)
			return granted, nil
		case unclear:
			return false, before.failure(err)
		case doubtful:
			if granted {
				d := doubt{by: w.by}
				for i := range parts {
					d.parts = append(d.parts, parts[i].answer)
				}
				before = append(before, d)
			}
		case refused: // decided again
		}
	}
}

// try decides the parts on copies of their states, all at the same time.
func (k *keeper) try(parts []part, a action) (now time.Time, granted bool) {
	now, granted = k.cfg.Now(), true
	for i := range parts {
		p := &parts[i]
		p.request.action = a
		p.work = p.cell.state.entry.clone()
		p.mended = p.work.settle(now)
		p.answer = p.work.decide(&p.request, now)
		granted = granted && p.answer.granted == 1
	}
	return now, granted
}

// storedOf returns the write that an entry of the parts is of, nil where there is
// none.
func storedOf(before doubts, parts []part) *doubt {
	for i := range parts {
		if d := before.stored(&parts[i].cell.state.entry); d != nil {
			return d
		}
	}
	return nil
}

// recognised counts a write of the parts whose acknowledgement was lost.
func (k *keeper) recognised(parts []part) {
	k.metrics.recognised.Add(1)
	for i := range parts {
		if parts[i].written {
			k.metrics.writes.Add(1)
			k.metrics.decided.Add(1)
		}
	}
}
