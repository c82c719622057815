package bench

import (
	"fmt"
	"sync"
	"time"
)

// Bounds of what one publisher joins into one WebSocket message.
const (
	joinFrames = 256
	joinBytes  = 64 << 10
)

// publisher is the agent of one publishing connection of [Fanout].
type publisher struct {
	f       *fanRun
	conn    *conn
	tally   tally
	topics  []int   // those it publishes to, by index
	numbers []int64 // the next number of each
	payload template
	on      bool

	// Closed loop: topics that may have one more message.
	ready []int // indexes into topics, first in first out
	spare int   // how many more may be outstanding over all topics

	// Fixed rate.
	interval time.Duration
	due      time.Time
	turn     int // the topic whose turn it is

	frames [][]byte // the publishes of one message
	buf    []byte

	mu      sync.Mutex
	credits []int // topics (of the run) with a completed message
}

func newPublisher(f *fanRun, index int) (*publisher, error) {
	payload, err := newTemplate(f.Size)
	p := &publisher{f: f, conn: &conn{index: index}, payload: payload}
	if f.Rate > 0 {
		p.interval = time.Duration(float64(time.Second) * float64(f.Publishers) / f.Rate)
	}
	return p, err
}

// begin starts publishing, in the publisher's loop.
func (p *publisher) begin() {
	p.on = true
	p.numbers = make([]int64, len(p.topics))
	for i := range p.numbers {
		p.numbers[i] = firstNumber
	}
	p.spare = p.f.Window * len(p.topics)
	if p.f.Outstanding > 0 {
		p.spare = p.f.Outstanding / p.f.Publishers
	}
	for range p.f.Window {
		for i := range p.topics {
			p.ready = append(p.ready, i)
		}
	}
	p.due = time.Now().Add(time.Duration(p.conn.index) * p.interval / time.Duration(p.f.Publishers)) // not all at once
}

// credit says that every subscriber has one more message of the topic. Any
// loop may call it.
func (p *publisher) credit(topic int) {
	p.mu.Lock()
	p.credits = append(p.credits, topic)
	first := len(p.credits) == 1
	p.mu.Unlock()
	if first {
		p.conn.loop.wake()
	}
}

// work publishes what is due. It runs after every turn of the publisher's
// loop and returns when it wants to run at the latest; zero: when woken.
func (p *publisher) work() time.Time {
	switch {
	case !p.on || p.conn.state != stateOpen:
		return time.Time{}
	case p.interval > 0:
		p.onSchedule()
		return p.due
	}
	p.onCredit()
	return time.Time{}
}

func (p *publisher) onSchedule() {
	now := time.Now()
	for !p.due.After(now) {
		p.tally.lag.Record(int64(now.Sub(p.due)))
		p.add(p.turn, p.due.UnixNano())
		p.turn = (p.turn + 1) % len(p.topics)
		p.due = p.due.Add(p.interval)
	}
	p.flush()
}

func (p *publisher) onCredit() {
	p.mu.Lock()
	for _, topic := range p.credits {
		p.ready = append(p.ready, topic/p.f.Publishers) // topic t is the (t/P)th of its publisher
		p.spare++
	}
	p.credits = p.credits[:0]
	p.mu.Unlock()
	for len(p.ready) > 0 && p.spare > 0 {
		i := p.ready[0]
		p.ready = p.ready[1:]
		p.spare--
		p.add(i, time.Now().UnixNano())
	}
	p.flush()
}

// add puts one publish into the message that flush sends.
func (p *publisher) add(i int, due int64) {
	p.payload.stamp(due, p.numbers[i])
	p.numbers[i]++
	if p.numbers[i] > lastNumber {
		p.on = false
		p.tally.failed("the numbers of a topic are used up")
	}
	p.tally.published++
	p.frames = append(p.frames, p.f.e.target.Dialect.Publish(nil, 0, p.f.topics[p.topics[i]].name, p.payload))
	if len(p.frames) == joinFrames || len(p.frames)*len(p.frames[0]) > joinBytes {
		p.flush()
	}
}

func (p *publisher) flush() {
	n := len(p.frames)
	if n == 0 {
		return
	}
	d := p.f.e.target.Dialect
	p.buf = p.buf[:0]
	for i, frame := range p.frames {
		p.buf = append(d.Join(p.buf, i, n), frame...)
	}
	p.buf = d.Join(p.buf, n, n)
	p.frames = p.frames[:0]
	p.conn.loop.send(p.conn, appendFrame(nil, opText, p.buf))
}

func (p *publisher) upgraded(*conn) {}

func (p *publisher) text(c *conn, frame []byte, _ int64) {
	p.tally.other(c, frame, p.f.e.target.Dialect.Pong)
}

func (p *publisher) closed(_ *conn, err error) {
	p.tally.closed++
	p.tally.failed(fmt.Sprintf("publisher %d: %v", p.conn.index, err))
}
