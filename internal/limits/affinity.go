package limits

import "time"

const (
	// replicaLife is how long a replica counts after it was heard: three of its
	// announcements.
	replicaLife = 3 * time.Second
	// replicasMost bounds the replicas that are known at a time: whoever may
	// publish announcements could otherwise fill the memory of all who hear them.
	replicasMost = 64
)

// affinity is which replicas there are, and which of them a key prefers: the one
// with the highest hash of both. One that comes or goes moves only the keys that
// it gets or had. Preference makes conflicts rare; nothing depends on it.
type affinity struct {
	self string // always there; "" for who is no replica
	all  []replica
}

// clone returns a copy that does not change.
func (a *affinity) clone() *affinity {
	return &affinity{self: a.self, all: append([]replica(nil), a.all...)}
}

type replica struct {
	id    string
	hash  uint64
	heard time.Time
}

func newAffinity(self string) *affinity {
	a := &affinity{self: self}
	if self != "" {
		a.all = append(a.all, replica{id: self, hash: hash(self)})
	}
	return a
}

// hear keeps a replica as there, and reports whether there was room for it.
func (a *affinity) hear(id string, now time.Time) bool {
	for i := range a.all {
		if a.all[i].id == id {
			a.all[i].heard = now
			return true
		}
	}
	if len(a.all) >= replicasMost {
		a.expire(now)
	}
	if id == "" || len(a.all) >= replicasMost {
		return false
	}
	a.all = append(a.all, replica{id: id, hash: hash(id), heard: now})
	return true
}

// drop takes a replica out at once, until it is heard again, and reports whether
// it was there.
func (a *affinity) drop(id string) bool {
	for i := range a.all {
		if a.all[i].id == id && id != a.self {
			a.all = append(a.all[:i], a.all[i+1:]...)
			return true
		}
	}
	return false
}

// expire drops those that were not heard for too long.
func (a *affinity) expire(now time.Time) {
	left := a.all[:0]
	for _, r := range a.all {
		if a.live(r, now) {
			left = append(left, r)
		}
	}
	clear(a.all[len(left):])
	a.all = left
}

func (a *affinity) live(r replica, now time.Time) bool {
	return r.id == a.self || now.Sub(r.heard) <= replicaLife
}

// others reports whether there is somebody but one.
func (a *affinity) others(id string, now time.Time) bool {
	for _, r := range a.all {
		if r.id != id && a.live(r, now) {
			return true
		}
	}
	return false
}

// count is how many there are.
func (a *affinity) count(now time.Time) (n int) {
	for _, r := range a.all {
		if a.live(r, now) {
			n++
		}
	}
	return n
}

// prefer returns the replica that a key prefers, "" where none is known.
func (a *affinity) prefer(key string, now time.Time) string { return a.preferBut(key, "", now) }

// preferBut returns the one that it prefers of all but one, "" where there is none.
func (a *affinity) preferBut(key, but string, now time.Time) string {
	if len(a.all) == 1 && a.all[0].id == a.self && but != a.self {
		return a.self
	}
	h, best, most := hash(key), "", uint64(0)
	for _, r := range a.all {
		if !a.live(r, now) || r.id == but {
			continue
		}
		if score := mix(r.hash ^ h); best == "" || score > most || score == most && r.id > best {
			best, most = r.id, score
		}
	}
	return best
}

// hash is FNV-1a: every process must get the same.
func hash(s string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * prime
	}
	return mix(h)
}

// mix spreads the bits of a hash (the finalizer of splitmix64).
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
