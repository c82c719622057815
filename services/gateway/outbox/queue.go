package outbox

// item is one queued frame; src is nil for replies and control frames.
type item struct {
	frame []byte
	src   *Source
}

// queue holds a connection's frames in order. A dropped one leaves a hole (nil
// frame) that is closed when the slice is next full. Not safe for concurrent
// use: the connection's lock guards it.
type queue struct {
	items []item // items[head:] are queued
	head  int
	live  int // frames, holes not counted
	bytes int

	lossy      int // frames with policy DropOldest
	lossyBytes int
	lossyFrom  int // no DropOldest frame before this index

	// latest maps a Conflate source to its last queued frame. Built when first
	// needed and kept exact from then on until the queue is empty.
	latest map[*Source]int
}

// fits reports whether n more bytes stay within the bound. An empty queue takes
// any frame, else one larger than the bound could never be sent.
func (q *queue) fits(n, bound int) bool { return q.live == 0 || q.bytes+n <= bound }

func (q *queue) push(it item) {
	if len(q.items) == cap(q.items) && q.live <= len(q.items)/2 {
		q.compact()
	}
	q.items = append(q.items, it)
	q.live++
	q.bytes += len(it.frame)
	switch it.src.policy() {
	case DropOldest:
		q.lossy++
		q.lossyBytes += len(it.frame)
	case Conflate:
		if q.latest != nil {
			q.latest[it.src] = len(q.items) - 1
		}
	}
}

// pop removes the oldest frame; the queue must not be empty.
func (q *queue) pop() item {
	for q.items[q.head].frame == nil {
		q.head++
	}
	it := q.items[q.head]
	q.remove(q.head)
	q.head++
	if q.live == 0 {
		q.reset()
	}
	return it
}

// peek returns the oldest frame's length; the queue must not be empty.
func (q *queue) peek() int {
	for q.items[q.head].frame == nil {
		q.head++
	}
	return len(q.items[q.head].frame)
}

// replace puts it in the place of the queued frame of the same source and
// reports whether there was one.
func (q *queue) replace(it item) bool {
	if q.latest == nil {
		q.index()
	}
	i, ok := q.latest[it.src]
	if !ok || i < q.head {
		return false
	}
	q.bytes += len(it.frame) - len(q.items[i].frame)
	q.items[i].frame = it.frame
	return true
}

// shed drops the oldest DropOldest frames until n more bytes fit and returns how
// many it dropped. If even all of them would not do it drops none and returns
// false.
func (q *queue) shed(n, bound int) (dropped int, ok bool) {
	if q.live != q.lossy && q.bytes-q.lossyBytes+n > bound {
		return 0, false
	}
	i := max(q.lossyFrom, q.head)
	for !q.fits(n, bound) {
		if it := q.items[i]; it.frame != nil && it.src.policy() == DropOldest {
			it.src.dropped.Add(1)
			q.remove(i)
			dropped++
		}
		i++
	}
	q.lossyFrom = i
	if q.live == 0 {
		q.reset()
	}
	return dropped, true
}

// remove makes items[i] a hole.
func (q *queue) remove(i int) {
	it := q.items[i]
	q.items[i] = item{}
	q.live--
	q.bytes -= len(it.frame)
	if it.src.policy() == DropOldest {
		q.lossy--
		q.lossyBytes -= len(it.frame)
	}
}

// reset empties the queue and keeps its slice.
func (q *queue) reset() {
	clear(q.items[q.head:])
	*q = queue{items: q.items[:0]}
}

// compact closes the holes.
func (q *queue) compact() {
	n := 0
	for _, it := range q.items[q.head:] {
		if it.frame != nil {
			q.items[n] = it
			n++
		}
	}
	clear(q.items[n:])
	q.items, q.head, q.lossyFrom = q.items[:n], 0, 0
	if q.latest != nil {
		q.index()
	}
}

// index builds latest from what is queued.
func (q *queue) index() {
	q.latest = make(map[*Source]int)
	for i := q.head; i < len(q.items); i++ {
		if it := q.items[i]; it.frame != nil && it.src.policy() == Conflate {
			q.latest[it.src] = i
		}
	}
}
