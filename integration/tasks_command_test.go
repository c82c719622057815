package integration

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// command runs `fairlead tasks …` on the stack, and reads the last line that it
// printed into last where that is not nil.
func (s *taskStack) command(last any, args ...string) (out, errs string, code int) {
	s.t.Helper()
	out, errs, code = run(s.t, s.onBus(s.nats), "", append([]string{"tasks"}, args...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if last != nil {
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), last); err != nil {
			s.t.Fatalf("fairlead tasks %q: %v: exit code %d, %s%s", args, err, code, out, errs)
		}
	}
	return out, errs, code
}

// A task that is asked for on the command line, seen there, cancelled, begun again
// and followed through a second attempt to its end.
func TestTasksOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := anyBareTasks(t, 1)
	resize := taskName("cli.resize")
	other := taskName("cli.other")
	var enqueued wire.TaskEnqueued
	if out, errs, code := s.command(&enqueued, "enqueue", resize, `{"n": 1}`, "--key", "k1", "--metadata", `{"by":"cli"}`); code != 0 {
		t.Fatalf("enqueue: exit code %d, %s%s", code, out, errs)
	}
	id := enqueued.ID
	if s.command(&enqueued, "enqueue", resize, `{"n": 2}`, "--key", "k1"); enqueued.ID != id || !enqueued.Existing {
		t.Errorf("with the same key: %+v, want %s", enqueued, id)
	}
	var task wire.Task
	if out, _, code := s.command(&task, "show", id); code != 0 || task.State != wire.TaskPending || string(task.Input) != `{"n":1}` || task.IdempotencyKey != "k1" {
		t.Errorf("show: exit code %d, %s", code, out)
	}
	for _, args := range [][]string{{"ls", resize}, {"ls", resize, "--state", "pending"}} {
		if out, _, code := s.command(&task, args...); code != 0 || strings.Count(out, "\n") != 1 || task.ID != id {
			t.Errorf("%v: exit code %d, %s", args, code, out)
		}
	}
	if out, _, code := s.command(nil, "ls", other); code != 0 || out != "" {
		t.Errorf("ls of another name: exit code %d, %s", code, out)
	}
	if out, _, code := s.command(&task, "cancel", id); code != 0 || task.State != wire.TaskCancelled {
		t.Errorf("cancel: exit code %d, %s", code, out)
	}
	if _, errs, code := s.command(nil, "watch", id); code != 1 || !strings.Contains(errs, "the task is cancelled") {
		t.Errorf("watch of a cancelled one: exit code %d, %s", code, errs)
	}
	if out, _, code := s.command(&task, "retry", id); code != 0 || task.State != wire.TaskPending {
		t.Errorf("retry: exit code %d, %s", code, out)
	}
	watch := start(t, "watch", s.onBus(s.nats), "tasks", "watch", id)
	watch.line(watch.stdout, `"state":"pending"`)
	s.takes(resize, func(m *nats.Msg) {
		if m.Header.Get(wire.HeaderTaskMetadata) != `{"by":"cli"}` {
			t.Errorf("the worker gets %q beside the input", m.Header.Get(wire.HeaderTaskMetadata))
		}
		progress := &nats.Msg{Subject: m.Reply, Header: nats.Header{wire.HeaderTaskProgress: {"1"}}, Data: []byte(`{"done":1,"total":2}`)}
		must(t, m.RespondMsg(progress))
		watch.line(watch.stdout, `"progress":{"done":1,"total":2}`)
		must(t, m.Respond([]byte(`{"ok":true}`)))
	})
	must(t, s.nc.Publish("fl.svc.tasks.hello", []byte(`{"names":["`+resize+`"]}`)))
	if code := watch.exit(patience); code != 0 || !strings.HasSuffix(watch.stdout.String(), `"state":"committed","attempt":1,"result":{"ok":true}}`+"\n") {
		t.Errorf("watch: exit code %d, %s", code, watch.stdout.String())
	}
	for _, verb := range []string{"cancel", "retry", "takeover"} {
		if _, errs, code := s.command(nil, verb, id); code != 1 || !strings.Contains(errs, "FAILED_PRECONDITION: the task is committed") {
			t.Errorf("%s of a committed one: exit code %d, %s", verb, code, errs)
		}
	}
	var counts wire.TaskCounts
	if out, _, code := s.command(&counts, "counts", resize); code != 0 || counts.Committed != 1 || counts.Total != 1 {
		t.Errorf("counts: exit code %d, %s", code, out)
	}
	if _, errs, code := s.command(nil, "show", wire.NewTaskID(task.CreatedAt).String()); code != 1 || !strings.Contains(errs, "NOT_FOUND") {
		t.Errorf("show of an unknown one: exit code %d, %s", code, errs)
	}
}

// A task that is followed through an attempt that was lost to one that succeeds,
// and one that fails, which the exit code says.
func TestTasksAreFollowedOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := anyBareTasks(t, 2)
	render := taskName("cli.render")
	broken := taskName("cli.broken")
	must(t, s.raw("register", `{"name":"`+render+`","retry":{"backoff":"10ms"}}`, nil))
	s.takes(render, func(m *nats.Msg) {
		beat := nats.Header{wire.HeaderTaskProgress: {"1"}, wire.HeaderTaskLease: {"300"}}
		if m.Header.Get(wire.HeaderTaskAttempt) == "1" {
			must(t, m.RespondMsg(&nats.Msg{Subject: m.Reply, Header: beat, Data: []byte(`{"percent":40}`)}))
			return // and dies
		}
		must(t, m.Respond([]byte(`"done"`)))
	})
	out, errs, code := s.command(nil, "enqueue", render, "--watch")
	for _, line := range []string{`"attempt":1,"progress":{"percent":40}}`, `"state":"committed","attempt":2,"result":"done"}`} {
		if code != 0 || !strings.Contains(out, line) {
			t.Errorf("exit code %d, want 0 and %s\n%s%s", code, line, out, errs)
		}
	}
	s.takes(broken, func(m *nats.Msg) { failsWith(m, wire.NotFound, "no such image", nil) })
	out, errs, code = s.command(nil, "enqueue", broken, "--watch")
	if code != 1 || !strings.Contains(errs, "fairlead: NOT_FOUND: no such image (the task failed, attempt 1)") || !strings.Contains(out, `"state":"failed"`) {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}

// Schedules on the command line.
func TestCronOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := bareTasks(t, 1)
	if out, errs, code := s.command(nil, "cron", "set", "cli.nightly", "30 4 * * 1", "cli.clean", `{"deep":true}`, "--tz", "Europe/Paris", "--missed", "once"); code != 0 || out != "" {
		t.Errorf("set: exit code %d, %s%s", code, out, errs)
	}
	var got wire.TaskCronState
	if out, _, code := s.command(&got, "cron", "ls"); code != 0 || got.Name != "cli.nightly" || got.TZ != "Europe/Paris" || got.NextAt.IsZero() || strings.Count(out, "\n") != 1 {
		t.Errorf("ls: exit code %d, %s", code, out)
	}
	if _, errs, code := s.command(nil, "cron", "set", "cli.nightly", "30 25 * * 1", "cli.clean"); code != 1 || !strings.Contains(errs, "INVALID_ARGUMENT: spec") {
		t.Errorf("a spec that can't be: exit code %d, %s", code, errs)
	}
	for want, args := range map[int][]string{0: {"cron", "rm", "cli.nightly"}, 1: {"cron", "rm", "cli.other"}} {
		if out, errs, code := s.command(nil, args...); code != want {
			t.Errorf("%v: exit code %d, want %d: %s%s", args, code, want, out, errs)
		}
	}
}

// doesTasks is what a worker of docs/workers.md makes of the tasks images.resize.
func doesTasks(t *testing.T, command []string) {
	s := bareTasks(t, 1)
	waits := s.enqueue(`{"name":"images.resize","input":{"image":"a.png","sizes":[100,200,400]}}`)
	worker := s.startWorker(command)
	done := s.wants(waits, wire.TaskCommitted)
	var result struct {
		Image string
		Sizes int
	}
	if err := json.Unmarshal(done.Result, &result); err != nil || result.Image != "a.png" || result.Sizes != 3 {
		t.Errorf("the result is %s, %v", done.Result, err)
	}
	bad := s.wants(s.enqueue(`{"name":"images.resize","input":{"image":"a.png"}}`), wire.TaskFailed)
	if bad.Error == nil || bad.Error.Code != wire.InvalidArgument || !strings.Contains(bad.Error.Message, "sizes") {
		t.Errorf("without sizes: %+v, want INVALID_ARGUMENT of sizes", bad.Error)
	}
	long := strings.Repeat("1,", 500) + "1"
	id := s.enqueue(`{"name":"images.resize","input":{"image":"a.png","sizes":[` + long + `]}}`)
	eventually(t, "it says how far it is", func() (any, bool) {
		var progress struct{ Done, Total int }
		got := s.task(id)
		return string(got.Progress), json.Unmarshal(got.Progress, &progress) == nil && progress.Done > 0 && progress.Total == 501
	})
	must(t, s.raw("cancel", `{"id":"`+id+`"}`, nil))
	s.wants(id, wire.TaskCancelled)
	worker.line(worker.stdout, id+" cancelled")
}
