package compose

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
)

// message is one publication: its publisher counts from 1.
type message struct {
	Topic     string `json:"t"`
	Publisher string `json:"p"`
	N         int    `json:"n"`
}

func (m message) String() string { return fmt.Sprintf("%s/%s/%d", m.Topic, m.Publisher, m.N) }

// messages records every acknowledgement of a publication on kept topics, and
// everything that readers were sent. What was acknowledged, or was sent to
// anybody, must come exactly once to every reader, in one order; a publication
// that was tried again must be stored once.
//
// Most of it shows when it happens, and is noted then. That something is missing
// shows at a mark: a moment whose last message of each topic is known, and which
// every reader has to pass.
type messages struct {
	mu      sync.Mutex
	begun   map[message]bool
	places  map[message]int64
	stored  map[string]map[int64]message // by topic
	last    map[string]int64             // the highest place of a topic
	behind  map[string]int64             // the highest place of each publisher's last acknowledgement
	acks    int
	came    int
	readers []*reader
	lost    int // as told by readers, or found by audit
	twice   int
	wrong   []string
}

// reader is one client's following of one topic, over all its connections.
type reader struct {
	of    *messages
	name  string
	topic string
	from  int64 // owed everything behind this
	got   []int64
	begun bool
	sure  int64 // audited up to here
}

func newMessages() *messages {
	return &messages{
		begun: map[message]bool{}, places: map[message]int64{}, stored: map[string]map[int64]message{},
		last: map[string]int64{}, behind: map[string]int64{},
	}
}

func (c *messages) complain(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// begin notes that m is about to be published, for the first time.
func (c *messages) begin(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun[m] = true
}

// ack notes the acknowledgement of m. Publishers wait for one before they go on
// to the next.
func (c *messages) ack(m message, seq int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acks++
	if c.behind[m.Publisher] >= seq {
		c.complain("%s is stored at %d, behind a later one at %d", m, seq, c.behind[m.Publisher])
	}
	c.behind[m.Publisher] = seq
	c.lie(m, seq)
}

// lie notes that a message lies at a place of its topic. A place may become
// known late, when a publication is acknowledged that came to nobody: whoever has
// passed the place by then lacks it for good.
func (c *messages) lie(m message, seq int64) {
	at, known := c.places[m]
	if !known {
		for _, r := range c.readers {
			if r.topic == m.Topic && r.from < seq && seq <= r.sure && !r.has(seq) {
				c.lost++
				c.complain("%s: %s at %d never came, and became known late", r.name, m, seq)
			}
		}
	}
	if known && at != seq {
		c.twice++
		c.complain("%s is stored at %d and at %d", m, at, seq)
	}
	if c.stored[m.Topic] == nil {
		c.stored[m.Topic] = map[int64]message{}
	}
	if other, ok := c.stored[m.Topic][seq]; ok && other != m {
		c.complain("%d of %s is %s, and is %s", seq, m.Topic, m, other)
	}
	c.places[m], c.stored[m.Topic][seq] = seq, m
	c.last[m.Topic] = max(c.last[m.Topic], seq)
}

// open notes a reader, which has begun nothing yet.
func (c *messages) open(name, topic string) *reader {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &reader{of: c, name: name, topic: topic}
	c.readers = append(c.readers, r)
	return r
}

// start notes that the reader begins behind a place, or goes on, with nothing
// missed or not.
func (r *reader) start(seq int64, recovered bool) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	switch {
	case !r.begun:
		r.begun, r.from = true, seq
	case !recovered:
		r.of.lost++
		r.of.complain("%s: was told on a new connection that something may be missing", r.name)
	}
}

// truncated notes that the reader was told that messages are gone.
func (r *reader) truncated(from int64) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.of.lost++
	r.of.complain("%s: was told that everything from %d on may be gone", r.name, from)
}

// deliver notes what came.
func (r *reader) deliver(m message, seq int64) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.of.came++
	switch end := r.reached(); {
	case !r.of.begun[m]:
		r.of.complain("%s: %s was never published", r.name, m)
		return
	case m.Topic != r.topic:
		r.of.complain("%s: %s is of another topic", r.name, m)
		return
	case slices.Contains(r.got[max(0, len(r.got)-1000):], seq):
		r.of.twice++
		r.of.complain("%s: %s at %d came twice", r.name, m, seq)
		return
	case seq <= end:
		r.of.complain("%s: %s at %d came behind %d", r.name, m, seq, end)
	}
	r.got = append(r.got, seq)
	r.of.lie(m, seq)
}

// has reports whether what lies at a place came, lately first.
func (r *reader) has(seq int64) bool {
	for _, got := range slices.Backward(r.got) {
		if got == seq {
			return true
		}
	}
	return false
}

// reached is the last place that the reader has come to.
func (r *reader) reached() int64 {
	if len(r.got) == 0 {
		return r.from
	}
	return r.got[len(r.got)-1]
}

// marks is the last known place of every topic.
func (c *messages) marks() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	marks := map[string]int64{}
	for topic, seq := range c.last {
		marks[topic] = seq
	}
	return marks
}

// lacking lists the readers that have not come to the marks.
func (c *messages) lacking(marks map[string]int64) (who []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.readers {
		if at := r.reached(); !r.begun || at < marks[r.topic] {
			who = append(who, fmt.Sprintf("%s is at %d of %d", r.name, at, marks[r.topic]))
		}
	}
	return who
}

// audit looks for what is missing up to the marks, which every reader must have
// come to, and returns all that turned out to be wrong since the last audit.
func (c *messages) audit(marks map[string]int64) (wrong []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.readers {
		got := map[int64]bool{}
		for _, seq := range r.got {
			got[seq] = true
		}
		for seq, m := range c.stored[r.topic] {
			if max(r.from, r.sure) < seq && seq <= marks[r.topic] && !got[seq] {
				c.lost++
				c.complain("%s: %s at %d never came", r.name, m, seq)
			}
		}
		r.sure = max(r.sure, marks[r.topic])
	}
	wrong, c.wrong = c.wrong, nil
	return wrong
}

// keeps compares what the log of a topic has with what was stored: the newest, up
// to as many as its rule keeps, and nothing else.
func (c *messages) keeps(topic string, size int, kept map[int64]message) (wrong []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Sorted(maps.Keys(c.stored[topic]))
	newest := all[max(0, len(all)-size):]
	for _, seq := range newest {
		if got, want := kept[seq], c.stored[topic][seq]; got != want {
			wrong = append(wrong, fmt.Sprintf("%s keeps %v at %d, and %v was stored", topic, got, seq, want))
		}
	}
	if len(kept) != len(newest) && len(wrong) == 0 {
		wrong = append(wrong, fmt.Sprintf("%s keeps %d messages, and %d were stored", topic, len(kept), len(newest)))
	}
	return wrong
}

// told returns how many acknowledgements and deliveries there were, and how much
// was lost or came twice.
func (c *messages) told() (acks, came, lost, twice int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acks, c.came, c.lost, c.twice
}

// A checker that notices nothing would let every run pass.
func TestTheCheckerOfMessages(t *testing.T) {
	t.Parallel()
	m := func(n int) message { return message{"room", "ann", n} }
	for what, harm := range map[string]func(c *messages, r *reader) bool{ // false: r gets nothing else
		"":            func(*messages, *reader) bool { return true },
		"never came":  func(_ *messages, r *reader) bool { r.deliver(m(1), 10); r.deliver(m(3), 30); return false },
		"is at 20":    func(_ *messages, r *reader) bool { r.deliver(m(1), 10); r.deliver(m(2), 20); return false },
		"came twice":  func(_ *messages, r *reader) bool { r.deliver(m(1), 10); r.deliver(m(1), 10); return true },
		"came behind": func(_ *messages, r *reader) bool { r.deliver(m(2), 20); r.deliver(m(1), 10); return false },
		"is stored at 10 and at 40": func(c *messages, r *reader) bool {
			c.ack(m(1), 40)
			return true
		},
		"behind a later one": func(c *messages, r *reader) bool {
			c.begin(m(4))
			c.ack(m(4), 25)
			return true
		},
		"10 of room is": func(c *messages, r *reader) bool {
			c.begin(message{"room", "bob", 1})
			r.deliver(message{"room", "bob", 1}, 10)
			return false
		},
		"was never published": func(_ *messages, r *reader) bool { r.deliver(m(9), 5); return true },
		"is of another topic": func(c *messages, r *reader) bool {
			c.begin(message{"x", "ann", 1})
			r.deliver(message{"x", "ann", 1}, 5)
			return true
		},
		"something may be":       func(_ *messages, r *reader) bool { r.start(0, false); return true },
		"from 17 on may be gone": func(_ *messages, r *reader) bool { r.truncated(17); return true },
	} {
		c := newMessages()
		whole, tested := c.open("whole", "room"), c.open("tested", "room")
		whole.start(0, false)
		tested.start(0, false)
		for n := 1; n <= 3; n++ {
			c.begin(m(n))
			c.ack(m(n), int64(10*n))
			whole.deliver(m(n), int64(10*n))
		}
		if harm(c, tested) {
			for n := tested.reached()/10 + 1; n <= 3; n++ {
				tested.deliver(m(int(n)), 10*n)
			}
		}
		marks := map[string]int64{"room": 30}
		got := append(c.lacking(marks), c.audit(marks)...)
		switch said := strings.Join(got, "; "); {
		case what == "" && said != "":
			t.Errorf("nothing is wrong, but %s", said)
		case !strings.Contains(said, what):
			t.Errorf("%s: not noticed, but %q", what, said)
		}
	}
	// One that was stored, came to nobody, and is acknowledged after an audit.
	for what, harm := range map[string]func(c *messages, r *reader){
		"":           func(c *messages, r *reader) { r.deliver(m(1), 10); r.deliver(m(2), 20) },
		"never came": func(c *messages, r *reader) { r.deliver(m(2), 20) },
	} {
		c := newMessages()
		r, newer := c.open("old", "room"), c.open("newer", "room")
		r.start(0, false)
		newer.start(15, false)
		c.begin(m(1))
		c.begin(m(2))
		harm(c, r)
		newer.deliver(m(2), 20)
		if got := append(c.lacking(c.marks()), c.audit(c.marks())...); len(got) > 0 {
			t.Fatalf("nothing is known to be wrong yet, but %v", got)
		}
		c.ack(m(1), 10)
		got := strings.Join(c.audit(c.marks()), "; ")
		_, _, lost, _ := c.told()
		if !strings.Contains(got, what) || (got == "") != (what == "") || strings.Contains(got, "newer") || (lost == 1) != (what != "") {
			t.Errorf("acknowledged late: got %q and %d lost, want %q", got, lost, what)
		}
	}
	c := newMessages()
	late := c.open("late", "room")
	c.begin(m(1))
	c.ack(m(1), 10)
	late.start(10, false)
	if got := append(c.lacking(c.marks()), c.audit(c.marks())...); len(got) > 0 {
		t.Errorf("what was there before is not owed: %v", got)
	}
	if acks, came, lost, twice := c.told(); acks != 1 || came != 0 || lost != 0 || twice != 0 {
		t.Errorf("told: got %d %d %d %d, want 1 0 0 0", acks, came, lost, twice)
	}
}

func TestTheCheckerOfWhatIsKept(t *testing.T) {
	t.Parallel()
	m := func(n int) message { return message{"room", "ann", n} }
	c := newMessages()
	for n := 1; n <= 3; n++ {
		c.begin(m(n))
		c.ack(m(n), int64(10*n))
	}
	for _, k := range []struct {
		name string
		size int
		kept map[int64]message
		want string
	}{
		{"all", 5, map[int64]message{10: m(1), 20: m(2), 30: m(3)}, ""},
		{"the newest", 2, map[int64]message{20: m(2), 30: m(3)}, ""},
		{"one is gone", 3, map[int64]message{10: m(1), 30: m(3)}, "room keeps //0 at 20, and room/ann/2 was stored"},
		{"one is another", 2, map[int64]message{20: m(2), 30: m(1)}, "room keeps room/ann/1 at 30, and room/ann/3 was stored"},
		{"one that nobody knows of", 5, map[int64]message{10: m(1), 20: m(2), 25: m(2), 30: m(3)}, "room keeps 4 messages, and 3 were stored"},
	} {
		if got := strings.Join(c.keeps("room", k.size, k.kept), "; "); got != k.want {
			t.Errorf("%s: got %q, want %q", k.name, got, k.want)
		}
	}
}
