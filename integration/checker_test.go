package integration

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// message is one publication of a test: its publisher counts from 1 per topic.
type message struct {
	Topic     string `json:"t"`
	Publisher string `json:"p"`
	N         int    `json:"n"`
}

func (m message) String() string { return fmt.Sprintf("%s/%s/%d", m.Topic, m.Publisher, m.N) }

func (m message) data() json.RawMessage {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings and a number
	}
	return b
}

// checker records every publication and every delivery, and proves afterwards
// that nothing acknowledged was lost, nothing came twice or from nowhere, and
// that each publisher's messages kept their order.
//
// A listener is one subscription of one connection, from the answer to
// `subscribe` to the end of the connection. It must have received every
// acknowledged message whose publish began after that answer, up to the last
// one of the same publisher that it has, or to the very last one if it was
// still there at the end.
type checker struct {
	mu        sync.Mutex
	clock     int             // counts the publications begun
	began     map[message]int // by the clock
	acked     map[message]bool
	listeners []*listener
}

type listener struct {
	c      *checker
	name   string
	topic  string
	group  string // of those that must see one order of all publishers
	opened int    // by the clock
	left   bool
	got    []message

	whole *listener // see overall; nil without one
	union bool      // is itself one

	excused bool
}

func newChecker() *checker {
	return &checker{began: map[message]int{}, acked: map[message]bool{}}
}

// begin notes that m is about to be published.
func (c *checker) begin(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock++
	c.began[m] = c.clock
}

// ack notes that the publication of m was acknowledged. One that is not may or
// may not be delivered.
func (c *checker) ack(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked[m] = true
}

// listen notes that a subscription is live.
func (c *checker) listen(name, topic string) *listener {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &listener{c: c, name: name, topic: topic, opened: c.clock}
	c.listeners = append(c.listeners, l)
	return l
}

// deliver notes what a subscription received.
func (l *listener) deliver(m message) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.got = append(l.got, m)
	if l.whole != nil {
		l.whole.got = append(l.whole.got, m)
	}
}

// overall returns a listener that stands for all connections of a client that
// changes over to the next one before it leaves the last: it is owed
// everything, and may get it twice.
func (l *listener) overall() *listener {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.whole = &listener{c: l.c, name: l.name + " and its next", topic: l.topic, opened: l.opened, got: slices.Clone(l.got), union: true}
	l.c.listeners = append(l.c.listeners, l.whole)
	return l.whole
}

// excuse notes that a listener was without a connection for a while: it may
// lack what was published then.
func (l *listener) excuse() {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.excused = true
}

// leave notes that the subscription ended before the end of the test.
func (l *listener) leave() {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.left = true
}

// has reports whether the subscription has received all that it must.
func (l *listener) has() bool {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	return len(l.missing()) == 0
}

// missing lists what the listener must have received and has not.
func (l *listener) missing() (lost []message) {
	if l.excused {
		return nil
	}
	got, last := map[message]bool{}, map[string]int{}
	for _, m := range l.got {
		got[m] = true
		last[m.Publisher] = max(last[m.Publisher], m.N)
	}
	for m := range l.c.acked {
		owed := m.Topic == l.topic && l.c.began[m] > l.opened && (!l.left || m.N < last[m.Publisher])
		if owed && !got[m] {
			lost = append(lost, m)
		}
	}
	slices.SortFunc(lost, func(a, b message) int { return cmp.Compare(l.c.began[a], l.c.began[b]) })
	return lost
}

// problems returns what is wrong, a line each.
func (c *checker) problems() (found []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	say := func(l *listener, format string, args ...any) {
		found = append(found, l.name+": "+fmt.Sprintf(format, args...))
	}
	for _, l := range c.listeners {
		seen, last := map[message]bool{}, map[string]int{}
		for _, m := range l.got {
			switch {
			case c.began[m] == 0:
				say(l, "%s was never published", m)
			case m.Topic != l.topic:
				say(l, "%s is of another topic", m)
			case l.union:
			case seen[m]:
				say(l, "%s came twice", m)
			case m.N < last[m.Publisher]:
				say(l, "%s came after %d of the same publisher", m, last[m.Publisher])
			}
			seen[m], last[m.Publisher] = true, max(last[m.Publisher], m.N)
		}
		for _, m := range l.missing() {
			say(l, "%s was acknowledged and never came", m)
		}
	}
	return found
}

// orderProblems compares the order in which the listeners of a topic and group
// received the messages that they share with the first of them.
func (c *checker) orderProblems() (found []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	type key struct{ topic, group string }
	first := map[key]*listener{}
	for _, l := range c.listeners {
		k := key{l.topic, l.group}
		of := first[k]
		if of == nil {
			first[k] = l
			continue
		}
		place := map[message]int{}
		for i, m := range of.got {
			place[m] = i + 1
		}
		before := message{}
		for _, m := range l.got {
			if place[m] != 0 && place[m] < place[before] {
				found = append(found, fmt.Sprintf("%s: %s came after %s, at %s before it", l.name, m, before, of.name))
			}
			if place[m] != 0 {
				before = m
			}
		}
	}
	return found
}

// owed lists who has not received all that it must: a line each.
func (c *checker) owed() (waiting []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.listeners {
		if lost := l.missing(); len(lost) > 0 && !l.left {
			waiting = append(waiting, fmt.Sprintf("%s lacks %d, such as %s", l.name, len(lost), lost[0]))
		}
	}
	return waiting
}

// attach subscribes and records what the connection delivers, and also for the
// client as a whole, unless that is nil.
func (c *checker) attach(ctx context.Context, conn *client.Client, name, topic string, whole *listener) (*listener, error) {
	live := make(chan *listener, 1)
	var l *listener
	_, err := conn.Subscribe(ctx, topic, client.SubscribeOptions{OnMessage: func(got client.Message) {
		if l == nil {
			l = <-live
		}
		var m message
		if err := json.Unmarshal(got.Data, &m); err != nil {
			m.Publisher = string(got.Payload()) // nobody published that
		}
		l.deliver(m)
	}})
	if err != nil {
		return nil, err
	}
	made := c.listen(name, topic)
	made.whole = whole
	live <- made
	return made, nil
}

// verify fails the test for what is wrong.
func (c *checker) verify(t *testing.T, problems []string) {
	t.Helper()
	for i, p := range problems {
		if i == 10 {
			t.Errorf("… and %d more", len(problems)-i)
			break
		}
		t.Error(p)
	}
}

// A checker that notices nothing would let every test pass that uses it.
func TestTheCheckerNotices(t *testing.T) {
	t.Parallel()
	m := func(publisher string, n int) message { return message{"a", publisher, n} }
	full := []message{m("x", 1), m("y", 1), m("x", 2), m("y", 2), m("x", 3)}
	tests := []struct {
		name           string
		got            []message
		left           bool
		problem, order bool // found by problems, by orderProblems
	}{
		{name: "nothing wrong", got: full},
		{name: "a dropped delivery", got: []message{m("x", 1), m("y", 1), m("x", 3), m("y", 2)}, problem: true, order: true},
		{name: "the last one dropped", got: full[:4], problem: true},
		{name: "the last ones not owed to who left", got: full[:3], left: true},
		{name: "a dropped delivery before who left", got: []message{m("x", 1), m("x", 3)}, left: true, problem: true},
		{name: "a doubled delivery", got: append(slices.Clone(full), m("x", 3)), problem: true},
		{name: "a publisher out of order", got: []message{m("x", 2), m("y", 1), m("x", 1), m("y", 2), m("x", 3)}, problem: true, order: true},
		{name: "two publishers in another order", got: []message{m("y", 1), m("x", 1), m("x", 2), m("y", 2), m("x", 3)}, order: true},
		{name: "one nobody published", got: append(slices.Clone(full), m("z", 1)), problem: true},
		{name: "one of another topic", got: append(slices.Clone(full), message{"b", "x", 1}), problem: true},
	}
	for _, test := range tests {
		c := newChecker()
		reference, tested := c.listen("reference", "a"), c.listen(test.name, "a")
		for _, m := range full {
			c.begin(m)
			c.ack(m)
			reference.deliver(m)
		}
		c.begin(message{"b", "x", 1}) // never acknowledged
		for _, m := range test.got {
			tested.deliver(m)
		}
		if test.left {
			tested.leave()
		}
		if got := c.problems(); (len(got) > 0) != test.problem {
			t.Errorf("%s: problems: got %q, want some: %v", test.name, got, test.problem)
		}
		if got := c.orderProblems(); (len(got) > 0) != test.order {
			t.Errorf("%s: order: got %q, want some: %v", test.name, got, test.order)
		}
	}
	c := newChecker()
	c.begin(m("x", 1))
	c.ack(m("x", 1))
	late := c.listen("late", "a")
	if got := c.problems(); len(got) > 0 || !late.has() {
		t.Errorf("what was published before a subscription is not owed to it: got %q", got)
	}
}
