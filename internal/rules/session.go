package rules

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var (
	// After these a new session begins at once.
	errStale = errors.New("the watcher had missed a change")
	errFirst = errors.New("another process put its rules first")
	errBack  = errors.New("NATS was away")

	errWatchEnded = errors.New("the watcher of the rules ended")
)

// session follows the bucket until something is wrong with it. It never
// returns nil.
func (l *Live) session(ctx context.Context, connected <-chan nats.Status) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kv, err := l.o.open(ctx)
	if err != nil {
		return err
	}
	if _, err := l.read(ctx, kv); err != nil {
		return err
	}
	// The watcher lives as long as its context, so the time limit of making it
	// has to be a timer.
	limit := time.AfterFunc(requestTimeout, cancel)
	w, err := kv.Watch(ctx, bucketKey)
	inTime := limit.Stop()
	if err == nil && !inTime {
		_ = w.Stop()
	}
	if !inTime {
		err = context.DeadlineExceeded
	}
	if err != nil {
		return l.o.wrap("watch", err)
	}
	defer func() {
		_ = w.Stop() // fails only where the connection is closed
		cancel()
	}()
	refresh := time.NewTicker(l.o.Refresh)
	defer refresh.Stop()
	found := false // the bucket has an entry
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return errWatchEnded
			case e == nil: // all that was there has been seen
				l.settled(found)
			default:
				found = true
				if err := l.entry(ctx, kv, e); err != nil {
					return err
				}
			}
		case <-connected:
			// A server that restarted has forgotten the watcher's consumer.
			return errBack
		case <-refresh.C:
			stale, err := l.read(ctx, kv)
			if err != nil {
				return err
			}
			if stale {
				return errStale
			}
		}
	}
}

// read reads the bucket, and puts there what this process has to put. stale
// says that the watcher had not told.
func (l *Live) read(ctx context.Context, kv jetstream.KeyValue) (stale bool, err error) {
	digest, e, err := l.o.digest(ctx, kv)
	if err != nil {
		return false, err
	}
	if e == nil {
		stale = l.last != position{} && !l.deleted
		return stale, l.fill(ctx, kv)
	}
	if l.file != nil && !l.placed {
		l.placed = true
		if digest != l.file.Digest() {
			if _, err := l.o.put(ctx, kv, l.file, l.o.By); err != nil {
				l.placed = false
				return false, err
			}
			l.o.Log.Info("rules file put into the bucket", "old", digest, "new", l.file.Digest())
			l.last = positionOf(e) // the watcher brings our own
			return false, nil
		}
	}
	if stale = l.last != (position{}) && positionOf(e).newer(l.last); stale || l.last == (position{}) {
		l.apply(e)
	}
	return stale, nil
}

// fill puts the rules of this process, if they are for others, into a bucket
// that has none.
func (l *Live) fill(ctx context.Context, kv jetstream.KeyValue) error {
	set := l.file
	if set == nil && l.o.PutBuiltin {
		set = Builtin(l.o.Mode)
	}
	if set == nil {
		return nil
	}
	switch err := l.o.create(ctx, kv, set, l.o.By); {
	case errors.Is(err, jetstream.ErrKeyExists) && l.file != nil && !l.placed:
		return errFirst
	case errors.Is(err, jetstream.ErrKeyExists):
		return nil
	case err != nil:
		return err
	}
	l.placed = true
	l.o.Log.Info("rules put into the empty bucket", "source", l.source(), "new", set.Digest())
	return nil
}

// entry takes what the watcher brings.
func (l *Live) entry(ctx context.Context, kv jetstream.KeyValue, e jetstream.KeyValueEntry) error {
	if !positionOf(e).newer(l.last) {
		return nil
	}
	if e.Operation() == jetstream.KeyValuePut {
		l.apply(e)
		return nil
	}
	l.last, l.deleted = positionOf(e), true
	if err := l.fill(ctx, kv); err != nil || l.file != nil || l.o.PutBuiltin {
		return err
	}
	// Somebody deleted the rules on purpose: a bucket without rules means the
	// built-in ones, for this process as for one that starts now.
	l.held = false
	l.setBad(nil)
	l.o.Log.Warn("the rules in the bucket were deleted: the built-in rules count", "mode", l.o.Mode.String())
	l.use(Builtin(l.o.Mode), "built-in")
	l.markReady()
	return nil
}

// apply makes the entry's rules count, unless they are bad.
func (l *Live) apply(e jetstream.KeyValueEntry) {
	l.last, l.deleted = positionOf(e), false
	set, err := ParseStored(e.Value(), l.o.Mode)
	l.setBad(err)
	if err != nil {
		l.o.Log.Error("the rules in the bucket are bad: the last good ones count", "revision", e.Revision(),
			"digest", l.Current().Digest(), "ready", l.Ready(), "err", err)
		return
	}
	l.held = true
	l.use(set, "bucket")
	l.markReady()
}

func (l *Live) setBad(err error) {
	l.mu.Lock()
	l.bad = err
	l.mu.Unlock()
}

// settled is called when the bucket has been read whole.
func (l *Live) settled(found bool) {
	l.mu.Lock()
	l.away = nil
	l.mu.Unlock()
	l.said = ""
	if found {
		return // apply or entry said all there is to say
	}
	l.setBad(nil)
	l.last = position{}
	switch {
	case l.held:
		l.o.Log.Error("the rules in the bucket are lost: the last ones count until this process ends; apply them again",
			"digest", l.Current().Digest())
	case l.file == nil && l.o.Mode == Run:
		l.o.Log.Warn("no rules file and no rules in the bucket: every authenticated user may subscribe and publish almost everything")
	}
	l.markReady()
}
