package replay

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/replay/archive"
)

// archived is the log of a rule whose stream is copied to an archive. A topic
// retains what is younger than the TTL, however many messages that are: the
// stream's end, and before that the archive's, as far back as it is unbroken.
//
//	archive   1 2 3 4 5 6 7 8 9 …   copied up to here
//	stream              6 7 8 9 10
//	                    seam: the first message of the topic that the stream answers with
//
// The stream is asked first and alone where it proves the position. What it does
// not have is read from the archive, which must have come to the seam.
type archived struct {
	*stream
	archive *postgres
	counts  *archiveCounts
}

const (
	// catchUpWait is how long a read waits for the copy to come to the seam.
	catchUpWait  = time.Second
	catchUpPause = 25 * time.Millisecond
	// copyWait is how long a clear waits for the copy to come to where it
	// clears: what is purged before it is copied is a hole for other topics.
	copyWait = 2 * time.Second
)

// Since implements [Log].
func (l *archived) Since(ctx context.Context, q Query) (*wire.ReplayPage, error) {
	now := l.now()
	page, err := l.stream.Since(ctx, q)
	if err != nil {
		return nil, err
	}
	older, seam, ok := l.lacking(q, page)
	if !ok {
		return page, nil
	}
	switch alone, err := l.alone(ctx, q, now); {
	case err != nil:
		return nil, err
	case alone:
		return page, nil
	}
	end, err := l.ends.get(ctx, l.state)
	switch {
	case err != nil:
		return nil, err
	case end.messages == end.last.Seq-end.cleared:
		return page, nil // the stream has never lost a message that was not cleared
	case q.Last == 0 && !page.Truncated && q.After.Ts < 0 && end.first.Seq <= q.After.Seq+1:
		return page, nil // nor one behind the position to its bound in bytes
	}
	older.Created, older.Cleared = end.created, end.cleared
	if l.retention.TTL > 0 {
		older.Alive = time.UnixMilli(now.UnixMilli() - l.retention.TTL.Milliseconds() + 1)
	}
	before, err := l.read(ctx, older, seam)
	if err != nil {
		l.counts.readErrors.Add(1)
		return nil, err
	}
	l.counts.reads.Add(1)
	return join(q, page, before), nil
}

// lacking returns what to ask the archive for where the stream's answer may not
// be all: the messages before the seam.
func (l *archived) lacking(q Query, page *wire.ReplayPage) (older archive.Query, seam int64, ok bool) {
	older = archive.Query{Stream: l.name, Topic: q.Topic, Limit: q.Limit, Bytes: q.Bytes}
	switch {
	case len(page.Messages) > 0:
		seam = page.Messages[0].Seq
	case page.Head.Seq == 0:
		seam = page.At.Seq + 1 // the stream holds nothing of the topic
	default:
		return older, 0, false // all it holds has expired or was cleared, and so has all before
	}
	older.Before = seam
	switch {
	case q.Last > 0:
		older.Last = q.Last - l.counted(q, page)
		return older, seam, older.Last > 0
	case q.After.Seq == 0 && q.After.Ts >= 0:
		return older, seam, true
	}
	// Behind the seam the stream has every message: a position there that it does
	// not prove is of another log. One that was taken on an empty topic it
	// believes, though it may have given up for its bound in bytes what came then.
	older.After = q.After
	return older, seam, (page.Truncated || q.After.Ts < 0) && q.After.Seq < seam
}

// counted returns how many of the newest messages that were asked for the
// stream holds.
func (l *archived) counted(q Query, page *wire.ReplayPage) int {
	n := len(page.Messages)
	if !page.More {
		return n
	}
	seqs := l.index.get().topic(q.Topic).seqs
	return max(n, behind(seqs, page.Head.Seq)-behind(seqs, page.Messages[0].Seq-1))
}

// alone reports whether the oldest message that the stream holds of a topic
// shows that the archive can't add anything: it has expired, so that all before
// it have; the topic was cleared there; or the position is not before it.
func (l *archived) alone(ctx context.Context, q Query, now time.Time) (bool, error) {
	seqs := l.index.get().topic(q.Topic).seqs
	if len(seqs) == 0 {
		return false, nil
	}
	subject, err := l.ns.Topic(q.Topic)
	if err != nil {
		return false, err
	}
	all, err := l.reads.bySeq(ctx, l.name, seqs[:1])
	if err != nil {
		return false, err
	}
	oldest := all[0]
	if oldest.gone || oldest.subject != subject {
		return false, nil // the index is behind
	}
	behindIt := q.Last == 0 && q.After.Seq >= oldest.at.Seq
	return behindIt || streams.Marker(oldest.header) || l.retention.expired(oldest.at.Ts, now), nil
}

// read asks the archive, once it has come to the seam. One that does not in time
// answers nothing: whether what it lacks is on its way or lost nobody knows yet.
func (l *archived) read(ctx context.Context, q archive.Query, seam int64) (*archive.Page, error) {
	for deadline := time.Now().Add(catchUpWait); ; {
		page, err := l.archive.Since(ctx, q)
		if err != nil {
			return nil, err
		}
		if page.Copied >= seam-1 {
			return page, nil
		}
		if time.Now().After(deadline) {
			return nil, wire.Errorf(wire.Unavailable, "the archive is behind the stream")
		}
		if err := clock.Sleep(ctx, catchUpPause); err != nil {
			return nil, away(err)
		}
	}
}

// join puts what the archive has before what the stream has.
func join(q Query, page *wire.ReplayPage, before *archive.Page) *wire.ReplayPage {
	beginning := q.Last > 0 || q.After.Seq == 0 && q.After.Ts >= 0
	if !beginning {
		page.Truncated, page.MissingFrom = false, 0
		if !before.Whole {
			page.Truncated, page.MissingFrom = true, q.After.Seq+1
		}
	}
	if older := before.Messages; len(older) > 0 {
		follow := page.Messages
		if len(follow) > 0 {
			follow[0].Prev = older[len(older)-1].Seq
		}
		page.Messages = older
		if before.More {
			page.More = true
		} else {
			page.Messages = fill(older, follow, q)
			page.More = page.More || len(page.Messages) < len(older)+len(follow)
		}
	}
	switch {
	case !beginning && !page.Truncated:
		page.Base = q.After
	case len(page.Messages) > 0:
		page.Base = wire.Position{Seq: page.Messages[0].Prev}
	default:
		page.Base = page.At
	}
	return page
}

// fill appends messages up to a query's bounds.
func fill(to, from []wire.ReplayMessage, q Query) []wire.ReplayMessage {
	bytes := 0
	for i := range to {
		bytes += len(to[i].Payload)
	}
	for i := range from {
		bytes += len(from[i].Payload)
		if len(to) >= q.Limit || bytes > q.Bytes {
			return to
		}
		to = append(to, from[i])
	}
	return to
}

// reachable returns why the archive can't be changed now, if so.
func (l *archived) reachable(ctx context.Context) error {
	_, err := l.archive.Copied(ctx, l.name)
	return err
}

// ClearTopic implements [Log]. Without the archive nothing is cleared.
func (l *archived) ClearTopic(ctx context.Context, topic string) error {
	if err := l.reachable(ctx); err != nil {
		return err
	}
	marker, err := l.mark(ctx, topic)
	if err != nil {
		return err
	}
	if err := l.awaitCopy(ctx, marker); err != nil {
		return err
	}
	if err := l.archive.Clear(ctx, l.name, topic, marker-1); err != nil {
		return err
	}
	return l.purge(ctx, topic, marker)
}

// awaitCopy waits for the copy to come to a sequence, though not for ever.
func (l *archived) awaitCopy(ctx context.Context, seq int64) error {
	for deadline := time.Now().Add(copyWait); time.Now().Before(deadline); {
		copied, err := l.archive.Copied(ctx, l.name)
		if err != nil {
			return err
		}
		if copied >= seq {
			return nil
		}
		if err := clock.Sleep(ctx, catchUpPause); err != nil {
			return away(err)
		}
	}
	return nil
}

// Clear implements [Log]. Without the archive nothing is cleared. The stream
// says first where it was cleared: reads go by that too.
func (l *archived) Clear(ctx context.Context) error {
	if err := l.reachable(ctx); err != nil {
		return err
	}
	if err := l.stream.Clear(ctx); err != nil {
		return err
	}
	end, err := l.state(ctx)
	if err != nil {
		return err
	}
	return l.archive.Clear(ctx, l.name, "", end.cleared)
}
