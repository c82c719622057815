package wire

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

// It reads what encoding/json reads, for names spelt as they are.
func TestTaskRequestsReadThemselves(t *testing.T) {
	for _, text := range []string{
		`{}`, ` { "name" : "mail.send" } `,
		`{"name":"mail.send","input":{"to":["a","b"]},"idempotencyKey":"k\u00e9\n","uniqueKey":"u","delay":"5s","priority":-3,"timeout":"1m","metadata":{"a":1}}`,
		`{"name":"a","name":"b","runAt":"2030-01-31T08:00:00Z","other":[{}]}`,
		`{"name":null,"input":null,"metadata":null,"priority":null,"delay":null}`,
		`{"name":"a","wait":"3s"}`,
	} {
		var got, want TaskEnqueue
		if err := errors.Join(got.ParseJSON([]byte(text)), json.Unmarshal([]byte(text), &want)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v, %v", text, got, want, err)
		}
		var run, wantRun TaskRun
		if err := errors.Join(run.ParseJSON([]byte(text)), json.Unmarshal([]byte(text), &wantRun)); err != nil || !reflect.DeepEqual(run, wantRun) {
			t.Errorf("%s: got %+v, want %+v, %v", text, run, wantRun, err)
		}
	}
}

func TestWrongFieldsOfTaskRequestsAreNamed(t *testing.T) {
	for text, field := range map[string]string{
		`{"name":1}`: "name", `{"idempotencyKey":[]}`: "idempotencyKey", `{"uniqueKey":{}}`: "uniqueKey", `{"delay":5}`: "delay",
		`{"runAt":1}`: "runAt", `{"timeout":true}`: "timeout", `{"priority":"1"}`: "priority", `{"priority":1.5}`: "priority",
		`{"wait":1}`: "wait", `[]`: "request", `{"name":`: "request", `{"name":"\ud800"}`: "name",
	} {
		var run TaskRun
		var coded *Error
		if err := run.ParseJSON([]byte(text)); !errors.As(err, &coded) || coded.Code != InvalidArgument || coded.Details["field"] != field {
			t.Errorf("%s: got %v, want INVALID_ARGUMENT for %s", text, err, field)
		}
	}
}

func TestTaskEnqueuedWritesItself(t *testing.T) {
	for _, of := range []TaskEnqueued{{}, {ID: "t_1"}, {ID: "t_1", Existing: true}} {
		if want, err := json.Marshal(of); err != nil || string(of.AppendJSON(nil)) != string(want) {
			t.Errorf("got %s, want %s, %v", of.AppendJSON(nil), want, err)
		}
	}
}

// What is read is written and read again the same.
func FuzzTaskRun(f *testing.F) {
	f.Add([]byte(`{"name":"a","input":{},"priority":-1,"wait":"3s"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, again TaskRun
		if got.ParseJSON(data) != nil {
			return
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatalf("%q: read as %+v: %v", data, got, err)
		}
		if err := again.ParseJSON(text); err != nil || again.Name != got.Name || again.Wait != got.Wait || again.Priority != got.Priority {
			t.Fatalf("%q: got %+v, then %+v, %v", data, got, again, err)
		}
	})
}
