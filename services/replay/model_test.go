package replay

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// rounds of rapid's checks, 100 histories each.
const rounds = 250

// TestMemoryKeepsItsPromises plays random histories against a model that
// remembers every message that was ever published.
func TestMemoryKeepsItsPromises(t *testing.T) {
	for range rounds {
		rapid.Check(t, func(t *rapid.T) {
			if err := play(t, func(m *Memory) Log { return m }); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestModelNoticesBrokenLogs shows that the model is no mirror: what would hide
// a loss, or cry wolf, is found.
func TestModelNoticesBrokenLogs(t *testing.T) {
	for name, broken := range map[string]func(m *Memory) Log{
		"evidence is not kept":                  func(m *Memory) Log { return noEvidence{m} },
		"the time of a position is ignored":     func(m *Memory) Log { return noAnchor{m} },
		"a clear of everything leaves no trace": func(m *Memory) Log { return tracelessClear{m} },
		"a clear of a topic leaves no trace":    func(m *Memory) Log { return tracelessClearTopic{m} },
		"expired messages are returned":         func(m *Memory) Log { return neverExpiring{m} },
		"a duplicate is stored again":           func(m *Memory) Log { return noDedupe{m} },
		"Since leaves out the newest message":   func(m *Memory) Log { return lagging{m} },
		"nothing is ever truncated":             func(m *Memory) Log { return neverTruncated{m} },
		"the bound in bytes leaves no trace":    func(m *Memory) Log { return traceless{m} },
		"the bound in bytes takes more":         func(m *Memory) Log { return greedy{m} },
	} {
		t.Run(name, func(t *testing.T) {
			histories := rapid.Custom(func(t *rapid.T) error { return play(t, broken) })
			const most = 5000
			for seed := range most {
				if err := histories.Example(seed); err != nil {
					t.Logf("history %d: %v", seed, err)
					return
				}
			}
			t.Errorf("not noticed in %d histories", most)
		})
	}
}

// model is what a log has to know, by never forgetting anything.
type model struct {
	ctx       context.Context
	retention Retention
	breaks    func(*Memory) Log
	now       time.Time

	memory *Memory
	log    Log // memory, or what makes it a broken one

	published []published
	last      int64 // sequence of the newest thing that was stored
	ids       map[string]published
	handed    []handed
}

// published is a message of the present log.
type published struct {
	topic, payload string
	at             wire.Position
	cleared        bool
}

// handed is a position that the log has given out.
type handed struct {
	topic   string
	at      wire.Position
	cleared bool // what followed it was removed
	wiped   bool // it is of a log before the present one
}

var modelTopics = []string{"t.a", "t.b", "t.c"}

// play plays one history and returns what the log did wrong.
func play(t *rapid.T, breaks func(*Memory) Log) error {
	m := &model{
		ctx: context.Background(), breaks: breaks,
		now: time.UnixMilli(1e12).Add(rapid.SampledFrom([]time.Duration{0, 500 * time.Microsecond}).Draw(t, "fraction")),
		retention: Retention{
			Size:   rapid.IntRange(1, 4).Draw(t, "size"),
			TTL:    rapid.SampledFrom([]time.Duration{0, time.Minute, time.Minute}).Draw(t, "ttl"),
			Dedupe: 10 * time.Second,
			Bytes:  rapid.SampledFrom([]int64{0, 0, 80}).Draw(t, "bytes"), // about seven messages
		},
	}
	m.begin()
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		topic := rapid.SampledFrom(modelTopics).Draw(t, "topic")
		var err error
		switch op := rapid.IntRange(0, 19).Draw(t, "op"); op {
		case 0, 1, 2, 3, 4, 5, 6:
			id := ""
			if op == 6 {
				id = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "id")
			}
			err = m.publish(topic, id)
		case 7:
			err = m.publishAll(topic, rapid.SampledFrom(modelTopics).Draw(t, "other"))
		case 8, 9, 10:
			m.advance(t)
		case 11:
			err = m.clearTopic(topic)
		case 12:
			if rapid.IntRange(0, 1).Draw(t, "all") == 0 {
				err = m.clear()
			} else if rapid.IntRange(0, 2).Draw(t, "wipe") == 0 {
				m.wipe()
			}
		case 13:
			m.purge()
		case 14, 15, 16:
			err = m.listen(topic)
		default:
			err = m.read(t)
		}
		if err != nil {
			return err
		}
	}
	// Whatever was handed out is still right in the end.
	for _, h := range m.handed {
		for _, p := range []wire.Position{h.at, {Seq: h.at.Seq}} {
			if err := m.check(h, p, 100); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin opens an empty log.
func (m *model) begin() {
	m.memory = NewMemory(m.retention, func() time.Time { return m.now })
	m.log = m.breaks(m.memory)
	m.published, m.last, m.ids = nil, 0, map[string]published{}
}

// wipe begins a new log. It is never in the millisecond of the one before.
func (m *model) wipe() {
	m.now = m.now.Add(time.Millisecond)
	m.begin()
	for i := range m.handed {
		m.handed[i].wiped = true
	}
}

func (m *model) publish(topic, id string) error {
	payload := fmt.Sprint(len(m.published))
	stored, err := m.log.Append(m.ctx, Entry{Topic: topic, Payload: []byte(payload), ID: id})
	if err != nil {
		return err
	}
	if first, ok := m.ids[id]; ok && m.now.UnixMilli()-first.at.Ts < m.retention.Dedupe.Milliseconds() {
		if want := (wire.ReplayStored{Seq: first.at.Seq, Duplicate: true}); stored != want {
			return fmt.Errorf("stored again %+v, want %+v", stored, want)
		}
		return nil
	}
	return m.stored(topic, payload, id, stored)
}

func (m *model) stored(topic, payload, id string, stored wire.ReplayStored) error {
	if stored.Duplicate || stored.Seq <= m.last {
		return fmt.Errorf("stored %+v behind %d", stored, m.last)
	}
	m.last = stored.Seq
	p := published{topic: topic, payload: payload, at: wire.Position{Seq: stored.Seq, Ts: m.now.UnixMilli()}}
	if m.published = append(m.published, p); id != "" {
		m.ids[id] = p
	}
	return nil
}

func (m *model) publishAll(topics ...string) error {
	var entries []Entry
	for i, topic := range topics {
		entries = append(entries, Entry{Topic: topic, Payload: fmt.Append(nil, len(m.published)+i)})
	}
	stored, err := m.log.AppendAll(m.ctx, entries)
	if err != nil {
		return err
	}
	for i, e := range entries {
		if err := m.stored(e.Topic, string(e.Payload), "", stored[i]); err != nil {
			return err
		}
	}
	return nil
}

// advance lets time pass, often to the moment at which something changes.
func (m *model) advance(t *rapid.T) {
	steps := []time.Duration{0, time.Millisecond, time.Second, 10 * time.Second, time.Minute, memory}
	step := rapid.SampledFrom(steps).Draw(t, "advance")
	if len(m.published) > 0 && rapid.Bool().Draw(t, "to an edge") {
		p := m.published[rapid.IntRange(0, len(m.published)-1).Draw(t, "of message")]
		edge := rapid.SampledFrom([]time.Duration{m.retention.TTL, m.retention.TTL + memory}).Draw(t, "edge")
		edge += time.Duration(rapid.IntRange(-1, 1).Draw(t, "off by")) * time.Millisecond
		step = time.UnixMilli(p.at.Ts).Add(edge).Sub(m.now.Truncate(time.Millisecond))
	}
	m.now = m.now.Add(max(0, step))
}

func (m *model) clearTopic(topic string) error {
	if err := m.log.ClearTopic(m.ctx, topic); err != nil {
		return err
	}
	m.remove(func(name string) bool { return name == topic })
	for i := range m.handed {
		if h := &m.handed[i]; h.topic == topic {
			h.cleared = true
		}
	}
	_, err := m.head(topic) // the marker has taken a sequence
	return err
}

// clear removes everything. The position of an empty topic at the very end of
// the log has nothing behind it that could be removed.
func (m *model) clear() error {
	if err := m.log.Clear(m.ctx); err != nil {
		return err
	}
	m.remove(func(string) bool { return true })
	for i := range m.handed {
		if h := &m.handed[i]; !h.at.Empty() || h.at.Seq < m.last {
			h.cleared = true
		}
	}
	return nil
}

func (m *model) remove(which func(topic string) bool) {
	for i := range m.published {
		if p := &m.published[i]; which(p.topic) {
			p.cleared = true
		}
	}
}

// purge does what the janitor of a stream does: of what has expired only the
// newest of each topic stays.
func (m *model) purge() {
	for _, topic := range modelTopics {
		dead := 0
		for _, r := range m.memory.topics[topic] {
			if m.retention.expired(r.Ts, m.now) {
				dead++
			}
		}
		if dead > 1 {
			m.memory.evict(topic, dead-1)
		}
	}
}

// listen takes the position of who begins to listen to a topic.
func (m *model) listen(topic string) error {
	at, err := m.head(topic)
	m.hand(topic, at)
	return err
}

func (m *model) head(topic string) (at wire.Position, err error) {
	head, at, err := m.log.Head(m.ctx, topic)
	m.last = max(m.last, head.Seq)
	return at, err
}

func (m *model) hand(topic string, at wire.Position) {
	m.handed = append(m.handed, handed{topic: topic, at: at})
}

// read reads a topic from its beginning or from a position that was handed out,
// page by page, and takes the positions that it is given.
func (m *model) read(t *rapid.T) error {
	h := handed{topic: rapid.SampledFrom(modelTopics).Draw(t, "read")}
	if len(m.handed) > 0 && rapid.IntRange(0, 9).Draw(t, "from") > 0 {
		h = m.handed[rapid.IntRange(0, len(m.handed)-1).Draw(t, "position")]
	}
	p := h.at
	if rapid.IntRange(0, 3).Draw(t, "timeless") == 0 {
		p.Ts = 0
	}
	if err := m.check(h, p, rapid.IntRange(1, 5).Draw(t, "limit")); err != nil {
		return err
	}
	for _, p := range m.retained(h.topic) {
		m.hand(h.topic, p.at)
	}
	return nil
}

// retained returns what a topic retains, by the words of the promise.
func (m *model) retained(topic string) (all []published) {
	for _, p := range slices.Backward(m.published) {
		if p.topic != topic || p.cleared {
			continue
		}
		if p.at.Seq <= m.memory.evicted {
			break // for the log's bytes, which topics share
		}
		if len(all) == m.retention.Size || m.retention.TTL > 0 && m.now.UnixMilli()-p.at.Ts >= m.retention.TTL.Milliseconds() {
			break
		}
		all = append(all, p)
	}
	slices.Reverse(all)
	return all
}

// check reads what follows p, the position of h with or without its time, and
// compares it with what was published.
func (m *model) check(h handed, p wire.Position, limit int) error {
	if h.wiped && p.Ts <= 0 {
		// Nothing is promised without a time; nor can a position of an empty
		// topic tell the old log from one that has moved past it.
		return nil
	}
	wrong := func(format string, a ...any) error {
		return fmt.Errorf("%s after %v (cleared %v, wiped %v) at %d, %+v: %s", h.topic, p, h.cleared, h.wiped, m.now.UnixMilli(), m.retention, fmt.Sprintf(format, a...))
	}
	got, truncated, err := m.readAll(h.topic, p, limit)
	if err != nil {
		return wrong("%v", err)
	}
	want, lost := m.following(h, p)
	if !slices.Equal(got, want) {
		return wrong("messages %v, want %v", got, want)
	}
	truth := lost || h.cleared || h.wiped
	switch {
	case p == wire.Position{}:
		truth = false
	case p.Ts == 0 || m.forgotten(p) || p.Seq <= m.memory.evicted:
		// It may be truncated because it can't be proven.
		if lost && !truncated {
			return wrong("not truncated, though a message is gone")
		}
		return nil
	}
	if truncated != truth {
		return wrong("truncated %v, want %v", truncated, truth)
	}
	return nil
}

// following returns the messages that a read after p has to find, and whether
// one that was published after it is not among them.
func (m *model) following(h handed, p wire.Position) (want []string, lost bool) {
	count := 0
	for _, kept := range m.retained(h.topic) {
		if h.wiped || kept.at.Seq > p.Seq {
			want = append(want, fmt.Sprint(kept.at, kept.payload))
		}
	}
	for _, one := range m.published {
		if one.topic == h.topic && one.at.Seq > p.Seq {
			count++
		}
	}
	return want, count > len(want)
}

// forgotten reports whether a position is older than the log's memory.
func (m *model) forgotten(p wire.Position) bool {
	age := m.now.Sub(time.UnixMilli(max(p.Ts, -p.Ts)))
	return m.retention.TTL > 0 && age > m.retention.TTL+7*24*time.Hour
}

// readAll reads what follows a position, page by page; truncated is what the
// first page says.
func (m *model) readAll(topic string, p wire.Position, limit int) (messages []string, truncated bool, err error) {
	after := p
	for first := true; ; first = false {
		page, err := m.log.Since(m.ctx, Query{Topic: topic, After: after, Limit: limit, Bytes: 1 << 20})
		if err != nil {
			return nil, false, err
		}
		if len(page.Messages) > limit {
			return nil, false, fmt.Errorf("%d messages, limit %d", len(page.Messages), limit)
		}
		if first {
			truncated = page.Truncated
		} else if page.Truncated {
			return nil, false, fmt.Errorf("truncated after %v of its own page", after)
		}
		for i, msg := range page.Messages {
			if i > 0 && msg.Prev != page.Messages[i-1].Seq || !page.Truncated && after.Ts > 0 && i == 0 && msg.Prev != after.Seq {
				return nil, false, fmt.Errorf("message %v has the previous %d", msg.Position, msg.Prev)
			}
			messages = append(messages, fmt.Sprint(msg.Position, string(msg.Payload)))
		}
		if !page.More {
			return messages, truncated, nil
		}
		if len(page.Messages) == 0 {
			return nil, false, fmt.Errorf("more than nothing after %v", after)
		}
		after = page.Messages[len(page.Messages)-1].Position
	}
}

// The broken logs: each does one thing wrong.
type (
	noEvidence          struct{ *Memory }
	noAnchor            struct{ *Memory }
	tracelessClear      struct{ *Memory }
	tracelessClearTopic struct{ *Memory }
	neverExpiring       struct{ *Memory }
	noDedupe            struct{ *Memory }
	lagging             struct{ *Memory }
	neverTruncated      struct{ *Memory }
	traceless           struct{ *Memory }
	greedy              struct{ *Memory }
)

func (b noEvidence) Append(ctx context.Context, e Entry) (wire.ReplayStored, error) {
	stored, err := b.Memory.Append(ctx, e)
	if more := len(b.topics[e.Topic]) - b.retention.Size; more > 0 {
		b.evict(e.Topic, more)
	}
	return stored, err
}

func (b noAnchor) Since(ctx context.Context, q Query) (*wire.ReplayPage, error) {
	q.After.Ts = min(q.After.Ts, 0)
	return b.Memory.Since(ctx, q)
}

func (b tracelessClear) Clear(ctx context.Context) error {
	err := b.Memory.Clear(ctx)
	b.cleared = 0
	return err
}

func (b tracelessClearTopic) ClearTopic(ctx context.Context, topic string) error {
	err := b.Memory.ClearTopic(ctx, topic)
	b.evict(topic, 1)
	return err
}

func (b neverExpiring) Since(ctx context.Context, q Query) (*wire.ReplayPage, error) {
	r := b.retention
	defer func() { b.retention = r }()
	b.retention.TTL = 0
	return b.Memory.Since(ctx, q)
}

func (b noDedupe) Append(ctx context.Context, e Entry) (wire.ReplayStored, error) {
	e.ID = ""
	return b.Memory.Append(ctx, e)
}

func (b lagging) Since(ctx context.Context, q Query) (*wire.ReplayPage, error) {
	page, err := b.Memory.Since(ctx, q)
	if err == nil && !page.More && len(page.Messages) > 1 {
		page.Messages = page.Messages[:len(page.Messages)-1]
	}
	return page, err
}

func (b neverTruncated) Since(ctx context.Context, q Query) (*wire.ReplayPage, error) {
	page, err := b.Memory.Since(ctx, q)
	if err == nil {
		page.Truncated = false
	}
	return page, err
}

func (b traceless) Since(ctx context.Context, q Query) (*wire.ReplayPage, error) {
	bytes := b.retention.Bytes
	defer func() { b.retention.Bytes = bytes }()
	b.retention.Bytes = 0
	return b.Memory.Since(ctx, q)
}

func (b greedy) Append(ctx context.Context, e Entry) (wire.ReplayStored, error) {
	stored, err := b.Memory.Append(ctx, e)
	if records := b.topics[e.Topic]; err == nil && b.evicted > 0 && len(records) > 1 {
		b.evict(e.Topic, 1)
	}
	return stored, err
}
