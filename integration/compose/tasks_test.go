package compose

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
)

// tasks is what is known of tasks from outside: which were asked for, what
// workers answered, and what the database says became of them. Events and replies
// are hints, and may be told again; what counts is a row.
type tasks struct {
	mu     sync.Mutex
	ids    map[string]string          // by key
	keys   map[string]string          // by id
	did    map[string]map[string]bool // results that workers returned, by id
	wrong  []string
	doubly int // have ended twice, or have a key that another has too, as the last audit found
}

// row is what the database says of a task.
type row struct{ id, state, result, key string }

// open reports whether the task has not ended.
func (r row) open() bool { return r.state == "pending" || r.state == "running" }

func newTasks() *tasks {
	return &tasks{ids: map[string]string{}, keys: map[string]string{}, did: map[string]map[string]bool{}}
}

// enqueued notes the answer to a request for a task. The same key is asked for
// until it is answered, and may be answered twice.
func (c *tasks) enqueued(key, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other, ok := c.ids[key]; ok && other != id {
		c.wrong = append(c.wrong, fmt.Sprintf("%s is the task %s and the task %s", key, id, other))
	}
	if other, ok := c.keys[id]; ok && other != key {
		c.wrong = append(c.wrong, fmt.Sprintf("%s is the task of %s and of %s", id, key, other))
	}
	c.ids[key], c.keys[id] = id, key
}

// returned notes what a worker is about to answer for an attempt.
func (c *tasks) returned(id, result string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.did[id] == nil {
		c.did[id] = map[string]bool{}
	}
	c.did[id][result] = true
}

// asked returns the ids that were asked for so far.
func (c *tasks) asked() (ids []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.keys {
		ids = append(ids, id)
	}
	return ids
}

// audit compares what the database says with what is known, for the tasks
// that must have ended. It returns everything that is wrong, and which of them
// have not ended. One key is one task: the answer to a first request may be lost
// behind a task that it made, and only the rows tell that the next one made another.
func (c *tasks) audit(rows []row, due []string) (wrong, open []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wrong = slices.Clone(c.wrong)
	ends, of := map[string]int{}, maps.Clone(c.ids)
	c.doubly = 0
	for _, r := range rows {
		if other, ok := of[r.key]; ok && other != r.id {
			c.doubly++
			wrong = append(wrong, fmt.Sprintf("%s: has the key %s, as %s has", r.id, r.key, other))
		} else {
			of[r.key] = r.id
		}
		if r.open() {
			continue
		}
		switch ends[r.id]++; {
		case ends[r.id] == 2:
			c.doubly++
			wrong = append(wrong, r.id+": has ended twice")
		case r.state != "committed":
			wrong = append(wrong, fmt.Sprintf("%s: ended as %s", r.id, r.state))
		case !c.did[r.id][r.result]:
			wrong = append(wrong, fmt.Sprintf("%s: has the result %s, which no worker gave", r.id, r.result))
		}
	}
	for _, id := range due {
		if ends[id] == 0 {
			open = append(open, id)
		}
	}
	return wrong, open
}

// unaccounted returns what is wrong once nobody asks for tasks any more, every
// request has been answered, and every task has ended.
func (c *tasks) unaccounted(rows []row) (wrong []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rows {
		switch {
		case c.ids[r.key] == "":
			wrong = append(wrong, fmt.Sprintf("%s: has the key %q, which nobody was answered for", r.id, r.key))
		case r.open():
			wrong = append(wrong, fmt.Sprintf("%s: is %s, when all have ended", r.id, r.state))
		}
	}
	return wrong
}

// told returns how many tasks were asked for, worked on again, and ended twice.
func (c *tasks) told() (asked, again, twice int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, results := range c.did {
		again += len(results) - 1
	}
	return len(c.ids), again, c.doubly
}

func TestTheCheckerOfTasks(t *testing.T) {
	t.Parallel()
	for what, harm := range map[string]func(c *tasks, rows []row) []row{
		"":                        func(_ *tasks, rows []row) []row { return rows },
		"2 is open":               func(_ *tasks, rows []row) []row { return rows[:1] },
		"2: has ended twice":      func(_ *tasks, rows []row) []row { return append(rows, rows[1]) },
		"1: ended as dead":        func(_ *tasks, rows []row) []row { rows[0].state = "dead"; return rows },
		"1: has the result x":     func(_ *tasks, rows []row) []row { rows[0].result = "x"; return rows },
		"b is the task 3 and":     func(c *tasks, rows []row) []row { c.enqueued("b", "3"); return rows },
		"1 is the task of c and ": func(c *tasks, rows []row) []row { c.enqueued("c", "1"); return rows },
		// The answer that told of 3 was lost, and the next one told of 2.
		"3: has the key b":           func(_ *tasks, rows []row) []row { return slices.Insert(rows, 1, row{"3", "committed", "r1", "b"}) },
		"3: has the key b, as 2 has": func(_ *tasks, rows []row) []row { return append(rows, row{"3", "running", "", "b"}) },
		"4: has the key c, as 3 has": func(_ *tasks, rows []row) []row {
			return append(rows, row{"3", "pending", "", "c"}, row{"4", "pending", "", "c"})
		},
		"3: has the result r1, which": func(_ *tasks, rows []row) []row { return append(rows, row{"3", "committed", "r1", "c"}) },
	} {
		c := newTasks()
		c.enqueued("a", "1")
		c.enqueued("b", "2")
		c.enqueued("b", "2") // the first answer was lost
		c.returned("1", "r1")
		c.returned("2", "r1")
		c.returned("2", "r2")
		wrong, open := c.audit(harm(c, []row{{"1", "committed", "r1", "a"}, {"2", "committed", "r2", "b"}}), []string{"1", "2"})
		for _, id := range open {
			wrong = append(wrong, id+" is open")
		}
		switch said := strings.Join(wrong, "; "); {
		case what == "" && said != "":
			t.Errorf("nothing is wrong, but %s", said)
		case !slices.ContainsFunc(wrong, func(w string) bool { return strings.HasPrefix(w, what) }) && what != "":
			t.Errorf("%s: not noticed, but %q", what, said)
		}
		asked, again, twice := c.told()
		if what == "" && (asked != 2 || again != 1 || len(c.asked()) != 2) {
			t.Errorf("told: got %d and %d again, want 2 and 1", asked, again)
		}
		if got, want := twice > 0, strings.HasSuffix(what, "ended twice") || strings.Contains(what, "has the key") || strings.Contains(what, "b is"); got != want {
			t.Errorf("%s: told of %d that ended twice, or share a key", what, twice)
		}
	}
}

// What is only wrong at the end.
func TestTheCheckerOfTasksAtTheEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		row  row
		want string
	}{
		{"as it should be", row{"1", "committed", "r", "a"}, ""},
		{"nobody knows of it", row{"2", "committed", "r", "b"}, `2: has the key "b", which nobody was answered for`},
		{"it has no key", row{"2", "committed", "r", ""}, `2: has the key "", which nobody was answered for`},
		{"it has not ended", row{"1", "pending", "", "a"}, "1: is pending, when all have ended"},
	} {
		tasks := newTasks()
		tasks.enqueued("a", "1")
		if got := strings.Join(tasks.unaccounted([]row{c.row}), "; "); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
