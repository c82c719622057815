package presence

import (
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// deaths is what a replica thinks of gateways without a lease. An expired lease
// is only a suspicion: JetStream may have been away for longer than it lasts.
type deaths struct {
	mu   sync.Mutex
	byID map[string]*suspicion // guarded by mu; of gateways that something is left of
}

// suspicion is what is known of one gateway.
type suspicion struct {
	asking   bool      // it is being asked
	since    time.Time // when it was first seen without a lease
	dead     bool      // it did not answer
	died     uint64    // with everything that it said up to this epoch
	vouched  time.Time // when it last answered although its lease was gone
	epoch    uint64    // of its live lease; 0: it has none
	fresh    time.Time // when that epoch was first seen
	renewal  uint64    // the last that was compared
	differs  difference
	unequal  time.Time // since when every renewal differed; zero: the last did not
	reviewed time.Time // when it was last asked to compare

	resting burial    // what was there when nothing of it was due
	until   time.Time // when something is
}

// difference is what a view has more than its gateway says, of topics and of the
// registry.
type difference struct{ topics, registry wire.PresenceDigest }

func differenceOf(topics, registry wire.PresenceDigest, held *lease) difference {
	less := func(a, b wire.PresenceDigest) wire.PresenceDigest {
		return wire.PresenceDigest{Count: a.Count - b.Count, Sum: a.Sum - b.Sum}
	}
	return difference{less(topics, held.Presence), less(registry, held.Registry)}
}

// burial is what tells when something of a gateway that is gone is due.
type burial struct {
	topics, registry standing
	rules            *rules.Set
	epoch            uint64
	from             time.Time
}

// standing tells whether a gateway has said anything since.
type standing struct {
	held    *holding
	arrived uint64
}

// finding says what a sweep may do with a gateway's sections.
type finding uint8

const (
	living  finding = iota // nothing
	unsure                 // ask it
	leaving                // it said that it goes: what is due may be taken out
	gone                   // it is dead: what is due may be taken out
)

// strangerGrace is how long a section of an older epoch of a living gateway may
// stay: the gateway puts all of them again under its new one.
const strangerGrace = time.Minute

// find looks at a gateway. held is its lease, the last one if it is not live,
// writable how long JetStream has taken every write of this replica. What may be
// taken out is of the epochs up to the one returned.
func (d *deaths) find(id string, held lease, live bool, leaseTime, writable time.Duration, now time.Time) (finding, uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.of(id, now)
	switch {
	case live && held.Final:
		return leaving, held.epoch
	case live:
		if s.epoch != held.epoch {
			s.epoch, s.fresh = held.epoch, now
		}
		s.since, s.dead, s.vouched = time.Time{}, false, time.Time{}
		return living, 0
	}
	s.epoch = 0
	if s.since.IsZero() {
		s.since = now
	}
	switch {
	case s.dead:
		return gone, s.died
	case writable < leaseTime: // nobody could renew, perhaps
		return living, 0
	case now.Sub(s.vouched) < leaseTime/2:
		return living, 0
	}
	if s.asking {
		return living, 0
	}
	s.asking = true
	return unsure, 0
}

// returned notes that a gateway that was dead has said something since: whether
// it lives is to be found out again.
func (d *deaths) returned(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.byID[id]; s != nil {
		s.dead = false
	}
}

func (d *deaths) of(id string, now time.Time) *suspicion {
	if d.byID == nil {
		d.byID = map[string]*suspicion{}
	}
	s := d.byID[id]
	if s == nil {
		s = &suspicion{}
		d.byID[id] = s
	}
	return s
}

// asked notes whether a gateway without a lease answered; epoch is the newest in
// which it had said anything before.
func (d *deaths) asked(id string, epoch uint64, answered bool, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.of(id, now)
	s.asking = false
	if answered {
		s.vouched = now
	} else {
		s.dead, s.died = true, epoch
	}
}

// dead reports whether what a gateway said in an epoch no longer counts.
func (d *deaths) dead(id string, epoch uint64, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.byID[id]
	if s == nil {
		return false
	}
	return s.dead && epoch <= s.died || s.epoch > epoch && now.Sub(s.fresh) > strangerGrace
}

// compare notes by what a renewal's digests differ from the view's, and reports
// whether the gateway is to compare what it has with what is stored: two renewals
// in a row have differed by the same, and it was not asked a moment ago. What is
// on its way differs from renewal to renewal; a gateway of which there is always
// something on its way compares now and then.
func (d *deaths) compare(id string, renewal uint64, by difference, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.of(id, now)
	if s.renewal == renewal {
		return false
	}
	s.renewal = renewal
	again := by == s.differs
	if s.differs = by; by == (difference{}) {
		s.unequal = time.Time{}
		return false
	}
	if s.unequal.IsZero() {
		s.unequal = now
	}
	if now.Sub(s.reviewed) < auditEvery || !again && now.Sub(s.unequal) < auditBusyEvery {
		return false
	}
	s.reviewed, s.unequal = now, now
	return true
}

// rest notes that nothing of what there is of a gateway is due before a time.
func (d *deaths) rest(id string, b burial, until time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.byID[id]; s != nil {
		s.resting, s.until = b, until
	}
}

// rests reports whether there is still nothing due.
func (d *deaths) rests(id string, b burial, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.byID[id]
	return s != nil && s.resting == b && now.Before(s.until)
}

// keep forgets every gateway of which nothing is left.
func (d *deaths) keep(ids map[string]struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.byID {
		if _, ok := ids[id]; !ok {
			delete(d.byID, id)
		}
	}
}

// due returns when a section of a gateway that is gone may be taken out: after
// the delay that its topic's rule leaves for a return.
func due(p *wire.PresenceSection, renewed time.Time, leaveDelay time.Duration) time.Time {
	if p.Topic == "" {
		return renewed
	}
	return renewed.Add(leaveDelay)
}
