package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// taskRecord is what is known of a run from outside: of whom the tasks were asked,
// of Postgres, of the sinks of their effects, and of NATS.
type taskRecord struct {
	enqueued map[string]string // ids by idempotency key
	ended    []endedTask       // rows of the history
	live     []string          // ids of what has not ended
	effects  []effect          // of the sink that has each key once
	accepted []effect          // of the sink that refuses smaller fences, in order
	events   []endedTask       // of those that came
}

type endedTask struct {
	id      string
	state   wire.TaskState
	attempt int
	fence   int64
	result  string
}

type effect struct {
	task, key string
	fence     int64
}

// result is what a worker returns in a run: which attempt it was.
func result(fence int64) string { return fmt.Sprintf(`{"fence":%d}`, fence) }

// check returns what is wrong with a run.
func (r *taskRecord) check() (wrong []string) {
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	known := map[string]bool{}
	for key, id := range r.enqueued {
		if known[id] {
			complain("%s: the task of two keys, one is %s", id, key)
		}
		known[id] = true
	}
	ended := map[string]endedTask{}
	for _, e := range r.ended {
		if _, twice := ended[e.id]; twice {
			complain("%s: ended twice", e.id)
		}
		ended[e.id] = e
		switch {
		case !known[e.id]:
			complain("%s: nobody has asked for it", e.id)
		case e.state != wire.TaskCommitted:
			complain("%s: ended as %s", e.id, e.state)
		case e.result != result(e.fence):
			complain("%s: has the result %s of another attempt than %d", e.id, e.result, e.fence)
		}
	}
	for _, id := range r.live {
		complain("%s: has not ended", id)
	}
	for id := range known {
		if _, ok := ended[id]; !ok {
			complain("%s: lost", id)
		}
	}
	had := map[string]int{}
	for _, e := range r.effects {
		had[e.key]++
	}
	for key, id := range r.enqueued {
		if had[key] != 1 {
			complain("%s: %d effects for its key", id, had[key])
		}
	}
	last := map[string]int64{}
	for _, e := range r.accepted {
		if e.fence <= last[e.task] {
			complain("%s: the effect of fence %d came behind that of %d", e.task, e.fence, last[e.task])
		}
		last[e.task] = e.fence
	}
	for id, e := range ended {
		if last[id] != e.fence {
			complain("%s: ended with fence %d, its last effect has %d", id, e.fence, last[id])
		}
	}
	for _, e := range r.events {
		if is := ended[e.id]; e.state.Ended() && (e.state != is.state || e.attempt != is.attempt) {
			complain("%s: attempt %d was said to have ended it as %s, and %d did as %s", e.id, e.attempt, e.state, is.attempt, is.state)
		}
	}
	slices.Sort(wrong)
	return wrong
}

// A record that is right, and what is noticed when something happened to it.
func TestTheCheckerOfTasks(t *testing.T) {
	t.Parallel()
	good := func() *taskRecord {
		return &taskRecord{
			enqueued: map[string]string{"a": "1", "b": "2"},
			ended: []endedTask{
				{"1", wire.TaskCommitted, 1, 1, result(1)},
				{"2", wire.TaskCommitted, 2, 3, result(3)},
			},
			effects:  []effect{{"1", "a", 1}, {"2", "b", 1}},
			accepted: []effect{{"2", "b", 1}, {"1", "a", 1}, {"2", "b", 3}},
			events:   []endedTask{{id: "2", state: wire.TaskPending, attempt: 1}, {id: "2", state: wire.TaskCommitted, attempt: 2}},
		}
	}
	if wrong := good().check(); len(wrong) > 0 {
		t.Errorf("a record that is right: %v", wrong)
	}
	for what, harm := range map[string]func(*taskRecord){
		"2: lost":                      func(r *taskRecord) { r.ended = r.ended[:1] },
		"2: has not ended":             func(r *taskRecord) { r.live = []string{"2"} },
		"2: ended twice":               func(r *taskRecord) { r.ended = append(r.ended, r.ended[1]) },
		"3: nobody has asked for it":   func(r *taskRecord) { r.ended = append(r.ended, endedTask{"3", wire.TaskCommitted, 1, 1, result(1)}) },
		"1: the task of two keys":      func(r *taskRecord) { r.enqueued["c"] = "1" },
		"1: ended as dead":             func(r *taskRecord) { r.ended[0].state = wire.TaskDead },
		"2: has the result":            func(r *taskRecord) { r.ended[1].result = result(1) },
		"1: 2 effects for its key":     func(r *taskRecord) { r.effects = append(r.effects, r.effects[0]) },
		"1: 0 effects for its key":     func(r *taskRecord) { r.effects = r.effects[1:] },
		"2: the effect of fence 1":     func(r *taskRecord) { slices.Reverse(r.accepted) },
		"1: the effect of fence 1":     func(r *taskRecord) { r.accepted = append(r.accepted, r.accepted[1]) },
		"2: ended with fence 3":        func(r *taskRecord) { r.accepted = r.accepted[:2] },
		"2: attempt 1 was said to hav": func(r *taskRecord) { r.events[1].attempt = 1 },
	} {
		r := good()
		harm(r)
		wrong := r.check()
		if !slices.ContainsFunc(wrong, func(w string) bool { return strings.HasPrefix(w, what) }) {
			t.Errorf("%s: not noticed, but %v", what, wrong)
		}
	}
}
