package integration

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// TestTasks asks two replicas, with raw JSON, and answers as `nats reply` does.
func TestTasks(t *testing.T) {
	t.Parallel()
	s := anyTasks(t, 2, "FAIRLEAD_TASKS_CANCEL_GRACE=1s")
	for name, test := range map[string]func(*testing.T, *taskStack){
		"a plain worker":                   plainWorker,
		"run":                              runTask,
		"no worker, then one":              lateWorker,
		"priority":                         priorities,
		"delay and runAt":                  delays,
		"keys":                             keys,
		"bad input":                        badInput,
		"a result that is too large":       largeResult,
		"list and counts":                  listAndCounts,
		"cancel what waits":                cancelPending,
		"cancel what runs":                 cancelRunning,
		"retry by the policy":              retryByPolicy,
		"retry by hand":                    retryByHand,
		"takeover":                         takeover,
		"what a worker says by itself":     requestsOfAWorker,
		"a browser watches":                browserWatches,
		"a task that runs out of its time": outOfTime,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := s.of(t)
			test(t, one)
		})
	}
}

// taskName returns a name that no other test has used.
func taskName(of string) string { return strings.ReplaceAll(unique(of), ".", ".n") }

func plainWorker(t *testing.T, s *taskStack) {
	name := taskName("plain")
	heard := make(chan *nats.Msg, 1)
	s.serves(name, func(m *nats.Msg) string {
		heard <- m
		return `{"sum":3}`
	})
	events := listen(t, s.nc, "fl.event.task.*."+name)
	id := s.enqueue(`{"name":"` + name + `","input":{"a":1, "b":2},"metadata":{"of":"ann"},"timeout":"20s"}`)
	m := receive(t, heard)
	if got := string(m.Data); got != `{"a":1, "b":2}` {
		t.Errorf("the worker gets %s, want the input byte for byte", got)
	}
	for header, want := range map[string]string{
		wire.HeaderTaskID: id, wire.HeaderTaskAttempt: "1", wire.HeaderTaskFence: "1", wire.HeaderTaskMetadata: `{"of":"ann"}`, wire.HeaderIdempotencyKey: id,
	} {
		if got := m.Header.Get(header); got != want {
			t.Errorf("%s is %q, want %q", header, got, want)
		}
	}
	if ms, err := strconv.Atoi(m.Header.Get(wire.HeaderTaskTimeout)); err != nil || ms <= 0 || ms > 20_000 {
		t.Errorf("%s is %q, want up to 20000", wire.HeaderTaskTimeout, m.Header.Get(wire.HeaderTaskTimeout))
	}
	got := s.wants(id, wire.TaskCommitted)
	if string(got.Result) != `{"sum":3}` || got.Attempt != 1 || got.Name != name || got.Input != nil {
		t.Errorf("it ended as %+v", got)
	}
	if got := s.task(id); got.StartedAt.Before(got.CreatedAt) || got.FinishedAt.Before(got.StartedAt) {
		t.Errorf("it was made at %s, began at %s and ended at %s", got.CreatedAt, got.StartedAt, got.FinishedAt)
	}
	for _, want := range []string{"running", "committed"} {
		if m := hear(t, events); m.Subject != "fl.event.task."+want+"."+name && m.Subject != "fl.event.task.pending."+name {
			t.Errorf("the event is %s, want %s", m.Subject, want)
		}
	}
}

func runTask(t *testing.T, s *taskStack) {
	name := taskName("run")
	s.takes(name, func(m *nats.Msg) {
		if string(m.Data) == `"fail"` {
			failsWith(m, wire.NotFound, "no such thing", nil)
			return
		}
		_ = m.Respond(m.Data) // the one who asked has a deadline
	})
	got := askTasks[wire.Task](s, "run", `{"name":"`+name+`","input":[1,2]}`)
	if got.State != wire.TaskCommitted || string(got.Result) != `[1,2]` {
		t.Errorf("run answers %+v, want the result", got)
	}
	got = askTasks[wire.Task](s, "run", `{"name":"`+name+`","input":"fail"}`)
	if got.State != wire.TaskFailed || got.Error == nil || got.Error.Code != wire.NotFound || got.Error.Message != "no such thing" || got.Failures != 1 {
		t.Errorf("run of what fails answers %+v (%+v)", got, got.Error)
	}
	got = askTasks[wire.Task](s, "run", `{"name":"`+taskName("nobody")+`","wait":"100ms"}`)
	if got.State.Ended() || got.ID == "" {
		t.Errorf("run of what nobody does answers %+v, want the task as it is", got)
	}
	var e *wire.Error
	if err := s.raw("await", `{"id":"`+wire.NewTaskID(time.Now()).String()+`"}`, nil); !errors.As(err, &e) || e.Code != wire.NotFound {
		t.Errorf("await of no task: %v, want NOT_FOUND", err)
	}
}

func lateWorker(t *testing.T, s *taskStack) {
	name := taskName("late")
	id := s.enqueue(`{"name":"` + name + `"}`)
	if got := askTasks[wire.Task](s, "await", `{"id":"`+id+`","timeout":"300ms"}`); got.State.Ended() {
		t.Fatalf("nobody does it, and it is %s", got.State)
	}
	got := s.becomes(id, wire.TaskPending)
	s.serves(name, func(*nats.Msg) string { return `1` })
	askTasks[struct{}](s, "hello", `{"names":["`+name+`"]}`)
	got = s.wants(id, wire.TaskCommitted)
	if got.Attempt != 1 || got.Crashes != 0 || got.Failures != 0 {
		t.Errorf("attempt %d, %d crashes, %d failures, want the first attempt: that nobody was there counts for nothing", got.Attempt, got.Crashes, got.Failures)
	}
}

func priorities(t *testing.T, s *taskStack) {
	name := taskName("priority")
	askTasks[struct{}](s, "register", `{"name":"`+name+`","concurrency":1}`)
	var ids []string
	for _, p := range []int{-5, 0, 100, 7} {
		ids = append(ids, s.enqueue(fmt.Sprintf(`{"name":%q,"input":%d,"priority":%d}`, name, p, p)))
	}
	for _, id := range ids {
		s.becomes(id, wire.TaskPending)
	}
	var order []string
	done := make(chan string, len(ids))
	var running atomic.Int32
	s.serves(name, func(m *nats.Msg) string {
		if running.Add(1) > 1 {
			t.Error("two attempts run at a time")
		}
		defer running.Add(-1)
		done <- string(m.Data)
		return `1`
	})
	askTasks[struct{}](s, "hello", `{"names":["`+name+`"]}`)
	for range ids {
		order = append(order, receive(t, done))
	}
	if want := []string{"100", "7", "0", "-5"}; !slices.Equal(order, want) {
		t.Errorf("they ran as %v, want %v", order, want)
	}
	for _, id := range ids {
		s.wants(id, wire.TaskCommitted)
	}
}

func delays(t *testing.T, s *taskStack) {
	name := taskName("delay")
	s.serves(name, func(*nats.Msg) string { return `1` })
	later := s.enqueue(`{"name":"` + name + `","delay":"700ms"}`)
	past := s.enqueue(`{"name":"` + name + `","runAt":"2001-01-01T00:00:00Z"}`)
	at := s.enqueue(`{"name":"` + name + `","runAt":"` + time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano) + `"}`)
	if got := s.task(later); got.State != wire.TaskPending || got.RunAt.Sub(got.CreatedAt) < 700*time.Millisecond {
		t.Errorf("delayed: %s, to run %s after %s", got.State, got.RunAt, got.CreatedAt)
	}
	for id, least := range map[string]time.Duration{later: 700 * time.Millisecond, past: 0, at: 100 * time.Millisecond} {
		s.wants(id, wire.TaskCommitted)
		if got := s.task(id); got.StartedAt.Sub(got.CreatedAt) < least {
			t.Errorf("it began %s after it was made, want at least %s", got.StartedAt.Sub(got.CreatedAt), least)
		}
	}
}

func keys(t *testing.T, s *taskStack) {
	name := taskName("keys")
	var runs atomic.Int32
	s.takes(name, func(m *nats.Msg) {
		runs.Add(1)
		if m.Header.Get(wire.HeaderIdempotencyKey) == "bad" {
			failsWith(m, wire.InvalidArgument, "no", nil)
			return
		}
		_ = m.Respond([]byte(`{"n":1}`)) // the one who asked has a deadline
	})
	// At the same time, of two replicas.
	for _, key := range []string{"idempotencyKey", "uniqueKey"} {
		body := `{"name":"` + name + `","delay":"200ms","` + key + `":"same"}`
		answers := make([]wire.TaskEnqueued, 24)
		var asking sync.WaitGroup
		for i := range answers {
			asking.Go(func() {
				if err := s.raw("enqueue", body, &answers[i]); err != nil {
					t.Errorf("enqueue: %v", err)
				}
			})
		}
		asking.Wait()
		made := 0
		for _, a := range answers {
			if a.ID != answers[0].ID {
				t.Errorf("%s: %s and %s", key, a.ID, answers[0].ID)
			}
			if !a.Existing {
				made++
			}
		}
		if made != 1 {
			t.Errorf("%s: %d of them made it, want 1", key, made)
		}
		s.wants(answers[0].ID, wire.TaskCommitted)
	}
	if got := runs.Load(); got != 2 {
		t.Errorf("%d attempts, want 2: one for each key", got)
	}
	// What is committed answers for its idempotency key, and has freed its unique key.
	if got := askTasks[wire.Task](s, "run", `{"name":"`+name+`","idempotencyKey":"same"}`); string(got.Result) != `{"n":1}` || runs.Load() != 2 {
		t.Errorf("run again: %+v, after %d attempts", got, runs.Load())
	}
	if got := askTasks[wire.TaskEnqueued](s, "enqueue", `{"name":"`+name+`","uniqueKey":"same"}`); got.Existing {
		t.Error("the unique key of what has ended still counts")
	}
	// What failed counts for neither.
	bad := s.enqueue(`{"name":"` + name + `","idempotencyKey":"bad"}`)
	s.wants(bad, wire.TaskFailed)
	if got := askTasks[wire.TaskEnqueued](s, "enqueue", `{"name":"`+name+`","idempotencyKey":"bad"}`); got.Existing || got.ID == bad {
		t.Errorf("the key of what failed still counts: %+v", got)
	}
	// The key of another name is another key.
	if got := askTasks[wire.TaskEnqueued](s, "enqueue", `{"name":"`+taskName("other")+`","idempotencyKey":"same"}`); got.Existing {
		t.Error("a key counts for another name too")
	}
}

func badInput(t *testing.T, s *taskStack) {
	id := wire.NewTaskID(time.Now()).String()
	for _, tt := range []struct{ endpoint, body, field string }{
		{"register", `{"name":"a b"}`, "name"},
		{"register", `{"name":"x","retry":{"backoff":"-1s"}}`, "retry.backoff"},
		{"enqueue", `{}`, "name"},
		{"enqueue", `{"name":"x","input":` + strings.Repeat("1", wire.MaxTaskInput+1) + `}`, "input"},
		{"enqueue", `{"name":"x","priority":"high"}`, "priority"},
		{"enqueue", `{"name":"x","runAt":"soon"}`, "runAt"},
		{"enqueue", `{"name":`, "request"},
		{"run", `{"name":"x","wait":"11m"}`, "wait"},
		{"await", `{"id":"1"}`, "id"},
		{"await", `{"id":"` + id + `","timeout":"1"}`, "timeout"},
		{"get", `{}`, "id"},
		{"list", `{"state":"done"}`, "state"},
		{"counts", `{"name":"*"}`, "name"},
		{"cancel", `{"id":"t_0"}`, "id"},
		{"retry", `{}`, "id"},
		{"takeover", `{}`, "id"},
		{"heartbeat", `{"id":"` + id + `","fence":1}`, "token"},
		{"complete", `{"id":"` + id + `","token":"x"}`, "fence"},
		{"fail", `{"fence":1,"token":"x"}`, "id"},
		{"step", `{"id":"` + id + `","fence":1,"token":"x"}`, "step"},
		{"hello", `{"names":[]}`, "names"},
	} {
		var e *wire.Error
		if err := s.raw(tt.endpoint, tt.body, nil); !errors.As(err, &e) || e.Code != wire.InvalidArgument || e.Details["field"] != tt.field {
			t.Errorf("%s %.60s: %v, want INVALID_ARGUMENT for %s", tt.endpoint, tt.body, err, tt.field)
		}
	}
	for _, endpoint := range []string{"get", "await", "cancel", "retry", "takeover"} {
		if err := s.raw(endpoint, `{"id":"`+id+`"}`, nil); !errors.Is(err, wire.ErrNotFound) {
			t.Errorf("%s of no task: %v, want NOT_FOUND", endpoint, err)
		}
	}
}

func largeResult(t *testing.T, s *taskStack) {
	name := taskName("large")
	s.serves(name, func(m *nats.Msg) string {
		if string(m.Data) == `"fits"` {
			return `"` + strings.Repeat("x", wire.MaxTaskInput-2) + `"`
		}
		return `"` + strings.Repeat("x", wire.MaxTaskInput-1) + `"`
	})
	if got := s.wants(s.enqueue(`{"name":"`+name+`","input":"fits"}`), wire.TaskCommitted); len(got.Result) != wire.MaxTaskInput {
		t.Errorf("the result has %d bytes, want %d", len(got.Result), wire.MaxTaskInput)
	}
	got := s.wants(s.enqueue(`{"name":"`+name+`"}`), wire.TaskFailed)
	if got.Error == nil || got.Error.Code != wire.InvalidArgument || got.Attempt != 1 {
		t.Errorf("after %d attempts: %+v, want one that says INVALID_ARGUMENT", got.Attempt, got.Error)
	}
}

func listAndCounts(t *testing.T, s *taskStack) {
	name := taskName("list")
	var want []string
	for i := range 7 {
		want = append(want, s.enqueue(fmt.Sprintf(`{"name":%q,"input":%d,"delay":"1h"}`, name, i)))
	}
	askTasks[wire.Task](s, "cancel", `{"id":"`+want[0]+`"}`)
	slices.Reverse(want)
	slices.SortFunc(want, func(a, b string) int { return strings.Compare(b, a) }) // made in the same millisecond, or at two replicas
	var got []string
	for cursor := ""; ; {
		page := askTasks[wire.TaskPage](s, "list", `{"name":"`+name+`","limit":3,"cursor":"`+cursor+`"}`)
		for _, task := range page.Tasks {
			if task.Input != nil {
				t.Error("a list has inputs")
			}
			got = append(got, task.ID)
		}
		if cursor = page.Cursor; cursor == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the list is %v\nwant %v", got, want)
	}
	if page := askTasks[wire.TaskPage](s, "list", `{"name":"`+name+`","state":"cancelled"}`); len(page.Tasks) != 1 || page.Tasks[0].State != wire.TaskCancelled {
		t.Errorf("cancelled are %+v, want 1", page.Tasks)
	}
	counts := askTasks[wire.TaskCounts](s, "counts", `{"name":"`+name+`"}`)
	if counts.Pending != 6 || counts.Cancelled != 1 || counts.Total != 7 {
		t.Errorf("counts are %+v, want 6 pending, 1 cancelled", counts)
	}
	if all := askTasks[wire.TaskCounts](s, "counts", `{}`); all.Total < 7 {
		t.Errorf("of all names there are %+v", all)
	}
}
