package replay

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// snapshot is what one read of a topic works on; several queries share it.
type snapshot struct {
	s       *stream
	x       *index
	topic   string
	subject string
	head    *found
	at      wire.Position
	known   known
	scanned bool // known comes from the stream itself, with every message
	memo    map[int64]*found
	end     *state // where it was needed
}

// errAgain says that something was evicted between knowing and reading it.
var errAgain = errors.New("evicted meanwhile")

// sinceAll answers queries for one topic from one look at it.
func (s *stream) sinceAll(ctx context.Context, topic string, queries []Query) ([]*wire.ReplayPage, error) {
	memo := map[int64]*found{}
	var err error
	for try := range readTries {
		var pages []*wire.ReplayPage
		var snap *snapshot
		// A purge is not announced: an index that is wrong twice is left aside.
		if snap, err = s.look(ctx, topic, memo, try >= 2); err != nil {
			return nil, err
		}
		for _, q := range queries {
			var page *wire.ReplayPage
			if page, err = snap.since(ctx, q); err != nil {
				break
			}
			pages = append(pages, page)
		}
		if err == nil {
			return pages, nil
		}
		if !errors.Is(err, errAgain) {
			return nil, err
		}
	}
	return nil, wire.Errorf(wire.Unavailable, "the topic loses messages faster than they can be read")
}

func (s *stream) look(ctx context.Context, topic string, memo map[int64]*found, scan bool) (*snapshot, error) {
	subject, err := s.ns.Topic(topic)
	if err != nil {
		return nil, err
	}
	snap := &snapshot{s: s, x: s.index.get(), topic: topic, subject: subject, memo: memo}
	if snap.head, snap.at, err = s.head(ctx, topic); err != nil || snap.head == nil {
		return snap, err
	}
	memo[snap.head.at.Seq] = snap.head
	if scan {
		return snap, snap.scan(ctx)
	}
	indexed, err := snap.indexed(ctx)
	if err != nil || indexed {
		return snap, err
	}
	return snap, snap.scan(ctx)
}

// indexed takes what the index knows of the topic, and reports whether that is
// what the stream has.
func (n *snapshot) indexed(ctx context.Context) (bool, error) {
	if !n.s.await(ctx, n.x, n.head.at.Seq) {
		return false, nil
	}
	n.known = n.x.topic(n.topic)
	seqs := n.known.seqs
	switch last := n.known.head; {
	case len(seqs) == 0 || last.Seq < n.head.at.Seq:
		return false, nil // purged behind our back, or another log
	case last == n.head.at:
		return true, nil
	case last.Seq > n.head.at.Seq:
		// Published meanwhile; or the index is of a log that was longer.
		f, err := n.anchor(ctx, last.Seq)
		if err != nil {
			return false, err
		}
		if f.subject == n.subject && f.at == last {
			n.memo[last.Seq], n.head, n.at = f, f, f.at
			return true, nil
		}
	}
	n.s.index.renew(n.x)
	return false, nil
}

// scan reads the whole topic from the stream: slow, and while it lasts nobody
// can publish into the stream; one at a time.
func (n *snapshot) scan(ctx context.Context) error {
	select {
	case n.s.scans <- struct{}{}:
		defer func() { <-n.s.scans }()
	case <-ctx.Done():
		return away(ctx.Err())
	}
	all, err := n.s.reads.scan(ctx, n.s.name, n.subject, n.s.kept+1)
	if err != nil {
		return err
	}
	n.known, n.scanned = known{}, true
	for _, f := range all {
		n.known.seqs = append(n.known.seqs, f.at.Seq)
		n.memo[f.at.Seq] = f
		n.known.head = f.at
		if streams.Marker(f.header) {
			n.known.marker = f.at.Seq
		}
	}
	return nil
}

// since answers one query.
func (n *snapshot) since(ctx context.Context, q Query) (*wire.ReplayPage, error) {
	if n.known.cut && !n.scanned && (q.Last > 0 || q.After.Seq < n.known.seqs[0]) {
		if err := n.scan(ctx); err != nil {
			return nil, err
		}
	}
	page, whole, err := n.page(ctx, q, false)
	if err != nil || whole {
		return page, err
	}
	page, _, err = n.page(ctx, q, true) // another log: all it has is new
	return page, err
}

// retained returns what a topic retains by size, and behind its newest marker.
func (n *snapshot) retained() []int64 {
	seqs := n.known.seqs
	if n.known.marker > 0 {
		i, found := slices.BinarySearch(seqs, n.known.marker)
		if found {
			i++
		}
		seqs = seqs[i:]
	}
	return seqs[max(0, len(seqs)-n.s.retention.Size):]
}

// page reads a page. whole is false where the messages at or before the
// position turn out to be of another log, which makes them new: then
// fromStart asks for all.
func (n *snapshot) page(ctx context.Context, q Query, fromStart bool) (_ *wire.ReplayPage, whole bool, err error) {
	now, r := n.s.now(), n.s.retention
	after := q.After.Seq
	if fromStart || q.Last > 0 {
		after = 0
	}
	live := n.retained()
	window := live[behind(live, after):]
	var dead int64 // everything up to it has expired
	if r.TTL > 0 {
		dead = n.x.expiredBefore(now.UnixMilli() - r.TTL.Milliseconds())
		window = window[behind(window, dead):]
	}
	if q.Last > 0 {
		window = window[max(0, len(window)-q.Last):]
	}
	page := &wire.ReplayPage{At: n.at}
	if n.head != nil {
		page.Head = n.head.at
	}
	if page.Messages, page.More, err = n.read(ctx, window, q, now); err != nil {
		return nil, false, err
	}
	if q.Last == 0 {
		e, err := n.evidence(ctx, q.After, dead)
		if err != nil {
			return nil, false, err
		}
		sure := proven(q.After, e, r, now)
		if !sure && !fromStart && len(live) > 0 && live[0] <= q.After.Seq {
			return nil, false, nil
		}
		page.Truncated = truncated(q.After, e, r, now)
	}
	switch {
	case page.Truncated:
		page.MissingFrom = q.After.Seq + 1
		page.Base = n.before(page)
	case q.Last > 0, q.After.Seq == 0 && q.After.Ts == 0:
		page.Base = n.before(page)
	default:
		page.Base = q.After
	}
	return page, true, nil
}

// before returns what stands before a page's first message.
func (n *snapshot) before(page *wire.ReplayPage) wire.Position {
	if len(page.Messages) == 0 {
		return n.at
	}
	return wire.Position{Seq: page.Messages[0].Prev}
}

// behind returns the index of the first sequence after seq.
func behind(seqs []int64, seq int64) int {
	i, found := slices.BinarySearch(seqs, seq)
	if found {
		i++
	}
	return i
}

// read reads the messages of a window that have not expired, up to the query's
// bounds.
func (n *snapshot) read(ctx context.Context, window []int64, q Query, now time.Time) (out []wire.ReplayMessage, more bool, err error) {
	bytes := 0
	for len(window) > 0 {
		if len(out) >= q.Limit || bytes >= q.Bytes {
			return out, true, nil
		}
		chunk := window[:min(len(window), readAtOnce, q.Limit-len(out))]
		if err := n.fetch(ctx, chunk); err != nil {
			return nil, false, err
		}
		for _, seq := range chunk {
			f := n.memo[seq]
			if n.s.retention.expired(f.at.Ts, now) {
				window = window[1:]
				continue
			}
			if len(out) > 0 && bytes+len(f.data) > q.Bytes {
				return out, true, nil
			}
			out = append(out, n.message(f))
			bytes += len(f.data)
			window = window[1:]
		}
	}
	return out, false, nil
}

func (n *snapshot) message(f *found) wire.ReplayMessage {
	meta := wire.ParseMeta(f.header)
	m := wire.ReplayMessage{Position: f.at, Event: meta.Event, Payload: f.data, User: meta.User, Exclude: meta.Exclude}
	if i := behind(n.known.seqs, f.at.Seq-1); i > 0 {
		m.Prev = n.known.seqs[i-1]
	}
	return m
}

// fetch brings messages into the memo. One that is not there any more makes
// the read begin again, after the leader has said so: a follower may lag.
func (n *snapshot) fetch(ctx context.Context, seqs []int64) error {
	var missing []int64
	for _, seq := range seqs {
		if n.memo[seq] == nil {
			missing = append(missing, seq)
		}
	}
	all, err := n.s.reads.bySeq(ctx, n.s.name, missing)
	if err != nil {
		return err
	}
	for i, f := range all {
		if f.gone {
			if f, err = n.s.reads.leader(ctx, n.s.name, missing[i], ""); errors.Is(err, errGone) {
				n.x.evicted(n.topic, missing[i])
				return errAgain
			} else if err != nil {
				return err
			}
		}
		if f.subject != n.subject {
			n.s.index.renew(n.x) // the stream is another one than was indexed
			return errAgain
		}
		n.memo[missing[i]] = f
	}
	return nil
}

// evidence gathers what proves a position, after all messages were read: what
// is still there now was there all the while.
func (n *snapshot) evidence(ctx context.Context, p wire.Position, dead int64) (evidence, error) {
	e := evidence{kept: len(n.known.seqs), marker: n.known.marker}
	if e.beginning(p) {
		return e, nil
	}
	if n.head != nil {
		e.head = n.head.at
	}
	if len(n.known.seqs) > 0 {
		e.first.Seq = n.known.seqs[0]
		if i := behind(n.known.seqs, p.Seq); i < len(n.known.seqs) {
			next := n.known.seqs[i]
			if e.next = (wire.Position{Seq: next, Ts: 1}); next > dead {
				if err := n.fetch(ctx, []int64{next}); err != nil {
					return e, err
				}
				e.next = n.memo[next].at
			}
		}
	}
	switch {
	case p.Ts > 0:
		f, err := n.anchor(ctx, p.Seq)
		if err != nil {
			return e, err
		}
		e.at, e.atTopic = f.at, f.subject == n.subject
	case p.Ts == 0 && e.kept > 0 && p.Seq >= e.first.Seq:
		f, err := n.anchor(ctx, e.first.Seq)
		if err != nil {
			return e, err
		}
		if f.gone {
			n.x.evicted(n.topic, e.first.Seq)
			return e, errAgain
		}
	case p.Ts < 0 || e.kept == 0:
		if n.end == nil {
			end, err := n.s.ends.get(ctx, n.s.state)
			if err != nil {
				return e, err
			}
			n.end = &end
		}
		e.streamFirst, e.streamLast = n.end.first, n.end.last.Seq
		e.marker = max(e.marker, n.end.cleared)
		e.grownAt, e.grownFrom = n.end.grownAt, n.end.grownFrom
		if p.Ts < 0 {
			e.lost, e.seen = n.witness(ctx, p)
		}
	}
	return e, nil
}

// witness asks the index what has become of a topic behind a position that was
// taken when it was empty.
func (n *snapshot) witness(ctx context.Context, p wire.Position) (lost, none bool) {
	if n.head != nil {
		lost, none = n.x.witness(n.topic, p.Seq, 0, n.head.at.Seq)
		return lost, none && !n.scanned
	}
	// The topic was empty when the log ended at n.at.
	n.s.await(ctx, n.x, n.at.Seq)
	return n.x.witness(n.topic, p.Seq, n.at.Seq, n.at.Seq)
}

// anchor reads a message for being there now; nothing remembered counts.
func (n *snapshot) anchor(ctx context.Context, seq int64) (*found, error) {
	all, err := n.s.reads.bySeq(ctx, n.s.name, []int64{seq})
	if err != nil {
		return nil, err
	}
	if !all[0].gone {
		return all[0], nil
	}
	f, err := n.s.reads.leader(ctx, n.s.name, seq, "")
	if errors.Is(err, errGone) {
		return all[0], nil
	}
	return f, err
}
