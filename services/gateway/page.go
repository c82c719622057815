package gateway

import (
	"slices"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// order is the users who are shown, sorted: made when somebody asks for a page,
// and kept by what came and went since.
type order struct {
	users []string
	moved []string // who came or went since; may be here twice
}

// note takes that a user came or went.
func (o *order) note(user string) {
	if o.users == nil {
		return
	}
	if o.moved = append(o.moved, user); len(o.moved) > len(o.users)+1000 { // nobody asks any more
		*o = order{}
	}
}

// of returns the users of shown in order.
func (o *order) of(members map[string]shown) []string {
	switch {
	case o.users == nil:
		o.users = make([]string, 0, len(members)+len(members)/8)
		for user := range members {
			o.users = append(o.users, user)
		}
		slices.Sort(o.users)
	case len(o.moved) > 0:
		slices.Sort(o.moved)
		users := make([]string, 0, len(members)+len(members)/8)
		rest := o.users
		for _, user := range slices.Compact(o.moved) {
			at, was := slices.BinarySearch(rest, user)
			users = append(users, rest[:at]...)
			if _, is := members[user]; is {
				users = append(users, user)
			}
			if was {
				at++
			}
			rest = rest[at:]
		}
		o.users, o.moved = append(users, rest...), nil
	}
	return o.users
}

// ahead is what observers are still to be told: the users who changed, as they
// are now.
type ahead struct {
	members map[string]shown // nil for who is not there
	came    []string         // those who were not shown, sorted
	count   int              // of all members
}

// ahead returns what changed since observers were told; until something changes
// again it is the same.
func (r *room) ahead() *ahead {
	if r.next != nil {
		return r.next
	}
	next := &ahead{members: make(map[string]shown, len(r.changed)), count: len(r.shown)}
	for user := range r.changed {
		now, there := r.member(user)
		_, was := r.shown[user]
		next.members[user] = now
		switch {
		case there && !was:
			next.count++
			next.came = append(next.came, user)
		case was && !there:
			next.count--
		}
	}
	slices.Sort(next.came)
	r.next = next
	return next
}

// page returns the members after a cursor in order, as the answer to op
// `presence`: as they are now, be it a tick before observers are told.
func (r *room) page(rev int64, cursor string, limit, bytes int) []byte {
	now := r.ahead()
	told, came := after(r.order.of(r.shown), cursor), after(now.came, cursor)
	var inside []byte
	last, next := "", ""
	for n := 0; len(told)+len(came) > 0; {
		var user string
		if len(came) == 0 || len(told) > 0 && told[0] < came[0] {
			user, told = told[0], told[1:]
		} else {
			user, came = came[0], came[1:]
		}
		m, changed := now.members[user]
		if !changed {
			m = r.shown[user]
		}
		if m == nil {
			continue // gone, which observers are still to be told
		}
		if n == limit || len(inside) > bytes {
			next = last
			break
		}
		inside = appendEntry(inside, user, m)
		last = user
		n++
	}
	return wire.AppendPresenceList(nil, inside, now.count, rev, next)
}

// after returns the users behind a cursor; those of all where it is "".
func after(users []string, cursor string) []string {
	at, found := slices.BinarySearch(users, cursor)
	if found && cursor != "" {
		at++
	}
	return users[at:]
}
