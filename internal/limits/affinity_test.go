package limits

import (
	"fmt"
	"testing"
	"time"
)

// preferences returns which replica each of so many keys prefers.
func preferences(a *affinity, keys int, now time.Time) []string {
	all := make([]string, keys)
	for i := range all {
		all[i] = a.prefer(fmt.Sprintf("user:%d", i), now)
	}
	return all
}

func TestKeysAreSpreadEvenly(t *testing.T) {
	a := newAffinity("")
	if got := a.prefer("k", start); got != "" {
		t.Errorf("nobody is there: got %q", got)
	}
	const replicas, keys = 5, 20_000
	for i := range replicas {
		a.hear(fmt.Sprintf("replica-%d", i), start)
	}
	counts := map[string]int{}
	for _, id := range preferences(a, keys, start) {
		counts[id]++
	}
	for id, n := range counts {
		if n < keys/replicas*9/10 || n > keys/replicas*11/10 {
			t.Errorf("%s has %d keys of %d, want a fifth", id, n, keys)
		}
	}
	if len(counts) != replicas {
		t.Errorf("got %d replicas with keys, want %d", len(counts), replicas)
	}
}

func TestOnlyTheKeysOfAReplicaThatGoesMove(t *testing.T) {
	for name, gone := range map[string]func(a *affinity) time.Time{
		"leaving": func(a *affinity) time.Time { a.drop("b"); return start },
		"not heard": func(a *affinity) time.Time {
			later := start.Add(replicaLife)
			a.hear("a", later)
			a.hear("c", later)
			return later.Add(time.Nanosecond)
		},
	} {
		a := newAffinity("")
		for _, id := range []string{"c", "a", "b"} { // the order says nothing
			a.hear(id, start)
		}
		before := preferences(a, 3000, start)
		if got := preferences(a, 3000, start.Add(replicaLife)); fmt.Sprint(got) != fmt.Sprint(before) {
			t.Errorf("%s: keys moved while all were there", name)
		}
		now := gone(a)
		moved := 0
		for i, id := range preferences(a, 3000, now) {
			switch {
			case id == "b":
				t.Fatalf("%s: it is still preferred", name)
			case id != before[i] && before[i] != "b":
				t.Fatalf("%s: a key of %s moved to %s", name, before[i], id)
			case id != before[i]:
				moved++
			}
		}
		if moved < 800 {
			t.Errorf("%s: %d keys moved, want about 1000", name, moved)
		}
		a.hear("b", now)
		if got := preferences(a, 3000, now); fmt.Sprint(got) != fmt.Sprint(before) {
			t.Errorf("%s: it came back and has not its keys", name)
		}
	}
}

func TestReplicasAreCapped(t *testing.T) {
	a := newAffinity("self")
	for i := range replicasMost - 1 {
		if !a.hear(fmt.Sprint(i), start) {
			t.Fatalf("no room for %d", i)
		}
	}
	if a.hear("one more", start) {
		t.Errorf("there is room for %d", len(a.all))
	}
	later := start.Add(replicaLife + 1)
	if !a.hear("one more", later) || a.count(later) != 2 {
		t.Errorf("got %d, want itself and one more", a.count(later))
	}
	if a.drop("self"); a.prefer("k", later.Add(time.Hour)) != "self" {
		t.Error("who is a replica itself is not there")
	}
}
