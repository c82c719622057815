package cron

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// record notes which ticks were fired, by whom it does not matter.
type record struct {
	mu    sync.Mutex
	ticks []string // name@tick
}

// recorded is a store of one replica.
type recorded struct {
	Store
	record *record
	read   func() // nil, or called between what is due is read and told
}

func (r *recorded) Due(ctx context.Context, limit int) (Found, error) {
	f, err := r.Store.Due(ctx, limit)
	if r.read != nil {
		r.read()
	}
	return f, err
}

func (r *recorded) Fire(ctx context.Context, fires []Fire) ([]int, error) {
	moved, err := r.Store.Fire(ctx, fires)
	r.record.mu.Lock()
	defer r.record.mu.Unlock()
	for _, i := range moved {
		for _, tick := range fires[i].Ticks {
			r.record.ticks = append(r.record.ticks, uniqueKey(fires[i].Name, tick))
		}
	}
	return moved, err
}

// check returns what is wrong: ticks that were fired more than once, and those of
// which the tasks say otherwise.
func (r *record) check(tasks []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	fired := slices.Sorted(slices.Values(r.ticks))
	var errs []error
	for i := 1; i < len(fired); i++ {
		if fired[i] == fired[i-1] {
			errs = append(errs, fmt.Errorf("%s was fired twice", fired[i]))
		}
	}
	if got := slices.Compact(fired); !slices.Equal(got, tasks) {
		errs = append(errs, fmt.Errorf("fired %q, tasks %q", got, tasks))
	}
	return errors.Join(errs...)
}

func keys(t *testing.T, pool *pgxpool.Pool) (list []string) {
	for _, task := range enqueued(t, pool) {
		key, _, _ := strings.Cut(task, " ")
		list = append(list, key)
	}
	return list
}

// race has three replicas read what is due, and only then fire it: at the same
// time, or one after the other.
func race(t *testing.T, condition string, inTurn bool) error {
	t.Helper()
	pool := database(t)
	r := rig{NewPostgres(pool), nil}
	for i := range 5 {
		r.set(t, fmt.Sprint("s", i), -2*time.Second, nil)
	}
	rec := &record{}
	var read, group sync.WaitGroup
	var turn sync.Mutex
	read.Add(3)
	for range 3 {
		p := NewPostgres(pool)
		p.fire = fmt.Sprintf(fireSQL, condition)
		s := New(Config{Store: &recorded{Store: p, record: rec, read: func() {
			read.Done()
			read.Wait()
			if inTurn {
				turn.Lock()
			}
		}}})
		group.Go(func() {
			s.look(soon(t))
			if inTurn {
				turn.Unlock()
			}
		})
	}
	group.Wait()
	// Rows that two have skipped for each other's sake are still due.
	s := New(Config{Store: &recorded{Store: r.Store, record: rec}})
	s.look(soon(t))
	return rec.check(keys(t, pool))
}

func TestEachTickIsFiredOnce(t *testing.T) {
	for _, inTurn := range []bool{false, true} {
		if err := race(t, stillThere, inTurn); err != nil {
			t.Errorf("in turn %v: %v", inTurn, err)
		}
	}
}

// The checker sees what happens when a schedule is moved from wherever it is.
func TestCheckerSeesTicksFiredTwice(t *testing.T) {
	if err := race(t, "true", true); err == nil || !strings.Contains(err.Error(), "fired twice") {
		t.Errorf("got %v, want ticks that were fired twice", err)
	}
}

// Schedules that a replica can't read, as many as a look finds, keep no other one
// from its turn.
func TestWhatCantBeReadKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	var fired []string
	m := NewMemory(time.Now, func(s Schedule, _ time.Time) { fired = append(fired, s.Name) })
	put := func(name, spec string, in time.Duration) {
		t.Helper()
		s, next := sample(name, in)
		s.Spec = spec
		if _, err := m.Set(t.Context(), s, 2*atOnce, next); err != nil {
			t.Fatal(err)
		}
	}
	for i := range atOnce {
		put(fmt.Sprint("strange", i), "of a later release", -time.Hour)
	}
	put("own", "@every 1m", -time.Second)
	s := New(Config{Store: m})
	if pause := s.look(t.Context()); len(fired) != 0 || pause != time.Second {
		t.Errorf("the first look fired %q, the next is in %v: it finds others first", fired, pause)
	}
	if s.look(t.Context()); len(fired) != 1 || fired[0] != "own" {
		t.Errorf("the second look fired %q, want own", fired)
	}
}

// Three replicas, two of which look too early, run while schedules are set,
// changed and deleted.
func TestReplicas(t *testing.T) {
	pool := database(t)
	rec := &record{}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	var replicas []*Service
	woken := make(chan string, 1000)
	for i := range 3 {
		s := New(Config{Store: &recorded{Store: NewPostgres(pool), record: rec}, Wake: func(names ...string) {
			for _, name := range names {
				woken <- name
			}
		}})
		s.early = time.Duration(i) * 300 * time.Millisecond
		replicas = append(replicas, s)
		group.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	set := func(i int, name, spec string) {
		t.Helper()
		_, err := replicas[i%3].Set(soon(t), wire.TaskCron{Name: name, Spec: spec, Task: "mail", Missed: wire.CronMissedAll})
		if err != nil {
			t.Fatal(err)
		}
	}
	const steady = 6
	for i := range steady {
		set(i, fmt.Sprint("steady", i), "@every 1s")
	}
	enough := func() bool { // each has ticked several times
		rec.mu.Lock()
		defer rec.mu.Unlock()
		ticks := map[string]int{}
		for _, key := range rec.ticks {
			name, _, _ := strings.Cut(key, "@")
			ticks[name]++
		}
		least := ticks["same"]
		for i := range steady {
			least = min(least, ticks[fmt.Sprint("steady", i)])
		}
		return least >= 3
	}
	for i, began := 0, time.Now(); !enough(); i++ {
		if time.Since(began) > 30*time.Second {
			t.Fatal("the schedules do not tick")
		}
		set(i, "changing", []string{"@every 1s", "@every 1001ms"}[i%2])
		set(i, "same", "@every 1s")
		if i%5 == 4 {
			if _, err := replicas[i%3].Delete(soon(t), wire.TaskCronName{Name: "changing"}); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case name := <-woken:
			if name != "mail" {
				t.Errorf("woken: %s, want mail", name)
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
	stop()
	group.Wait()
	if err := rec.check(keys(t, pool)); err != nil {
		t.Error(err)
	}
	// Every second, no tick left out.
	list, err := replicas[0].List(soon(t), wire.TaskCronList{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Schedules {
		if s.Name == "changing" {
			continue
		}
		n := 0
		for tick := s.LastAt; slices.Contains(rec.ticks, uniqueKey(s.Name, tick)); tick = tick.Add(-time.Second) {
			n++
		}
		all := 0
		for _, key := range rec.ticks {
			if strings.HasPrefix(key, s.Name+"@") {
				all++
			}
		}
		if n != all || n < 2 {
			t.Errorf("%s: %d ticks in a row up to %s, %d in all; want all in a row, and several", s.Name, n, s.LastAt, all)
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	s := New(Config{Store: NewMemory(time.Now, func(Schedule, time.Time) {})})
	ok := func() wire.TaskCron { return wire.TaskCron{Name: "a", Spec: "@daily", Task: "mail"} }
	for field, change := range map[string]func(*wire.TaskCron){
		"name":     func(c *wire.TaskCron) { c.Name = "" },
		"task":     func(c *wire.TaskCron) { c.Task = "a b" },
		"spec":     func(c *wire.TaskCron) { c.Spec = "0 0 30 2 *" },
		"tz":       func(c *wire.TaskCron) { c.TZ = "x" },
		"missed":   func(c *wire.TaskCron) { c.Missed = "maybe" },
		"priority": func(c *wire.TaskCron) { c.Priority = 101 },
		"timeout":  func(c *wire.TaskCron) { c.Timeout = "1ms" },
		"input": func(c *wire.TaskCron) {
			c.Input = []byte(strings.Repeat(" ", 9) + `"` + strings.Repeat("x", maxInput) + `"`)
		},
	} {
		req := ok()
		change(&req)
		_, err := s.Set(t.Context(), req)
		var coded *wire.Error
		if !errors.As(err, &coded) || coded.Code != wire.InvalidArgument || coded.Details["field"] != field {
			t.Errorf("a wrong %s: %v", field, err)
		}
	}
	got, err := s.Set(t.Context(), ok())
	if err != nil || got.Missed != wire.CronMissedSkip || string(got.Input) != "null" || got.NextAt.Hour() != 0 {
		t.Errorf("Set = %+v, %v", got, err)
	}
	page, err := s.List(t.Context(), wire.TaskCronList{})
	if err != nil || len(page.Schedules) != 1 || page.Cursor != "" {
		t.Errorf("List = %+v, %v", page, err)
	}
	if _, err := s.List(t.Context(), wire.TaskCronList{Cursor: "no cursor"}); !errors.Is(err, wire.ErrInvalidArgument) {
		t.Errorf("List of a wrong cursor: %v", err)
	}
	if out, err := s.Delete(t.Context(), wire.TaskCronName{Name: "a"}); err != nil || !out.Deleted {
		t.Errorf("Delete = %+v, %v", out, err)
	}
}

// One schedule that can't be fired does not keep the others from it.
func TestOneThatCannotFire(t *testing.T) {
	pool := database(t)
	r := rig{NewPostgres(pool), nil}
	r.set(t, "good", -time.Second, nil)
	r.set(t, "bad", -time.Second, func(s *Schedule) { s.Task = "no name" })
	r.set(t, "unknown", -time.Second, func(s *Schedule) { s.Spec = "of a later release" })
	s := New(Config{Store: r.Store})
	if pause := s.look(soon(t)); pause > time.Second {
		t.Errorf("it is looked again after %s, want soon", pause)
	}
	if got := keys(t, pool); len(got) != 1 || !strings.HasPrefix(got[0], "good@") {
		t.Errorf("tasks %q, want that of good", got)
	}
	if got := s.metrics.failures.Load(); got != 2 {
		t.Errorf("failures: %d, want 2", got)
	}
}

func TestAShortIntervalIsNotSleptThrough(t *testing.T) {
	r := rig{NewPostgres(database(t)), nil}
	r.set(t, "often", -time.Second, func(s *Schedule) { s.Spec = "1s" })
	s := New(Config{Store: r.Store})
	ctx := soon(t)
	if pause := s.look(ctx); pause > 0 {
		t.Errorf("after a tick was fired it sleeps for %s, and does not know until when", pause)
	}
	if pause := s.look(ctx); pause > time.Second {
		t.Errorf("it sleeps for %s, the next tick is due within 1s", pause)
	}
}
