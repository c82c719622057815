package outbox

// DeliverAll is [Conn.Deliver] for several messages of one source, in order. No
// other frame comes between them, and as far as the bounds of an array allow they
// leave in one write: they are one array where nothing else waits. src's policy
// decides about each of them by itself. The frames must not be changed any more;
// the slice is the caller's again.
func (c *Conn) DeliverAll(frames [][]byte, src *Source) {
	c.mu.Lock()
	for _, frame := range frames {
		if c.closing {
			break
		}
		if len(frame) == 0 {
			continue
		}
		if c.q == nil {
			c.q = c.o.queues.Get().(*queue)
		}
		c.put(item{frame, src}, nil)
	}
	wake := c.pending() && c.wants()
	c.mu.Unlock()
	if wake {
		c.fl.push(c)
	}
}
