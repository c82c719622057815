package jobs

import (
	"slices"
	"sync"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// waiter is a claim that waits for a job.
type waiter struct {
	queue string
	id    string        // "": nobody can end the wait but who waits
	wake  chan struct{} // of capacity 1: look again
	gone  chan struct{} // closed when nobody is there any more to be answered
}

// left reports whether nobody is there any more to be answered.
func (w *waiter) left() bool {
	select {
	case <-w.gone:
		return true
	default:
		return false
	}
}

// lines are the claims that wait, by queue, first come first. Who is woken looks
// for jobs, and waits on where there are none.
type lines struct {
	most int

	mu     sync.Mutex // guards what is below
	queues map[string][]*waiter
	named  map[string]*waiter // those with an id, which the last one has; at most n
	n      int
	first  chan struct{} // of capacity 1: somebody waits where nobody did
}

func newLines(most int) *lines {
	return &lines{most: most, queues: map[string][]*waiter{}, named: map[string]*waiter{}, first: make(chan struct{}, 1)}
}

// join has somebody wait, until leave.
func (l *lines) join(queue, id string) (*waiter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n >= l.most {
		return nil, wire.Errorf(wire.ResourceExhausted, "too many claims wait")
	}
	w := &waiter{queue: queue, id: id, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	l.queues[queue] = append(l.queues[queue], w)
	if id != "" {
		l.named[id] = w
	}
	l.n++
	poke(l.first) // also one whose queue is new: its next job may be due sooner than others'
	return w, nil
}

// end has the one with an id wait no longer; false where there is none.
func (l *lines) end(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.named[id]
	if w == nil {
		return false
	}
	delete(l.named, id)
	close(w.gone)
	return true
}

// leave ends the wait. Somebody who was woken and has not looked leaves that to
// the next one.
func (l *lines) leave(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.queues[w.queue]
	if i := slices.Index(rest, w); i >= 0 {
		rest = slices.Delete(rest, i, i+1)
		l.n--
	}
	if len(rest) == 0 {
		delete(l.queues, w.queue)
	} else {
		l.queues[w.queue] = rest
	}
	if l.named[w.id] == w {
		delete(l.named, w.id)
	}
	select {
	case <-w.wake:
		l.wakeLocked(w.queue, 1)
	default:
	}
}

// wake has the first n look who have not been woken, and returns how many there
// were.
func (l *lines) wake(queue string, n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wakeLocked(queue, n)
}

func (l *lines) wakeLocked(queue string, n int) (woken int) {
	for _, w := range l.queues[queue] {
		if woken == n {
			break
		}
		if poke(w.wake) {
			woken++
		}
	}
	return woken
}

// names returns the queues in which somebody waits.
func (l *lines) names() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, 0, len(l.queues))
	for q := range l.queues {
		names = append(names, q)
	}
	return names
}

func (l *lines) waiting() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.n)
}

// poke puts something into a channel of capacity 1 unless there is something.
func poke(ch chan struct{}) bool {
	select {
	case ch <- struct{}{}:
		return true
	default:
		return false
	}
}
