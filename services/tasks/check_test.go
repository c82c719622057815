package tasks

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// noon is when the tests ask.
var noon = time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)

// field is the field that an error names, "" without an error.
func field(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.InvalidArgument {
		t.Fatalf("got %v, want INVALID_ARGUMENT", err)
	}
	name, _ := e.Details["field"].(string)
	if name == "" || !strings.HasPrefix(e.Message, name+": ") {
		t.Fatalf("%v names the field %q", e, name)
	}
	return name
}

// asked reads a request as an endpoint does.
func asked[T any](t *testing.T, text string) *T {
	t.Helper()
	var req T
	if err := json.Unmarshal([]byte(text), &req); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return &req
}

func TestWhatIsEnqueued(t *testing.T) {
	id := wire.NewTaskID(noon)
	got, err := checkEnqueue(asked[wire.TaskEnqueue](t, `{"name":"mail.send","input":{"to":"ann"},"idempotencyKey":"k","uniqueKey":"u","delay":"90s",
		"priority":-7,"timeout":"2m","metadata":{
			"a": 1}}`), id, noon)
	want := store.New{
		ID: id, Name: "mail.send", Input: []byte(`{"to":"ann"}`), IdempotencyKey: "k", UniqueKey: "u",
		Priority: -7, Delay: 90 * time.Second, Timeout: 2 * time.Minute, Metadata: []byte(`{"a":1}`),
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	got, err = checkEnqueue(asked[wire.TaskEnqueue](t, `{"name":"x","runAt":"2030-02-01T08:00:00.5+01:00"}`), id, noon)
	if want := time.Date(2030, 2, 1, 7, 0, 0, 5e8, time.UTC); err != nil || !got.RunAt.Equal(want) || string(got.Input) != "null" || got.Metadata != nil {
		t.Errorf("got %+v, %v, want runAt %s, input null", got, err, want)
	}
}

func TestWhatIsNotEnqueued(t *testing.T) {
	long := strings.Repeat("x", wire.MaxTaskKey+1)
	for text, want := range map[string]string{
		`{}`:                      "name",
		`{"name":"1st"}`:          "name",
		`{"name":"a.>"}`:          "name",
		`{"name":"` + long + `"}`: "name",
		`{"name":"x","idempotencyKey":"` + long + `"}`:                                      "idempotencyKey",
		`{"name":"x","idempotencyKey":"a\u0000"}`:                                           "idempotencyKey",
		`{"name":"x","idempotencyKey":" a"}`:                                                "idempotencyKey",
		`{"name":"x","input":` + strings.Repeat("[", 600) + strings.Repeat("]", 600) + `}`:  "input",
		`{"name":"x","uniqueKey":"a\nb"}`:                                                   "uniqueKey",
		`{"name":"x","delay":"5"}`:                                                          "delay",
		`{"name":"x","delay":"-1s"}`:                                                        "delay",
		`{"name":"x","delay":"9000h"}`:                                                      "delay",
		`{"name":"x","delay":"1s","runAt":"2030-01-31T12:00:00Z"}`:                          "runAt",
		`{"name":"x","runAt":"tomorrow"}`:                                                   "runAt",
		`{"name":"x","runAt":"2032-01-31T12:00:00Z"}`:                                       "runAt",
		`{"name":"x","priority":101}`:                                                       "priority",
		`{"name":"x","timeout":"0s"}`:                                                       "timeout",
		`{"name":"x","timeout":"200h"}`:                                                     "timeout",
		`{"name":"x","metadata":[]}`:                                                        "metadata",
		`{"name":"x","metadata":"a"}`:                                                       "metadata",
		`{"name":"x","metadata":{"a":"` + strings.Repeat("x", wire.MaxTaskMetadata) + `"}}`: "metadata",
		`{"name":"x","input":"` + strings.Repeat("x", wire.MaxTaskInput-1) + `"}`:           "input",
		`{"name":"x","input":"` + strings.Repeat("x", wire.MaxTaskInput-2) + `"}`:           "",
		`{"name":"x","metadata":null,"input":null,"priority":100,"delay":"0s"}`:             "",
	} {
		_, err := checkEnqueue(asked[wire.TaskEnqueue](t, text), wire.NewTaskID(noon), noon)
		if got := field(t, err); got != want {
			t.Errorf("%.80s: field %q, want %q", text, got, want)
		}
	}
}

func TestWhatIsRegistered(t *testing.T) {
	got, err := checkRegister(asked[wire.TaskRegister](t, `{"name":"x"}`))
	want := store.Policy{
		Name: "x", Timeout: time.Minute, MaxAttempts: 1, Backoff: time.Second, Factor: 2, MaxBackoff: time.Minute, Jitter: 0.1, MaxCrashes: 3,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("defaults: got %+v, %v\nwant %+v", got, err, want)
	}
	got, err = checkRegister(asked[wire.TaskRegister](t, `{"name":"x","timeout":"5m","maxCrashes":0,"concurrency":2,"retention":"24h",
		"retry":{"maxAttempts":5,"backoff":"2m","factor":1.5,"jitter":0,"nonRetryable":["ABORTED"]}}`))
	want = store.Policy{
		Name: "x", Timeout: 5 * time.Minute, MaxAttempts: 5, Backoff: 2 * time.Minute, Factor: 1.5, MaxBackoff: 2 * time.Minute,
		Concurrency: 2, Retention: 24 * time.Hour, Final: []wire.Code{wire.Aborted},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	for text, want := range map[string]string{
		`{"name":""}`:                                         "name",
		`{"name":"x","timeout":"1ms"}`:                        "timeout",
		`{"name":"x","maxCrashes":-1}`:                        "maxCrashes",
		`{"name":"x","concurrency":-1}`:                       "concurrency",
		`{"name":"x","retention":"9000h"}`:                    "retention",
		`{"name":"x","retry":{"maxAttempts":-1}}`:             "retry.maxAttempts",
		`{"name":"x","retry":{"backoff":"soon"}}`:             "retry.backoff",
		`{"name":"x","retry":{"maxBackoff":"1ms"}}`:           "retry.maxBackoff",
		`{"name":"x","retry":{"factor":0.5}}`:                 "retry.factor",
		`{"name":"x","retry":{"jitter":1.1}}`:                 "retry.jitter",
		`{"name":"x","retry":{"nonRetryable":["NO_SUCH"]}}`:   "retry.nonRetryable",
		`{"name":"x","retry":{"nonRetryable":["NOT_FOUND"]}}`: "",
	} {
		_, err := checkRegister(asked[wire.TaskRegister](t, text))
		if got := field(t, err); got != want {
			t.Errorf("%s: field %q, want %q", text, got, want)
		}
	}
}

func TestWhatWorkersSay(t *testing.T) {
	id := wire.NewTaskID(noon).String()
	attempt := `"id":"` + id + `","fence":3,"token":"abc"`
	check := map[string]func(text string) error{
		"heartbeat": func(s string) error { return checkHeartbeat(asked[wire.TaskHeartbeat](t, s)) },
		"complete":  func(s string) error { return checkComplete(asked[wire.TaskComplete](t, s)) },
		"fail":      func(s string) error { return checkFail(asked[wire.TaskFail](t, s)) },
		"step":      func(s string) error { return checkStep(asked[wire.TaskStep](t, s)) },
		"hello":     func(s string) error { return checkHello(asked[wire.TaskHello](t, s)) },
	}
	for _, tt := range []struct{ of, text, want string }{
		{"heartbeat", `{` + attempt + `}`, ""},
		{"heartbeat", `{"id":"t_1","fence":3,"token":"abc"}`, "id"},
		{"heartbeat", `{"id":"` + id + `","token":"abc"}`, "fence"},
		{"heartbeat", `{"id":"` + id + `","fence":1}`, "token"},
		{"heartbeat", `{` + attempt + `,"leaseMs":-1}`, "leaseMs"},
		{"heartbeat", `{` + attempt + `,"progress":"` + strings.Repeat("x", wire.MaxTaskProgress) + `"}`, "progress"},
		{"complete", `{` + attempt + `}`, ""},
		{"complete", `{` + attempt + `,"result":"` + strings.Repeat("x", wire.MaxTaskInput) + `"}`, "result"},
		{"fail", `{` + attempt + `}`, ""},
		{"fail", `{` + attempt + `,"error":{"code":"NOT_FOUND","retryAfterMs":-1}}`, "error.retryAfterMs"},
		{"fail", `{` + attempt + `,"error":{"details":"` + strings.Repeat("x", maxDetails) + `"}}`, "error.details"},
		{"step", `{` + attempt + `,"step":"charge","result":{}}`, ""},
		{"step", `{` + attempt + `}`, "step"},
		{"step", `{` + attempt + `,"step":"` + strings.Repeat("x", maxStep+1) + `"}`, "step"},
		{"hello", `{"names":["a","b.c"],"worker":"w","slots":4}`, ""},
		{"hello", `{}`, "names"},
		{"hello", `{"names":["a","*"]}`, "names"},
		{"hello", `{"names":["a"],"slots":-1}`, "slots"},
		{"hello", `{"names":["a"],"worker":"\n"}`, "worker"},
	} {
		if got := field(t, check[tt.of](tt.text)); got != tt.want {
			t.Errorf("%s %.90s: field %q, want %q", tt.of, tt.text, got, tt.want)
		}
	}
}

// A worker that fails is not told that it does so in the wrong way.
func TestFailuresAreMadeFit(t *testing.T) {
	req := asked[wire.TaskFail](t, `{"id":"`+wire.NewTaskID(noon).String()+`","fence":1,"token":"a","error":{"code":"OutOfStock","message":"a\u0000b`+strings.Repeat("é", maxMessage)+`"}}`)
	if err := checkFail(req); err != nil {
		t.Fatal(err)
	}
	if e := req.Error; e.Code != "OutOfStock" || !strings.HasPrefix(e.Message, "abé") || len(e.Message) > maxMessage || !strings.HasSuffix(e.Message, "é") {
		t.Errorf("got %s, %d bytes: %.10q", e.Code, len(e.Message), e.Message)
	}
}

func TestPagesFitIntoAMessage(t *testing.T) {
	var tasks []wire.Task
	for range 1000 {
		tasks = append(tasks, wire.Task{ID: wire.NewTaskID(noon).String(), Name: "x", Input: []byte(`1`), Result: json.RawMessage(`"` + strings.Repeat("x", listedBytes-2) + `"`)})
	}
	tasks[1].Result = json.RawMessage(`"` + strings.Repeat("x", listedBytes) + `"`)
	p := page(tasks, 1000)
	b, err := json.Marshal(p)
	if err != nil || len(b) > 1<<20-4096 || len(p.Tasks) < 30 || p.Cursor != p.Tasks[len(p.Tasks)-1].ID {
		t.Errorf("%d tasks in %d bytes, cursor %q, %v", len(p.Tasks), len(b), p.Cursor, err)
	}
	if p.Tasks[0].Input != nil || p.Tasks[0].Result == nil || p.Tasks[1].Result != nil {
		t.Error("a page has results up to their bound, and no inputs")
	}
	if p := page(tasks[:3], 10); p.Cursor != "" || len(p.Tasks) != 3 {
		t.Errorf("the last page has %d tasks and the cursor %q", len(p.Tasks), p.Cursor)
	}
	if p := page(nil, 10); p.Tasks == nil || p.Cursor != "" {
		t.Errorf("an empty page is %+v, want a list", p)
	}
}

func TestPagesAreAskedFor(t *testing.T) {
	id := wire.NewTaskID(noon)
	got, err := checkList(asked[wire.TaskList](t, `{"name":"x","state":"dead","cursor":"`+id.String()+`"}`))
	if want := (store.Query{Name: "x", State: wire.TaskDead, Limit: 50, Before: id}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for text, want := range map[string]string{
		`{"state":"done"}`: "state", `{"limit":1001}`: "limit", `{"limit":-1}`: "limit", `{"cursor":"x"}`: "cursor", `{"name":">"}`: "name", `{}`: "",
	} {
		_, err := checkList(asked[wire.TaskList](t, text))
		if got := field(t, err); got != want {
			t.Errorf("%s: field %q, want %q", text, got, want)
		}
	}
}

// FuzzEnqueue asks for whatever JSON there is: it is refused with a field that is
// named, or it is a task that the store takes.
func FuzzEnqueue(f *testing.F) {
	f.Add([]byte(`{"name":"mail.send","input":{"a":[1]},"delay":"1s","priority":3,"metadata":{"k":"v"},"idempotencyKey":"k"}`))
	f.Add([]byte(`{"name":"x","runAt":"2030-01-31T12:00:00Z","timeout":"5s","uniqueKey":"\u0000"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var req wire.TaskEnqueue
		if json.Unmarshal(data, &req) != nil {
			return
		}
		n, err := checkEnqueue(&req, wire.NewTaskID(noon), noon)
		if field(t, err) != "" {
			return
		}
		if !json.Valid(n.Input) || len(n.Input) > wire.MaxTaskInput || n.Metadata != nil && (!json.Valid(n.Metadata) || strings.ContainsAny(string(n.Metadata), "\r\n")) {
			t.Errorf("input %q, metadata %q", n.Input, n.Metadata)
		}
		if !printable(n.IdempotencyKey) || !printable(n.UniqueKey) || n.Delay < 0 || n.Delay > 0 && !n.RunAt.IsZero() || n.Timeout < 0 {
			t.Errorf("%+v", n)
		}
	})
}
