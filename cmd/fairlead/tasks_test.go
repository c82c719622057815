package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const oneTask = "t_0342o0u3re2fl8q1pq8rbn8qq0"

// What the commands ask the service, and what they print of its answer for
// programs.
func TestTasks(t *testing.T) {
	env, out, nc := busEnv(t)
	task := `{"id":"` + oneTask + `","name":"resize","state":"pending","attempt":0,"fence":0,"createdAt":"2026-01-02T03:04:05Z"}`
	ref := `{"id":"` + oneTask + `"}`
	tests := []struct {
		command interface {
			Run(context.Context, *Env) error
		}
		endpoint, want, reply, printed string
		code                           int
	}{
		{&TasksShowCmd{ID: oneTask}, "get", ref, task, task + "\n", 0},
		{&TasksRetryCmd{taskIDs: taskIDs{[]string{oneTask}}}, "retry", ref, task, task + "\n", 0},
		{&TasksCancelCmd{taskIDs: taskIDs{[]string{oneTask}}}, "cancel", ref, task, task + "\n", 0},
		{&TasksTakeoverCmd{taskIDs: taskIDs{[]string{oneTask}}}, "takeover", ref, task, task + "\n", 0},
		{&TasksLsCmd{Limit: 50}, "list", `{"limit":50}`, `{"tasks":[` + task + `]}`, task + "\n", 0},
		{&TasksLsCmd{Limit: 5, Name: "resize", State: "dead", Before: oneTask}, "list", `{"name":"resize","state":"dead","limit":5,"cursor":"` + oneTask + `"}`, `{"tasks":[]}`, "", 0},
		{&TasksCountsCmd{Name: "resize"}, "counts", `{"name":"resize"}`, `{"pending":1,"running":0,"committed":2,"failed":0,"cancelled":0,"dead":0,"total":3}`,
			`{"pending":1,"running":0,"committed":2,"failed":0,"cancelled":0,"dead":0,"total":3}` + "\n", 0},
		{&TasksEnqueueCmd{Name: "resize", Input: `{"a": 1}`, Key: "k", Unique: "u", Delay: time.Minute, Priority: 3, Timeout: time.Hour, Metadata: `{"by":"me"}`}, "enqueue",
			`{"name":"resize","input":{"a":1},"idempotencyKey":"k","uniqueKey":"u","delay":"1m0s","priority":3,"timeout":"1h0m0s","metadata":{"by":"me"}}`,
			`{"id":"` + oneTask + `","existing":true}`, `{"id":"` + oneTask + `","existing":true}` + "\n", 0},
		{&TasksEnqueueCmd{Name: "resize", Input: "hi", Text: true, At: "2030-01-31T08:00:00Z"}, "enqueue",
			`{"name":"resize","input":"hi","runAt":"2030-01-31T08:00:00Z"}`, ref, ref + "\n", 0},
		{&CronLsCmd{}, "cron.list", `{}`, `{"schedules":[{"name":"nightly","spec":"@daily","task":"clean","nextAt":"2026-01-02T00:00:00Z"}]}`,
			`{"name":"nightly","spec":"@daily","task":"clean","nextAt":"2026-01-02T00:00:00Z"}` + "\n", 0},
		{&CronSetCmd{Name: "nightly", Spec: "0 4 * * *", Task: "clean", TZ: "Europe/Paris", Missed: "once"}, "cron.set",
			`{"name":"nightly","spec":"0 4 * * *","tz":"Europe/Paris","task":"clean","missed":"once"}`, `{}`, "", 0},
		{&CronRmCmd{Name: "nightly"}, "cron.delete", `{"name":"nightly"}`, `{"deleted":true}`, "", 0},
		{&CronRmCmd{Name: "nightly"}, "cron.delete", `{"name":"nightly"}`, `{"deleted":false}`, "", -1},
	}
	for _, test := range tests {
		asked := make(chan string, 1)
		sub, err := nc.Subscribe("fl.svc.tasks."+test.endpoint, func(m *nats.Msg) {
			asked <- string(m.Data)
			_ = m.Respond([]byte(test.reply))
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		out.Reset()
		err = test.command.Run(t.Context(), env)
		if out.String() != test.printed || codeOf(err) != test.code {
			t.Errorf("%T %s: got %q %v, want %q and code %d", test.command, test.reply, out.String(), err, test.printed, test.code)
		}
		if got := <-asked; got != test.want {
			t.Errorf("%T: asks %s, want %s", test.command, got, test.want)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}

// A list goes through the pages; the limit counts tasks, not pages.
func TestTasksLsGoesThroughThePages(t *testing.T) {
	env, out, nc := busEnv(t)
	_, err := nc.Subscribe("fl.svc.tasks.list", func(m *nats.Msg) {
		var req wire.TaskList
		reply := wire.TaskPage{Cursor: oneTask}
		if json.Unmarshal(m.Data, &req) != nil {
			return
		}
		for range min(req.Limit, 150) { // a page that ends early, as large ones do
			reply.Tasks = append(reply.Tasks, wire.Task{ID: oneTask, Name: "resize"})
		}
		data, _ := json.Marshal(reply)
		_ = m.Respond(data)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := (&TasksLsCmd{Limit: 320}).Run(t.Context(), env); err != nil || strings.Count(out.String(), "\n") != 320 {
		t.Errorf("got %d lines and %v, want 320", strings.Count(out.String(), "\n"), err)
	}
}

func TestTasksThatCannotBeAsked(t *testing.T) {
	env, out, _ := busEnv(t)
	if err := (&TasksWatchCmd{ID: oneTask}).Run(t.Context(), env); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("without the service: got %q %v, want UNAVAILABLE", out.String(), err)
	}
	for args, named := range map[string]string{
		"tasks show x":                                           "ID: the id of a task",
		"tasks watch":                                            "<id>",
		"tasks retry " + oneTask + " t_1":                        "ID: the id of a task",
		"tasks ls --state=broken":                                "pending",
		"tasks ls --limit=0":                                     "--limit: at least 1",
		"tasks ls 1x":                                            "NAME: 1-128 bytes",
		"tasks ls --before=x":                                    "--before: the id",
		"tasks counts a..b":                                      "NAME: 1-128 bytes",
		"tasks enqueue resize {":                                 "--text",
		"tasks enqueue 1x":                                       "NAME: 1-128 bytes",
		"tasks enqueue resize --delay=-1s":                       "--delay: not negative",
		"tasks enqueue resize --delay=1s --at=2030":              "one of them",
		"tasks enqueue resize --at=tomorrow":                     "RFC 3339",
		"tasks enqueue resize --priority=101":                    "from -100 to 100",
		"tasks enqueue resize --metadata=[]":                     "a JSON object",
		"tasks enqueue resize --timeout=-1s":                     "--timeout: more than 0",
		"tasks cron set a @daily b --missed=twice":               "skip",
		"tasks cron set a @daily 1b":                             "TASK: 1-128 bytes",
		"tasks cron rm .":                                        "NAME: 1-128 bytes",
		"tasks enqueue resize --key=" + strings.Repeat("k", 300): "at most 256 bytes",
	} {
		var stderr strings.Builder
		if got := run(t.Context(), strings.Fields(args), nil, &stderr, &stderr); got != exitUsage || !strings.Contains(stderr.String(), named) {
			t.Errorf("%s: exit code %d, want %d and %q: %s", args, got, exitUsage, named, stderr.String())
		}
	}
}

// A task is followed through its attempts to its end, by its topic and by what is
// stored.
func TestTasksWatch(t *testing.T) {
	tests := []struct {
		end, code string
		exit      int
		printed   string
	}{
		{`"state":"committed","attempt":2,"result":{"ok":true}`, "", 0, `"state":"committed","attempt":2,"result":{"ok":true}}`},
		{`"state":"failed","attempt":2,"error":{"code":"NOT_FOUND","message":"no such image"}`, "NOT_FOUND: no such image (the task failed, attempt 2)", exitFailure,
			`"state":"failed","attempt":2,"error":{"code":"NOT_FOUND","message":"no such image"}}`},
		{`"state":"cancelled","attempt":2`, "the task is cancelled, attempt 2", exitFailure, `"state":"cancelled","attempt":2}`},
	}
	for _, test := range tests {
		t.Run(test.end, func(t *testing.T) {
			env, _, nc := busEnv(t)
			about := func(rest string) string { return `{"id":"` + oneTask + `","name":"resize",` + rest + `}` }
			stored := make(chan string, 8)
			stored <- about(`"state":"running","attempt":1,"progress":{"done":1,"total":4}`)
			stored <- about(test.end)
			_, err := nc.Subscribe("fl.svc.tasks.get", func(m *nats.Msg) { _ = m.Respond([]byte(<-stored)) })
			if err != nil {
				t.Fatal(err)
			}
			_, err = nc.Subscribe("fl.svc.tasks.enqueue", func(m *nats.Msg) { _ = m.Respond([]byte(`{"id":"` + oneTask + `"}`)) })
			if err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			read := make(chan struct{}, 16)
			go func() { // ends with the test
				for _, said := range []string{
					`"state":"running","attempt":1,"progress":{"done":2,"total":4}`,
					`"state":"running","attempt":2`,
					`"state":"running","attempt":1,"progress":{"done":3,"total":4}`, // too late
					`"state":"running","attempt":2,"progress":{"done":3,"total":4}`,
					test.end,
				} {
					select {
					case <-read:
					case <-t.Context().Done():
						return
					}
					_ = nc.Publish("fl.topic.task."+oneTask, []byte(about(said)))
				}
			}()
			lines := &told{line: read}
			env.Stdout = lines
			err = (&TasksEnqueueCmd{Name: "resize", Watch: true}).Run(t.Context(), env)
			want := strings.Join([]string{
				`{"id":"` + oneTask + `"}`,
				about(`"state":"running","attempt":1,"progress":{"done":1,"total":4}`),
				about(`"state":"running","attempt":1,"progress":{"done":2,"total":4}`),
				about(`"state":"running","attempt":2,"progress":{"done":2,"total":4}`),
				about(`"state":"running","attempt":2,"progress":{"done":3,"total":4}`),
				`{"id":"` + oneTask + `","name":"resize",` + test.printed, "",
			}, "\n")
			if lines.String() != want || codeOf(err) != test.exit || err != nil && err.Error() != test.code {
				t.Errorf("got %v and\n%swant %d, %s and\n%s", err, lines.String(), test.exit, test.code, want)
			}
		})
	}
}

// told lets the test go on when a line of a task was written.
type told struct {
	bytes.Buffer
	line chan struct{}
}

func (w *told) Write(b []byte) (int, error) {
	n, err := w.Buffer.Write(b)
	if bytes.Contains(b, []byte("running")) {
		w.line <- struct{}{}
		if bytes.Contains(b, []byte(`"attempt":2,"progress":{"done":2`)) {
			w.line <- struct{}{} // what comes too late is not printed
		}
	}
	return n, err
}

func TestProgressOf(t *testing.T) {
	tests := []struct {
		progress string
		share    float64
		label    string
		ok       bool
	}{
		{`{"done":9,"total":20}`, 0.45, "9/20", true},
		{`{"done":0,"total":2.5}`, 0, "0/2.5", true},
		{`{"percent":45}`, 0.45, "", true},
		{`0.5`, 0.5, "", true},
		{`1`, 1, "", true},
		{`50`, 0.5, "", true},
		{`100`, 1, "", true},
		{`101`, 0, "", false},
		{`-1`, 0, "", false},
		{`{"done":3,"total":0}`, 0, "", false},
		{`{"done":3,"total":2}`, 0, "", false},
		{`{"done":"3","total":2}`, 0, "", false},
		{`{"percent":1e300}`, 0, "", false},
		{`{"page":3}`, 0, "", false},
		{`null`, 0, "", false},
		{`"half"`, 0, "", false},
		{``, 0, "", false},
	}
	for _, test := range tests {
		share, label, ok := progressOf([]byte(test.progress))
		if ok != test.ok || ok && (share != test.share || label != test.label) {
			t.Errorf("%s: got %v %q %v, want %v %q %v", test.progress, share, label, ok, test.share, test.label, test.ok)
		}
	}
}

func TestStatusLine(t *testing.T) {
	task := func(state wire.TaskState, attempt int, progress string) *wire.Task {
		return &wire.Task{Name: "resize", State: state, Attempt: attempt, Progress: []byte(progress)}
	}
	failed := task(wire.TaskPending, 2, `0.5`)
	failed.Error = &wire.TaskError{Code: wire.Internal, Message: "disk\x1b[2J"}
	waits := task(wire.TaskPending, 0, "")
	waits.Progress = nil
	tests := []struct {
		task  *wire.Task
		width int
		want  string
	}{
		{task(wire.TaskRunning, 2, `{"done":9,"total":20}`), 79, "resize  running, attempt 2  [#############-----------------] 45 % 9/20"},
		{task(wire.TaskRunning, 1, `{"page":3}`), 79, `resize  running, attempt 1  {"page":3}`},
		{waits, 79, "resize  pending"},
		{failed, 200, `resize  pending, attempt 2  [###############---------------] 50 %  after "INTERNAL: disk\x1b[2J"`},
		{task(wire.TaskRunning, 1, `0.999`), 40, "resize  running, attempt 1  [##########…"},
	}
	for _, test := range tests {
		if got := statusLine(test.task, test.width); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

// What a person sees of tasks holds no command to the terminal.
func TestTasksForPeople(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	running := wire.Task{ID: oneTask, Name: "resize", State: wire.TaskRunning, Attempt: 2, Crashes: 1, Progress: []byte(`{"percent":45}`), Input: []byte("{\n\"a\":1}"), CreatedAt: at, StartedAt: at}
	dead := wire.Task{ID: oneTask, Name: "resize", State: wire.TaskDead, Attempt: 4, Error: &wire.TaskError{Code: wire.Aborted, Message: "\x1b[31mlost"}, CreatedAt: at, UniqueKey: "\u009bk"}
	table, err := tasksTable([]wire.Task{running, dead})
	if err != nil {
		t.Fatal(err)
	}
	want := "id                            name    state    attempt  created              \n" +
		oneTask + "  resize  running  2        2026-01-02 03:04:05  45 %\n" +
		oneTask + "  resize  dead     4        2026-01-02 03:04:05  \"ABORTED: \\x1b[31mlost\"\n"
	if got := string(table); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	want = "id        " + oneTask + "\nname      resize\nstate     running, attempt 2\nso far    0 failed, 1 lost with their worker\n" +
		"progress  [#############-----------------] 45 %\ninput     { \"a\":1}\ncreated   2026-01-02 03:04:05\nstarted   2026-01-02 03:04:05\n"
	if got := string(taskPage(&running)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := string(taskPage(&dead)); strings.ContainsAny(got, "\x1b\u009b") {
		t.Errorf("got %q", got)
	}
	if got := string(countsTable(wire.TaskCounts{Pending: wire.TaskCountCap, Total: 7})); !strings.Contains(got, "pending     100000 or more\n") || !strings.Contains(got, "total            7\n") {
		t.Errorf("got\n%s", got)
	}
}
