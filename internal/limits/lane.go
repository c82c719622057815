package limits

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// requestsMost is how many requests for several keys one replica has under
	// way from a client. Nothing waits to fill a request up: what came while they
	// were under way is enough.
	requestsMost = 4
	// aloneMost is how many more there are that hold one thing each.
	aloneMost = 32
	// clocksDiffer is by how much the clock of a replica may be ahead of ours: a
	// deadline leaves the process by so much later than it counts here. One that is
	// taken for over before it is would have everything refused. The service counts
	// on as much.
	clocksDiffer = 250 * time.Millisecond
	// triesMost is how many replicas are asked for one thing.
	triesMost = 4
	// strangeLife is how long a policy goes alone that was not known to a replica,
	// and strangeMost how many such there are.
	strangeLife = time.Second
	strangeMost = 64

	sweepEvery = 5 * time.Millisecond
	// A replica may leave a request unanswered for half of the time that there is,
	// within these: one that pauses for a moment is not gone.
	silenceLeast = 20 * time.Millisecond
	silenceMost  = 500 * time.Millisecond
)

// lane is what goes to one replica, or to any.
type lane struct {
	replica string // "" for any
	subject string
	mark    string    // what the tokens of its requests begin with
	heard   time.Time // when the replica last said anything
	dirty   bool
	batch   queue // what goes together
	alone   queue // what goes by itself
}

// queue is what waits to be sent, and how many requests of it are under way.
type queue struct {
	first, last *fold
	flying      int
}

func (q *queue) push(f *fold) {
	if f.next = nil; q.last == nil {
		q.first = f
	} else {
		q.last.next = f
	}
	q.last = f
}

func (q *queue) pop() *fold {
	f := q.first
	if f == nil {
		return nil
	}
	if q.first = f.next; q.first == nil {
		q.last = nil
	}
	f.next = nil
	return f
}

// request is one message to the service.
type request struct {
	token string
	lane  *lane
	queue *queue
	takes []taken
	until time.Time // when nobody waits for it any more
	quiet time.Time // when it is unanswered for too long
	since time.Time // from when: when it was sent, or its replica was last given more time
	epoch uint64
	next  *request // to be sent
}

// taken is what a request wants for a fold.
type taken struct {
	fold *fold
	n    int64
}

// enqueue puts a fold in the lane of the replica that its key prefers; mu is held.
func (c *Client) enqueue(f *fold) {
	replica := ""
	if f.tries < triesMost-1 { // the last one is whoever is there
		replica = c.affinity.preferBut(f.key, f.silent, time.Now())
	}
	l := c.lanes[replica]
	if l == nil {
		c.marks++
		l = &lane{replica: replica, subject: c.general, mark: strconv.FormatUint(c.marks, 36) + "-"}
		if replica != "" {
			l.subject = c.cfg.Namespace.LimitConsume(replica)
		}
		c.lanes[replica] = l
	}
	f.state = foldQueued
	if f.all != nil || f.alone || len(c.strange) > 0 && time.Now().Before(c.strange[f.limit.Name]) {
		l.alone.push(f)
	} else {
		l.batch.push(f)
	}
	c.mark(l)
}

// mark has a lane looked at by flush.
func (c *Client) mark(l *lane) {
	if !l.dirty {
		l.dirty = true
		c.dirty = append(c.dirty, l)
	}
}

// unlock gives mu back, sends what may be sent then, and tells those who are
// answered.
func (c *Client) unlock() {
	out, deals := c.flush(), c.deals
	c.deals = nil
	c.mu.Unlock()
	c.send(out) // first: it is what others wait for
	for i := range deals {
		deals[i].give()
	}
}

// flush makes requests of what waits; mu is held.
func (c *Client) flush() (out *request) {
	for len(c.dirty) > 0 {
		l := c.dirty[len(c.dirty)-1]
		c.dirty = c.dirty[:len(c.dirty)-1]
		l.dirty = false
		out = c.fill(l, &l.batch, requestsMost, wire.MaxLimitTakes, out)
		out = c.fill(l, &l.alone, aloneMost, 1, out)
	}
	return out
}

func (c *Client) fill(l *lane, q *queue, most, size int, out *request) *request {
	for q.first != nil && q.flying < most {
		r := &request{lane: l, queue: q, epoch: c.epoch, next: out}
		for len(r.takes) < size {
			f := q.pop()
			if f == nil {
				break
			}
			if f.waiting.first == nil { // all left
				c.settle(f)
				c.forgetFold(f)
				continue
			}
			if f.until.After(r.until) {
				r.until = f.until
			}
			r.takes = append(r.takes, taken{f, f.depart()})
		}
		if len(r.takes) == 0 {
			break
		}
		c.launch(r)
		out = r
	}
	return out
}

// launch enters a request among those that are under way; mu is held.
func (c *Client) launch(r *request) {
	c.tokens++
	r.token = r.lane.mark + strconv.FormatUint(c.tokens, 36)
	now := time.Now()
	r.since, r.quiet = now, now.Add(max(min(r.until.Sub(now)/2, silenceMost), silenceLeast))
	r.queue.flying++
	c.flying[r.token] = r
	c.counts.Asked++
	c.arm()
}

// land takes a request out again; mu is held.
func (c *Client) land(r *request) {
	delete(c.flying, r.token)
	r.queue.flying--
	c.mark(r.lane)
}

// arm has the sweep come soon; mu is held.
func (c *Client) arm() {
	switch {
	case c.armed:
		return
	case c.timer == nil:
		c.timer = time.AfterFunc(sweepEvery, c.sweep)
	default:
		c.timer.Reset(sweepEvery)
	}
	c.armed = true
}

// send publishes requests; mu is not held.
func (c *Client) send(out *request) {
	for r := out; r != nil; {
		next := r.next
		if err := c.publish(r); err != nil {
			c.failed(r, err)
		}
		r = next
	}
}

func (c *Client) publish(r *request) error {
	prefix, err := c.inbox()
	if err != nil {
		return err
	}
	return c.cfg.NATS.PublishMsg(&nats.Msg{
		Subject: r.lane.subject, Reply: prefix + r.token, Data: r.encode(),
		Header: nats.Header{wire.HeaderDeadline: {wire.Deadline(r.until.Add(clocksDiffer).UnixMilli())}},
	})
}

// inbox returns the prefix of reply subjects. The first call subscribes.
func (c *Client) inbox() (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.prefix != "" {
		return c.prefix, nil
	}
	prefix := bus.NewInbox(c.cfg.NATS) + "."
	if _, err := c.cfg.NATS.Subscribe(prefix+"*", c.replied); err != nil {
		return "", err
	}
	c.prefix = prefix
	return prefix, nil
}

// encode writes the request as JSON.
func (r *request) encode() []byte {
	var req wire.LimitRequest
	if all := r.takes[0].fold.all; all != nil {
		req.Takes = make([]wire.LimitTake, len(all))
		for i := range all {
			a := &all[i]
			req.Takes[i] = wire.LimitTake{Policy: a.Limit.Name, Key: a.Key, Cost: &a.Cost}
		}
	} else {
		req.Batch = make([]wire.LimitTake, len(r.takes))
		for i, t := range r.takes {
			req.Batch[i] = wire.LimitTake{Policy: t.fold.limit.Name, Key: t.fold.key, Cost: &t.fold.cost, N: t.n}
		}
	}
	return req.AppendJSON(nil)
}
