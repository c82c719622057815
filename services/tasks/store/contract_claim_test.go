package store

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func testDue(t *testing.T, r *rig) {
	o := r.join()
	r.put(o, New{Name: "a.now", Delay: time.Hour, Priority: 9}, New{Name: "a.now"}, New{Name: "b.soon", Delay: 30 * time.Second},
		New{Name: "c.late", Delay: time.Hour}, New{Name: "d.runs"}, New{Name: "e.low", Priority: 3, Delay: time.Hour}, New{Name: "e.low", Priority: -3})
	r.claim(o, "d.runs", 1)
	due := must[[]Due](r)(r.Due(t.Context(), time.Minute, 100))
	var names []string
	for _, d := range due {
		names = append(names, d.Name)
		if d.Name == "b.soon" && (d.In < 10*time.Second || d.In > 30*time.Second) || d.Name != "b.soon" && d.In != 0 {
			t.Errorf("%s is due in %v", d.Name, d.In)
		}
	}
	equal(t, "due", names, []string{"a.now", "e.low", "b.soon"})
}

func testDueTakesTurns(t *testing.T, r *rig) {
	o := r.join()
	const names = 12
	var tasks []New
	for i := range names {
		tasks = append(tasks, New{Name: fmt.Sprintf("n%d", i)}, New{Name: fmt.Sprintf("n%d", i), Priority: 1})
	}
	r.put(o, tasks...)
	seen := map[string]bool{}
	for range 200 {
		due := must[[]Due](r)(r.Due(t.Context(), 0, 5))
		same(t, "names", len(due), 5)
		for _, d := range due {
			seen[d.Name] = true
		}
		if len(seen) == names {
			return
		}
	}
	t.Errorf("only %v were ever listed", seen)
}

func testDepth(t *testing.T, r *rig) {
	o := r.join()
	r.put(o, New{}, New{Priority: 4}, New{Name: "other"})
	r.pass(time.Minute)
	r.put(o, New{}, New{Delay: time.Hour})
	r.start(o, New{})
	due, oldest, err := r.Depth(t.Context())
	if err != nil || due != 4 || oldest < time.Minute || oldest > 2*time.Minute {
		t.Errorf("Depth() = %d, %v, %v, want 4 and a minute", due, oldest, err)
	}
}

func testClaimersDisjoint(t *testing.T, r *rig) {
	const tasks, claimers = 300, 8
	o := r.join()
	all := make([]New, tasks)
	stored := r.put(o, all...)
	var mu sync.Mutex
	times := map[wire.TaskID]int{}
	together(claimers, func(i int) {
		// What others have locked for a moment is passed over: nothing is not the end.
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
			attempts, err := r.Claim(t.Context(), Owner(i+1), "work", 7, 0, time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			for _, a := range attempts {
				times[a.ID]++
			}
			done := len(times) == tasks
			mu.Unlock()
			if done {
				return
			}
		}
	})
	for _, id := range stored {
		if times[id] != 1 {
			t.Fatalf("%s was claimed %d times", id, times[id])
		}
	}
}

// testConcurrency has many claim what only a few may run at a time.
func testConcurrency(t *testing.T, r *rig) {
	o := r.join()
	r.put(o, make([]New, 60)...)
	claim := func(owner Owner, n int) ([]Attempt, error) {
		return r.Claim(t.Context(), owner, "work", n, 3, time.Minute)
	}
	if most, left := crowd(t, r, claim, 60); most > 3 || left != 0 {
		t.Errorf("%d ran at a time, want 3 at most; %d were left", most, left)
	}
}

// crowd claims and ends all tasks and returns how many ran at a time at most.
func crowd(t *testing.T, r *rig, claim func(Owner, int) ([]Attempt, error), tasks int64) (most, left int64) {
	var peak, ended atomic.Int64
	deadline := time.Now().Add(20 * time.Second)
	together(6, func(i int) {
		for ended.Load() < tasks && time.Now().Before(deadline) {
			attempts, err := claim(Owner(i%3+1), 2)
			var counts wire.TaskCounts
			if err == nil {
				counts, err = r.Counts(t.Context(), "work")
			}
			for was := peak.Load(); counts.Running > was && !peak.CompareAndSwap(was, counts.Running); was = peak.Load() {
			}
			var ends []End
			for _, a := range attempts {
				ends = append(ends, End{Ref: Ref{ID: a.ID, Fence: a.Fence}, State: wire.TaskCommitted, Retention: kept})
			}
			if err == nil {
				_, err = r.End(t.Context(), ends)
			}
			if err != nil {
				t.Error(err)
				return
			}
			ended.Add(int64(len(ends)))
		}
	})
	return peak.Load(), tasks - ended.Load()
}
