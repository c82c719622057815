package outbox

// item is one queued frame; src is nil for replies and control frames. It stays
// small: queueing costs by its size.
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
	live  int // frames and gaps, holes not counted
	bytes int

	lossy      int // frames with policy DropOldest
	lossyBytes int
	lossyFrom  int // no DropOldest frame before this index

	// latest maps a Conflate source to its last queued frame. Built when first
	// needed and kept exact from then on until the queue is empty.
	latest map[*Source]int

	// at[i] is the mark of items[i], nil from len(at) on: it only takes room
	// where losses have to be told. gaps holds those that still have to be, at
	// most one per source; nil while there are none.
	at   []*Mark
	gaps map[*Source]*gap

	// keys[i] is the key of items[i], "" from len(keys) on: like at, it only takes
	// room where messages have keys. slots is its inverse, and exact: a key is in it
	// while its frame is queued. nil until there was one.
	keys  []string
	slots map[string]int
}

// fits reports whether n more bytes stay within the bound. A queue without frames
// takes any, else one larger than the bound could never be sent.
func (q *queue) fits(n, bound int) bool {
	return q.bytes+n <= bound || q.live == len(q.gaps)
}

func (q *queue) push(it item) {
	if len(q.items) == cap(q.items) && q.live-len(q.gaps) <= len(q.items)/2 {
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
	var it item
	if g := q.due(); g != nil {
		it = q.close(q.items[q.head].src, g)
	} else {
		it = q.items[q.head]
		q.remove(q.head)
		q.head++
	}
	if q.live == 0 {
		q.reset()
	}
	return it
}

// peek returns the oldest frame's length; the queue must not be empty.
func (q *queue) peek() int {
	if g := q.due(); g != nil {
		return len(g.frame)
	}
	return len(q.items[q.head].frame)
}

// replace puts it in the place of the last queued frame of the same source and
// returns how many frames that dropped: 0 where there was none.
func (q *queue) replace(it item, at *Mark) int {
	if q.latest == nil {
		q.index()
	}
	i, ok := q.latest[it.src]
	if !ok || i < q.head {
		return 0
	}
	q.bytes += len(it.frame) - len(q.items[i].frame)
	q.items[i].frame = it.frame
	return 1 + q.supersede(i, at)
}

// shed drops the oldest DropOldest frames until n more bytes fit and returns how
// many it dropped. If even all of them would not do it returns false, and drops
// none unless it is the frames that tell of the loss that are too much.
func (q *queue) shed(n, bound int) (dropped int, ok bool) {
	if q.live-len(q.gaps) != q.lossy && q.bytes-q.lossyBytes+n > bound {
		return 0, false
	}
	i := max(q.lossyFrom, q.head)
	for i < len(q.items) && !q.fits(n, bound) {
		if it := q.items[i]; it.frame != nil && it.src.policy() == DropOldest {
			k := q.lose(i)
			it.src.dropped.Add(uint64(k))
			dropped += k
		}
		i++
	}
	q.lossyFrom = i
	ok = q.fits(n, bound)
	if q.live == 0 {
		q.reset()
	}
	return dropped, ok
}

// remove makes items[i] a hole.
func (q *queue) remove(i int) {
	it := q.items[i]
	q.items[i] = item{}
	if i < len(q.keys) {
		q.free(i)
	}
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
	q.restart(q.items[:0])
}

// restart makes q an empty queue that fills items.
func (q *queue) restart(items []item) {
	clear(q.at)
	if q.slots != nil {
		q.freeAll()
	}
	*q = queue{items: items, at: q.at[:0], keys: q.keys[:0], slots: q.slots}
}

// compact closes the holes.
func (q *queue) compact() {
	n, marks, keyed := 0, 0, 0
	for i, it := range q.items[q.head:] {
		if it.frame == nil {
			continue
		}
		q.items[n] = it
		if i += q.head; i < len(q.at) {
			q.at[n] = q.at[i]
			marks = n + 1
		}
		if i < len(q.keys) {
			q.rekey(n, i)
			keyed = n + 1
		}
		n++
	}
	clear(q.items[n:])
	clear(q.at[marks:])
	q.at = q.at[:marks]
	clear(q.keys[keyed:])
	q.keys = q.keys[:keyed]
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
