package fairlead

import (
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// recentAttempts is how many attempts are remembered as having been here: a
	// message that comes twice is not worked on twice.
	recentAttempts = 4096
	// mostUntold is how many results beyond the attempts that run may wait for their
	// acknowledgement before no further attempt begins.
	mostUntold = 1024
	// mostWaiting bounds the bytes of the attempts that wait here; beyond, those
	// of NATS's own buffer do.
	mostWaiting = 64 << 20
)

type attemptRef struct {
	id    wire.TaskID
	fence int64
}

// workbook says which attempts a worker has: those that run, those that wait for
// their turn in the order in which they came, those whose result is not
// acknowledged yet.
type workbook struct {
	most    int // that run at a time
	held    map[wire.TaskID]*Attempt
	running int
	untold  int
	waiting []*Attempt
	bytes   int // of those that wait

	recent map[attemptRef]struct{}
	ring   []attemptRef // recent, the oldest at next once it is full
	next   int
}

func newWorkbook(most int) *workbook {
	return &workbook{most: most, held: map[wire.TaskID]*Attempt{}, recent: map[attemptRef]struct{}{}}
}

// admit takes an attempt, unless it was here before or a later one of its task is.
// given is an earlier attempt of the task that is still here: the new one says
// that it was given up.
func (b *workbook) admit(a *Attempt) (given *Attempt, ok bool) {
	ref := attemptRef{a.id, a.fence}
	if _, was := b.recent[ref]; was {
		return nil, false
	}
	given = b.held[a.id]
	if given != nil && given.fence >= a.fence {
		return nil, false
	}
	b.remember(ref)
	b.held[a.id] = a
	b.waiting = append(b.waiting, a)
	b.bytes += a.size
	return given, true
}

func (b *workbook) remember(ref attemptRef) {
	b.recent[ref] = struct{}{}
	if len(b.ring) < recentAttempts {
		b.ring = append(b.ring, ref)
		return
	}
	delete(b.recent, b.ring[b.next])
	b.ring[b.next] = ref
	b.next = (b.next + 1) % recentAttempts
}

// start returns the next attempt that is to run, nil: none may, or none waits. late
// are those before it that are out of time: they are not run.
func (b *workbook) start(now time.Time) (a *Attempt, late []*Attempt) {
	for len(b.waiting) > 0 && b.running < b.most && b.untold < b.most+mostUntold {
		first := b.pop()
		if !now.Before(first.deadline) {
			b.forget(first)
			late = append(late, first)
			continue
		}
		b.running++
		return first, late
	}
	return nil, late
}

func (b *workbook) pop() *Attempt {
	first := b.waiting[0]
	b.waiting[0] = nil
	if b.waiting = b.waiting[1:]; len(b.waiting) == 0 {
		b.waiting = nil
	}
	b.bytes -= first.size
	return first
}

// ran says that an attempt's function has returned; its result is to be told.
func (b *workbook) ran() {
	b.running--
	b.untold++
}

// told says that there is nothing more to do for an attempt that ran.
func (b *workbook) told(a *Attempt) {
	b.untold--
	b.forget(a)
}

func (b *workbook) forget(a *Attempt) {
	if b.held[a.id] == a {
		delete(b.held, a.id)
	}
}

// full reports whether no more attempts may wait.
func (b *workbook) full() bool { return b.bytes >= mostWaiting }
