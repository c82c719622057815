package outbox

// Offer is [Conn.Send] for whoever owes a peer much, and sends on when the peer
// has read: it queues frame if at most so many bytes are firm, and reports
// whether it did. A connection that is closing takes anything, as with Send.
func (c *Conn) Offer(frame []byte, most int) bool {
	c.mu.Lock()
	if !c.closing && c.firm() > most {
		c.mu.Unlock()
		return false
	}
	c.enqueueLocked(item{frame: frame}, nil)
	return true
}

// Firm returns the bytes that wait in the queue and that no other frame may push
// out of it: a topic whose messages may be lost can keep a queue full for ever.
func (c *Conn) Firm() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.firm()
}

// firm is Firm; the caller holds c.mu.
func (c *Conn) firm() int {
	if c.q == nil {
		return 0
	}
	return c.q.bytes - c.q.lossyBytes
}
