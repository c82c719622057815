package outbox

// keepSlots is how many frames a queue with keys may have held for its map to be
// kept when it is empty: a map never shrinks.
const keepSlots = 256

// DeliverLatest is [Conn.Deliver] for a message that makes the one before it
// under the same key useless: while that one waits in the queue, frame takes its
// place there, whether or not the peer is behind. Keys are the connection's: two
// sources that use the same one replace each other's messages. "" is no key.
//
// Where no message of the key waits, src's policy decides about a full queue;
// Conflate is Disconnect here, since a message with a key is replaced by its key
// only. A message of a replayed topic must not be passed: its peer would be told
// of no loss.
func (c *Conn) DeliverLatest(frame []byte, src *Source, key string) {
	if key == "" {
		c.Deliver(frame, src)
		return
	}
	if len(frame) == 0 {
		return
	}
	it := item{frame, src}
	if src.policy() == Conflate {
		it.src = nil
	}
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return
	}
	if c.q == nil {
		c.q = c.o.queues.Get().(*queue)
	}
	if !c.renew(it, key) && c.put(it, nil) {
		c.q.hold(key)
	}
	wake := c.wants()
	c.mu.Unlock()
	if wake {
		c.fl.push(c)
	}
}

// renew puts it in the place of the queued frame of the same key. Where there is
// none, or none any more because it did not fit, it is to be queued. The caller
// holds c.mu.
func (c *Conn) renew(it item, key string) bool {
	i, ok := c.q.slots[key]
	if !ok {
		return false
	}
	more, bound := len(it.frame)-len(c.q.items[i].frame), c.o.cfg.QueueBytes
	if c.q.bytes+more > bound && c.q.live-len(c.q.gaps) > 1 {
		dropped, fits := c.q.shed(more, bound)
		c.count(DropOldest, dropped)
		if _, ok = c.q.slots[key]; !ok {
			return false // it was the oldest
		}
		if !fits {
			c.q.remove(i)
			c.coalesced()
			return false
		}
	}
	c.q.swap(i, it)
	c.coalesced()
	return true
}

func (c *Conn) coalesced() {
	c.n.coalesced.Add(1)
	c.fl.n.coalesced.Add(1)
}

// swap makes it the frame of items[i], which has a key.
func (q *queue) swap(i int, it item) {
	old := q.items[i]
	q.items[i] = it
	q.bytes += len(it.frame) - len(old.frame)
	if old.src.policy() == DropOldest {
		q.lossy--
		q.lossyBytes -= len(old.frame)
	}
	if it.src.policy() == DropOldest {
		q.lossy++
		q.lossyBytes += len(it.frame)
		q.lossyFrom = min(q.lossyFrom, i)
	}
}

// hold gives the last frame, just pushed, its key, which none that is queued has.
func (q *queue) hold(key string) {
	if q.slots == nil {
		q.slots = make(map[string]int)
	}
	i := len(q.items) - 1
	for len(q.keys) <= i {
		q.keys = append(q.keys, "")
	}
	q.keys[i] = key
	q.slots[key] = i
}

// free forgets the key of items[i], if it has one.
func (q *queue) free(i int) {
	if key := q.keys[i]; key != "" {
		q.keys[i] = ""
		delete(q.slots, key)
	}
}

// rekey moves the key of items[from], if it has one, to items[to].
func (q *queue) rekey(to, from int) {
	key := q.keys[from]
	q.keys[to] = key
	if key != "" {
		q.slots[key] = to
	}
}

// freeAll forgets all keys.
func (q *queue) freeAll() {
	if cap(q.keys) > keepSlots {
		q.keys, q.slots = nil, nil
	}
	clear(q.keys)
	clear(q.slots)
}

// Fence keeps what is queued from now on behind what waits: no message takes the
// place of one that is there already. An answer that begins a subscription is
// followed by it, since a message of the subscription must not come before.
func (c *Conn) Fence() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.q != nil && c.q.slots != nil {
		c.q.freeAll()
	}
}
