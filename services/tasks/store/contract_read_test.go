package store

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// testGetIsOneMoment has tasks move while they are read: none is ever missed.
func testGetIsOneMoment(t *testing.T, r *rig) {
	o := r.join()
	all := r.put(o, make([]New, 100)...)
	var over atomic.Bool
	together(2, func(i int) {
		if i == 1 {
			for !over.Load() {
				tasks, err := r.Get(t.Context(), all)
				if err != nil || slices.Contains(tasks, nil) {
					t.Errorf("a task was missed (%v)", err)
					return
				}
			}
			return
		}
		defer over.Store(true)
		for range len(all) / 5 {
			attempts, err := r.Claim(t.Context(), o, "work", 5, 0, time.Minute)
			var ends []End
			for _, a := range attempts {
				ends = append(ends, End{Ref: Ref{ID: a.ID, Fence: a.Fence}, State: wire.TaskFailed, Retention: kept})
			}
			if err == nil {
				_, err = r.End(t.Context(), ends)
			}
			if err == nil {
				_, err = r.Retry(t.Context(), attempts[0].ID)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
}

func testGetKeepsOrder(t *testing.T, r *rig) {
	stored := r.put(r.join(), New{}, New{}, New{})
	asked := []wire.TaskID{stored[2], ids(), stored[0], stored[2]}
	got := must[[]*wire.Task](r)(r.Get(t.Context(), asked))
	var names []string
	for _, task := range got {
		if task == nil {
			names = append(names, "")
		} else {
			names = append(names, task.ID)
		}
	}
	equal(t, "tasks", names, []string{stored[2].String(), "", stored[0].String(), stored[2].String()})
}

func testList(t *testing.T, r *rig) {
	o := r.join()
	want := map[wire.TaskState][]wire.TaskID{}
	var all, named []wire.TaskID
	states := []wire.TaskState{wire.TaskPending, wire.TaskRunning, wire.TaskCommitted, wire.TaskFailed, wire.TaskCancelled, wire.TaskDead}
	for i := range 30 {
		name, state := fmt.Sprintf("n%d", i%2), states[i/2%len(states)]
		n := New{Name: name, Input: []byte("1")}
		var id wire.TaskID
		if state == wire.TaskPending {
			id = r.put(o, n)[0]
		} else {
			ref := r.start(o, n)
			id = ref.ID
			if state.Ended() {
				r.end(End{Ref: ref, State: state, Result: []byte("2")})
			}
		}
		all = append(all, id)
		want[state] = append(want[state], id)
		if i%2 == 1 {
			named = append(named, id)
		}
	}
	list := func(q Query) (listed []wire.TaskID) {
		t.Helper()
		for {
			page := must[[]wire.Task](r)(r.List(t.Context(), q))
			for _, task := range page {
				id, err := wire.ParseTaskID("id", task.ID)
				if err != nil || task.Input != nil || task.Result != nil {
					t.Errorf("%+v (%v), want it without what it works on", task, err)
				}
				listed = append(listed, id)
			}
			if len(page) < q.Limit {
				return listed
			}
			q.Before = listed[len(listed)-1]
		}
	}
	newest := func(of []wire.TaskID) []wire.TaskID {
		of = slices.Clone(of)
		slices.SortFunc(of, func(a, b wire.TaskID) int { return bytes.Compare(b[:], a[:]) })
		return of
	}
	for _, limit := range []int{1, 7, 1000} {
		equal(t, "all", list(Query{Limit: limit}), newest(all))
		equal(t, "of a name", list(Query{Limit: limit, Name: "n1"}), newest(named))
		for state, of := range want {
			equal(t, string(state), list(Query{Limit: limit, State: state}), newest(of))
			both := slices.DeleteFunc(newest(of), func(id wire.TaskID) bool { return !slices.Contains(named, id) })
			equal(t, "of a name "+string(state), list(Query{Limit: limit, Name: "n1", State: state}), both)
		}
	}
	same(t, "of no name", len(list(Query{Limit: 5, Name: "none"})), 0)
	same(t, "no page", len(must[[]wire.Task](r)(r.List(t.Context(), Query{}))), 0)
}

func testCounts(t *testing.T, r *rig) {
	o := r.join()
	r.put(o, New{}, New{Delay: time.Hour}, New{Name: "other"})
	for n, state := range []wire.TaskState{wire.TaskRunning, wire.TaskCommitted, wire.TaskFailed, wire.TaskCancelled, wire.TaskDead} {
		for range n + 1 {
			if ref := r.start(o, New{}); state.Ended() {
				r.end(End{Ref: ref, State: state})
			}
		}
	}
	for name, want := range map[string]wire.TaskCounts{
		"":      {Pending: 3, Running: 1, Committed: 2, Failed: 3, Cancelled: 4, Dead: 5, Total: 18},
		"work":  {Pending: 2, Running: 1, Committed: 2, Failed: 3, Cancelled: 4, Dead: 5, Total: 17},
		"other": {Pending: 1, Total: 1},
		"none":  {},
	} {
		same(t, "counts of "+name, must[wire.TaskCounts](r)(r.Counts(t.Context(), name)), want)
	}
}

func testPolicies(t *testing.T, r *rig) {
	a := Policy{
		Name: "a", Timeout: time.Minute, MaxAttempts: 3, Backoff: time.Second, Factor: 1.5, MaxBackoff: time.Hour, Jitter: 0.25,
		Final: []wire.Code{wire.NotFound, wire.Aborted}, MaxCrashes: 4, Concurrency: 5, Retention: 72 * time.Hour,
	}
	b := Policy{Name: "b", Timeout: time.Millisecond}
	register := func(p Policy) {
		t.Helper()
		if err := r.Register(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	register(b)
	register(Policy{Name: "a", Final: []wire.Code{wire.Internal}})
	register(a)
	if got, want := must[[]Policy](r)(r.Policies(t.Context())), []Policy{a, b}; !reflect.DeepEqual(got, want) {
		t.Errorf("Policies() = %+v, want %+v", got, want)
	}
}

func testSecret(t *testing.T, r *rig) {
	secret := must[[]byte](r)(r.Secret(t.Context()))
	if len(secret) != 32 || bytes.Equal(secret, make([]byte, 32)) {
		t.Errorf("the secret is %x, want 32 random bytes", secret)
	}
	if again := must[[]byte](r)(r.Secret(t.Context())); !bytes.Equal(again, secret) {
		t.Error("the secret changed")
	}
}

// testNothing asks for nothing.
func testNothing(t *testing.T, r *rig) {
	o := r.join()
	same(t, "inserted", len(r.insert(o)), 0)
	same(t, "claimed", len(r.claim(o, "work", 0))+len(r.claim(o, "work", 9)), 0)
	same(t, "ended", len(r.end())+len(r.back()), 0)
	same(t, "adopted", len(must[[]Attempt](r)(r.Adopt(t.Context(), o, nil))), 0)
	same(t, "read", len(must[[]*wire.Task](r)(r.Get(t.Context(), nil))), 0)
	same(t, "due", len(must[[]Due](r)(r.Due(t.Context(), time.Hour, 9))), 0)
	if err := r.Beats(t.Context(), nil); err != nil {
		t.Error(err)
	}
}
