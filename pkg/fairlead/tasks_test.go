package fairlead_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const someTask = "t_06h00rim9hq2jdvponfiefldsc"

// What the tasks service is asked, and what comes of its answers.
func TestTasks(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	ctx := t.Context()
	tasks := r.f.Tasks()
	show := func(task wire.Task, err error) string { return fmt.Sprint(task.ID, " ", task.State, " ", err) }
	answer := `{"id":"` + someTask + `","state":"running"}`
	tests := []struct {
		endpoint, want, reply string
		do                    func() string
		got                   string
	}{
		{"register", `{"name":"resize","retry":{}}`, `{}`, func() string { return fmt.Sprint(tasks.Register(ctx, "resize", fairlead.TaskPolicy{})) }, "<nil>"},
		{
			"register", `{"name":"resize","timeout":"1m30s","retry":{"maxAttempts":5,"backoff":"1s","factor":3,"maxBackoff":"1m0s","jitter":0,"nonRetryable":["ABORTED"]},"maxCrashes":0,"concurrency":7,"retention":"24h0m0s"}`, `{}`,
			func() string {
				return fmt.Sprint(tasks.Register(ctx, "resize", fairlead.TaskPolicy{
					Timeout: 90 * time.Second, MaxAttempts: 5, Backoff: time.Second, Factor: 3, MaxBackoff: time.Minute, Jitter: -1,
					NonRetryable: []wire.Code{wire.Aborted}, MaxCrashes: -1, Concurrency: 7, Retention: 24 * time.Hour,
				}))
			}, "<nil>",
		},
		{
			"enqueue", `{"name":"resize","input":{"item":"tea","count":0},"idempotencyKey":"o1","uniqueKey":"u1","delay":"1m0s","priority":5,"timeout":"2s","metadata":{"a":1}}`, `{"id":"` + someTask + `","existing":true}`,
			func() string {
				return fmt.Sprint(tasks.Enqueue(ctx, "resize", order{Item: "tea"}, fairlead.EnqueueOptions{IdempotencyKey: "o1", UniqueKey: "u1", Delay: time.Minute, Priority: 5, Timeout: 2 * time.Second, Metadata: map[string]int{"a": 1}}))
			}, "{" + someTask + " true} <nil>",
		},
		{
			"enqueue", `{"name":"resize","input":null,"runAt":"2030-01-02T03:04:05Z"}`, `{"id":"` + someTask + `"}`,
			func() string {
				return fmt.Sprint(tasks.Enqueue(ctx, "resize", nil, fairlead.EnqueueOptions{Unkeyed: true, RunAt: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}))
			}, "{" + someTask + " false} <nil>",
		},
		{"get", `{"id":"` + someTask + `"}`, answer, func() string { return show(tasks.Get(ctx, someTask)) }, someTask + " running <nil>"},
		{"cancel", `{"id":"` + someTask + `"}`, answer, func() string { return show(tasks.Cancel(ctx, someTask)) }, someTask + " running <nil>"},
		{"retry", `{"id":"` + someTask + `"}`, answer, func() string { return show(tasks.Retry(ctx, someTask)) }, someTask + " running <nil>"},
		{"takeover", `{"id":"` + someTask + `"}`, answer, func() string { return show(tasks.Takeover(ctx, someTask)) }, someTask + " running <nil>"},
		{"counts", `{"name":"resize"}`, `{"pending":3,"total":3}`, func() string { return fmt.Sprint(tasks.Counts(ctx, "resize")) }, "{3 0 0 0 0 0 3 false} <nil>"},
		{"list", `{"name":"resize","state":"dead","limit":2,"cursor":"c"}`, `{"tasks":[` + answer + `],"cursor":"d"}`, func() string {
			page, err := tasks.Page(ctx, wire.TaskList{Name: "resize", State: wire.TaskDead, Limit: 2, Cursor: "c"})
			return fmt.Sprint(len(page.Tasks), page.Cursor, err)
		}, "1 d <nil>"},
	}
	for _, test := range tests {
		asked := r.serveOnce("fl.svc.tasks."+test.endpoint, test.reply)
		if got := test.do(); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(test.got, " ", "") {
			t.Errorf("%s: got %s, want %s", test.endpoint, got, test.got)
		}
		if got := string(receive(t, asked).Data); got != test.want {
			t.Errorf("%s: asked\n     %s\nwant %s", test.endpoint, got, test.want)
		}
	}
	_, err := tasks.Get(ctx, someTask)
	coded(t, err, wire.Unavailable)
}

func TestListGoesThroughAllPages(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	page := 0
	asked := r.serve("fl.svc.tasks.list", func(msg *nats.Msg) *nats.Msg {
		page++
		switch page {
		case 1:
			return body(`{"tasks":[{"id":"a"},{"id":"b"}],"cursor":"b"}`)(msg)
		case 2:
			return body(`{"tasks":[{"id":"c"}]}`)(msg)
		}
		return refusal("UNAVAILABLE", "away", `{}`)(msg)
	})
	var got []string
	for task, err := range r.f.Tasks().List(t.Context(), "resize", wire.TaskDead) {
		must(t, err)
		got = append(got, task.ID)
	}
	if strings.Join(got, "") != "abc" {
		t.Errorf("got %v, want a, b and c", got)
	}
	receive(t, asked)
	if got, want := string(receive(t, asked).Data), `{"name":"resize","state":"dead","limit":100,"cursor":"b"}`; got != want {
		t.Errorf("asked %s for the second page, want %s", got, want)
	}
	for _, err := range r.f.Tasks().List(t.Context(), "", "") {
		coded(t, err, wire.Unavailable)
	}
}

// An answer that is lost is asked for again, with the same key.
func TestEnqueueAsksAgain(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{Timeout: patience})
	keys := make(chan string, 10)
	n := 0
	_, err := r.other.Subscribe("fl.svc.tasks.enqueue", func(msg *nats.Msg) {
		var req wire.TaskEnqueue
		if err := json.Unmarshal(msg.Data, &req); err != nil {
			t.Error(err)
		}
		keys <- req.IdempotencyKey
		if n++; n == 2 {
			if err := msg.Respond([]byte(`{"id":"` + someTask + `","existing":true}`)); err != nil {
				t.Error(err)
			}
		}
	})
	must(t, err)
	must(t, r.other.FlushTimeout(patience))
	done, err := r.f.Tasks().Enqueue(t.Context(), "resize", 1, fairlead.EnqueueOptions{})
	must(t, err)
	if done.ID != someTask || done.Existing {
		t.Errorf("got %+v, want a task of its own", done)
	}
	if first, second := receive(t, keys), receive(t, keys); first != second || len(first) < 20 {
		t.Errorf("asked with the key %q, then %q, want one that nobody guesses", first, second)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = r.f.Tasks().Enqueue(ctx, "resize", 1, fairlead.EnqueueOptions{Unkeyed: true})
	if e := coded(t, err, wire.DeadlineExceeded); e.Details["outcome"] != "unknown" || receive(t, keys) != "" || len(keys) > 0 {
		t.Errorf("without a key: %+v, asked %d times more", e, len(keys))
	}
	for _, bad := range []any{make(chan int)} {
		_, err := r.f.Tasks().Enqueue(t.Context(), "resize", bad, fairlead.EnqueueOptions{})
		coded(t, err, wire.InvalidArgument)
	}
}

// What an attempt enqueues continues its trace.
func TestEnqueueInAnAttempt(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	asked := s.serve("fl.svc.tasks.enqueue", body(`{"id":"`+someTask+`"}`))
	work(s, "parent", fairlead.WorkOptions{}, func(ctx context.Context, _ *fairlead.Attempt, _ raw) (any, error) {
		_, err := s.f.Tasks().Enqueue(ctx, "child", 1, fairlead.EnqueueOptions{})
		return nil, err
	})
	d := attempt(`1`)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	d.header = nats.Header{"traceparent": {trace}}
	s.dispatch("parent", d)
	if got := receive(t, asked).Header.Get("traceparent"); got != trace {
		t.Errorf("the child's trace is %q, want %q", got, trace)
	}
	of(t, s.results, d)
}

func TestRunAndAwait(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	running := `{"id":"` + someTask + `","state":"running"}`
	committed := `{"id":"` + someTask + `","state":"committed","result":{"item":"tea","count":2}}`
	ran := r.serve("fl.svc.tasks.run", body(running))
	n := 0
	awaited := r.serve("fl.svc.tasks.await", func(msg *nats.Msg) *nats.Msg {
		switch n++; n {
		case 1: // a replica that stops
			return body(running)(msg)
		case 2:
			return refusal("UNAVAILABLE", "postgres is away", `{}`)(msg)
		}
		return body(committed)(msg)
	})
	got, err := fairlead.Run[order](t.Context(), r.f, "brew", "tea", fairlead.EnqueueOptions{IdempotencyKey: "k"})
	must(t, err)
	if got != (order{"tea", 2}) {
		t.Errorf("got %+v", got)
	}
	if got, want := string(receive(t, ran).Data), `{"name":"brew","input":"tea","idempotencyKey":"k","wait":"10s"}`; got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	if got, want := string(receive(t, awaited).Data), `{"id":"`+someTask+`","timeout":"10s"}`; got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	text, err := fairlead.Await[json.RawMessage](t.Context(), r.f, someTask)
	if err != nil || string(text) != `{"item":"tea","count":2}` {
		t.Errorf("got %s, %v", text, err)
	}
}

func TestTasksThatEndOtherwise(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	var answer string
	r.serve("fl.svc.tasks.await", func(*nats.Msg) *nats.Msg { return &nats.Msg{Data: []byte(answer)} })
	for _, test := range []struct {
		answer, want string
		code         wire.Code
	}{
		{`{"id":"t","state":"failed","error":{"code":"ABORTED","message":"no","details":{"a":1}}}`, "task t failed: ABORTED: no", wire.Aborted},
		{`{"id":"t","state":"dead","error":{"code":"ABORTED","message":"the workers were lost","details":[1]}}`, "task t dead: ABORTED: the workers were lost", wire.Aborted},
		{`{"id":"t","state":"cancelled","error":{"code":"INTERNAL"}}`, "task t cancelled: CANCELLED: the task was cancelled", wire.Cancelled},
		{`{"id":"t","state":"dead"}`, "task t dead: ABORTED: the task is dead", wire.Aborted},
	} {
		answer = test.answer
		_, err := fairlead.Await[int](t.Context(), r.f, someTask)
		var failed *fairlead.TaskFailed
		if !errors.As(err, &failed) || err.Error() != test.want || wire.CodeOf(err) != test.code {
			t.Errorf("%s: got %v, want %s", test.answer, err, test.want)
		}
	}
	answer = `{"id":"t","state":"committed","result":"x"}`
	if _, err := fairlead.Await[int](t.Context(), r.f, someTask); err == nil {
		t.Error("a result that is no number was read as one")
	}
	answer = `{"id":"t","state":"running"}`
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	_, err := fairlead.Await[int](ctx, r.f, someTask)
	if e := coded(t, err, wire.DeadlineExceeded); e.Details["id"] != someTask {
		t.Errorf("the error is %+v, want the id", e)
	}
	r.serve("fl.svc.tasks.get", refusal("NOT_FOUND", "no such task", `{}`))
	for _, err := range r.f.Tasks().Watch(t.Context(), someTask) {
		coded(t, err, wire.NotFound)
	}
	for _, err := range r.f.Tasks().Watch(t.Context(), "t_x") {
		coded(t, err, wire.InvalidArgument)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	state := make(chan string, 1)
	now := `{"id":"` + someTask + `","state":"pending","attempt":0,"metadata":{"a":1}}`
	r.serve("fl.svc.tasks.get", func(msg *nats.Msg) *nats.Msg {
		select {
		case now = <-state:
		default:
		}
		return body(now)(msg)
	})
	publish := func(data string) { must(t, r.other.Publish("fl.topic.task."+someTask, []byte(data))) }
	var got []string
	for task, err := range r.f.Tasks().Watch(t.Context(), someTask) {
		must(t, err)
		got = append(got, fmt.Sprint(task.State, task.Attempt, string(task.Progress), string(task.Result), string(task.Metadata)))
		switch len(got) {
		case 1:
			publish(`{"id":"` + someTask + `","state":"running","attempt":1}`)
		case 2:
			publish(`{"id":"` + someTask + `","state":"running","attempt":1}`) // again
			publish(`{"id":"` + someTask + `","state":"running","attempt":1,"progress":{"done":1}}`)
			publish(`[`)
		case 3:
			publish(`{"id":"` + someTask + `","state":"running","attempt":1,"progress":{"done":2}}`)
		case 4:
			state <- `{"id":"` + someTask + `","state":"committed","attempt":1,"result":7}`
			publish(`{"id":"` + someTask + `","state":"running","attempt":0,"progress":{"done":0}}`) // of an attempt before
			publish(`{"id":"` + someTask + `","state":"committed","attempt":1}`)
		}
	}
	want := []string{`pending0{"a":1}`, `running1{"a":1}`, `running1{"done":1}{"a":1}`, `running1{"done":2}{"a":1}`, `committed17`}
	for i := range got {
		got[i] = strings.ReplaceAll(got[i], " ", "")
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for range r.f.Tasks().Watch(t.Context(), someTask) {
		break // whoever looks once leaves nothing behind
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	state <- `{"id":"` + someTask + `","state":"running","attempt":1}`
	var last error
	for _, err := range r.f.Tasks().Watch(ctx, someTask) {
		last = err
	}
	coded(t, last, wire.DeadlineExceeded)
}

// What is read of a task that is watched is older than what its topic has told; but
// for a connection that was away: then it is read at once.
func TestWatchGoesOnlyForward(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	stored := func(state string, done int) string {
		return fmt.Sprintf(`{"id":"%s","state":%q,"attempt":1,"progress":%d}`, someTask, state, done)
	}
	publish := func(data string) { must(t, r.other.Publish("fl.topic.task."+someTask, []byte(data))) }
	states := make(chan string, 10)
	reads := 0
	r.serve("fl.svc.tasks.get", func(msg *nats.Msg) *nats.Msg {
		if reads++; reads == 2 {
			publish(stored("running", 6))
		}
		return body(<-states)(msg)
	})
	states <- stored("running", 1)
	var got []string
	var lost time.Time
	for task, err := range r.f.Tasks().Watch(t.Context(), someTask) {
		must(t, err)
		got = append(got, fmt.Sprintf("%s %s", task.State, task.Progress))
		switch len(got) {
		case 1:
			publish(stored("running", 5))
		case 2:
			states <- stored("running", 2)  // as it was stored a while ago
			publish(stored("committed", 0)) // has it read
		case 3:
			states <- stored("running", 8)
			lost = time.Now()
			must(t, r.nc.ForceReconnect())
		case 4:
			if took := time.Since(lost); took > 4*time.Second {
				t.Errorf("it was read %v behind the reconnect, as it would have been anyway", took)
			}
			states <- stored("committed", 9)
			publish(stored("committed", 9))
		}
	}
	want := []string{"running 1", "running 5", "running 6", "running 8", "committed 9"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
