package limits

import (
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// rememberMost is how long a denial is remembered, and deniedMost how many are.
	rememberMost = 5 * time.Second
	deniedMost   = 1 << 16
	// changeLife is how long it is remembered that a key was changed: longer than
	// any answer is under way that was decided before.
	changeLife  = 15 * time.Second
	changesMost = 1 << 12
)

// denials are what a client remembers of keys that were denied, so that it need
// not ask again, and of what was changed since. Nothing here is true for longer
// than 5 s by itself; what makes it untrue earlier is heard as a change. Its
// owner serializes the calls.
type denials struct {
	keys  map[string][]denial
	count int

	// changed is the newest change of a key, so that a denial that was decided
	// before it and arrives after it is not remembered. Revisions are numbers of
	// one stream, whatever the key: floor stands for every key.
	changed map[string]change
	floor   uint64 // what was decided up to here is not remembered, until floorEnd
	floorAt time.Time

	forgotten, dropped int64
}

// denial is what a key was denied.
type denial struct {
	policy   string
	version  string // "" is every version: a ban that was heard of
	cost     int64  // and everything above it
	banned   bool   // everything but 0
	revision uint64
	retry    time.Time // when the service said to come back
	until    time.Time // when somebody asks again
	reset    time.Time // when the bucket is full
	left     int64     // tokens that there were
	asking   bool      // somebody does
}

type change struct {
	revision uint64
	at       time.Time
}

func newDenials() *denials {
	return &denials{keys: map[string][]denial{}, changed: map[string]change{}}
}

// asked reports whether somebody asks already whether a denial is over that
// concerns an ask.
func (d *denials) asked(l *rules.Limit, key string, cost int64, now time.Time) bool {
	e := d.find(l, key, cost)
	return e != nil && !now.Before(e.until) && e.asking
}

// begin makes who asks whether a denial is over the only one to do so, until
// settle is called. It reports whether there is such a denial.
func (d *denials) begin(l *rules.Limit, key string, cost int64, now time.Time) bool {
	e := d.find(l, key, cost)
	if e == nil || now.Before(e.until) || e.asking {
		return false
	}
	e.asking = true
	return true
}

// look reports whether an ask is denied, and changes nothing.
func (d *denials) look(l *rules.Limit, key string, cost int64, now time.Time) (Verdict, bool) {
	if e := d.find(l, key, cost); e != nil && now.Before(e.until) {
		return e.verdict(cost, l, now), true
	}
	return Verdict{}, false
}

// find returns what is remembered that concerns an ask, the longest.
func (d *denials) find(l *rules.Limit, key string, cost int64) *denial {
	all := d.keys[key] // no key has more than a few
	if len(all) == 0 || cost == 0 || l.Shadow {
		return nil
	}
	var found *denial
	version := ""
	for i := range all {
		e := &all[i]
		if e.policy != l.Name || !e.banned && cost < e.cost {
			continue
		}
		if e.version != "" {
			if version == "" {
				version = l.Version()
			}
			if e.version != version {
				continue
			}
		}
		if found == nil || e.until.After(found.until) {
			found = e
		}
	}
	return found
}

func (e *denial) verdict(cost int64, l *rules.Limit, now time.Time) Verdict {
	v := Verdict{Banned: e.banned, Remaining: e.left, RetryAfter: max(e.retry.Sub(now), time.Millisecond), Reset: max(e.reset.Sub(now), 0)}
	switch {
	case cost > int64(l.Capacity):
		v.RetryAfter = wire.Never
	case cost > e.cost && !e.banned: // the tokens beyond those that were wanted come later
		policy := PolicyOf(l)
		v.RetryAfter += policy.Wait(cost - e.cost)
	}
	return v
}

// settle lets others ask again who waited for this one.
func (d *denials) settle(policy, key string) {
	all := d.keys[key]
	for i := range all {
		if all[i].policy == policy {
			all[i].asking = false
		}
	}
}

// remember keeps a denial of a version of a policy, unless it was decided before
// a change that is known.
func (d *denials) remember(l *rules.Limit, key string, cost int64, v *wire.LimitVerdict, now time.Time) {
	retry := v.RetryAfterMs.Duration()
	if retry <= 0 || cost == 0 || v.Version == "" || v.Version != l.Version() || d.stale(key, v.Revision, now) {
		return
	}
	d.put(key, denial{
		policy: l.Name, version: v.Version, cost: cost, banned: v.Banned, revision: v.Revision, left: v.Remaining,
		retry: now.Add(retry), until: now.Add(min(retry, rememberMost)), reset: now.Add(time.Duration(v.ResetMs) * time.Millisecond),
	}, now)
}

// allow forgets denials whose time is over: somebody asked again, and was given
// what he wanted.
func (d *denials) allow(policy, key string, now time.Time) {
	d.cut(key, func(e *denial) bool { return e.policy == policy && !now.Before(e.until) })
}

// stale reports whether a revision is older than a change that is known.
func (d *denials) stale(key string, revision uint64, now time.Time) bool {
	if revision <= d.floor && now.Sub(d.floorAt) < changeLife {
		return true
	}
	c, ok := d.changed[key]
	return ok && revision < c.revision && now.Sub(c.at) < changeLife
}

// change forgets what is older than a change, and remembers a ban.
func (d *denials) change(c wire.LimitChange, now time.Time) {
	if c.Key == "" {
		// What was decided by the last revision before it is void too.
		d.raise(c.Revision, now)
		for key := range d.keys {
			d.forgotten += d.cut(key, func(e *denial) bool { return named(c.Policy, e) && e.revision <= c.Revision })
		}
		return
	}
	d.forgotten += d.cut(c.Key, func(e *denial) bool { return named(c.Policy, e) && e.revision < c.Revision })
	switch known, ok := d.changed[c.Key]; {
	case ok && known.revision >= c.Revision:
		// A newer one is known; that of another policy stands for all, which only
		// costs a question.
	case !ok && len(d.changed) >= changesMost:
		d.compact(now)
		fallthrough
	default:
		d.changed[c.Key] = change{c.Revision, now}
	}
	if c.BannedMs > 0 && c.Policy != "" && !d.stale(c.Key, c.Revision, now) {
		ban := time.Duration(c.BannedMs) * time.Millisecond
		d.put(c.Key, denial{
			policy: c.Policy, banned: true, revision: c.Revision,
			retry: now.Add(ban), reset: now.Add(ban), until: now.Add(min(ban, rememberMost)),
		}, now)
	}
}

func named(policy string, e *denial) bool { return policy == "" || policy == e.policy }

// raise has nothing remembered that was decided up to a revision.
func (d *denials) raise(revision uint64, now time.Time) {
	if now.Sub(d.floorAt) >= changeLife {
		d.floor = 0
	}
	d.floor, d.floorAt = max(d.floor, revision), now
}

// compact makes room for changes: those that are too many stand for every key
// then, which only costs questions.
func (d *denials) compact(now time.Time) {
	for key, c := range d.changed {
		if now.Sub(c.at) >= changeLife {
			delete(d.changed, key)
		}
	}
	if len(d.changed) < changesMost {
		return
	}
	for _, c := range d.changed {
		d.raise(c.revision, now)
	}
	clear(d.changed)
}

// forget forgets every denial, as changes may have been missed.
func (d *denials) forget() {
	d.forgotten += int64(d.count)
	clear(d.keys)
	d.count = 0
}

// sweep drops what nobody asks for any more.
func (d *denials) sweep(now time.Time) {
	for key := range d.keys {
		d.cut(key, func(e *denial) bool { return !e.asking && now.Sub(e.until) > rememberMost })
	}
	for key, c := range d.changed {
		if now.Sub(c.at) >= changeLife {
			delete(d.changed, key)
		}
	}
}

// put adds a denial. The one of the lowest cost stays while it lasts: it denies
// the others too.
func (d *denials) put(key string, e denial, now time.Time) {
	all := d.keys[key]
	for i := range all {
		old := &all[i]
		if old.policy != e.policy || old.version != e.version {
			continue
		}
		newer := old.banned && old.revision >= e.revision
		lower := !old.banned && !e.banned && old.cost < e.cost
		if now.Before(old.until) && (newer || lower) {
			return
		}
		e.asking = old.asking
		*old = e
		return
	}
	if d.count >= deniedMost {
		for other := range d.keys { // whichever comes first
			if other != key {
				d.dropped += d.cut(other, func(*denial) bool { return true })
				break
			}
		}
	}
	d.keys[key] = append(all, e)
	d.count++
}

// cut drops denials of a key, and returns how many.
func (d *denials) cut(key string, gone func(*denial) bool) (n int64) {
	all := d.keys[key]
	left := all[:0]
	for i := range all {
		if !gone(&all[i]) {
			left = append(left, all[i])
		}
	}
	if n = int64(len(all) - len(left)); n == 0 {
		return 0
	}
	d.count -= int(n)
	if clear(all[len(left):]); len(left) == 0 {
		delete(d.keys, key)
	} else {
		d.keys[key] = left
	}
	return n
}
