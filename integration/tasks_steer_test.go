package integration

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func cancelPending(t *testing.T, s *taskStack) {
	id := s.enqueue(`{"name":"` + taskName("cancel") + `","delay":"1h"}`)
	if got := askTasks[wire.Task](s, "cancel", `{"id":"`+id+`"}`); got.State != wire.TaskCancelled {
		t.Errorf("it is %s, want cancelled", got.State)
	}
	s.wants(id, wire.TaskCancelled)
}

func cancelRunning(t *testing.T, s *taskStack) {
	name := taskName("cancel")
	taken := s.attempts(name)
	// A worker that hears of it.
	id := s.enqueue(`{"name":"` + name + `"}`)
	m := receive(t, taken)
	cancelled := listen(t, s.nc, m.Header.Get(wire.HeaderTaskCancel))
	if got := askTasks[wire.Task](s, "cancel", `{"id":"`+id+`"}`); got.State != wire.TaskRunning || !got.CancelAsked {
		t.Errorf("it is %s (asked to end: %v), want one that runs and is to end", got.State, got.CancelAsked)
	}
	hear(t, cancelled)
	failsWith(m, wire.Cancelled, "stopped", nil)
	s.wants(id, wire.TaskCancelled)
	// One that does not: its result comes too late.
	id = s.enqueue(`{"name":"` + name + `"}`)
	m = receive(t, taken)
	askTasks[wire.Task](s, "cancel", `{"id":"`+id+`"}`)
	s.wants(id, wire.TaskCancelled)
	var e *wire.Error
	if err := s.raw("complete", `{`+attemptOf(m)+`,"result":1}`, nil); !errors.As(err, &e) || e.Code != wire.FailedPrecondition || e.Details["state"] != "cancelled" {
		t.Errorf("complete after that: %v, want FAILED_PRECONDITION", err)
	}
	// One that is done before the grace is over has won.
	id = s.enqueue(`{"name":"` + name + `"}`)
	m = receive(t, taken)
	askTasks[wire.Task](s, "cancel", `{"id":"`+id+`"}`)
	must(t, m.Respond([]byte(`1`)))
	s.wants(id, wire.TaskCommitted)
}

func retryByPolicy(t *testing.T, s *taskStack) {
	name := taskName("policy")
	askTasks[struct{}](s, "register", `{"name":"`+name+`","retry":{"maxAttempts":3,"backoff":"10ms"}}`)
	var fences []int64
	s.takes(name, func(m *nats.Msg) {
		fence, err := strconv.ParseInt(m.Header.Get(wire.HeaderTaskFence), 10, 64)
		if err != nil {
			t.Errorf("fence: %v", err)
		}
		switch input := string(m.Data); {
		case input == `"final"`:
			failsWith(m, wire.Internal, "never again", nats.Header{wire.HeaderRetryable: {"false"}})
		case input == `"always"`:
			failsWith(m, wire.Unavailable, "not now", nil)
		case m.Header.Get(wire.HeaderTaskAttempt) == "3":
			fences = append(fences, fence)
			_ = m.Respond([]byte(`"at last"`)) // the test waits for what comes of it
		default:
			fences = append(fences, fence)
			failsWith(m, wire.Internal, "not yet", nil)
		}
	})
	got := s.wants(s.enqueue(`{"name":"`+name+`","input":"try"}`), wire.TaskCommitted)
	if got.Attempt != 3 || got.Failures != 2 || string(got.Result) != `"at last"` {
		t.Errorf("it ended as %+v", got)
	}
	if len(fences) != 3 || !slices.IsSorted(fences) || fences[0] == fences[1] || fences[1] == fences[2] {
		t.Errorf("the fences are %v, want growing ones", fences)
	}
	if got := s.wants(s.enqueue(`{"name":"`+name+`","input":"final"}`), wire.TaskFailed); got.Attempt != 1 || got.Error.Code != wire.Internal {
		t.Errorf("what is not to be retried has had %d attempts: %+v", got.Attempt, got.Error)
	}
	if got := s.wants(s.enqueue(`{"name":"`+name+`","input":"always"}`), wire.TaskFailed); got.Attempt != 3 || got.Failures != 3 || got.Error.Message != "not now" {
		t.Errorf("what always fails has had %d attempts: %+v", got.Attempt, got.Error)
	}
}

func retryByHand(t *testing.T, s *taskStack) {
	name := taskName("again")
	var works atomic.Bool
	s.takes(name, func(m *nats.Msg) {
		if !works.Load() {
			failsWith(m, wire.InvalidArgument, "no", nil)
			return
		}
		_ = m.Respond([]byte(`2`)) // the test waits for what comes of it
	})
	id := s.enqueue(`{"name":"` + name + `","input":{"a":1}}`)
	failed := s.wants(id, wire.TaskFailed)
	works.Store(true)
	askTasks[wire.Task](s, "retry", `{"id":"`+id+`"}`)
	got := s.wants(id, wire.TaskCommitted)
	if got.Fence <= failed.Fence || got.Failures != 0 || string(got.Result) != `2` {
		t.Errorf("after the retry: %+v; before: %+v", got, failed)
	}
	if err := s.raw("retry", `{"id":"`+id+`"}`, nil); !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Errorf("retry of what is committed: %v, want FAILED_PRECONDITION", err)
	}
}

func takeover(t *testing.T, s *taskStack) {
	name := taskName("takeover")
	taken := s.attempts(name)
	id := s.enqueue(`{"name":"` + name + `"}`)
	first := receive(t, taken)
	askTasks[wire.Task](s, "takeover", `{"id":"`+id+`"}`)
	second := receive(t, taken)
	if a, b := first.Header.Get(wire.HeaderTaskFence), second.Header.Get(wire.HeaderTaskFence); a >= b || second.Header.Get(wire.HeaderTaskID) != id {
		t.Errorf("the second attempt has the fence %s, the first %s", b, a)
	}
	for _, endpoint := range []string{"heartbeat", "complete", "fail", "step"} {
		var e *wire.Error
		if err := s.raw(endpoint, `{`+attemptOf(first)+`,"step":"a","result":1,"error":{"code":"INTERNAL"}}`, nil); !errors.As(err, &e) || e.Code != wire.FailedPrecondition || e.Details["fence"] == nil {
			t.Errorf("%s of the first: %v, want FAILED_PRECONDITION with the fence", endpoint, err)
		}
	}
	must(t, second.Respond([]byte(`"second"`)))
	if got := s.wants(id, wire.TaskCommitted); string(got.Result) != `"second"` || got.Crashes != 0 {
		t.Errorf("it ended as %+v", got)
	}
	if err := s.raw("takeover", `{"id":"`+id+`"}`, nil); !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Errorf("takeover of what has ended: %v, want FAILED_PRECONDITION", err)
	}
}

func requestsOfAWorker(t *testing.T, s *taskStack) {
	name := taskName("requests")
	taken := s.attempts(name)
	id := s.enqueue(`{"name":"` + name + `"}`)
	m := receive(t, taken)
	attempt := attemptOf(m)
	askTasks[struct{}](s, "heartbeat", `{`+attempt+`,"progress":{"done":0.5},"leaseMs":60000}`)
	eventually(t, "its progress is seen", func() (any, bool) {
		got := s.task(id)
		return string(got.Progress), string(got.Progress) == `{"done":0.5}`
	})
	if got := askTasks[wire.TaskStepped](s, "step", `{`+attempt+`,"step":"charge"}`); got.Done {
		t.Errorf("a step that was not taken: %+v", got)
	}
	for range 2 { // the second one finds what the first has stored
		if got := askTasks[wire.TaskStepped](s, "step", `{`+attempt+`,"step":"charge","result":{"id":7}}`); !got.Done || string(got.Result) != `{"id":7}` {
			t.Errorf("a step: %+v", got)
		}
	}
	for _, endpoint := range []string{"heartbeat", "complete", "fail"} {
		forged := strings.Replace(attempt, `"token":"`, `"token":"x`, 1)
		if err := s.raw(endpoint, `{`+forged+`,"error":{"code":"INTERNAL"}}`, nil); !errors.Is(err, wire.ErrPermissionDenied) {
			t.Errorf("%s with a token that is made up: %v, want PERMISSION_DENIED", endpoint, err)
		}
	}
	for range 2 { // the same result again is no error
		askTasks[struct{}](s, "complete", `{`+attempt+`,"result":{"ok":true}}`)
	}
	if got := s.wants(id, wire.TaskCommitted); string(got.Result) != `{"ok":true}` {
		t.Errorf("it ended as %+v", got)
	}
	if err := s.raw("fail", `{`+attempt+`,"error":{"code":"INTERNAL"}}`, nil); !errors.Is(err, wire.ErrFailedPrecondition) {
		t.Errorf("fail after that: %v, want FAILED_PRECONDITION", err)
	}
}

// browserWatches is a client over WebSocket on the task's topic.
func browserWatches(t *testing.T, s *taskStack) {
	name := taskName("watched")
	taken := s.attempts(name)
	id := s.enqueue(`{"name":"` + name + `","delay":"1s"}`)
	dora := s.as(0, "dora")
	sub := subscribe(t, dora, "task."+id)
	m := receive(t, taken)
	type event struct {
		ID, Name, State  string
		Progress, Result json.RawMessage
	}
	seen := func(want string) (e event) {
		t.Helper()
		for {
			m := receive(t, sub.Messages())
			must(t, json.Unmarshal(m.Data, &e))
			if m.Event == want {
				return e
			}
			if m.Event != "pending" {
				t.Fatalf("the event is %s %s, want %s", m.Event, m.Data, want)
			}
		}
	}
	if e := seen("running"); e.ID != id || e.Name != name || e.State != "running" {
		t.Errorf("running is %+v", e)
	}
	reply := nats.NewMsg(m.Reply)
	reply.Header.Set(wire.HeaderTaskProgress, "1")
	reply.Data = []byte(`{"percent":40}`)
	must(t, m.RespondMsg(reply))
	if e := seen("progress"); string(e.Progress) != `{"percent":40}` {
		t.Errorf("progress is %+v", e)
	}
	must(t, m.Respond([]byte(`"done"`)))
	if e := seen("committed"); string(e.Result) != `"done"` || e.State != "committed" {
		t.Errorf("committed is %+v", e)
	}
}

func outOfTime(t *testing.T, s *taskStack) {
	name := taskName("slow")
	askTasks[struct{}](s, "register", `{"name":"`+name+`","timeout":"300ms","maxCrashes":1,"retry":{"backoff":"10ms"}}`)
	taken := s.attempts(name)
	// Nothing was ever heard of its workers: they are lost.
	got := s.wants(s.enqueue(`{"name":"`+name+`"}`), wire.TaskDead)
	if got.Crashes != 2 || got.Error == nil || got.Error.Code != wire.Aborted {
		t.Errorf("it ended as %+v (%+v), want a dead one with 2 crashes", got, got.Error)
	}
	receive(t, taken)
	receive(t, taken)
	// One that was heard is only too slow.
	id := s.enqueue(`{"name":"` + name + `","timeout":"1500ms"}`)
	m := receive(t, taken)
	askTasks[struct{}](s, "heartbeat", `{`+attemptOf(m)+`}`)
	if got := s.wants(id, wire.TaskFailed); got.Error.Code != wire.DeadlineExceeded || got.Failures != 1 || got.Crashes != 0 {
		t.Errorf("it ended as %+v (%+v), want DEADLINE_EXCEEDED", got, got.Error)
	}
}
