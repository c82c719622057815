package presence

import (
	"iter"
	"maps"
	"slices"
)

// order keeps the users of a topic in order, from when it is first asked for:
// who comes is put into the smaller of two lists, who goes stays in them until
// that is half of them. Pages of a topic where people come and go all the time
// cost what is on them.
type order struct {
	kept   bool
	sorted []string // nobody is in both
	added  []string
	gone   int // of both, who is not there any more
}

// addedMost is how many may be in the smaller list, or a 16th of the other.
const addedMost = 512

// come takes a user who is new among users.
func (o *order) come(user string) {
	if !o.kept {
		return
	}
	if _, listed := slices.BinarySearch(o.sorted, user); listed {
		o.gone--
		return
	}
	at, listed := slices.BinarySearch(o.added, user)
	if listed {
		o.gone--
		return
	}
	o.added = slices.Insert(o.added, at, user)
	if len(o.added) > max(addedMost, len(o.sorted)/16) {
		o.sorted = slices.AppendSeq(make([]string, 0, len(o.sorted)+len(o.added)), o.after(""))
		o.added = nil
	}
}

// leave notes that somebody is no more among users.
func (o *order) leave(users map[string][]*stored) {
	if !o.kept {
		return
	}
	if o.gone++; o.gone <= addedMost+len(users) {
		return
	}
	there := func(all []string) []string {
		kept := make([]string, 0, len(users))
		for _, user := range all {
			if _, ok := users[user]; ok {
				kept = append(kept, user)
			}
		}
		return kept
	}
	o.sorted, o.added, o.gone = there(o.sorted), there(o.added), 0
}

// of begins to keep the order of users, unless it is kept.
func (o *order) of(users map[string][]*stored) {
	if !o.kept {
		o.kept, o.sorted = true, slices.Sorted(maps.Keys(users))
	}
}

// after yields users behind a cursor in order, among them such who are gone.
func (o *order) after(cursor string) iter.Seq[string] {
	behind := func(all []string) []string {
		at, found := slices.BinarySearch(all, cursor)
		if found {
			at++
		}
		return all[at:]
	}
	return func(yield func(string) bool) {
		a, b := behind(o.sorted), behind(o.added)
		for len(a)+len(b) > 0 {
			from := &a
			if len(a) == 0 || len(b) > 0 && b[0] < a[0] {
				from = &b
			}
			if !yield((*from)[0]) {
				return
			}
			*from = (*from)[1:]
		}
	}
}
