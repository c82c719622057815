package runner

import (
	"slices"
	"time"
)

const (
	// probesPerSecond bounds how many names are tried that nobody served, however
	// many there are.
	probesPerSecond = 50
	// evictEvery is how often a name of which nothing is known but that tasks wait may
	// take the lane of another.
	evictEvery = time.Second / probesPerSecond
	// idleLooked is how many lanes are looked at for one that is idle.
	idleLooked = 64
)

// allowance is how many probes may be sent: it grows up to those of a second.
type allowance struct {
	left float64
	at   time.Time
}

func (a *allowance) grow(now time.Time) int {
	if a.at.IsZero() {
		a.left = probesPerSecond
	} else {
		a.left = min(a.left+now.Sub(a.at).Seconds()*probesPerSecond, probesPerSecond)
	}
	a.at = now
	return int(a.left)
}

// untried is the lane of a name that came when there was no room: it is tried like
// those that nobody served.
func untried(name string, now time.Time) *lane {
	return &lane{name: name, backlog: true, deep: true, parked: 1, probeAt: now}
}

// evict makes room for another lane if it can: it forgets one that nobody serves,
// whose turn comes again, or one of which nothing is to be known.
func (ls *lanes) evict(now time.Time) {
	for name, l := range ls.parked {
		if l.inFlight == 0 && !l.claiming && l.probed.IsZero() {
			ls.forget(name, now)
			return
		}
	}
	looked := 0
	for name, l := range ls.byName {
		if l.idle() {
			ls.forget(name, now)
			return
		}
		if looked++; looked == idleLooked {
			return
		}
	}
}

func (ls *lanes) forget(name string, now time.Time) {
	delete(ls.parked, name)
	delete(ls.byName, name)
	ls.evicted = now
	ls.evictions++
}

// probes returns the names of which one task is to be tried: those that wait for it
// the longest.
func (ls *lanes) probes(now time.Time) (try []string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	most := ls.allowance.grow(now)
	if most == 0 {
		return nil
	}
	var first []*lane // by probeAt
	for _, l := range ls.parked {
		if l.claiming || !l.probed.IsZero() || now.Before(l.probeAt) || now.Before(l.askAt) {
			continue
		}
		if len(first) == most {
			if !l.probeAt.Before(first[most-1].probeAt) {
				continue
			}
			first = first[:most-1]
		}
		i, _ := slices.BinarySearchFunc(first, l, func(a, b *lane) int { return a.probeAt.Compare(b.probeAt) })
		first = slices.Insert(first, i, l)
	}
	for _, l := range first {
		l.claiming = true
		try = append(try, l.name)
	}
	ls.allowance.left -= float64(len(try))
	ls.tries += int64(len(try))
	return try
}

// taken unparks the names of which a task was tried and nobody said that nobody
// took it. It returns those to claim for.
func (ls *lanes) taken(now time.Time) (claim []string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for name, l := range ls.parked {
		if l.probed.IsZero() || now.Sub(l.probed) <= answerWithin {
			continue
		}
		ls.unpark(l)
		if l.wants() {
			claim = append(claim, name)
		}
	}
	return claim
}

// probed returns how many names were tried, and how many lanes were forgotten for
// others.
func (ls *lanes) probed() (tries, evictions int64) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.tries, ls.evictions
}
