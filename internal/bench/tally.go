package bench

// tally counts what one loop saw. Only the loop touches it.
type tally struct {
	published int64
	delivered int64
	frames    int64 // text frames that held messages
	bytes     int64 // of those frames' payloads
	acks      int64
	lost      int64 // numbers that were skipped
	repeated  int64 // numbers that came again or late
	damaged   int64 // payloads that were cut or changed
	errors    int64 // error replies
	closed    int64 // connections that ended by themselves
	failure   string
	latency   Histogram
	ack       Histogram
	lag       Histogram // of a fixed rate behind its schedule
}

func (t *tally) failed(text string) {
	if t.failure == "" {
		t.failure = text
	}
}

func (t *tally) merge(o *tally) {
	t.published += o.published
	t.delivered += o.delivered
	t.frames += o.frames
	t.bytes += o.bytes
	t.acks += o.acks
	t.lost += o.lost
	t.repeated += o.repeated
	t.damaged += o.damaged
	t.errors += o.errors
	t.closed += o.closed
	t.failed(o.failure)
	t.latency.Merge(&o.latency)
	t.ack.Merge(&o.ack)
	t.lag.Merge(&o.lag)
}

// faults are kept for a whole run, whatever part of it is measured.
func (t *tally) restart() {
	*t = tally{lost: t.lost, repeated: t.repeated, damaged: t.damaged, errors: t.errors, closed: t.closed, failure: t.failure}
}

// message counts one delivery in order.
func (t *tally) message(c *conn, due, number, now int64) (fresh bool) {
	t.delivered++
	t.latency.Record(now - due)
	switch {
	case number < c.next:
		t.repeated++
		return false
	case number > c.next:
		t.lost += number - c.next
	}
	c.next = number + 1
	return true
}
