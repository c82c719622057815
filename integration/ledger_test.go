package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ledger records every answer to a publish on replayed topics and everything
// that readers of them were sent, and proves afterwards: what was acknowledged,
// or was sent to anybody, came exactly once to every reader, or lies in a range
// that the reader was told is truncated; sequences grow; one sequence is one
// message for all; what was retried is stored once; what was said not to be
// stored is not.
type ledger struct {
	// complete says that the log has lost nothing, so that every word of a
	// truncation is wrong.
	complete bool

	mu       sync.Mutex
	tried    map[message]bool
	receipts []receipt
	refusals map[message]map[string]bool // outcomes of what was never acknowledged
	readers  []*reader
}

// receipt is an acknowledgement.
type receipt struct {
	message
	seq       int64
	duplicate bool
}

// reader is a subscription, or a page of history, of one topic.
type reader struct {
	l        *ledger
	name     string
	topic    string
	from     int64 // it is owed everything after this
	left     bool  // owed nothing behind the last it has
	withheld bool  // its own messages may be kept from it
	ends     int64 // not 0: owed nothing behind this
	events   []event
}

// event is a message or control frame as it came.
type event struct {
	control   string // "": a message
	seq, prev int64
	missing   int64 // missingFrom of `truncated`
	message   message
}

func newLedger() *ledger {
	return &ledger{tried: map[message]bool{}, refusals: map[message]map[string]bool{}}
}

// try notes that m is about to be published, for the first time or again.
func (l *ledger) try(m message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tried[m] = true
}

// ack notes an acknowledgement of m.
func (l *ledger) ack(m message, seq int64, duplicate bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.receipts = append(l.receipts, receipt{m, seq, duplicate})
}

// refuse notes an error in place of an acknowledgement, with its outcome: none
// or unknown.
func (l *ledger) refuse(m message, outcome string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusals[m] == nil {
		l.refusals[m] = map[string]bool{}
	}
	l.refusals[m][outcome] = true
}

// acked returns how many acknowledgements there were.
func (l *ledger) acked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.receipts)
}

// duplicates returns how many of them said so.
func (l *ledger) duplicates() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.receipts {
		if r.duplicate {
			n++
		}
	}
	return n
}

// sent returns how many messages came to all readers together.
func (l *ledger) sent() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.readers {
		for _, e := range r.events {
			if e.control == "" {
				n++
			}
		}
	}
	return n
}

// open notes a reader that begins behind a sequence.
func (l *ledger) open(name, topic string, from int64) *reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &reader{l: l, name: name, topic: topic, from: from}
	l.readers = append(l.readers, r)
	return r
}

// take notes what a reader was sent.
func (r *reader) take(m client.Message) {
	e := event{control: m.Control, seq: m.Seq, prev: m.Prev}
	if m.Control != "" {
		var frame struct{ Seq, Prev, MissingFrom int64 }
		if err := json.Unmarshal(m.Raw, &frame); err != nil {
			e.control = string(m.Raw) // nothing that a reader knows
		}
		e.seq, e.prev, e.missing = frame.Seq, frame.Prev, frame.MissingFrom
	} else if err := json.Unmarshal(m.Payload(), &e.message); err != nil {
		e.message.Publisher = string(m.Payload()) // nobody published that
	}
	r.note(e)
}

func (r *reader) note(e event) {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.events = append(r.events, e)
}

// leave notes that the reader's connection ended before the end of the test.
func (r *reader) leave() {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.left = true
}

// end notes that the reader reads no further than a sequence.
func (r *reader) end(seq int64) {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.ends = seq
}

// refused takes the reader out: it was told that it can't have the past.
func (r *reader) refused() {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.l.readers = slices.DeleteFunc(r.l.readers, func(o *reader) bool { return o == r })
}

// reached returns the last sequence that the reader has.
func (r *reader) reached() (seq int64) {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	if len(r.events) > 0 {
		seq = r.events[len(r.events)-1].seq
	}
	return seq
}

// some returns a position of a topic that was acknowledged, or the beginning,
// and the highest that was.
func (l *ledger) some(topic string) (seq, highest int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []int64
	for _, r := range l.receipts {
		if r.Topic == topic {
			all = append(all, r.seq)
			highest = max(highest, r.seq)
		}
	}
	if i := rand.N(len(all) + 1); i > 0 {
		seq = all[max(0, len(all)-i)]
	}
	return seq, highest
}

// settle waits until every reader has all that it is owed, and fails the test
// for what is wrong.
func (l *ledger) settle(t *testing.T) {
	t.Helper()
	eventually(t, "every reader has what it is owed", func() (any, bool) {
		found, owed := l.audit()
		var lacking []string
		for r, seqs := range owed {
			lacking = append(lacking, fmt.Sprintf("%s lacks %d, such as %d", r.name, len(seqs), seqs[0]))
		}
		return strings.Join(lacking, "; "), len(owed) == 0 || len(found) > 0
	})
	l.verify(t)
}

// verify fails the test for what is wrong.
func (l *ledger) verify(t *testing.T) {
	t.Helper()
	found, owed := l.audit()
	for r, seqs := range owed {
		found = append(found, fmt.Sprintf("%s: never got %v", r.name, seqs))
	}
	for i, p := range found {
		if i == 10 {
			t.Errorf("… and %d more", len(found)-i)
			break
		}
		t.Error(p)
	}
}

// follow subscribes and records what comes: behind a position if there is one,
// else from now on.
func (l *ledger) follow(ctx context.Context, c *client.Client, name, topic string, after *wire.Position) (*reader, client.Position, error) {
	begun := make(chan *reader, 1)
	var r *reader
	o := client.SubscribeOptions{Control: true, OnMessage: func(m client.Message) {
		if r == nil {
			r = <-begun
		}
		r.take(m)
	}}
	if after != nil {
		o.After, o.Ts = &after.Seq, after.Ts
	}
	sub, err := c.Subscribe(ctx, topic, o)
	if err != nil {
		return nil, client.Position{}, err
	}
	at := sub.Position()
	from := at.Seq
	if after != nil {
		from = after.Seq
	}
	made := l.open(name, topic, from)
	begun <- made
	return made, at, nil
}
