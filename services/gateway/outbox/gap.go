package outbox

// Mark is where a message stands in the chain of its topic. A Mark is made once
// per message, shared by all connections like the frame, and never changed.
type Mark struct {
	Seq  int64 // the message's
	Prev int64 // that of the message before it
	Ts   int64 // when it was stored, in the unit of the frames
}

// gap is what one source lost since its peer was last told: one skip frame. Where
// it belongs is said relative to the source's queued frames and not as an index
// of the queue, so that nothing has to be kept up when those move, and so that it
// is read as late as possible: it grows by what is lost until then.
type gap struct {
	from, to Mark
	place    place
	next     *Mark // within: of the frame that it precedes

	frame []byte // as last written
	size  int    // what it counts as in queue.bytes: its length when it was new
}

type place uint8

const (
	ahead  place = iota // of all frames of its source
	within              // ahead of next
	behind              // all frames of its source
)

// extend adds a range that was lost behind that of g. Where the two don't join,
// g begins anew with the later one: the peer then finds the hole, which no policy
// has made, as it would have without the losses.
func (g *gap) extend(from, to Mark) {
	switch {
	case to.Seq <= g.to.Seq && to.Ts <= g.to.Ts: // came twice
	case from.Prev > g.to.Seq, to.Seq <= g.to.Seq:
		g.from, g.to = from, to
	default:
		g.to = to
	}
}

// mark gives the last frame, just pushed, its mark.
func (q *queue) mark(at *Mark) {
	i := len(q.items) - 1
	q.setMark(i, at)
	if g := q.gaps[q.items[i].src]; g != nil && g.place == behind {
		g.place, g.next = within, at
	}
}

func (q *queue) setMark(i int, at *Mark) {
	for len(q.at) <= i {
		q.at = append(q.at, nil)
	}
	q.at[i] = at
}

// markOf returns the mark of items[i] if that is a frame of src that has one.
func (q *queue) markOf(i int, src *Source) *Mark {
	if i >= len(q.at) || q.items[i].src != src {
		return nil
	}
	return q.at[i]
}

// open begins a gap.
func (q *queue) open(src *Source, at *Mark) *gap {
	g := &gap{from: *at, to: *at}
	g.frame = src.Skip(nil, g.from, g.to)
	g.size = len(g.frame)
	if q.gaps == nil {
		q.gaps = make(map[*Source]*gap)
	}
	q.gaps[src] = g
	q.live++
	q.bytes += g.size
	return g
}

// lose drops items[i], the oldest frame of its source, and returns how many it
// dropped: with a gap between later frames, those ahead of it go too, so that a
// source never has more than one.
func (q *queue) lose(i int) (dropped int) {
	src := q.items[i].src
	at := q.markOf(i, src)
	q.remove(i)
	if at == nil {
		return 1
	}
	g := q.gaps[src]
	switch {
	case g == nil:
		g = q.open(src, at)
	case g.place == ahead || g.place == within && g.next == at:
		g.extend(*at, *at)
	default:
		all := gap{from: *at, to: *at}
		for j := i + 1; j < len(q.at); j++ {
			other := q.markOf(j, src)
			if other == nil {
				continue
			}
			if other == g.next {
				break
			}
			all.extend(*other, *other)
			q.remove(j)
			dropped++
		}
		all.extend(g.from, g.to)
		g.from, g.to = all.from, all.to
	}
	g.place, g.next = ahead, nil
	return dropped + 1
}

// refuse notes that a message is dropped instead of being queued. It returns how
// many others go with it: those between a gap of the source and this one.
func (q *queue) refuse(src *Source, at *Mark) (dropped int) {
	if at == nil {
		return 0
	}
	g := q.gaps[src]
	if g == nil {
		g = q.open(src, at)
	} else {
		dropped = q.loseFrom(g, src, len(q.items))
		g.extend(*at, *at)
	}
	g.place, g.next = behind, nil
	return dropped
}

// supersede notes that items[i], the last frame of its source, is now the one
// marked at. It returns how many others went with the former.
func (q *queue) supersede(i int, at *Mark) (dropped int) {
	src := q.items[i].src
	old, g := q.markOf(i, src), q.gaps[src]
	if at != nil || old != nil {
		q.setMark(i, at)
	}
	switch {
	case old != nil && g == nil:
		g = q.open(src, old)
	case old != nil:
		if g.next != old {
			dropped = q.loseFrom(g, src, i)
		}
		g.extend(*old, *old)
	case g == nil || g.place != behind:
		return 0
	}
	g.place, g.next = within, at
	if at == nil {
		g.place = behind
	}
	return dropped
}

// loseFrom drops the frames of src that follow its gap g, up to items[end], and
// adds them to it.
func (q *queue) loseFrom(g *gap, src *Source, end int) (dropped int) {
	if g.place == behind {
		return 0
	}
	reached := g.place == ahead
	for i := q.head; i < min(end, len(q.at)); i++ {
		at := q.markOf(i, src)
		if at == nil {
			continue
		}
		reached = reached || at == g.next
		if reached {
			g.extend(*at, *at)
			q.remove(i)
			dropped++
		}
	}
	return dropped
}

// due moves head to the oldest frame and returns the gap that comes before it, if
// any. Where only gaps are left they become the queue's frames.
func (q *queue) due() *gap {
	for q.head < len(q.items) && q.items[q.head].frame == nil {
		q.head++
	}
	if q.gaps == nil {
		return nil
	}
	if q.head == len(q.items) {
		q.settle()
		return nil
	}
	src := q.items[q.head].src
	at, g := q.markOf(q.head, src), q.gaps[src]
	if at == nil || g == nil || g.place == behind || g.place == within && g.next != at {
		return nil
	}
	g.frame = src.Skip(g.frame[:0], g.from, g.to)
	return g
}

// close takes g, the gap of src, out of the queue.
func (q *queue) close(src *Source, g *gap) item {
	q.live--
	q.bytes -= g.size
	delete(q.gaps, src)
	if len(q.gaps) == 0 {
		q.gaps = nil
	}
	return item{frame: g.frame}
}

// settle queues what is left of the gaps, as there is nothing that they could
// precede. Until these are taken a source may have a second one behind them.
func (q *queue) settle() {
	clear(q.at)
	q.items, q.at, q.keys, q.head, q.lossyFrom, q.latest = q.items[:0], q.at[:0], q.keys[:0], 0, 0, nil
	for src, g := range q.gaps {
		g.frame = src.Skip(g.frame[:0], g.from, g.to)
		it := q.close(src, g)
		q.items = append(q.items, it)
		q.live++
		q.bytes += len(it.frame)
	}
}
