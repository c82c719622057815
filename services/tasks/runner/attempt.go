package runner

import (
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// leaseSlack is how much later than its worker promised a sign of life may come.
const leaseSlack = 250 * time.Millisecond

// attempt is one that the replica supervises. What its table guards is read and
// written by the table's methods alone; the rest never changes, but for the input,
// which who dispatches the attempt has, and nobody later.
type attempt struct {
	store.Attempt
	text    string // of its id
	topic   string // the subject of who watches the task
	token   string
	timeout time.Duration
	began   time.Time // here
	asked   time.Time // when the task was, of one that it begins with
	// adopted: another replica handed it to its worker, or died before it could.
	adopted bool
	// probe: perhaps nobody takes it. That it runs is told when its worker is heard.
	probe bool
	// links is how often the connection had been made anew when the attempt was sent:
	// what its worker said in between was not heard.
	links uint64

	// Guarded by the table.
	owner    store.Owner
	deadline time.Time
	promised time.Duration // by its worker, to be heard; 0: nothing
	lease    time.Time     // until when; zero without a promise
	heard    bool          // a sign of life, ever
	ending   bool          // what becomes of it is being written
	cancel   bool          // it is to end
	at       int           // in the heap of due times; -1: not there
	told     note          // progress
}

// due is when something is to be done about the attempt if nothing is heard.
func (a *attempt) due() time.Time {
	if !a.lease.IsZero() && a.lease.Before(a.deadline) {
		return a.lease
	}
	return a.deadline
}

// outOfTime says why nothing more is expected of an attempt.
type outOfTime struct {
	over  bool // its time is; else its worker broke its promise
	alive bool // the worker was there once
}

// table holds the attempts that a replica supervises, by task, and which of them
// is due first. Times are arguments.
type table struct {
	mu   sync.Mutex // guards all, and what it guards of attempts
	byID map[wire.TaskID]*attempt
	heap []*attempt // by due
}

func newTable() *table { return &table{byID: map[wire.TaskID]*attempt{}} }

// put takes attempts in that have just begun, or are taken over. It returns those
// that were given up elsewhere: that they take the place of, or that are older than
// what is there.
func (t *table) put(attempts ...*attempt) (displaced []*attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range attempts {
		if old := t.byID[a.ID]; old != nil {
			if old.Fence > a.Fence {
				displaced = append(displaced, a)
				continue
			}
			t.disarm(old)
			displaced = append(displaced, old)
		}
		t.byID[a.ID] = a
		a.at = -1
		t.arm(a)
	}
	return displaced
}

// sign is what a worker says while it works.
type sign struct {
	lease    time.Duration // until the next one; 0: no promise
	progress []byte        // JSON; nil: none
}

// beat notes a sign of life. It returns nil where the attempt is not supervised
// here; owner is whose it is.
func (t *table) beat(id wire.TaskID, fence int64, s sign, now time.Time) (a *attempt, owner store.Owner, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a = t.byID[id]
	if a == nil || a.Fence != fence {
		return nil, 0, false
	}
	first = !a.heard
	a.heard = true
	if !a.ending {
		if s.lease > 0 {
			a.promised, a.lease = s.lease, now.Add(s.lease+leaseSlack)
		} else if a.promised > 0 {
			a.lease = now.Add(a.promised + leaseSlack)
		}
		t.arm(a)
	}
	return a, a.owner, first
}

// end marks an attempt as one of which the end is being written: nothing more is
// done about it. It returns nil where that is so already, or it is not here.
func (t *table) end(id wire.TaskID, fence int64) *attempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.byID[id]
	if a == nil || a.Fence != fence || a.ending {
		return nil
	}
	a.ending = true
	t.disarm(a)
	return a
}

// resume takes [table.end] back.
func (t *table) resume(a *attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[a.ID] == a {
		a.ending = false
		t.arm(a)
	}
}

// get returns an attempt of a task, nil where none is supervised here.
func (t *table) get(id wire.TaskID) *attempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// remove takes an attempt out: one with that fence or a smaller one.
func (t *table) remove(id wire.TaskID, fence int64) *attempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.byID[id]
	if a == nil || a.Fence > fence {
		return nil
	}
	t.disarm(a)
	delete(t.byID, id)
	return a
}

// flag notes that an attempt is to be cancelled.
func (t *table) flag(id wire.TaskID, fence int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.byID[id]; a != nil && a.Fence == fence {
		a.cancel = true
	}
}

// flagged reports whether an attempt is to be cancelled.
func (t *table) flagged(a *attempt) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return a.cancel
}

// next is when the first attempt is due; false: there is none.
func (t *table) next() (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.heap) == 0 {
		return time.Time{}, false
	}
	return t.heap[0].due(), true
}

// expired is an attempt of which nothing more is expected.
type expired struct {
	*attempt
	outOfTime
	owner store.Owner
}

// expire marks the attempts as ending that are due, at most so many.
func (t *table) expire(now time.Time, most int) (due []expired) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.heap) > 0 && len(due) < most && !now.Before(t.heap[0].due()) {
		a := t.heap[0]
		a.ending = true
		t.disarm(a)
		due = append(due, expired{a, outOfTime{over: !now.Before(a.deadline), alive: a.heard}, a.owner})
	}
	return due
}

// postpone takes [table.expire] back for a while.
func (t *table) postpone(a *attempt, now time.Time, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[a.ID] != a {
		return
	}
	if now.Before(a.deadline) {
		a.lease = now.Add(wait)
	} else {
		a.deadline = now.Add(wait)
	}
	a.ending = false
	t.arm(a)
}

// renew takes every promise as if it were made now: nobody could be heard.
func (t *table) renew(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.byID {
		if a.promised > 0 && !a.ending {
			a.lease = now.Add(a.promised + leaseSlack)
			t.arm(a)
		}
	}
}

// others returns the attempts that are not an owner's.
func (t *table) others(owner store.Owner) (refs []store.Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.byID {
		if a.owner != owner {
			refs = append(refs, store.Ref{ID: a.ID, Fence: a.Fence})
		}
	}
	return refs
}

// older returns the attempts that began before a time and of which nothing is being
// written.
func (t *table) older(than time.Time) (refs []store.Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.byID {
		if !a.ending && a.began.Before(than) {
			refs = append(refs, store.Ref{ID: a.ID, Fence: a.Fence})
		}
	}
	return refs
}

// missing returns those of some attempts that are not supervised here.
func (t *table) missing(refs []store.Ref) (missing []store.Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ref := range refs {
		if a := t.byID[ref.ID]; a == nil || a.Fence < ref.Fence {
			missing = append(missing, ref)
		}
	}
	return missing
}

// own makes an attempt an owner's.
func (t *table) own(id wire.TaskID, fence int64, owner store.Owner) *attempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.byID[id]
	if a == nil || a.Fence != fence {
		return nil
	}
	a.owner = owner
	return a
}

func (t *table) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}
