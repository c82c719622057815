package runner

import (
	"sync"
	"time"
)

const (
	// leastCap is how many attempts of a name run in a replica where its workers do
	// not say how many they take.
	leastCap = 16
	// maxLanes bounds the names of which a replica knows something.
	maxLanes = 10_000
	// maxWorkers bounds the workers of a name that say how much they take.
	maxWorkers = 10_000
	// workerFor is how long what a worker says counts. It says it again every 5 s.
	workerFor = 16 * time.Second
	// idleFor is after how long a lane of which nothing is to be known is forgotten.
	idleFor = 10 * time.Minute
	// answerWithin is how long NATS may take to say that nobody took a probe.
	answerWithin = 250 * time.Millisecond
)

// pauses are those before the probes of a name that nobody serves.
var pauses = [...]time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second}

// lane is what a replica knows of a name: how many of its attempts it has, and
// may have.
type lane struct {
	name     string
	inFlight int  // attempts, and places that are kept for some
	backlog  bool // tasks wait in the store
	deep     bool // more of them than there are places: those that come wait behind them
	claiming bool // a claim is asked for, or under way
	again    bool // tasks came while it was
	narrow   int  // places since attempts ran out without a sign of life; 0: as many as there are
	workers  map[string]workerSlots
	slots    int // of them together
	used     time.Time

	failed int       // claims in a row
	askAt  time.Time // the next claim is not sooner
	most   int       // of a claim, since one failed; 0: as many as there are places

	parked  int // how often in a row nobody took an attempt; 0: somebody does
	probeAt time.Time
	probed  time.Time // when a probe was sent of which nothing is known yet
}

type workerSlots struct {
	slots int
	until time.Time
}

// places is how many attempts of the lane the replica may have.
func (l *lane) places() int {
	most := max(leastCap, l.slots)
	if l.narrow > 0 && l.narrow < most {
		return l.narrow
	}
	return most
}

func (l *lane) free() int { return max(l.places()-l.inFlight, 0) }

// idle reports whether nothing would be lost with the lane.
func (l *lane) idle() bool {
	return l.inFlight == 0 && !l.claiming && !l.backlog && l.parked == 0 && l.narrow == 0 && len(l.workers) == 0
}

// lanes are those of a replica. Times are arguments; what is to be claimed is
// returned, and stays marked as being claimed until [lanes.claimed].
type lanes struct {
	mu        sync.Mutex // guards all, and the lanes
	byName    map[string]*lane
	parked    map[string]*lane
	allowance allowance // of probes
	tries     int64     // of those
	evicted   time.Time // when one had to make room
	evictions int64
}

func newLanes() *lanes {
	return &lanes{byName: map[string]*lane{}, parked: map[string]*lane{}}
}

// of returns the lane of a name, nil where there are too many: another one makes
// room now and then.
func (ls *lanes) of(name string, now time.Time) *lane {
	l := ls.byName[name]
	if l == nil {
		l = &lane{name: name}
		if len(ls.byName) >= maxLanes {
			if now.Sub(ls.evicted) >= evictEvery {
				ls.evict(now)
			}
			if len(ls.byName) >= maxLanes {
				return nil
			}
			l = untried(name, now)
			ls.parked[name] = l
		}
		ls.byName[name] = l
	}
	l.used = now
	return l
}

// reserve keeps a place for a task that is to be inserted running; false: it is
// to wait its turn.
func (ls *lanes) reserve(name string, now time.Time) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.of(name, now)
	if l == nil || l.parked > 0 || l.deep || l.free() == 0 {
		return false
	}
	l.inFlight++
	return true
}

// occupy counts an attempt that is there, whether or not there is a place for it.
func (ls *lanes) occupy(name string, now time.Time) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.of(name, now); l != nil {
		l.inFlight++
	}
}

// release gives a place back, and says whether to claim for it.
func (ls *lanes) release(name string) (claim bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.byName[name]
	if l == nil {
		return false
	}
	l.inFlight = max(l.inFlight-1, 0)
	return l.wants()
}

// wants says whether a claim is to begin, and marks it.
func (l *lane) wants() bool {
	if !l.backlog || l.claiming || l.parked > 0 || l.free() == 0 {
		return false
	}
	l.claiming = true
	return true
}

// demand notes that tasks wait, and says whether to claim.
func (ls *lanes) demand(name string, now time.Time) (claim bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.of(name, now)
	if l == nil {
		return false
	}
	l.backlog, l.deep = true, l.deep || l.free() == 0
	if l.claiming {
		l.again = true
		return false
	}
	return l.wants()
}

// begin says how many to claim, and keeps the places: one where nobody was there
// to take any, to see whether that is still so.
func (ls *lanes) begin(name string, now time.Time) (n int) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.byName[name]
	if l == nil {
		return 0
	}
	n = min(l.free(), mostRows)
	if l.most > 0 {
		n = min(n, l.most)
	}
	if now.Before(l.askAt) {
		n = 0
	}
	if l.parked > 0 {
		n = min(n, 1)
		if now.Before(l.probeAt) || !l.probed.IsZero() {
			n = 0
		}
	}
	l.again = false
	if n == 0 {
		l.claiming = false
		return 0
	}
	l.inFlight += n
	return n
}

// claimed notes how many of n were there. It says whether to claim again.
func (ls *lanes) claimed(name string, n, got int, failed bool, now time.Time) (again bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.byName[name]
	if l == nil {
		return false
	}
	l.inFlight = max(l.inFlight-(n-got), 0)
	l.claiming = false
	l.deep = got == n || failed
	l.backlog = l.deep || l.again
	if l.parked > 0 {
		switch {
		case failed:
			l.probeAt = now.Add(pauses[0])
		case got > 0:
			l.probed = now
		default: // nothing to try it with: the next task does
			ls.unpark(l)
		}
	}
	return !failed && l.wants()
}

// asked notes whether a claim of n failed. The next one waits then, and is smaller
// until one succeeds: it may have been too large to be had in time.
func (ls *lanes) asked(name string, n int, failed bool, now time.Time) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.byName[name]
	switch {
	case l == nil:
	case failed:
		l.askAt = now.Add(pauses[min(l.failed, len(pauses)-1)])
		l.failed++
		l.most = max(n/2, 1)
	case l.most > 0:
		l.failed = 0
		if l.most *= 2; l.most >= l.places() {
			l.most = 0
		}
	}
}

// bounced notes that nobody took an attempt.
func (ls *lanes) bounced(name string, now time.Time) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.of(name, now)
	if l == nil || l.parked > 0 && l.probed.IsZero() {
		return // one of those that were sent together
	}
	l.probeAt = now.Add(pauses[min(l.parked, len(pauses)-1)])
	l.parked++
	l.probed = time.Time{}
	l.backlog, l.deep = true, true
	ls.parked[name] = l
}

// isParked reports whether nobody took an attempt of the name, as far as is known.
func (ls *lanes) isParked(name string) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.byName[name]
	return l != nil && l.parked > 0
}

// unpark notes that somebody may be there.
func (ls *lanes) unpark(l *lane) {
	l.parked, l.probed = 0, time.Time{}
	delete(ls.parked, l.name)
}

// heard notes a sign of life of a worker of the name, and says whether to claim.
func (ls *lanes) heard(name string, replied bool) (claim bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.byName[name]
	if l == nil {
		return false
	}
	if l.parked > 0 {
		ls.unpark(l)
	}
	if replied && l.narrow > 0 {
		if l.narrow++; l.narrow >= max(leastCap, l.slots) {
			l.narrow = 0
		}
	}
	return l.wants()
}

// silent notes that an attempt ran out its time without a sign of life: those
// behind it may wait in the same worker.
func (ls *lanes) silent(name string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.byName[name]; l != nil {
		l.narrow = max(l.places()/2, 1)
	}
}

// hello notes what a worker says of itself, and says whether to claim.
func (ls *lanes) hello(name, worker string, slots int, leaving bool, now time.Time) (claim bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.byName[name] == nil && len(ls.byName) >= maxLanes {
		ls.evicted = time.Time{} // who is there does not wait for room
	}
	l := ls.of(name, now)
	if l == nil {
		return false
	}
	if worker != "" {
		l.slots -= l.workers[worker].slots
		delete(l.workers, worker)
		if !leaving && slots > 0 && len(l.workers) < maxWorkers {
			if l.workers == nil {
				l.workers = map[string]workerSlots{}
			}
			l.workers[worker] = workerSlots{slots, now.Add(workerFor)}
			l.slots += slots
		}
	}
	if leaving {
		return false
	}
	if l.parked > 0 {
		ls.unpark(l)
	}
	return l.wants()
}

// tidy forgets workers that say nothing any more and lanes of which nothing is to
// be known.
func (ls *lanes) tidy(now time.Time) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for name, l := range ls.byName {
		for worker, w := range l.workers {
			if now.After(w.until) {
				l.slots -= w.slots
				delete(l.workers, worker)
			}
		}
		if l.idle() && now.Sub(l.used) > idleFor {
			delete(ls.byName, name)
		}
	}
}

// counts returns how many lanes there are, and how many of them are parked.
func (ls *lanes) counts() (known, parked int) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.byName), len(ls.parked)
}

// behind returns the names of which tasks wait.
func (ls *lanes) behind() (names []string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for name, l := range ls.byName {
		if l.backlog {
			names = append(names, name)
		}
	}
	return names
}
