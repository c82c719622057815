package client

import (
	"errors"
	"sync"
)

var errStopped = errors.New("stopped")

// queue is a bounded first-in first-out queue. It never blocks the one who
// pushes: over its bound it refuses.
type queue[T any] struct {
	max int

	mu     sync.Mutex
	items  []T
	err    error         // why it ended; set once
	signal chan struct{} // capacity 1: something changed
}

func newQueue[T any](max int) *queue[T] {
	return &queue[T]{max: max, signal: make(chan struct{}, 1)}
}

// push reports whether the queue took v; an ended queue drops it and reports true.
func (q *queue[T]) push(v T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return true
	}
	if len(q.items) >= q.max {
		return false
	}
	q.items = append(q.items, v)
	q.wake()
	return true
}

// end lets pop return err once the queue is empty. The first call counts.
func (q *queue[T]) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
		q.wake()
	}
}

// ended returns what end was given, nil before.
func (q *queue[T]) ended() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

func (q *queue[T]) wake() {
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// pop waits for the next item. It returns the queue's error once it has ended
// and is empty, or
// errStopped once stop is closed.
func (q *queue[T]) pop(stop <-chan struct{}) (T, error) {
	var zero T
	for {
		q.mu.Lock()
		if len(q.items) > 0 {
			v := q.items[0]
			q.items[0] = zero
			q.items = q.items[1:]
			if len(q.items) > 0 || q.err != nil {
				q.wake() // for another goroutine in pop
			}
			q.mu.Unlock()
			return v, nil
		}
		err := q.err
		if err != nil {
			q.wake()
		} else {
			q.items = nil // give the backing array back
		}
		q.mu.Unlock()
		if err != nil {
			return zero, err
		}
		select {
		case <-q.signal:
		case <-stop:
			return zero, errStopped
		}
	}
}

// callback runs fn for each item of a queue, one at a time, in a goroutine of
// the client.
type callback[T any] struct {
	queue *queue[T]
}

// every starts a callback that ends with the queue or when this side closes.
// c.mu must not be held.
func every[T any](c *Client, fn func(T)) *callback[T] {
	cb := &callback[T]{queue: newQueue[T](c.queue)}
	c.start(func() { consume(c, cb.queue, fn) })
	return cb
}

// consume calls fn for each item of a queue until it ends or this side closes.
func consume[T any](c *Client, q *queue[T], fn func(T)) {
	for !c.stopped() {
		v, err := q.pop(c.stop)
		if err != nil {
			return
		}
		fn(v)
	}
}
