package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Fanout is the scenario of few publishers and many subscribers.
type Fanout struct {
	Subscribers int // default 100
	Topics      int // subscriber i listens to topic i mod Topics; default 1
	Publishers  int // connections that publish, each to its own topics; default one per 500 topics
	Size        int // bytes of a payload; default 128
	// Window bounds, in a closed loop, the messages of one topic that some
	// subscriber has not received yet. Default 16.
	Window int
	// Outstanding bounds the same over all topics; 0: only Window does.
	Outstanding int
	// Rate publishes so many messages a second in all, whatever comes back;
	// 0: a closed loop.
	Rate     float64
	Duration time.Duration // measured; default 10 s
	Warmup   time.Duration // before it; default 2 s
}

// topicsPerPublisher stays well below what a gateway lets one connection
// publish to by default (FAIRLEAD_LIMIT_PUBLISH_TOPICS_PER_CONNECTION, 1000).
const topicsPerPublisher = 500

// stall is how long a closed loop may make no progress.
const stall = 10 * time.Second

func (o *Fanout) defaults() error {
	def(&o.Subscribers, 100)
	def(&o.Topics, 1)
	def(&o.Publishers, (o.Topics+topicsPerPublisher-1)/topicsPerPublisher)
	def(&o.Size, 128)
	def(&o.Window, 16)
	def(&o.Duration, 10*time.Second)
	def(&o.Warmup, 2*time.Second)
	o.Publishers = min(o.Publishers, o.Topics)
	switch {
	case o.Topics > o.Subscribers:
		return fmt.Errorf("%d topics for %d subscribers: at most one each", o.Topics, o.Subscribers)
	case o.Rate < 0 || o.Window < 0 || o.Outstanding < 0 || o.Size < MinPayload:
		return fmt.Errorf("rate, window and outstanding are not negative, size is at least %d", MinPayload)
	case o.Outstanding > 0 && o.Outstanding < o.Publishers:
		return errors.New("outstanding: at least one per publisher")
	}
	return nil
}

func def[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// fanTopic counts the loops that have still to complete a message.
type fanTopic struct {
	name      string
	publisher *publisher
	loops     int32          // that hold subscribers
	missing   []atomic.Int32 // per slot of the window: loops that are done
}

// receiver is the agent of one loop's subscribers.
type receiver struct {
	tally  tally
	size   int
	window int64 // 0: no closed loop
	topics []*fanTopic
	local  []fanLocal // per topic
	pong   func([]byte) []byte
	total  int64 // delivered since the start
}

// fanLocal is a topic in one loop.
type fanLocal struct {
	subscribers int32
	got         []int32 // per slot: subscribers that have the message
}

func (r *receiver) upgraded(*conn) {}

func (r *receiver) text(c *conn, frame []byte, now int64) {
	n, ok := scanPayloads(frame, r.size, func(due, number int64) {
		if r.tally.message(c, due, number, now) && r.window > 0 {
			r.complete(c.place, (number-firstNumber)%r.window)
		}
	})
	switch {
	case !ok:
		r.tally.damaged++
		r.tally.failed(short(frame))
	case n > 0:
		r.total += int64(n)
		r.tally.frames++
		r.tally.bytes += int64(len(frame))
	default:
		r.tally.other(c, frame, r.pong)
	}
}

func (r *receiver) complete(topic int, slot int64) {
	local := &r.local[topic]
	if local.got[slot]++; local.got[slot] < local.subscribers {
		return
	}
	local.got[slot] = 0
	t := r.topics[topic]
	if t.missing[slot].Add(1) == t.loops {
		t.missing[slot].Store(0)
		t.publisher.credit(topic)
	}
}

func (r *receiver) closed(c *conn, err error) {
	r.tally.closed++
	r.tally.failed(fmt.Sprintf("subscriber %d: %v", c.index, err))
}

// other looks at a frame without messages: an error, a ping, or nothing of interest.
func (t *tally) other(c *conn, frame []byte, pong func([]byte) []byte) {
	if answer := pong(frame); answer != nil {
		c.loop.send(c, appendFrame(nil, opText, answer))
		return
	}
	scanReplies(frame, func(_ int64, failed []byte) {
		if failed != nil {
			t.errors++
			t.failed(short(failed))
		}
	})
}

// Run opens the connections, publishes for the warm-up and the measured time,
// and waits for what is still on its way.
func (o Fanout) Run(ctx context.Context, target Target) (*Report, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	e, err := start(target)
	if err != nil {
		return nil, err
	}
	defer e.close(ctx)
	f, err := o.build(e)
	if err != nil {
		return nil, err
	}
	if err := f.open(ctx); err != nil {
		return nil, err
	}
	return f.run(ctx)
}
