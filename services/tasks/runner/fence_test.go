package runner

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// unfenced commits what is said of whatever attempt, which no store does.
type unfenced struct{ store.Store }

func (u unfenced) End(ctx context.Context, ends []store.End) ([]store.Outcome, error) {
	ends = append([]store.End(nil), ends...)
	for i := range ends {
		if tasks, err := u.Get(ctx, []wire.TaskID{ends[i].ID}); err == nil && tasks[0] != nil {
			ends[i].Fence = tasks[0].Fence
		}
	}
	return u.Store.End(ctx, ends)
}

// Attempts are given up while their workers go on, and say their results late and
// several times. Of each task one result counts: that of the attempt whose fence
// is the greatest.
func TestOnlyTheLastAttemptCommits(t *testing.T) {
	if wrong := zombies(t, func(s store.Store) store.Store { return s }); wrong > 0 {
		t.Errorf("%d tasks have the result of an attempt that was given up", wrong)
	}
}

// A store that does not look at fences is found out by that.
func TestTheCheckerSeesAStoreWithoutFences(t *testing.T) {
	if wrong := zombies(t, func(s store.Store) store.Store { return unfenced{s} }); wrong == 0 {
		t.Error("no task has the result of an attempt that was given up, though nothing fences it off")
	}
}

// zombies has attempts fenced off while they run, and every worker say its result
// all the same. It returns how many tasks have a wrong result.
func zombies(t *testing.T, over func(store.Store) store.Store) (wrong int) {
	r := newRig(t)
	r.memory = over(r.memory)
	a, b := r.replica(), r.replica()
	var mu sync.Mutex // guards fences
	fences := map[string]int64{}
	late := make(chan *nats.Msg, 1024)
	r.worker("work", func(msg *nats.Msg) {
		id := msg.Header.Get(wire.HeaderTaskID)
		mu.Lock()
		if fenceOf(msg) <= fences[id] {
			t.Errorf("task %s: fence %d after %d", id, fenceOf(msg), fences[id])
		}
		fences[id] = fenceOf(msg)
		mu.Unlock()
		late <- msg
	})
	var ids []wire.TaskID
	for i := range 30 {
		p := []*replica{a, b}[i%2]
		id := r.enqueue(p, "work")
		ids = append(ids, id)
		first := await(t, "an attempt", late)
		if _, err := b.Takeover(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		second := await(t, "the next attempt", late)
		say := func(msg *nats.Msg) {
			_ = p.Complete(t.Context(), wire.TaskComplete{TaskAttempt: attemptOf(msg), Result: fmt.Appendf(nil, "%d", fenceOf(msg))})
		}
		// The attempt of the first is known to nobody; what it says goes to the store.
		a.queueEnd(&ending{a: &attempt{Attempt: store.Attempt{ID: id, Name: "work", Fence: fenceOf(first)}}, end: store.End{
			Ref: store.Ref{ID: id, Fence: fenceOf(first)}, State: wire.TaskCommitted, Result: fmt.Appendf(nil, "%d", fenceOf(first)), Retention: time.Hour,
		}})
		say(first)
		say(second)
	}
	for _, id := range ids {
		task := r.until(id, wire.TaskCommitted)
		mu.Lock()
		if string(task.Result) != fmt.Sprint(fences[task.ID]) {
			wrong++
		}
		mu.Unlock()
	}
	return wrong
}
