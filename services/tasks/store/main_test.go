package store

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgdev.Main(m)) }

// rig is a store and its clock.
type rig struct {
	Store
	t    *testing.T
	pass func(time.Duration) // has all that is stored be as long ago
}

const kept = 24 * time.Hour

func openPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// openPostgres returns a store in a database of its own.
func openPostgres(t testing.TB) *Postgres {
	t.Helper()
	pool := openPool(t, pgdev.Test(t))
	if err := schema.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return NewPostgres(pool, kept)
}

func memoryRig(t *testing.T) *rig {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	return &rig{Store: NewMemory(func() time.Time { return now }), t: t, pass: func(d time.Duration) { now = now.Add(d) }}
}

// postgresRig returns the store p, emptied.
func postgresRig(t *testing.T, p *Postgres) *rig {
	t.Helper()
	for _, table := range []string{"task", "task_done", "task_owner", "task_key", "task_step", "task_name"} {
		run(t, p, "delete from fairlead."+table)
	}
	p.kept, p.after = map[time.Duration]struct{}{}, ""
	return &rig{Store: p, t: t, pass: func(d time.Duration) {
		t.Helper()
		us := d.Microseconds()
		run(t, p, `select fairlead.task_done_make(expires - $1 * interval '1 microsecond') from fairlead.task_done`, us)
		for table, columns := range map[string][]string{
			"task": {"created_at", "run_at", "started_at", "deadline", "beat_by", "kill_at"}, "task_owner": {"lease_until"},
			"task_done": {"expires", "created_at", "started_at", "finished_at"}, "task_key": {"expires"}, "task_step": {"expires"},
		} {
			var sets []string
			for _, c := range columns {
				sets = append(sets, c+" = "+c+" - $1 * interval '1 microsecond'")
			}
			run(t, p, "update fairlead."+table+" set "+strings.Join(sets, ", "), us)
		}
	}}
}

func run(t testing.TB, p *Postgres, sql string, args ...any) {
	t.Helper()
	if _, err := p.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// ids makes ids that grow.
var ids = func() func() wire.TaskID {
	var mu sync.Mutex
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	return func() wire.TaskID {
		mu.Lock()
		defer mu.Unlock()
		at = at.Add(time.Millisecond)
		return wire.NewTaskID(at)
	}
}()

// The rest makes a call and fails the test where it fails.

func must[T any](r *rig) func(T, error) T {
	return func(v T, err error) T {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
		return v
	}
}

func (r *rig) join() Owner {
	r.t.Helper()
	return must[Owner](r)(r.Join(r.t.Context(), "host", 15*time.Second))
}

// put stores tasks and returns their ids.
func (r *rig) put(o Owner, tasks ...New) (stored []wire.TaskID) {
	r.t.Helper()
	for _, in := range r.insert(o, tasks...) {
		stored = append(stored, in.ID)
	}
	return stored
}

func (r *rig) insert(o Owner, tasks ...New) []Inserted {
	r.t.Helper()
	for i := range tasks {
		if (tasks[i].ID == wire.TaskID{}) {
			tasks[i].ID = ids()
		}
		if tasks[i].Name == "" {
			tasks[i].Name = "work"
		}
	}
	return must[[]Inserted](r)(r.Insert(r.t.Context(), o, tasks))
}

// start stores a task that runs.
func (r *rig) start(o Owner, n New) Ref {
	r.t.Helper()
	n.Claim, n.Deadline = true, time.Minute
	return Ref{ID: r.put(o, n)[0], Fence: 1, Owner: o}
}

func (r *rig) claim(o Owner, name string, n int) []Attempt {
	r.t.Helper()
	return must[[]Attempt](r)(r.Claim(r.t.Context(), o, name, n, 0, time.Minute))
}

func (r *rig) end(ends ...End) []Outcome {
	r.t.Helper()
	for i := range ends {
		if ends[i].Retention == 0 {
			ends[i].Retention = kept
		}
	}
	out := must[[]Outcome](r)(r.End(r.t.Context(), ends))
	for i := range out {
		r.kept(ends[i].ID, &out[i])
	}
	return out
}

func (r *rig) commit(ref Ref, result string) Outcome {
	r.t.Helper()
	return r.end(End{Ref: ref, State: wire.TaskCommitted, Result: []byte(result)})[0]
}

func (r *rig) back(backs ...Back) []Outcome {
	r.t.Helper()
	for i := range backs {
		backs[i].Retention = kept
	}
	out := must[[]Outcome](r)(r.Back(r.t.Context(), backs))
	for i := range out {
		r.kept(backs[i].ID, &out[i])
	}
	return out
}

// kept takes what an outcome says of a task that has ended out of it: it is what
// Get says.
func (r *rig) kept(id wire.TaskID, of *Outcome) {
	r.t.Helper()
	k := of.Kept
	of.Kept = nil
	if !of.State.Ended() {
		if k != nil {
			r.t.Errorf("%s is %q and kept: %+v", id, of.State, k)
		}
		return
	}
	task := r.get(id)
	if k == nil {
		r.t.Fatalf("nothing is told of %s, which has ended", id)
	}
	if task == nil { // it was kept for no time
		return
	}
	same(r.t, "created", k.Created.Equal(task.CreatedAt), true)
	same(r.t, "run at", k.RunAt.Equal(task.RunAt), true)
	same(r.t, "started", k.Started.Equal(task.StartedAt), true)
	same(r.t, "finished", !k.Finished.IsZero() && k.Finished.Equal(task.FinishedAt), true)
	same(r.t, "fence", k.Fence, task.Fence)
	same(r.t, "attempt", k.Attempt, task.Attempt)
	same(r.t, "unique key", k.UniqueKey, task.UniqueKey)
	same(r.t, "error", reflect.DeepEqual(k.Error, task.Error), true)
}

func (r *rig) get(id wire.TaskID) *wire.Task {
	r.t.Helper()
	return must[[]*wire.Task](r)(r.Get(r.t.Context(), []wire.TaskID{id}))[0]
}

// is fails the test unless a task is in a state, with a fence.
func (r *rig) is(id wire.TaskID, state wire.TaskState, fence int64) *wire.Task {
	r.t.Helper()
	task := r.get(id)
	if task == nil {
		r.t.Fatalf("%s is not there, want it %s", id, state)
	}
	if task.State != state || task.Fence != fence {
		r.t.Fatalf("%s is %s with fence %d, want %s with %d", id, task.State, task.Fence, state, fence)
	}
	return task
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func equal[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func idsOf(attempts []Attempt) (of []wire.TaskID) {
	for _, a := range attempts {
		of = append(of, a.ID)
	}
	return of
}

// together runs fn n times at once and waits.
func together(n int, fn func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { fn(i) })
	}
	all.Wait()
}

// words returns values with a space between each two.
func words(values ...any) string { return strings.TrimSuffix(fmt.Sprintln(values...), "\n") }
