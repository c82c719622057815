package cron

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// rig is an empty store, and what it has enqueued.
type rig struct {
	Store
	tasks func() []string // unique keys and names, in order
}

func TestMemory(t *testing.T) {
	testStore(t, func(*testing.T) rig {
		var mu sync.Mutex
		var tasks []string
		m := NewMemory(time.Now, func(s Schedule, tick time.Time) {
			mu.Lock()
			defer mu.Unlock()
			tasks = append(tasks, uniqueKey(s.Name, tick)+" "+s.Task)
		})
		return rig{m, func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Sorted(slices.Values(tasks))
		}}
	})
}

func TestPostgres(t *testing.T) {
	pool := database(t)
	testStore(t, func(t *testing.T) rig {
		if _, err := pool.Exec(t.Context(), `truncate fairlead.cron, fairlead.task, fairlead.task_key`); err != nil {
			t.Fatal(err)
		}
		return rig{NewPostgres(pool), func() []string { return enqueued(t, pool) }}
	})
}

func enqueued(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(soon(t), `select unique_key || ' ' || name from fairlead.task order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return tasks
}

// sample is a schedule whose first tick is so far from now.
func sample(name string, in time.Duration) (Schedule, func(time.Time) time.Time) {
	s := Schedule{Name: name, Spec: "@every 1m", Task: "mail", Input: []byte(`{"a": 1}`), Missed: wire.CronMissedAll, Priority: 3, Timeout: 90 * time.Second}
	return s, func(now time.Time) time.Time { return now.Add(in).Truncate(time.Millisecond) }
}

// set stores a sample, changed.
func (r rig) set(t *testing.T, name string, in time.Duration, change func(*Schedule)) Schedule {
	t.Helper()
	s, next := sample(name, in)
	if change != nil {
		change(&s)
	}
	got, err := r.Set(soon(t), s, 100, next)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (r rig) due(t *testing.T) Found {
	t.Helper()
	f, err := r.Due(soon(t), 100)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (r rig) fire(t *testing.T, fires ...Fire) []int {
	t.Helper()
	moved, err := r.Fire(soon(t), fires)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(moved)
	return moved
}

// on is the fire that moves a schedule on by an hour.
func on(s Schedule, ticks ...time.Time) Fire {
	return Fire{Name: s.Name, Revision: s.Revision, Due: s.NextAt, Next: s.NextAt.Add(time.Hour), Ticks: ticks}
}

func testStore(t *testing.T, open func(*testing.T) rig) {
	t.Run("what is set is listed by name, and gone when it is deleted", func(t *testing.T) {
		r := open(t)
		b, a := r.set(t, "b", time.Hour, nil), r.set(t, "a", time.Hour, func(s *Schedule) { s.Paused, s.TZ, s.Timeout = true, "Europe/Paris", 0 })
		list, err := r.List(soon(t), "", 10)
		if err != nil || fmt.Sprint(list) != fmt.Sprint([]Schedule{a, b}) {
			t.Errorf("List = %v, %v, want %v", list, err, []Schedule{a, b})
		}
		if string(b.Input) != `{"a": 1}` || b.Timeout != 90*time.Second || b.Priority != 3 || b.Missed != wire.CronMissedAll || !b.LastAt.IsZero() {
			t.Errorf("Set = %+v, want what was set", b)
		}
		if list, err = r.List(soon(t), "a", 1); err != nil || len(list) != 1 || list[0].Name != "b" {
			t.Errorf("List behind a = %v, %v, want b", list, err)
		}
		for _, want := range []bool{true, false} {
			if got, err := r.Delete(soon(t), "a"); err != nil || got != want {
				t.Errorf("Delete = %v, %v, want %v", got, err, want)
			}
		}
		if n, err := r.Count(soon(t)); err != nil || n != 1 {
			t.Errorf("Count = %d, %v, want 1", n, err)
		}
	})
	t.Run("a schedule that is set again goes on where it is, unless its spec or zone is another, or it was paused", func(t *testing.T) {
		r := open(t)
		first := r.set(t, "a", time.Hour, nil)
		again := r.set(t, "a", 2*time.Hour, func(s *Schedule) { s.Input = []byte("2") })
		if !again.NextAt.Equal(first.NextAt) || string(again.Input) != "2" || again.Revision == first.Revision {
			t.Errorf("set again: %+v after %+v", again, first)
		}
		for name, change := range map[string]func(*Schedule){
			"spec": func(s *Schedule) { s.Spec = "@every 2m" }, "zone": func(s *Schedule) { s.TZ = "Europe/Paris" },
		} {
			r.set(t, name, time.Hour, nil)
			if got := r.set(t, name, 3*time.Hour, change); got.NextAt.Sub(first.NextAt) < time.Hour {
				t.Errorf("another %s: next at %s, want it anew", name, got.NextAt)
			}
		}
		paused := r.set(t, "a", 2*time.Hour, func(s *Schedule) { s.Paused = true })
		if !paused.NextAt.Equal(first.NextAt) {
			t.Errorf("paused: next at %s, want %s", paused.NextAt, first.NextAt)
		}
		if got := r.set(t, "a", 3*time.Hour, nil); got.NextAt.Sub(first.NextAt) < time.Hour {
			t.Errorf("no longer paused: next at %s, want it anew", got.NextAt)
		}
	})
	t.Run("there are no more than most", func(t *testing.T) {
		r := open(t)
		for _, name := range []string{"a", "b"} {
			r.set(t, name, time.Hour, nil)
		}
		s, next := sample("c", time.Hour)
		if _, err := r.Set(soon(t), s, 2, next); !errors.Is(err, ErrFull) {
			t.Errorf("the third of two: %v, want ErrFull", err)
		}
		s.Name = "a"
		if _, err := r.Set(soon(t), s, 2, next); err != nil {
			t.Errorf("one that is there: %v", err)
		}
	})
	t.Run("what is due is found, the longest first", func(t *testing.T) {
		r := open(t)
		r.set(t, "one", -time.Second, nil)
		r.set(t, "two", -time.Minute, nil)
		r.set(t, "paused", -time.Minute, func(s *Schedule) { s.Paused = true })
		r.set(t, "ahead", 20*time.Second, nil)
		r.set(t, "far", time.Hour, nil)
		f := r.due(t)
		if len(f.Due) != 2 || f.Due[0].Name != "two" || f.Due[1].Name != "one" {
			t.Errorf("due: %v, want two, one", f.Due)
		}
		if f.In <= 0 || f.In > 20*time.Second || f.Now.IsZero() {
			t.Errorf("the next one in %s, want 20s", f.In)
		}
	})
	t.Run("a schedule is moved on once, with a task for each tick", func(t *testing.T) {
		r := open(t)
		a := r.set(t, "a", -time.Minute, nil)
		b := r.set(t, "b", -time.Second, func(s *Schedule) { s.Task = "other" })
		ticks := []time.Time{a.NextAt, a.NextAt.Add(time.Second)}
		if got := r.fire(t, on(a, ticks...), on(b)); !slices.Equal(got, []int{0, 1}) {
			t.Fatalf("moved %v, want both", got)
		}
		want := []string{uniqueKey("a", ticks[0]) + " mail", uniqueKey("a", ticks[1]) + " mail"}
		slices.Sort(want)
		if got := r.tasks(); !slices.Equal(got, want) {
			t.Errorf("tasks: %q, want %q", got, want)
		}
		if got := r.fire(t, on(a, ticks...), on(b, b.NextAt)); len(got) != 0 || len(r.tasks()) != 2 {
			t.Errorf("moved again: %v, %d tasks, want none, 2", got, len(r.tasks()))
		}
		list, err := r.List(soon(t), "", 10)
		if err != nil || !list[0].NextAt.Equal(a.NextAt.Add(time.Hour)) || !list[0].LastAt.Equal(ticks[1]) || !list[1].LastAt.IsZero() {
			t.Errorf("after that: %+v, %v", list, err)
		}
	})
	t.Run("what was set, paused or deleted since stays, and what is not due", func(t *testing.T) {
		r := open(t)
		var fires []Fire
		for _, name := range []string{"set", "paused", "deleted", "anew"} {
			s := r.set(t, name, -time.Minute, nil)
			fires = append(fires, on(s, s.NextAt))
		}
		r.set(t, "set", 0, func(s *Schedule) { s.Input = []byte("2") })
		r.set(t, "paused", 0, func(s *Schedule) { s.Paused = true })
		for _, name := range []string{"deleted", "anew"} {
			if _, err := r.Delete(soon(t), name); err != nil {
				t.Fatal(err)
			}
		}
		s, _ := sample("anew", 0)
		if _, err := r.Set(soon(t), s, 100, func(time.Time) time.Time { return fires[3].Due }); err != nil {
			t.Fatal(err)
		}
		ahead := r.set(t, "ahead", time.Minute, nil)
		fires = append(fires, on(ahead, ahead.NextAt))
		if got := r.fire(t, fires...); len(got) != 0 || len(r.tasks()) != 0 {
			t.Errorf("moved %v, tasks %q, want none", got, r.tasks())
		}
	})
	t.Run("of many who fire at the same time one does", func(t *testing.T) {
		r := open(t)
		var fires []Fire
		for i := range 20 {
			s := r.set(t, fmt.Sprint("s", i), -time.Second, nil)
			fires = append(fires, on(s, s.NextAt))
		}
		var mu sync.Mutex
		var all []int
		var group sync.WaitGroup
		for i := range 8 {
			mine := slices.Clone(fires)
			if i%2 == 1 {
				slices.Reverse(mine)
			}
			group.Go(func() {
				moved, err := r.Fire(soon(t), mine)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, at := range moved {
					all = append(all, slices.IndexFunc(fires, func(f Fire) bool { return f.Name == mine[at].Name }))
				}
			})
		}
		group.Wait()
		for len(all) < 20 { // two who skip each other's rows leave them both: they are found again
			f := r.due(t)
			if len(f.Due) == 0 {
				break
			}
			for _, at := range r.fire(t, on(f.Due[0], f.Due[0].NextAt)) {
				all = append(all, slices.IndexFunc(fires, func(x Fire) bool { return x.Name == f.Due[at].Name }))
			}
		}
		slices.Sort(all)
		if len(all) != 20 || len(slices.Compact(all)) != 20 || len(r.tasks()) != 20 {
			t.Errorf("moved %v, %d tasks, want each once", all, len(r.tasks()))
		}
	})
}
