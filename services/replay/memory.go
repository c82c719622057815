package replay

import (
	"bytes"
	"cmp"
	"container/list"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Memory is a [Log] in the memory of one process, with what a JetStream stream
// does: one sequence for all topics, a topic's oldest messages evicted first.
// It ends with its process, and is as large as what it retains.
type Memory struct {
	retention Retention
	now       func() time.Time

	mu      sync.Mutex
	last    int64      // sequence of the newest that was ever stored
	clock   int64      // the present in ms since 1970; never goes back
	cleared int64      // last when all topics were cleared; 0: never
	bytes   int64      // of all records
	evicted int64      // the newest that went for the log's bytes; 0: none
	all     *list.List // of *record, by sequence
	topics  map[string][]*record
	ids     map[string]identified
	recent  []identified // ids in the order of storing; older ones are forgotten
}

// record is what is stored: a message, or the marker of a clear.
type record struct {
	wire.Position
	Entry
	marker  bool
	element *list.Element
}

type identified struct {
	id string
	at wire.Position
}

// size is what a record counts for the log's bytes.
func (r *record) size() int64 {
	return int64(len(r.Topic) + len(r.Event) + len(r.Payload) + len(r.User) + len(r.Exclude))
}

var _ Log = (*Memory)(nil)

// NewMemory returns an empty log. Messages are stored and expire by now; where
// it goes back, time stands still.
func NewMemory(r Retention, now func() time.Time) *Memory {
	return &Memory{
		retention: r, now: now,
		all: list.New(), topics: map[string][]*record{}, ids: map[string]identified{},
	}
}

// enter checks what every call begins with, takes the lock and brings the log
// to the present.
func (m *Memory) enter(ctx context.Context, topics ...string) (now time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, away(err)
	}
	for _, topic := range topics {
		if err := wire.CheckTopic(topic); err != nil {
			return time.Time{}, err
		}
	}
	m.mu.Lock()
	now = m.now()
	if now.UnixMilli() < m.clock {
		now = time.UnixMilli(m.clock)
	}
	m.clock = now.UnixMilli()
	for e := m.all.Front(); e != nil; e = m.all.Front() {
		oldest := e.Value.(*record)
		if !m.retention.forgotten(now.Sub(time.UnixMilli(oldest.Ts))) {
			break
		}
		m.evict(oldest.Topic, 1)
	}
	for len(m.recent) > 0 && now.UnixMilli()-m.recent[0].at.Ts >= m.retention.Dedupe.Milliseconds() {
		delete(m.ids, m.recent[0].id)
		m.recent = m.recent[1:]
	}
	return now, nil
}

// evict removes the n oldest records of a topic.
func (m *Memory) evict(topic string, n int) {
	records := m.topics[topic]
	for _, gone := range records[:n] {
		m.all.Remove(gone.element)
		m.bytes -= gone.size()
	}
	clear(records[:n])
	if m.topics[topic] = records[n:]; n == len(records) {
		delete(m.topics, topic)
	}
}

// Since implements [Log].
func (m *Memory) Since(ctx context.Context, q Query) (*wire.ReplayPage, error) {
	now, err := m.enter(ctx, q.Topic)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	e := m.evidence(q.Topic, q.After)
	page := &wire.ReplayPage{Head: e.head, At: m.at(q.Topic)}
	records := m.topics[q.Topic]
	from := m.retained(q.Topic, now)
	switch {
	case q.Last > 0:
		from = max(from, len(records)-q.Last)
	case proven(q.After, e, m.retention, now):
		from = max(from, after(records, q.After.Seq))
	}
	page.Messages, page.More = pageOf(records, from, q)
	page.Truncated = q.Last == 0 && truncated(q.After, e, m.retention, now)
	if page.Truncated {
		page.MissingFrom = q.After.Seq + 1
	}
	switch {
	case !page.Truncated && q.Last == 0 && q.After != wire.Position{}:
		page.Base = q.After
	case len(page.Messages) > 0:
		page.Base = wire.Position{Seq: page.Messages[0].Prev}
	default:
		page.Base = page.At
	}
	return page, nil
}

// pageOf returns the messages of records from an index on, as far as a query's
// bounds allow.
func pageOf(records []*record, from int, q Query) (messages []wire.ReplayMessage, more bool) {
	size := 0
	for i := from; i < len(records); i++ {
		r := records[i]
		size += len(r.Payload)
		if len(messages) >= q.Limit || len(messages) > 0 && size > q.Bytes {
			return messages, true
		}
		message := wire.ReplayMessage{
			Position: r.Position, Event: r.Event, Payload: bytes.Clone(r.Payload), User: r.User, Exclude: r.Exclude,
		}
		if i > 0 {
			message.Prev = records[i-1].Seq
		}
		messages = append(messages, message)
	}
	return messages, false
}

// evidence gathers what proves a position of a topic.
func (m *Memory) evidence(topic string, p wire.Position) evidence {
	// A clear of everything leaves no marker on the topics; but it is one for
	// whoever was there before the newest message that it removed.
	e := evidence{marker: m.cleared, streamFirst: wire.Position{Seq: m.last + 1}, streamLast: m.last, seen: m.evicted <= p.Seq}
	if oldest := m.all.Front(); oldest != nil {
		e.streamFirst = oldest.Value.(*record).Position
	}
	records := m.topics[topic]
	if e.kept = len(records); e.kept == 0 {
		return e
	}
	e.first, e.head = records[0].Position, records[e.kept-1].Position
	for _, r := range records {
		if r.marker {
			e.marker = max(e.marker, r.Seq)
		}
	}
	i := after(records, p.Seq)
	if i < e.kept {
		e.next = records[i].Position
	}
	if i > 0 && records[i-1].Seq == p.Seq {
		e.at, e.atTopic = records[i-1].Position, true
	}
	return e
}

// after returns the index of the first record after seq.
func after(records []*record, seq int64) int {
	i, found := slices.BinarySearchFunc(records, seq, func(r *record, seq int64) int { return cmp.Compare(r.Seq, seq) })
	if found {
		i++
	}
	return i
}

// retained returns the index of the oldest message that a topic retains: what
// comes before it is evidence.
func (m *Memory) retained(topic string, now time.Time) int {
	records := m.topics[topic]
	from := max(0, len(records)-m.retention.Size)
	for i := from; i < len(records); i++ {
		if records[i].marker || m.retention.expired(records[i].Ts, now) {
			from = i + 1
		}
	}
	return from
}

// Head implements [Log].
func (m *Memory) Head(ctx context.Context, topic string) (head, at wire.Position, err error) {
	if _, err := m.enter(ctx, topic); err != nil {
		return wire.Position{}, wire.Position{}, err
	}
	defer m.mu.Unlock()
	return m.head(topic), m.at(topic), nil
}

func (m *Memory) head(topic string) wire.Position {
	if records := m.topics[topic]; len(records) > 0 {
		return records[len(records)-1].Position
	}
	return wire.Position{}
}

// at returns the position of who begins to listen now.
func (m *Memory) at(topic string) wire.Position {
	if head := m.head(topic); head != (wire.Position{}) {
		return head
	}
	return wire.Position{Seq: m.last, Ts: -m.clock}
}

// Heads implements [Log].
func (m *Memory) Heads(ctx context.Context, topics []string) (heads []wire.Position, upTo int64, err error) {
	if _, err := m.enter(ctx, topics...); err != nil {
		return nil, 0, err
	}
	defer m.mu.Unlock()
	heads = make([]wire.Position, len(topics))
	for i, topic := range topics {
		heads[i] = m.head(topic)
	}
	return heads, m.last, nil
}

// Append implements [Log].
func (m *Memory) Append(ctx context.Context, e Entry) (wire.ReplayStored, error) {
	if _, err := m.enter(ctx, e.Topic); err != nil {
		return wire.ReplayStored{}, wire.AsError(err).With("outcome", "none")
	}
	defer m.mu.Unlock()
	if first, ok := m.ids[e.ID]; ok {
		return wire.ReplayStored{Seq: first.at.Seq, Duplicate: true}, nil
	}
	return wire.ReplayStored{Seq: m.store(e, false)}, nil
}

// AppendAll implements [Log]. An ID that was stored before, or is there twice,
// is an ALREADY_EXISTS: nothing is stored.
func (m *Memory) AppendAll(ctx context.Context, entries []Entry) ([]wire.ReplayStored, error) {
	topics := make([]string, len(entries))
	for i, e := range entries {
		topics[i] = e.Topic
	}
	if _, err := m.enter(ctx, topics...); err != nil {
		return nil, wire.AsError(err).With("outcome", "none")
	}
	defer m.mu.Unlock()
	ids := map[string]bool{}
	for _, e := range entries {
		if _, before := m.ids[e.ID]; before || ids[e.ID] {
			return nil, wire.Errorf(wire.AlreadyExists, "a message of the batch was stored before under its key").With("outcome", "none")
		}
		if e.ID != "" {
			ids[e.ID] = true
		}
	}
	out := make([]wire.ReplayStored, len(entries))
	for i, e := range entries {
		out[i].Seq = m.store(e, false)
	}
	return out, nil
}

// store puts an entry behind all others and evicts what its topic has too many.
func (m *Memory) store(e Entry, marker bool) int64 {
	m.last++
	e.Payload, e.Event = bytes.Clone(e.Payload), cmp.Or(e.Event, wire.DefaultEvent)
	r := &record{Position: wire.Position{Seq: m.last, Ts: m.clock}, Entry: e, marker: marker}
	r.element = m.all.PushBack(r)
	m.topics[e.Topic] = append(m.topics[e.Topic], r)
	m.bytes += r.size()
	if more := len(m.topics[e.Topic]) - m.retention.Size - 1; more > 0 {
		m.evict(e.Topic, more)
	}
	for m.retention.Bytes > 0 && m.bytes > m.retention.Bytes && m.all.Len() > 0 {
		oldest := m.all.Front().Value.(*record)
		m.evict(oldest.Topic, 1)
		m.evicted = oldest.Seq
	}
	if e.ID != "" && m.retention.Dedupe > 0 {
		id := identified{e.ID, r.Position}
		m.ids[e.ID] = id
		m.recent = append(m.recent, id)
	}
	return r.Seq
}

// ClearTopic implements [Log]. A marker takes the place of the messages.
func (m *Memory) ClearTopic(ctx context.Context, topic string) error {
	if _, err := m.enter(ctx, topic); err != nil {
		return err
	}
	defer m.mu.Unlock()
	m.store(Entry{Topic: topic}, true)
	m.evict(topic, max(0, len(m.topics[topic])-1))
	return nil
}

// Clear implements [Log].
func (m *Memory) Clear(ctx context.Context) error {
	if _, err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	m.all.Init()
	m.bytes = 0
	clear(m.topics)
	m.cleared = m.last
	return nil
}

// Topics implements [Log]; expired messages are not counted.
func (m *Memory) Topics(ctx context.Context, match, cursor string, limit int) ([]wire.ReplaySummary, error) {
	now, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	var out []wire.ReplaySummary
	for topic, records := range m.topics {
		count := len(records) - m.retained(topic, now)
		if count > 0 && topic > cursor && (match == "" || wire.MatchPattern(match, topic)) {
			out = append(out, wire.ReplaySummary{Topic: topic, Count: count, Seq: m.head(topic).Seq})
		}
	}
	slices.SortFunc(out, func(a, b wire.ReplaySummary) int { return cmp.Compare(a.Topic, b.Topic) })
	return out[:min(len(out), limit)], nil
}
