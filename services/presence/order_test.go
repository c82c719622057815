package presence

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// Whoever comes, goes and comes again, the order is that of who is there.
func TestOrder(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 2))
	users := map[string][]*stored{}
	var o order
	for i := range 300 {
		users[fmt.Sprint(i)] = nil
	}
	o.of(users)
	check := func(step int) {
		t.Helper()
		listed := slices.Collect(o.after(""))
		if !slices.IsSorted(listed) || len(slices.Compact(slices.Clone(listed))) != len(listed) {
			t.Fatalf("step %d: out of order, or twice", step)
		}
		there := slices.DeleteFunc(listed, func(user string) bool { _, ok := users[user]; return !ok })
		if !slices.Equal(there, slices.Sorted(maps.Keys(users))) {
			t.Fatalf("step %d: %d in order, %d are there", step, len(there), len(users))
		}
	}
	comes := 3 // of 4: first many come, then many go
	for step := range 20_000 {
		if step == 10_000 {
			comes = 1
		}
		user := fmt.Sprint(draw.IntN(20_000))
		_, there := users[user]
		switch {
		case draw.IntN(4) < comes && !there:
			users[user] = nil
			o.come(user)
		case there:
			delete(users, user)
			o.leave(users)
		}
		if step%500 == 0 {
			check(step)
		}
	}
	check(20_000)
	if listed := len(o.sorted) + len(o.added); listed-o.gone != len(users) || o.gone > addedMost+len(users) {
		t.Errorf("%d are listed, %d of them gone; %d are there", listed, o.gone, len(users))
	}
}

// A page of a topic where somebody came and somebody left since the last one
// does not put everybody in order again.
func TestPagesUnderChurn(t *testing.T) {
	const many, pages = 20_000, 200
	r := &room{users: map[string][]*stored{}}
	for i := range many {
		r.users[fmt.Sprintf("u%05d", i)] = nil
	}
	any := func([]*stored) bool { return true }
	r.page("", 10, any)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range pages {
		came := fmt.Sprintf("v%05d", i)
		r.users[came] = nil
		r.order.come(came)
		delete(r.users, fmt.Sprintf("u%05d", 2*i))
		r.order.leave(r.users)
		if users, next := r.page("u10000", 10, any); len(users) != 10 || next == "" {
			t.Fatalf("page %d: %v", i, users)
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > pages*many*16/4 {
		t.Errorf("%d pages took %d bytes: the order was made again", pages, got)
	}
}
