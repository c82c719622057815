package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// TestModel does the same to both stores and compares all that they answer.
func TestModel(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	began, failed := time.Now(), false
	rapid.Check(t, func(rt *rapid.T) {
		if time.Since(began) > 6*time.Second && !failed {
			return // a busy machine makes fewer of them
		}
		defer func() { failed = failed || rt.Failed() }()
		m := &model{t: t, rt: rt, stores: []*rig{memoryRig(t), postgresRig(t, p)}}
		for range 3 {
			m.both(func(r *rig) string { return fmt.Sprint(r.join() > 0) })
		}
		m.first = map[*rig]Owner{m.stores[0]: 0, m.stores[1]: m.stores[1].join() - 4}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			rapid.SampledFrom(m.actions()).Draw(rt, "action")()
		}
		m.both(m.everything)
	})
}

// model is what is done to the stores, and the names of what is in them.
type model struct {
	t      *testing.T
	rt     *rapid.T
	stores []*rig
	first  map[*rig]Owner // owners count from here
	tasks  []wire.TaskID
}

// both does something to each store and compares what they say of it.
func (m *model) both(do func(*rig) string) {
	m.t.Helper()
	m.stores[0].pass(time.Millisecond) // Postgres' clock goes on by itself
	want := do(m.stores[0])
	if got := do(m.stores[1]); got != want {
		m.rt.Fatalf("Postgres says\n%s\nmemory says\n%s", got, want)
	}
}

func (m *model) actions() []func() {
	return []func(){m.insert, m.insert, m.claim, m.claim, m.end, m.back, m.cancel, m.kill, m.takeover, m.retry, m.adopt, m.orphans, m.leave, m.step, m.pass}
}

func (m *model) owner(r *rig, n int) Owner { return m.first[r] + Owner(n) }

func (m *model) drawOwner() int { return rapid.IntRange(1, 3).Draw(m.rt, "owner") }

func (m *model) drawKey(of string) string {
	return rapid.SampledFrom([]string{"", "", "a", "b"}).Draw(m.rt, of)
}

func (m *model) drawID() wire.TaskID {
	if len(m.tasks) == 0 {
		return wire.TaskID{1}
	}
	return rapid.SampledFrom(m.tasks).Draw(m.rt, "task")
}

// drawRefs draws attempts: most are those that there are, with owners or without.
func (m *model) drawRefs() (refs []Ref, owners []int) {
	for range rapid.IntRange(1, 4).Draw(m.rt, "attempts") {
		ref := Ref{ID: m.drawID(), Fence: rapid.Int64Range(1, 4).Draw(m.rt, "fence")}
		if task := m.stores[0].get(ref.ID); task != nil && rapid.IntRange(0, 3).Draw(m.rt, "right") > 0 {
			ref.Fence = task.Fence
		}
		refs, owners = append(refs, ref), append(owners, rapid.SampledFrom([]int{0, 0, 1, 2, 3}).Draw(m.rt, "guard"))
	}
	return refs, owners
}

func (m *model) of(r *rig, ref Ref, owner int) Ref {
	if owner > 0 {
		ref.Owner = m.owner(r, owner)
	}
	return ref
}

func (m *model) insert() {
	var tasks []New
	for range rapid.IntRange(1, 4).Draw(m.rt, "tasks") {
		tasks = append(tasks, New{
			ID: ids(), Name: rapid.SampledFrom([]string{"x", "y"}).Draw(m.rt, "name"), Input: []byte(`{"i":1}`),
			IdempotencyKey: m.drawKey("idempotency key"), UniqueKey: m.drawKey("unique key"), Priority: rapid.IntRange(-1, 1).Draw(m.rt, "priority"),
			Delay: time.Duration(rapid.IntRange(0, 1).Draw(m.rt, "delay")) * time.Hour, Claim: rapid.Bool().Draw(m.rt, "claim"), Deadline: time.Minute,
		})
		m.tasks = append(m.tasks, tasks[len(tasks)-1].ID)
	}
	o := m.drawOwner()
	m.both(func(r *rig) string { return fmt.Sprint(r.insert(m.owner(r, o), slices.Clone(tasks)...)) })
}

// seen is what attempts say that has nothing to do with the moment.
func seen(attempts []Attempt, err error) string {
	slices.SortFunc(attempts, func(a, b Attempt) int { return slices.Compare(a.ID[:], b.ID[:]) })
	var b strings.Builder
	for _, a := range attempts {
		fmt.Fprintln(&b, a.ID, a.Name, a.Fence, a.Number, a.Failures, a.Crashes, a.Priority, string(a.Input), a.IdempotencyKey, a.CancelAsked)
	}
	return fmt.Sprint(b.String(), err)
}

func (m *model) claim() {
	o, n := m.drawOwner(), rapid.IntRange(1, 3).Draw(m.rt, "claims")
	concurrency := rapid.SampledFrom([]int{0, 0, 2}).Draw(m.rt, "concurrency")
	m.both(func(r *rig) string {
		attempts, err := r.Claim(m.t.Context(), m.owner(r, o), "x", n, concurrency, time.Minute)
		return fmt.Sprint(idsOf(attempts), seen(attempts, err))
	})
}

func (m *model) end() {
	refs, owners := m.drawRefs()
	state := rapid.SampledFrom([]wire.TaskState{wire.TaskCommitted, wire.TaskCommitted, wire.TaskFailed, wire.TaskCancelled, wire.TaskDead}).Draw(m.rt, "state")
	failed, crashed := rapid.Bool().Draw(m.rt, "failed"), rapid.Bool().Draw(m.rt, "crashed")
	m.both(func(r *rig) string {
		var ends []End
		for i, ref := range refs {
			ends = append(ends, End{Ref: m.of(r, ref, owners[i]), State: state, Result: fmt.Append(nil, i), Error: &wire.TaskError{Message: fmt.Sprint(i)}, Failed: failed, Crashed: crashed})
		}
		return fmt.Sprint(r.end(ends...))
	})
}

func (m *model) back() {
	refs, owners := m.drawRefs()
	after := time.Duration(rapid.IntRange(0, 1).Draw(m.rt, "after")) * time.Hour
	failed, unstarted := rapid.Bool().Draw(m.rt, "failed"), rapid.Bool().Draw(m.rt, "unstarted")
	m.both(func(r *rig) string {
		var backs []Back
		for i, ref := range refs {
			backs = append(backs, Back{Ref: m.of(r, ref, owners[i]), After: after, Failed: failed, Unstarted: unstarted})
		}
		return fmt.Sprint(r.back(backs...))
	})
}

// said is what a task says that has nothing to do with the moment, and an error.
func said(task *wire.Task, err error) string {
	what := ""
	for _, known := range []error{ErrNotFound, ErrState, ErrOwner, wire.ErrAlreadyExists} {
		if errors.Is(err, known) {
			what = known.Error()
			err = nil
		}
	}
	if task != nil {
		plain := *task
		plain.CreatedAt, plain.RunAt, plain.StartedAt, plain.FinishedAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		b, _ := json.Marshal(plain)
		what += fmt.Sprint(" ", string(b), task.StartedAt.IsZero(), task.FinishedAt.IsZero())
	}
	return fmt.Sprint(what, err)
}

func (m *model) cancel() {
	id := m.drawID()
	m.both(func(r *rig) string { return said(r.Cancel(m.t.Context(), id, time.Minute, kept)) })
}

func (m *model) takeover() {
	id := m.drawID()
	m.both(func(r *rig) string { return said(r.Takeover(m.t.Context(), id)) })
}

func (m *model) retry() {
	id := m.drawID()
	m.both(func(r *rig) string { return said(r.Retry(m.t.Context(), id)) })
}

func (m *model) kill() {
	m.both(func(r *rig) string {
		refs, err := r.Kill(m.t.Context(), 100, kept)
		slices.SortFunc(refs, func(a, b Ref) int { return slices.Compare(a.ID[:], b.ID[:]) })
		for i := range refs {
			refs[i].Owner = max(refs[i].Owner-m.first[r], 0)
		}
		return fmt.Sprint(refs, err)
	})
}

func (m *model) adopt() {
	refs, _ := m.drawRefs()
	o := m.drawOwner()
	m.both(func(r *rig) string { return seen(r.Adopt(m.t.Context(), m.owner(r, o), refs)) })
}

func (m *model) orphans() {
	o := m.drawOwner()
	m.both(func(r *rig) string { return seen(r.Orphans(m.t.Context(), m.owner(r, o), 100)) })
}

func (m *model) leave() {
	o := m.drawOwner()
	m.both(func(r *rig) string { return fmt.Sprint(r.Leave(m.t.Context(), m.owner(r, o))) })
}

func (m *model) step() {
	refs, owners := m.drawRefs()
	result := []byte(rapid.SampledFrom([]string{"", "1", "2"}).Draw(m.rt, "result"))
	m.both(func(r *rig) string {
		stored, err := r.Step(m.t.Context(), m.of(r, refs[0], owners[0]), "s", result)
		return fmt.Sprint(string(stored), said(nil, err))
	})
}

func (m *model) pass() {
	d := rapid.SampledFrom([]time.Duration{10 * time.Second, 2 * time.Hour, 3 * kept}).Draw(m.rt, "pass")
	o := m.drawOwner()
	m.both(func(r *rig) string {
		r.pass(d)
		return said(nil, r.Renew(m.t.Context(), m.owner(r, o), 15*time.Second))
	})
}

// everything is all that a store has.
func (m *model) everything(r *rig) string {
	var b strings.Builder
	for _, id := range m.tasks {
		fmt.Fprintln(&b, said(r.get(id), nil))
	}
	for _, name := range []string{"", "x", "y"} {
		fmt.Fprintf(&b, "%s %+v\n", name, must[wire.TaskCounts](r)(r.Counts(m.t.Context(), name)))
		for _, task := range must[[]wire.Task](r)(r.List(m.t.Context(), Query{Name: name, Limit: 1000})) {
			fmt.Fprintln(&b, task.ID, task.State)
		}
	}
	for _, key := range []string{"a", "b"} {
		for _, name := range []string{"x", "y"} {
			for _, n := range []New{{IdempotencyKey: key}, {UniqueKey: key}} {
				n.Name = name
				in := r.insert(0, n)[0]
				fmt.Fprint(&b, key, name, in.Existing, " ")
				if in.Existing {
					fmt.Fprint(&b, in.ID)
				}
			}
		}
	}
	return b.String()
}
