package gateway

import (
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// cursorFrame bounds a frame of cursors.
	cursorFrame = 256 << 10
	// cursorCatchUp is how often watchers who are behind are looked at while
	// nothing moves.
	cursorCatchUp = 50 * time.Millisecond
	// cursorPages bounds the different frames that watchers who are behind are
	// sent at a time: others wait meanwhile.
	cursorPages = 16
)

// cursorWatcher is one connection that sees a topic's cursors. It knows them as
// of a version; what it is owed is what changed since, however often.
type cursorWatcher struct {
	t *cursorTopic
	c *connection

	waits  bool   // its subscribe is not answered yet
	stated bool   // it has been sent where all are
	since  uint64 // what it was told; the rest of a large state is behind it
	base   uint64 // the version when it was begun to be told
}

// watch makes a connection a watcher of a topic, anew if it is one. With waits
// it hears nothing before [cursors.release].
func (cs *cursors) watch(c *connection, topic string, waits bool) (*cursorWatcher, *wire.Error) {
	t, err := cs.hold(topic)
	if err != nil {
		return nil, err
	}
	defer t.mu.Unlock()
	if old := t.watchers[c]; old != nil {
		delete(t.behind, old)
	}
	o := &cursorWatcher{t: t, c: c, waits: waits}
	t.watchers[c], t.behind[o] = o, struct{}{}
	t.caughtAt = time.Time{}
	cs.pass(t, time.Now())
	return o, nil
}

// release lets a watcher hear what there is; one that is none any more hears
// nothing.
func (cs *cursors) release(o *cursorWatcher) {
	cs.with(o.t, func(time.Time) {
		o.waits, o.t.caughtAt = false, time.Time{}
	})
}

// watching returns the watcher that a connection is, or nil.
func (cs *cursors) watching(c *connection, topic string) *cursorWatcher {
	t := cs.of(topic)
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.watchers[c]
}

// unwatch ends a watcher; nil is none. A newer one of the connection stays.
func (cs *cursors) unwatch(o *cursorWatcher) {
	if o == nil {
		return
	}
	cs.with(o.t, func(time.Time) {
		if o.t.watchers[o.c] == o {
			delete(o.t.watchers, o.c)
		}
		delete(o.t.behind, o)
	})
}

// replaceCursors makes a subscription that is there show cursors, or not, as a
// repeated subscribe says: done runs with its outcome, and answers it behind the
// last that the client hears, or ahead of the first.
func (c *connection) replaceCursors(f *wire.Frame) (done func(ok bool, answer func()), err *wire.Error) {
	old := c.g.cursors.watching(c, f.Topic)
	if !f.Cursors {
		return func(ok bool, answer func()) {
			if ok {
				c.g.cursors.unwatch(old)
			}
			answer()
		}, nil
	}
	o, err := c.g.cursors.watch(c, f.Topic, true)
	if err != nil {
		return nil, err
	}
	return func(ok bool, answer func()) {
		answer()
		if ok || old != nil {
			c.g.cursors.release(o)
		} else {
			c.g.cursors.unwatch(o)
		}
	}, nil
}

// watchCursors lets a new subscription, which has been answered, hear of the
// topic's cursors.
func (c *connection) watchCursors(topic string) {
	if _, err := c.g.cursors.watch(c, topic, false); err != nil {
		c.fail(0, err.With("op", "subscribe").With("topic", topic))
	}
}

// show tells watchers what changed, together in one frame for each window; t.mu
// is held.
func (cs *cursors) show(t *cursorTopic, now time.Time) {
	if len(t.watchers) == 0 {
		t.shown = t.board.version
		return
	}
	due := t.shown < t.board.version && !now.Before(t.shownAt.Add(t.window))
	catch := due || !now.Before(t.caughtAt.Add(cursorCatchUp))
	for due {
		page := t.board.page(t.shown, cs.frameBytes(), false)
		lost := t.board.floor > t.shown // of what went meanwhile some is forgotten
		var frame []byte
		for c, o := range t.watchers {
			switch _, late := t.behind[o]; {
			case late, o.since >= page.to:
				continue
			case lost:
				t.behind[o] = struct{}{}
				continue
			}
			if frame == nil {
				frame = page.frame(t.topic, false)
			}
			if !c.out.Offer(frame, t.patience) {
				t.behind[o] = struct{}{}
				continue
			}
			o.since = page.to
			cs.g.metrics.cursorFrames.Add(1)
		}
		t.shown, t.shownAt = page.to, now
		due = t.window == 0 && t.shown < t.board.version
	}
	if catch && cs.owes(t) {
		cs.catchUp(t, now)
	}
}

// owes reports whether a watcher is to be told something by itself; t.mu is
// held. Before other gateways have had the time to answer none is.
func (cs *cursors) owes(t *cursorTopic) bool { return t.gathered && len(t.behind) > 0 }

// catchUp sends watchers who are behind the next frame of what they are owed, if
// they took what was sent before; t.mu is held. Most are owed the same.
func (cs *cursors) catchUp(t *cursorTopic, now time.Time) {
	t.caughtAt = now
	type what struct {
		since uint64
		all   bool
	}
	pages, frames := map[what]cursorPage{}, map[what][]byte{}
	for o := range t.behind {
		if o.waits || o.c.out.Firm() > t.patience {
			continue
		}
		w := what{o.since, !o.stated || t.board.floor > max(o.since, o.base)}
		if w.all {
			w.since = 0
		}
		page, ok := pages[w]
		if !ok {
			if len(pages) == cursorPages {
				continue // the next time, whoever that is
			}
			page = t.board.page(w.since, cs.frameBytes(), w.all)
			pages[w] = page
			if w.all || page.count > 0 {
				frames[w] = page.frame(t.topic, w.all)
			}
		}
		if frames[w] != nil {
			if !o.c.out.Offer(frames[w], t.patience) {
				continue // other topics were quicker
			}
			cs.g.metrics.cursorFrames.Add(1)
		}
		if w.all {
			o.base, o.stated = t.board.version, true
		}
		if o.since = page.to; o.since >= t.shown {
			delete(t.behind, o)
		}
	}
}

// frameBytes bounds a frame of cursors: what may be queued fits beside it.
func (cs *cursors) frameBytes() int { return min(cursorFrame, cs.g.cfg.Limits.OutboundBytes/4) }

func (p *cursorPage) frame(topic string, all bool) []byte {
	dst := make([]byte, 0, len(p.moved)+len(p.gone)+len(topic)+64)
	if all {
		return wire.AppendCursorsAll(dst, topic, p.moved)
	}
	return wire.AppendCursorsMoved(dst, topic, p.moved, p.gone)
}
