package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// stream is the log of a rule in JetStream. What it reads by is an index that
// [feed] keeps; what it answers is proven by the stream itself.
type stream struct {
	name      string
	ns        wire.Namespace
	retention Retention
	kept      int // messages of each topic that the stream holds
	publish   *nats.Conn
	reads     *reader
	now       func() time.Time

	index   *current // replaced when the stream was made anew
	scans   chan struct{}
	batches chan struct{} // bounds open atomic batches
	reading merger
	ends    folded[state]
}

const (
	// indexWait is how long a read waits for the index to have what the stream
	// has; after that it scans.
	indexWait = time.Second
	// readAtOnce bounds how many messages one read asks for at a time.
	readAtOnce = 64
	// readTries bounds how often a read begins again because what it reads is
	// evicted meanwhile.
	readTries = 5
	// openBatches keeps clear of the server's 50 open atomic batches per stream:
	// gateways open some too.
	openBatches = 8
)

func newStream(name string, ns wire.Namespace, r *rules.Replay, publish *nats.Conn, reads *reader, indexBytes int64, now func() time.Time) *stream {
	kept := streams.Kept(r)
	return &stream{
		name: name, ns: ns, kept: kept, publish: publish, reads: reads, now: now,
		retention: Retention{Size: kept - 1, TTL: r.TTL, Dedupe: r.Dedupe},
		index:     newCurrent(func() *index { return newIndex(kept, indexBytes) }),
		scans:     make(chan struct{}, 1),
		batches:   make(chan struct{}, openBatches),
	}
}

// wait returns when nothing is read any more.
func (s *stream) wait() {
	s.reading.work.Wait()
	s.ends.work.Wait()
}

// Since implements [Log].
func (s *stream) Since(ctx context.Context, q Query) (*wire.ReplayPage, error) {
	return s.reading.since(ctx, s, q)
}

// Head implements [Log].
func (s *stream) Head(ctx context.Context, topic string) (head, at wire.Position, err error) {
	f, at, err := s.head(ctx, topic)
	if err != nil || f == nil {
		return wire.Position{}, at, err
	}
	return f.at, at, nil
}

// head returns the newest message of a topic, nil where there is none, and the
// position of who begins now. Only the leader is asked: a follower may lag.
func (s *stream) head(ctx context.Context, topic string) (*found, wire.Position, error) {
	subject, err := s.ns.Topic(topic)
	if err != nil {
		return nil, wire.Position{}, err
	}
	f, err := s.reads.leader(ctx, s.name, 0, subject)
	if err == nil {
		return f, f.at, nil
	}
	if !errors.Is(err, errGone) {
		return nil, wire.Position{}, err
	}
	// The end of the stream first, then again that the topic is empty: so
	// nothing of it is at or before that end.
	end, err := s.ends.get(ctx, s.state)
	if err != nil {
		return nil, wire.Position{}, err
	}
	f, err = s.reads.leader(ctx, s.name, 0, subject)
	switch {
	case err == nil:
		return f, f.at, nil
	case !errors.Is(err, errGone):
		return nil, wire.Position{}, err
	}
	return nil, wire.Position{Seq: end.last.Seq, Ts: -s.now().UnixMilli()}, nil
}

func (s *stream) state(ctx context.Context) (state, error) { return s.reads.state(ctx, s.name) }

// Heads implements [Log]. The index is asked once it has what the stream had at
// the time of the call.
func (s *stream) Heads(ctx context.Context, topics []string) ([]wire.Position, int64, error) {
	end, err := s.ends.get(ctx, s.state)
	if err != nil {
		return nil, 0, err
	}
	x := s.index.get()
	if s.await(ctx, x, end.last.Seq) {
		heads, upTo := x.heads(topics)
		return heads, upTo, nil
	}
	heads := make([]wire.Position, len(topics))
	for i, topic := range topics {
		if heads[i], _, err = s.Head(ctx, topic); err != nil {
			return nil, 0, err
		}
	}
	return heads, end.last.Seq, nil
}

// await reports whether the index has come to seq, in time.
func (s *stream) await(ctx context.Context, x *index, seq int64) bool {
	reached := x.await(seq)
	select {
	case <-reached:
		return true
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, indexWait)
	defer cancel()
	select {
	case <-reached:
		return true
	case <-ctx.Done():
		x.giveUp(reached)
		return false
	}
}

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
	}
	return e, nil
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

// Append implements [Log].
func (s *stream) Append(ctx context.Context, e Entry) (wire.ReplayStored, error) {
	msg, err := s.entry(e)
	if err != nil {
		return wire.ReplayStored{}, wire.AsError(err).With("outcome", "none")
	}
	return s.store(ctx, msg, e.ID != "")
}

func (s *stream) entry(e Entry) (*nats.Msg, error) {
	subject, err := s.ns.Topic(e.Topic)
	if err != nil {
		return nil, err
	}
	msg := &nats.Msg{Subject: subject, Header: nats.Header{}, Data: e.Payload}
	for _, h := range [...]struct{ name, value string }{
		{wire.HeaderEvent, e.Event}, {wire.HeaderUser, e.User}, {wire.HeaderExclude, e.Exclude}, {wire.HeaderMsgID, e.ID},
	} {
		if h.value == "" {
			continue
		}
		if err := wire.SetHeader(msg.Header, h.name, h.value); err != nil {
			return nil, err
		}
	}
	return msg, nil
}

// ackTry bounds one try of a publish. While a stream has no leader nobody
// answers.
const ackTry = time.Second

// store publishes until the stream has the message, or ctx ends. Only what
// can't be stored twice is sent again after silence.
func (s *stream) store(ctx context.Context, msg *nats.Msg, keyed bool) (wire.ReplayStored, error) {
	sent := false // a try may have been stored
	for {
		try, cancel := ctx, context.CancelFunc(func() {})
		if keyed {
			try, cancel = context.WithTimeout(ctx, ackTry)
		}
		reply, err := s.publish.RequestMsgWithContext(try, msg)
		cancel()
		retry := false
		var ack streams.Ack
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			err, retry = wire.Errorf(wire.Unavailable, "no stream takes the topic").With("outcome", "none"), true
		case err != nil && keyed && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			sent = true
			continue
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			return wire.ReplayStored{}, wire.Errorf(wire.DeadlineExceeded, "JetStream did not acknowledge in time").With("outcome", "unknown")
		case err != nil:
			if e := wire.AsError(away(err)); e.Code != wire.Internal {
				return wire.ReplayStored{}, e.With("outcome", "unknown")
			}
			return wire.ReplayStored{}, wire.AsError(err).With("outcome", "unknown")
		default:
			ack, retry, err = streams.ParseAck(reply)
		}
		if err == nil {
			return wire.ReplayStored{Seq: ack.Seq, Duplicate: ack.Duplicate}, nil
		}
		if !retry {
			return wire.ReplayStored{}, err
		}
		if pause(ctx, retryPause) != nil {
			if sent {
				return wire.ReplayStored{}, wire.AsError(err).With("outcome", "unknown")
			}
			return wire.ReplayStored{}, err
		}
	}
}

const retryPause = 50 * time.Millisecond

// pause waits, or returns why not.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// AppendAll implements [Log].
func (s *stream) AppendAll(ctx context.Context, entries []Entry) ([]wire.ReplayStored, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	select {
	case s.batches <- struct{}{}:
		defer func() { <-s.batches }()
	case <-ctx.Done():
		return nil, wire.Errorf(wire.DeadlineExceeded, "too many atomic batches at once").With("outcome", "none")
	}
	for {
		msgs := make([]*nats.Msg, len(entries))
		for i, e := range entries {
			var err error
			if msgs[i], err = s.entry(e); err != nil {
				return nil, err
			}
		}
		streams.Batch(nuid.Next(), msgs)
		last := len(msgs) - 1
		for _, msg := range msgs[:last] {
			if err := s.publish.PublishMsg(msg); err != nil {
				return nil, wire.AsError(away(err)).With("outcome", "none")
			}
		}
		reply, err := s.publish.RequestMsgWithContext(ctx, msgs[last])
		var ack streams.Ack
		retry := false
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return nil, wire.Errorf(wire.Unavailable, "no stream takes the topics").With("outcome", "none")
		case err != nil:
			return nil, wire.Errorf(wire.DeadlineExceeded, "JetStream did not acknowledge in time").With("outcome", "unknown")
		default:
			ack, retry, err = streams.ParseAck(reply)
		}
		if err == nil {
			out := make([]wire.ReplayStored, len(entries))
			for i := range out {
				out[i].Seq = ack.Seq - int64(last-i)
			}
			return out, nil
		}
		if !retry || pause(ctx, retryPause) != nil {
			return nil, err
		}
	}
}

// ClearTopic implements [Log]. A marker comes first and everything before it
// goes: it keeps the chain, it proves what was cleared, and it tells gateways.
func (s *stream) ClearTopic(ctx context.Context, topic string) error {
	subject, err := s.ns.Topic(topic)
	if err != nil {
		return err
	}
	id := nuid.Next()
	marker := &nats.Msg{Subject: subject, Header: nats.Header{
		wire.HeaderEvent: {"cleared"}, wire.HeaderClear: {"1"}, wire.HeaderMsgID: {"clear:" + id},
	}}
	at, err := s.store(ctx, marker, true)
	if err != nil {
		return err
	}
	if err := s.reads.purge(ctx, s.name, subject, at.Seq); err != nil {
		return fmt.Errorf("clear %s: %w", topic, err)
	}
	return nil
}

// Clear implements [Log].
func (s *stream) Clear(ctx context.Context) error { return s.reads.clear(ctx, s.name) }

// Topics implements [Log].
func (s *stream) Topics(ctx context.Context, match, cursor string, limit int) ([]wire.ReplaySummary, error) {
	end, err := s.ends.get(ctx, s.state)
	if err != nil {
		return nil, err
	}
	x := s.index.get()
	x.raise(end.first.Seq)
	if !s.await(ctx, x, end.last.Seq) {
		return nil, wire.Errorf(wire.Unavailable, "the index of the stream is being built")
	}
	return x.list(match, cursor, limit), nil
}

// current is the index that counts.
type current struct {
	mu    sync.Mutex
	x     *index
	make  func() *index
	stale chan struct{} // closed when a new one has to be fed
}

func newCurrent(make_ func() *index) *current {
	return &current{x: make_(), make: make_, stale: make(chan struct{})}
}

func (c *current) get() *index {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.x
}

// renew replaces old by an empty index, once.
func (c *current) renew(old *index) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.x != old {
		return
	}
	c.x = c.make()
	close(c.stale)
	c.stale = make(chan struct{})
}

// watch returns the index and what is closed when another takes its place.
func (c *current) watch() (*index, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.x, c.stale
}
